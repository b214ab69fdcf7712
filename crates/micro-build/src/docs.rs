//! Comments of a `.proto` file, as docs that rustdoc does not take for Rust code.

use syn::visit_mut::{self, VisitMut};
use syn::{Attribute, Expr, ExprLit, Lit, LitStr, Meta};

/// Rewrites the docs of everything in a file.
pub(crate) fn quiet(file: &mut syn::File) {
    Quiet.visit_file_mut(file);
}

struct Quiet;

impl VisitMut for Quiet {
    fn visit_attributes_mut(&mut self, attributes: &mut Vec<Attribute>) {
        let mut fenced = false;
        for attribute in attributes {
            if let Some(text) = doc(attribute) {
                let line = quiet_line(&text.value(), &mut fenced);
                *text = LitStr::new(&line, text.span());
            }
        }
    }

    // Docs stand on items, not in them.
    fn visit_block_mut(&mut self, _: &mut syn::Block) {}

    fn visit_item_mut(&mut self, item: &mut syn::Item) {
        visit_mut::visit_item_mut(self, item);
    }
}

fn doc(attribute: &mut Attribute) -> Option<&mut LitStr> {
    let Meta::NameValue(meta) = &mut attribute.meta else {
        return None;
    };
    if !meta.path.is_ident("doc") {
        return None;
    }
    match &mut meta.value {
        Expr::Lit(ExprLit {
            lit: Lit::Str(text),
            ..
        }) => Some(text),
        _ => None,
    }
}

/// Code in a comment is no doctest: it is rarely Rust.
fn quiet_line(line: &str, fenced: &mut bool) -> String {
    let text = line.trim_start();
    if text.starts_with("```") {
        *fenced = !*fenced;
        let indent = &line[..line.len() - text.len()];
        return match fenced {
            true => format!("{indent}```text"),
            false => line.to_owned(),
        };
    }
    // Four spaces (after the one that follows `///`) would make it a code block.
    if !*fenced && line.starts_with("     ") {
        return format!("    {text}");
    }
    line.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_in_comments_is_text() {
        let mut file: syn::File = syn::parse_quote! {
            /// Text:
            ///
            ///     if (x) { y(); }
            ///
            /// ```c++
            ///     x;
            /// ```
            struct A {
                #[doc = " ```"]
                b: u8,
            }
        };
        quiet(&mut file);
        let wanted: syn::File = syn::parse_quote! {
            /// Text:
            ///
            ///    if (x) { y(); }
            ///
            /// ```text
            ///     x;
            /// ```
            struct A {
                #[doc = " ```text"]
                b: u8,
            }
        };
        assert_eq!(prettyplease::unparse(&file), prettyplease::unparse(&wanted));
    }
}
