//! Messages: prost's structs, and what makes them messages of micro.

use proc_macro2::TokenStream;
use quote::{ToTokens as _, quote};
use syn::{Attribute, Expr, Ident, ImplItem, Item, Lit, Stmt};

/// What makes every message in the file one of micro's.
pub(crate) fn bridges(file: &syn::File, v1: &TokenStream) -> Vec<Item> {
    let mut found = Vec::new();
    find(&file.items, &mut Vec::new(), &mut found);
    found
        .into_iter()
        .map(|message| {
            let Message {
                modules,
                ident,
                full_name,
            } = message;
            syn::parse_quote! {
                #v1::proto::prost_message!(#(#modules::)* #ident, FILE_DESCRIPTOR_SET, #full_name);
            }
        })
        .collect()
}

struct Message {
    /// Where it is, from the top of the file.
    modules: Vec<Ident>,
    ident: TokenStream,
    full_name: String,
}

/// Finds messages by their impl of `prost::Name`, which knows the name in protobuf.
fn find(items: &[Item], modules: &mut Vec<Ident>, found: &mut Vec<Message>) {
    for item in items {
        match item {
            Item::Mod(module) => {
                if let Some((_, items)) = &module.content {
                    modules.push(module.ident.clone());
                    find(items, modules, found);
                    modules.pop();
                }
            }
            Item::Impl(item) => {
                let names = item
                    .trait_
                    .as_ref()
                    .and_then(|(_, path, _)| path.segments.last())
                    .is_some_and(|last| last.ident == "Name");
                if names && let Some(full_name) = item.items.iter().find_map(full_name) {
                    found.push(Message {
                        modules: modules.clone(),
                        ident: item.self_ty.to_token_stream(),
                        full_name,
                    });
                }
            }
            _ => {}
        }
    }
}

/// What `fn full_name() -> String { "greeter.v1.HelloRequest".into() }` returns.
fn full_name(item: &ImplItem) -> Option<String> {
    let ImplItem::Fn(function) = item else {
        return None;
    };
    if function.sig.ident != "full_name" {
        return None;
    }
    match function.block.stmts.first() {
        Some(Stmt::Expr(Expr::MethodCall(call), None)) => match &*call.receiver {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

/// The constant that holds the descriptors.
pub(crate) fn descriptor_set(encoded: &[u8]) -> Result<Item, syn::Error> {
    let literal: syn::LitByteStr = syn::parse_str(&crate::descriptors::literal(encoded))?;
    Ok(syn::parse_quote! {
        /// The encoded `google.protobuf.FileDescriptorSet` of this package and of what it imports.
        pub const FILE_DESCRIPTOR_SET: &[u8] = #literal;
    })
}

/// Lints are for what people write.
fn allow() -> Attribute {
    syn::parse_quote! {
        #[allow(
            dead_code,
            deprecated,
            missing_docs,
            unreachable_pub,
            clippy::all,
            clippy::pedantic,
            clippy::nursery
        )]
    }
}

/// Keeps lints away from everything in the file.
pub(crate) fn allow_lints(file: &mut syn::File) {
    for item in &mut file.items {
        let attributes = match item {
            Item::Const(item) => &mut item.attrs,
            Item::Struct(item) => &mut item.attrs,
            Item::Enum(item) => &mut item.attrs,
            Item::Mod(item) => &mut item.attrs,
            Item::Impl(item) => &mut item.attrs,
            Item::Trait(item) => &mut item.attrs,
            _ => continue,
        };
        let docs = attributes
            .iter()
            .take_while(|attribute| attribute.path().is_ident("doc"))
            .count();
        attributes.insert(docs, allow());
    }
}

/// Impls stand in a block of their own: they are long, and nobody reads them.
pub(crate) fn hidden(items: &[Item]) -> Item {
    syn::parse_quote! {
        const _: () = {
            #(#items)*
        };
    }
}

/// A path as tokens.
pub(crate) fn path(text: &str) -> Result<TokenStream, syn::Error> {
    let path = syn::parse_str::<syn::Path>(text)?;
    Ok(quote!(#path))
}
