#![doc = include_str!("../README.md")]
//!
//! # For users
//!
//! Both macros are re-exported by the facade, as `micro::service` and `micro::Message`.
//!
//! # For implementors
//!
//! Generated code reaches everything through `<crate>::__v1`, a hidden module of the facade.
//! A crate that re-exports the facade tells the macros so: `#[micro::service(crate = "…")]`.

mod message;
mod service;

use proc_macro::TokenStream;

/// Makes a contract of a trait, shared by server and client.
///
/// Each method is an `async fn` that takes `&self`, `&Context` and one message, and returns a
/// `Result` of one message. A `Streaming<T>` in the place of either message makes it a stream.
///
/// For a trait `Greeter` this adds
///
/// - `Send + Sync + 'static` to the trait, and `Send` to the futures of its methods; an
///   implementation is still written with plain `async fn`;
/// - `GreeterClient`, which implements `Greeter` by calling a service of a given name;
/// - `GreeterServer`, which wraps an implementation for `Service::handle`.
///
/// The doc comments travel: reflection shows them.
///
/// # Arguments
///
/// - `package = "hello.v1"`: the proto package; without it, the registry name of the service.
/// - `name = "Greeter"`: the contract's name on the wire, if it is not the trait's.
/// - `crate = "path"`: where the facade is, if it is not `::micro`.
///
/// On a method:
///
/// - `#[micro(name = "SayHello")]`: its name on the wire, if it is not the function's in camel case;
/// - `#[micro(idempotent)]`: running it twice is as good as once, so a failed call may be repeated.
#[proc_macro_attribute]
pub fn service(arguments: TokenStream, item: TokenStream) -> TokenStream {
    service::expand(arguments.into(), item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// Makes a protobuf message of a struct, or an enumeration of an enum without fields.
///
/// Fields are numbered in their order, or all of them by `#[micro(tag = n)]`: numbers are what
/// messages are read by, so only add fields at the end, or number them.
/// The doc comments travel: reflection shows them.
///
/// # Arguments
///
/// - `name = "Name"`: the message's name in protobuf, if it is not the type's.
/// - `crate = "path"`: where the facade is, if it is not `::micro`.
///
/// ```
/// #[derive(Clone, Debug, Default, micro::Message)]
/// struct Point {
///     /// To the east.
///     x: i32,
///     /// To the north.
///     y: i32,
/// }
/// ```
#[proc_macro_derive(Message, attributes(micro))]
pub fn message(input: TokenStream) -> TokenStream {
    message::expand(input.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
