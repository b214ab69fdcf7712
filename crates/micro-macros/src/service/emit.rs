//! The code that a contract becomes.
//!
//! Hygiene: local names are `mixed_site`, so no name of the user's reaches them; everything else is
//! a full path; fields carry a prefix, and the one type parameter avoids every name in the trait.

use std::collections::HashSet;

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens as _, format_ident, quote, quote_spanned};
use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;

use super::parse::{Contract, Method, companion};

/// Everything that `#[micro::service]` leaves in the place of the trait.
pub(super) fn contract(contract: &Contract) -> TokenStream {
    let names = Names::new(contract);
    let the_trait = the_trait(contract);
    let client_struct = client_struct(contract, &names);
    let server_struct = server_struct(contract, &names);
    let specs = specs(contract, &names);
    let client_impls = client_impls(contract, &names);
    let server_impls = server_impls(contract, &names);
    quote! {
        #the_trait
        #client_struct
        #server_struct
        // What is deprecated, or not called by this crate, is still a part of the contract.
        #[allow(dead_code, deprecated)]
        const _: () = {
            #specs
            #client_impls
            #server_impls
        };
    }
}

/// Names that generated code uses in several places.
struct Names {
    /// The facade's module for generated code.
    v1: TokenStream,
    client: Ident,
    server: Ident,
    /// The type parameter of the server.
    implementation: Ident,
    contract: Ident,
}

impl Names {
    fn new(contract: &Contract) -> Self {
        let krate = &contract.krate;
        let mut taken = HashSet::new();
        identifiers(contract.item.to_token_stream(), &mut taken);
        identifiers(krate.to_token_stream(), &mut taken);
        for method in &contract.methods {
            identifiers(method.item.to_token_stream(), &mut taken);
        }
        let mut implementation = "T".to_owned();
        while taken.contains(&implementation) {
            implementation.push('_');
        }
        Self {
            v1: quote!(#krate::__v1),
            client: companion(&contract.item, "Client"),
            server: companion(&contract.item, "Server"),
            implementation: Ident::new(&implementation, Span::call_site()),
            contract: format_ident!("__MICRO_CONTRACT"),
        }
    }
}

fn identifiers(tokens: TokenStream, into: &mut HashSet<String>) {
    for token in tokens {
        match token {
            TokenTree::Ident(ident) => {
                into.insert(ident.unraw().to_string());
            }
            TokenTree::Group(group) => identifiers(group.stream(), into),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

/// The constant that describes a method.
fn spec_name(at: usize) -> Ident {
    format_ident!("__MICRO_METHOD_{at}")
}

/// The client's field for a method.
fn field_name(method: &Method) -> Ident {
    format_ident!("method_{}", method.item.sig.ident.unraw())
}

fn the_trait(contract: &Contract) -> TokenStream {
    let mut item = contract.item.clone();
    item.colon_token.get_or_insert_default();
    item.supertraits
        .push(syn::parse_quote!(::core::marker::Send));
    item.supertraits
        .push(syn::parse_quote!(::core::marker::Sync));
    item.supertraits.push(syn::parse_quote!('static));
    item.items = contract
        .methods
        .iter()
        .map(|method| {
            let mut item = method.item.clone();
            let future = future(&method.output);
            item.sig.asyncness = None;
            item.sig.output = syn::parse_quote!(-> #future);
            item.into()
        })
        .collect();
    item.into_token_stream()
}

/// What a method returns; errors about it, such as that it is not `Send`, point at the result.
fn future(output: &syn::Type) -> TokenStream {
    let span = Span::mixed_site().located_at(output.span());
    quote_spanned! {span=>
        impl ::core::future::Future<Output = #output> + ::core::marker::Send
    }
}

fn client_struct(contract: &Contract, names: &Names) -> TokenStream {
    let Names { v1, client, .. } = names;
    let vis = &contract.item.vis;
    let doc = format!(
        "Calls the [`{}`] of a service, found by its name.",
        contract.item.ident.unraw()
    );
    let fields = contract.methods.iter().map(|method| {
        let cfgs = &method.cfgs;
        let field = field_name(method);
        quote!(#(#cfgs)* #field: #v1::Method)
    });
    quote! {
        #[doc = #doc]
        #[allow(dead_code)]
        #[derive(::core::clone::Clone, ::core::fmt::Debug)]
        #vis struct #client {
            #(#fields,)*
        }
    }
}

fn server_struct(contract: &Contract, names: &Names) -> TokenStream {
    let Names {
        server,
        implementation,
        ..
    } = names;
    let vis = &contract.item.vis;
    let doc = format!(
        "Serves an implementation of [`{}`].",
        contract.item.ident.unraw()
    );
    quote! {
        #[doc = #doc]
        #[allow(dead_code)]
        #vis struct #server<#implementation> {
            implementation: ::std::sync::Arc<#implementation>,
        }
    }
}

fn specs(contract: &Contract, names: &Names) -> TokenStream {
    let v1 = &names.v1;
    let methods = contract.methods.iter().enumerate().map(|(at, method)| {
        let cfgs = &method.cfgs;
        let spec = spec_name(at);
        let Method {
            name,
            doc,
            idempotent,
            ..
        } = method;
        let kind = match (method.request.streaming, method.reply.streaming) {
            (false, false) => quote!(Unary),
            (false, true) => quote!(ServerStreaming),
            (true, false) => quote!(ClientStreaming),
            (true, true) => quote!(BidiStreaming),
        };
        quote! {
            #(#cfgs)*
            static #spec: #v1::MethodSpec = #v1::MethodSpec::new(#name, #v1::MethodKind::#kind)
                .with_idempotent(#idempotent)
                .with_doc(#doc);
        }
    });
    let all = contract.methods.iter().enumerate().map(|(at, method)| {
        let cfgs = &method.cfgs;
        let spec = spec_name(at);
        quote!(#(#cfgs)* #spec)
    });
    let Contract {
        package, name, doc, ..
    } = contract;
    let constant = &names.contract;
    quote! {
        #(#methods)*
        static #constant: #v1::ContractSpec =
            #v1::ContractSpec::new(#package, #name, &[#(#all),*]).with_doc(#doc);
    }
}

fn client_impls(contract: &Contract, names: &Names) -> TokenStream {
    let Names {
        v1,
        client,
        contract: constant,
        ..
    } = names;
    let the_trait = &contract.item.ident;
    let mixed = Span::mixed_site();
    let fields = contract.methods.iter().enumerate().map(|(at, method)| {
        let cfgs = &method.cfgs;
        let field = field_name(method);
        let spec = spec_name(at);
        quote_spanned! {mixed=>
            #(#cfgs)*
            #field: #v1::Client::method(&client, service, &#constant, &#spec)
        }
    });
    let methods = contract.methods.iter().map(|method| {
        let cfgs = &method.cfgs;
        let field = field_name(method);
        let name = &method.item.sig.ident;
        let context = &method.context;
        let output = &method.output;
        let call = match (method.request.streaming, method.reply.streaming) {
            (false, false) => quote!(unary),
            (false, true) => quote!(server_streaming),
            (true, false) => quote!(client_streaming),
            (true, true) => quote!(bidi_streaming),
        };
        let argument = &method.request.whole;
        let (request, reply) = shapes(method, v1);
        // A result that is not micro's is told where it is written.
        let at_output = mixed.located_at(output.span());
        let future = future(output);
        let body = quote_spanned! {at_output=>
            #v1::Method::#call(&self.#field, cx, #request, #reply, request)
        };
        quote_spanned! {mixed=>
            #(#cfgs)*
            fn #name(&self, cx: #context, request: #argument) -> #future {
                #body
            }
        }
    });
    let what = format!("What [`{}`] says of itself.", the_trait.unraw());
    quote_spanned! {mixed=>
        impl #client {
            #[doc = #what]
            pub const CONTRACT: &'static #v1::ContractSpec = &#constant;

            /// Calls the service of this name.
            #[must_use]
            #[allow(unused_variables)]
            pub fn new(client: impl ::core::convert::Into<#v1::Client>, service: &::core::primitive::str) -> Self {
                let client: #v1::Client = ::core::convert::Into::into(client);
                Self {
                    #(#fields,)*
                }
            }
        }

        impl #the_trait for #client {
            #(#methods)*
        }
    }
}

fn server_impls(contract: &Contract, names: &Names) -> TokenStream {
    let Names {
        v1,
        server,
        implementation,
        contract: constant,
        ..
    } = names;
    let the_trait = &contract.item.ident;
    let mixed = Span::mixed_site();
    let debug_name = server.to_string();
    let routes = contract.methods.iter().enumerate().map(|(at, method)| {
        let cfgs = &method.cfgs;
        let name = &method.item.sig.ident;
        let spec = spec_name(at);
        let call = match (method.request.streaming, method.reply.streaming) {
            (false, false) => quote!(unary),
            (false, true) => quote!(server_streaming),
            (true, false) => quote!(client_streaming),
            (true, true) => quote!(bidi_streaming),
        };
        let argument = &method.request.whole;
        let (request, reply) = shapes(method, v1);
        let at_output = mixed.located_at(method.output.span());
        quote_spanned! {at_output=>
            #(#cfgs)*
            let routes = {
                let implementation = ::std::sync::Arc::clone(&self.implementation);
                #v1::Routes::#call(
                    routes,
                    &#spec,
                    #request,
                    #reply,
                    move |cx: #v1::Context, request: #argument| {
                        let implementation = ::std::sync::Arc::clone(&implementation);
                        async move {
                            <#implementation as #the_trait>::#name(&*implementation, &cx, request)
                                .await
                        }
                    },
                )
            };
        }
    });
    quote_spanned! {mixed=>
        impl<#implementation> ::core::clone::Clone for #server<#implementation> {
            fn clone(&self) -> Self {
                Self {
                    implementation: ::std::sync::Arc::clone(&self.implementation),
                }
            }
        }

        impl<#implementation> ::core::fmt::Debug for #server<#implementation> {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.write_str(#debug_name)
            }
        }

        impl<#implementation: #the_trait> #server<#implementation> {
            /// Serves this implementation.
            #[must_use]
            pub fn new(implementation: #implementation) -> Self {
                Self::from_arc(::std::sync::Arc::new(implementation))
            }

            /// Serves an implementation that others hold too.
            #[must_use]
            pub fn from_arc(implementation: ::std::sync::Arc<#implementation>) -> Self {
                Self { implementation }
            }
        }

        impl<#implementation: #the_trait> #v1::Contract for #server<#implementation> {
            fn routes(self) -> #v1::Routes {
                let routes = #v1::Routes::new(&#constant);
                #(#routes)*
                routes
            }
        }
    }
}

/// How the method's messages meet codecs.
///
/// It is what `shape!` expands to, written out: an error inside a macro would not point at the type.
fn shapes(method: &Method, v1: &TokenStream) -> (TokenStream, TokenStream) {
    let shape = |ty: &syn::Type| {
        let span = Span::mixed_site().located_at(ty.span());
        quote_spanned! {span=> {
            #[allow(unused_imports)]
            use #v1::codec::{ViaBoth as _, ViaProto as _, ViaRaw as _, ViaSerde as _};
            (&&&&#v1::codec::Probe::<#ty>::new()).shape()
        }}
    };
    (shape(&method.request.ty), shape(&method.reply.ty))
}
