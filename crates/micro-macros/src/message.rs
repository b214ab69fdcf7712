//! `#[derive(Message)]`: field numbers, a descriptor, and the protobuf view of a type.
//!
//! The generated code dispatches by type on the traits of `micro_codec_proto::field`: this macro
//! never guesses what the name of a type means.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;
use syn::{Attribute, Data, DeriveInput, Error, Expr, Fields, Ident, Lit, LitInt, LitStr, Result};

/// The highest field number of protobuf.
const MAX_TAG: u32 = (1 << 29) - 1;

pub(crate) fn expand(input: TokenStream) -> Result<TokenStream> {
    let input: DeriveInput = syn::parse2(input)?;
    let options = Options::parse(&input)?;
    if !input.generics.params.is_empty() {
        return Err(Error::new_spanned(
            &input.generics,
            "a protobuf message has no parameters: derive Message for a struct of concrete types",
        ));
    }
    match &input.data {
        Data::Struct(data) => message(&input, &options, &data.fields),
        Data::Enum(data) => enumeration(&input, &options, data),
        Data::Union(data) => Err(Error::new_spanned(
            data.union_token,
            "a union cannot be a protobuf message: use a struct with optional fields",
        )),
    }
}

/// What `#[micro(…)]` says on the type.
struct Options {
    facade: syn::Path,
    name: String,
}

impl Options {
    fn parse(input: &DeriveInput) -> Result<Self> {
        let mut facade = syn::parse_quote!(::micro);
        let mut name: Option<LitStr> = None;
        for attribute in micro_attributes(&input.attrs) {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("crate") {
                    facade = meta.value()?.parse::<LitStr>()?.parse()?;
                } else if meta.path.is_ident("name") {
                    name = Some(meta.value()?.parse()?);
                } else {
                    return Err(meta.error(
                        "unknown option: on a type there are `crate = \"path\"` and `name = \"Name\"`",
                    ));
                }
                Ok(())
            })?;
        }
        let (name, span) = match name {
            Some(name) => (name.value(), name.span()),
            None => (input.ident.unraw().to_string(), input.ident.span()),
        };
        check_name(&name, span)?;
        Ok(Self { facade, name })
    }
}

/// A field of a message.
struct Field<'a> {
    ident: &'a Ident,
    name: String,
    doc: String,
    ty: &'a syn::Type,
    tag: u32,
}

fn message(input: &DeriveInput, options: &Options, fields: &Fields) -> Result<TokenStream> {
    let fields = match fields {
        Fields::Named(fields) => numbered(fields)?,
        Fields::Unit => Vec::new(),
        Fields::Unnamed(fields) => {
            return Err(Error::new_spanned(
                fields,
                "the fields of a protobuf message have names: use a struct with named fields",
            ));
        }
    };

    let ident = &input.ident;
    let facade = &options.facade;
    let name = &options.name;
    let doc = doc(&input.attrs);

    // Bounds that fail are reported where the span of a path to a trait is: at the field's type.
    let field = |field: &Field<'_>, method: &str| {
        let method = format_ident!("{method}");
        let ty = field.ty;
        quote_spanned!(ty.span()=> <#ty as __proto::field::Field>::#method)
    };
    let schema = fields.iter().map(|f| {
        let (name, doc, tag) = (&f.name, &f.doc, f.tag);
        let (label, kind) = (field(f, "label"), field(f, "kind"));
        let doc = (!doc.is_empty()).then(|| quote!(.with_doc(#doc)));
        quote!(.with_field(__codec::FieldSchema::new(#name, #tag, #label(), #kind()) #doc))
    });
    let lens = fields.iter().map(|f| {
        let (ident, tag, encoded_len) = (f.ident, f.tag, field(f, "encoded_len"));
        quote!(+ #encoded_len(&self.#ident, #tag))
    });
    // In the order of their numbers, as every other implementation writes them.
    let mut by_tag: Vec<_> = fields.iter().collect();
    by_tag.sort_by_key(|field| field.tag);
    let encodes = by_tag.iter().map(|f| {
        let (ident, tag, encode) = (f.ident, f.tag, field(f, "encode"));
        quote!(#encode(&self.#ident, #tag, __out);)
    });
    let merges = fields.iter().map(|f| {
        let (ident, tag, merge) = (f.ident, f.tag, field(f, "merge"));
        let path = format!("{name}.{}", f.name);
        quote! {
            #tag => #merge(&mut self.#ident, __from)
                .map_err(__proto::field::in_field(#path)),
        }
    });
    let doc = (!doc.is_empty()).then(|| quote!(.with_doc(#doc)));
    // The one place that needs `Default`, so that a type without it gets one error.
    let empty = quote_spanned!(ident.span()=> __proto::field::a_message_starts_as_its_default);

    Ok(quote! {
        #[allow(deprecated)]
        const _: () = {
            use #facade::__v1::{codec as __codec, proto as __proto};

            #[automatically_derived]
            impl __proto::field::Message for #ident {
                fn empty() -> Self {
                    #empty::<Self>()
                }
                fn schema() -> __codec::Schema {
                    __codec::Schema::Derived(__codec::MessageSchema::new(#name) #doc #(#schema)*)
                }
                fn encoded_len(&self) -> usize {
                    0 #(#lens)*
                }
                fn encode(&self, __out: &mut __proto::__private::bytes::BytesMut) {
                    #(#encodes)*
                }
                fn merge_field(
                    &mut self,
                    __tag: u32,
                    __from: __proto::field::Reader<'_>,
                ) -> __codec::Result<()> {
                    match __tag {
                        #(#merges)*
                        _ => __from.skip(__tag),
                    }
                }
            }

            #[automatically_derived]
            impl __codec::ProtoMessage for #ident {
                fn schema(&self) -> __codec::Schema {
                    <Self as __proto::field::Message>::schema()
                }
                fn encoded_len(&self) -> usize {
                    __proto::field::Message::encoded_len(self)
                }
                fn encode(
                    &self,
                    __out: &mut __proto::__private::bytes::BytesMut,
                ) -> __codec::Result<()> {
                    __proto::field::message_encode(self, __out)
                }
                fn merge(&mut self, __bytes: __proto::__private::bytes::Bytes) -> __codec::Result<()> {
                    __proto::field::message_merge(self, __bytes)
                }
            }

            __proto::__message_field!(#ident);
        };
    })
}

/// The fields with their numbers.
fn numbered(fields: &syn::FieldsNamed) -> Result<Vec<Field<'_>>> {
    let mut found: Vec<(Field<'_>, Option<Span>)> = Vec::new();
    for (index, field) in fields.named.iter().enumerate() {
        // Named fields have names.
        let Some(ident) = &field.ident else { continue };
        let name = ident.unraw().to_string();
        check_name(&name, ident.span())?;
        let explicit = explicit_tag(field)?;
        let tag = match &explicit {
            Some(tag) => check_tag(tag)?,
            None => index as u32 + 1,
        };
        if let Some(explicit) = &explicit
            && let Some((other, _)) = found.iter().find(|(other, _)| other.tag == tag)
        {
            return Err(Error::new_spanned(
                explicit,
                format!("the number {tag} is already that of `{}`", other.name),
            ));
        }
        found.push((
            Field {
                ident,
                name,
                doc: doc(&field.attrs),
                ty: &field.ty,
                tag,
            },
            explicit.map(|tag| tag.span()),
        ));
    }
    let with = found
        .iter()
        .filter(|(_, explicit)| explicit.is_some())
        .count();
    if with != 0
        && let Some((field, _)) = found.iter().find(|(_, explicit)| explicit.is_none())
    {
        return Err(Error::new(
            field.ident.span(),
            format!(
                "`{}` has no `#[micro(tag = n)]`, and {with} of the {} fields have: number all or none",
                field.name,
                found.len(),
            ),
        ));
    }
    Ok(found.into_iter().map(|(field, _)| field).collect())
}

fn explicit_tag(field: &syn::Field) -> Result<Option<LitInt>> {
    let mut tag = None;
    for attribute in micro_attributes(&field.attrs) {
        attribute.parse_nested_meta(|meta| {
            if !meta.path.is_ident("tag") {
                return Err(meta.error("unknown option: on a field there is `tag = n`"));
            }
            let number: LitInt = meta.value()?.parse()?;
            if tag.replace(number).is_some() {
                return Err(meta.error("a field has one number"));
            }
            Ok(())
        })?;
    }
    Ok(tag)
}

fn check_tag(tag: &LitInt) -> Result<u32> {
    let complaint = match tag.base10_parse::<u32>() {
        Ok(19_000..=19_999) => "the numbers 19000 to 19999 belong to protobuf itself",
        Ok(tag @ 1..=MAX_TAG) => return Ok(tag),
        _ => "a field number is 1 to 536870911",
    };
    Err(Error::new_spanned(tag, complaint))
}

/// A variant of an enumeration.
struct Variant<'a> {
    ident: &'a Ident,
    name: String,
    number: i32,
}

fn enumeration(
    input: &DeriveInput,
    options: &Options,
    data: &syn::DataEnum,
) -> Result<TokenStream> {
    let mut variants = Vec::new();
    let prefix = screaming_snake(&options.name);
    let mut next = Some(0);
    for variant in &data.variants {
        if !matches!(variant.fields, Fields::Unit) {
            return Err(Error::new_spanned(
                variant,
                "enums with data (oneof) are not supported yet: use a struct with optional fields",
            ));
        }
        if let Some(attribute) = micro_attributes(&variant.attrs).next() {
            return Err(Error::new_spanned(
                attribute,
                "a variant has no options: its number is its discriminant, `Variant = n`",
            ));
        }
        let number = match &variant.discriminant {
            Some((_, value)) => discriminant(value)?,
            None => next.ok_or_else(|| {
                Error::new_spanned(variant, "the number of an enum's value fits in an i32")
            })?,
        };
        next = number.checked_add(1);
        let name = variant.ident.unraw().to_string();
        check_name(&name, variant.ident.span())?;
        let is_default = variant.attrs.iter().any(|a| a.path().is_ident("default"));
        if is_default && number != 0 {
            return Err(Error::new_spanned(
                variant,
                "protobuf takes 0 for absent: the default of an enum is the variant whose number is 0",
            ));
        }
        variants.push(Variant {
            ident: &variant.ident,
            name: format!("{prefix}_{}", screaming_snake(&name)),
            number,
        });
    }
    let zero = match variants.first() {
        Some(Variant {
            ident, number: 0, ..
        }) => *ident,
        Some(first) => {
            return Err(Error::new_spanned(
                first.ident,
                "protobuf takes 0 for absent: the first variant of an enum has the number 0",
            ));
        }
        None => {
            return Err(Error::new_spanned(
                &input.ident,
                "an enum of protobuf has at least one variant, whose number is 0",
            ));
        }
    };

    let ident = &input.ident;
    let facade = &options.facade;
    let name = &options.name;
    let values = variants
        .iter()
        .map(|Variant { name, number, .. }| quote!((::std::borrow::Cow::Borrowed(#name), #number)));
    let numbers = variants
        .iter()
        .map(|Variant { ident, number, .. }| quote!(Self::#ident => #number,));
    let idents = variants.iter().map(|Variant { ident, number, .. }| {
        quote!(#number => ::core::option::Option::Some(Self::#ident),)
    });
    Ok(quote! {
        #[allow(deprecated)]
        const _: () = {
            use #facade::__v1::{codec as __codec, proto as __proto};

            #[automatically_derived]
            impl __proto::field::Enumeration for #ident {
                fn schema() -> __codec::EnumSchema {
                    __codec::EnumSchema::new(#name, ::std::vec![#(#values),*])
                }
                fn number(&self) -> i32 {
                    match self { #(#numbers)* }
                }
                fn from_number(__number: i32) -> ::core::option::Option<Self> {
                    match __number {
                        #(#idents)*
                        _ => ::core::option::Option::None,
                    }
                }
            }

            __proto::__enum_field!(#ident, #ident::#zero);
        };
    })
}

/// The number of a variant: only a literal shows it to a macro.
fn discriminant(value: &Expr) -> Result<i32> {
    let text = match value {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Int(number) => number.base10_digits().to_owned(),
            _ => String::new(),
        },
        Expr::Unary(syn::ExprUnary {
            op: syn::UnOp::Neg(_),
            expr,
            ..
        }) => match &**expr {
            Expr::Lit(syn::ExprLit {
                lit: Lit::Int(number),
                ..
            }) => format!("-{}", number.base10_digits()),
            _ => String::new(),
        },
        _ => String::new(),
    };
    text.parse().map_err(|_| {
        Error::new_spanned(
            value,
            "the number of an enum's value is written as a literal and fits in an i32",
        )
    })
}

fn micro_attributes(attributes: &[Attribute]) -> impl Iterator<Item = &Attribute> {
    attributes.iter().filter(|a| a.path().is_ident("micro"))
}

/// The doc comment, without markers and the space behind them.
fn doc(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| {
        let syn::Meta::NameValue(meta) = &attribute.meta else {
            return None;
        };
        match &meta.value {
            Expr::Lit(syn::ExprLit {
                lit: Lit::Str(line),
                ..
            }) if meta.path.is_ident("doc") => {
                let line = line.value();
                Some(
                    line.strip_prefix(' ')
                        .unwrap_or(&line)
                        .trim_end()
                        .to_owned(),
                )
            }
            _ => None,
        }
    });
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}

fn check_name(name: &str, span: Span) -> Result<()> {
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if starts && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Ok(());
    }
    Err(Error::new(
        span,
        format!("`{name}` is no name in protobuf: use ASCII letters, digits and `_`"),
    ))
}

/// `HttpStatus` as `HTTP_STATUS`: values of a protobuf enum share a scope with their enum, so
/// its style guide puts the enum's name before theirs.
fn screaming_snake(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut out = String::new();
    for (i, c) in chars.iter().enumerate() {
        let before = i.checked_sub(1).and_then(|i| chars.get(i));
        let after = chars.get(i + 1);
        let word = c.is_ascii_uppercase()
            && before.is_some_and(|before| {
                before.is_ascii_lowercase()
                    || before.is_ascii_digit()
                    // The last capital of a run begins the next word: `HTTPStatus`.
                    || (before.is_ascii_uppercase()
                        && after.is_some_and(char::is_ascii_lowercase))
            });
        if word {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::screaming_snake;

    #[test]
    fn words_are_found() {
        for (name, screaming) in [
            ("Color", "COLOR"),
            ("HttpStatus", "HTTP_STATUS"),
            ("HTTPStatus", "HTTP_STATUS"),
            ("V2Beta", "V2_BETA"),
            ("Already_Snake", "ALREADY_SNAKE"),
            ("RED", "RED"),
        ] {
            assert_eq!(screaming_snake(name), screaming);
        }
    }
}
