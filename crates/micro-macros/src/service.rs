//! `#[micro::service]`: what a contract's trait becomes.

mod emit;
mod parse;

use proc_macro2::TokenStream;

use self::parse::{Arguments, Contract};

/// Expands the attribute.
///
/// # Errors
///
/// Everything that keeps the item from being a contract, each at its place.
pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    let arguments: Arguments = syn::parse2(arguments)?;
    let contract = Contract::parse(arguments, item)?;
    Ok(emit::contract(&contract))
}

#[cfg(test)]
mod tests {
    use quote::quote;

    use super::*;

    fn problem(arguments: TokenStream, item: TokenStream) -> String {
        expand(arguments, item).unwrap_err().to_string()
    }

    #[test]
    fn what_is_generated_is_rust() {
        let out = expand(
            quote!(package = "hello.v1", crate = "crate::fake"),
            quote! {
                /// Greets.
                pub trait Greeter {
                    #[micro(idempotent, name = "Hi")]
                    async fn hello(&self, cx: &Context, req: Q) -> Result<R>;
                    async fn chat(&self, cx: &Context, req: Streaming<Q>) -> Result<Streaming<R>>;
                }
            },
        )
        .unwrap();
        let file: syn::File = syn::parse2(out).unwrap();
        assert_eq!(file.items.len(), 4, "a trait, two structs, a const block");
    }

    #[test]
    fn every_problem_of_a_trait_is_told_at_once() {
        let err = expand(
            quote!(),
            quote! {
                trait T {
                    fn a(&self, cx: &Context, req: Q) -> Result<R>;
                    async fn b(cx: &Context, req: Q) -> Result<R>;
                }
            },
        )
        .unwrap_err();
        assert_eq!(err.into_iter().count(), 2);
    }

    #[test]
    fn names_must_be_names_in_proto_too() {
        let item = quote!(
            trait T {}
        );
        for name in ["", "a.b", "2nd", "Ä", "a-b"] {
            assert!(
                problem(quote!(name = #name), item.clone()).contains("letters"),
                "{name}"
            );
        }
        for package in ["a..b", ".a", "a.2", "a-b"] {
            assert!(
                problem(quote!(package = #package), item.clone()).contains("dots"),
                "{package}"
            );
        }
    }
}
