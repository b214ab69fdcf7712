//! Proto3's JSON, through serde.

mod gaps;

use std::collections::BTreeMap;

use proc_macro2::{Group, Spacing, TokenStream, TokenTree};

use crate::Error;
use crate::builder::Builder;
use crate::descriptors::Descriptors;

/// The impls of serde's traits, by package.
pub(crate) fn impls(
    builder: &Builder,
    descriptors: &Descriptors,
) -> Result<BTreeMap<String, syn::File>, Error> {
    let mut generator = pbjson_build::Builder::new();
    // A message in protobuf may have fields that its reader does not know yet; so may this.
    generator.ignore_unknown_fields();
    for (proto, rust) in builder.externs(descriptors) {
        generator.extern_path(&proto, rust);
        generator.exclude([proto]);
    }
    for file in &descriptors.files {
        // The generator below would panic: it finds no type without one.
        if file.descriptor.package().is_empty() {
            return Err(Error::new(format!(
                "{} has no package: JSON needs one, such as `package greeter.v1;`",
                file.descriptor.name()
            )));
        }
        generator.register_file_descriptor(file.descriptor.clone());
    }
    let written = generator
        .generate(&["."], |_| Ok(Vec::new()))
        .map_err(|err| Error::new(format!("JSON: {err}")))?;
    let v1 = builder.v1();
    let fields = gaps::Fields::of(descriptors);
    written
        .into_iter()
        .map(|(package, code)| {
            let package = package.to_string();
            let code = parse(&code, &v1, &fields)
                .map_err(|err| Error::not_rust(&format!("JSON of {package}"), err))?;
            Ok((package, code))
        })
        .collect()
}

fn parse(code: &[u8], v1: &str, fields: &gaps::Fields) -> syn::Result<syn::File> {
    let code = String::from_utf8_lossy(code);
    let v1: TokenStream = v1.parse()?;
    let mut file = syn::parse2(reroute(code.parse()?, &v1))?;
    gaps::close(&mut file, &v1, fields);
    Ok(file)
}

/// Lets paths that begin with a crate's name begin where the facade has that crate.
fn reroute(tokens: TokenStream, v1: &TokenStream) -> TokenStream {
    let mut out: Vec<TokenTree> = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Ident(name) => {
                let leads = tokens
                    .peek()
                    .is_some_and(|next| is_punct(next, ':', Some(Spacing::Joint)));
                if leads && (name == "serde" || name == "pbjson") && !is_inside_path(&out) {
                    if ends_with_colons(&out) {
                        out.truncate(out.len() - 2);
                    }
                    out.extend(v1.clone());
                    out.extend(quote::quote!(::));
                }
                out.push(TokenTree::Ident(name));
            }
            TokenTree::Group(group) => {
                let inner = reroute(group.stream(), v1);
                out.push(TokenTree::Group(Group::new(group.delimiter(), inner)));
            }
            other => out.push(other),
        }
    }
    out.into_iter().collect()
}

fn is_punct(token: &TokenTree, wanted: char, spacing: Option<Spacing>) -> bool {
    matches!(token, TokenTree::Punct(punct)
        if punct.as_char() == wanted && spacing.is_none_or(|spacing| punct.spacing() == spacing))
}

fn ends_with_colons(tokens: &[TokenTree]) -> bool {
    matches!(tokens, [.., first, second]
        if is_punct(first, ':', Some(Spacing::Joint)) && is_punct(second, ':', None))
}

/// Whether a name behind these tokens is not the first one of its path.
fn is_inside_path(before: &[TokenTree]) -> bool {
    if !ends_with_colons(before) {
        return false;
    }
    match before.iter().rev().nth(2) {
        // Behind a keyword, `::` begins a path.
        Some(TokenTree::Ident(name)) => {
            let keywords = ["as", "dyn", "for", "impl", "in", "mut", "return", "use"];
            !keywords.iter().any(|keyword| name == keyword)
        }
        Some(token) => is_punct(token, '>', None),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_that_lead_to_a_crate_are_rerouted() {
        let code = b"
            use serde::ser::SerializeStruct;
            impl serde::Serialize for A {
                fn f(&self) {
                    let serde: u8 = pbjson::private::X { serde: 1 };
                    crate::serde::x(format!(\"{}\", serde::Y));
                    <Z as serde::W>::pbjson::V;
                    x::<::pbjson::N<_>>() as ::serde::U;
                }
            }
        ";
        let wanted: syn::File = syn::parse_quote! {
            use ::m::__v1::serde::ser::SerializeStruct;
            impl ::m::__v1::serde::Serialize for A {
                fn f(&self) {
                    let serde: u8 = ::m::__v1::pbjson::private::X { serde: 1 };
                    crate::serde::x(format!("{}", ::m::__v1::serde::Y));
                    <Z as ::m::__v1::serde::W>::pbjson::V;
                    x::<::m::__v1::pbjson::N<_>>() as ::m::__v1::serde::U;
                }
            }
        };
        let out = parse(code, "::m::__v1", &gaps::Fields::default()).unwrap();
        assert_eq!(prettyplease::unparse(&out), prettyplease::unparse(&wanted));
    }
}
