//! What a contract says, read from the trait.

use std::collections::HashMap;

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident};
use syn::ext::IdentExt as _;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{
    Attribute, Error, Expr, ExprLit, FnArg, GenericArgument, Generics, Ident, ItemTrait, Lit,
    LitStr, Meta, Pat, PatType, Path, PathArguments, Result, ReturnType, Token, TraitItem,
    TraitItemFn, Type, TypeReference,
};

/// What stands in `#[micro::service(…)]`.
#[derive(Default)]
pub(super) struct Arguments {
    package: Option<LitStr>,
    name: Option<LitStr>,
    krate: Option<Path>,
}

impl Parse for Arguments {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut out = Self::default();
        while !input.is_empty() {
            // `crate` is a keyword.
            let key = input.call(Ident::parse_any)?;
            let once = |given: bool| match given {
                true => Err(Error::new(key.span(), format!("`{key}` is given twice"))),
                false => Ok(()),
            };
            match key.to_string().as_str() {
                "package" => {
                    once(out.package.is_some())?;
                    out.package = Some(value(&key, input)?);
                }
                "name" => {
                    once(out.name.is_some())?;
                    out.name = Some(value(&key, input)?);
                }
                "crate" => {
                    once(out.krate.is_some())?;
                    out.krate = Some(value(&key, input)?.parse_with(Path::parse_mod_style)?);
                }
                _ => {
                    return Err(Error::new(
                        key.span(),
                        format!(
                            "unknown argument `{key}`: there are `package`, `name` and `crate`"
                        ),
                    ));
                }
            }
            comma(input)?;
        }
        if let Some(package) = &out.package {
            check_package(package)?;
        }
        if let Some(name) = &out.name {
            check_name(&name.value(), name.span())?;
        }
        Ok(out)
    }
}

/// What stands in `#[micro(…)]` on a method.
#[derive(Default)]
struct MethodArguments {
    name: Option<LitStr>,
    idempotent: bool,
}

impl MethodArguments {
    fn read(&mut self, input: ParseStream<'_>) -> Result<()> {
        while !input.is_empty() {
            let key = input.call(Ident::parse_any)?;
            match key.to_string().as_str() {
                "name" => {
                    let name = value(&key, input)?;
                    check_name(&name.value(), name.span())?;
                    if self.name.replace(name).is_some() {
                        return Err(Error::new(key.span(), "`name` is given twice"));
                    }
                }
                "idempotent" => self.idempotent = true,
                _ => {
                    return Err(Error::new(
                        key.span(),
                        format!(
                            "unknown argument `{key}`: on a method there are `name` and `idempotent`"
                        ),
                    ));
                }
            }
            comma(input)?;
        }
        Ok(())
    }
}

fn value(key: &Ident, input: ParseStream<'_>) -> Result<LitStr> {
    if !input.peek(Token![=]) {
        return Err(Error::new(
            key.span(),
            format!("`{key}` needs a value: `{key} = \"…\"`"),
        ));
    }
    input.parse::<Token![=]>()?;
    input.parse()
}

fn comma(input: ParseStream<'_>) -> Result<()> {
    if !input.is_empty() {
        input.parse::<Token![,]>()?;
    }
    Ok(())
}

/// A contract, ready to be written out.
pub(super) struct Contract {
    /// The trait without the attributes that are ours; its methods are in `methods`.
    pub(super) item: ItemTrait,
    pub(super) krate: Path,
    pub(super) package: String,
    pub(super) name: String,
    pub(super) doc: String,
    pub(super) methods: Vec<Method>,
}

/// A method of a contract.
pub(super) struct Method {
    /// The method as written, without the attributes that are ours.
    pub(super) item: TraitItemFn,
    /// Attributes that decide whether the method exists: what belongs to it needs them too.
    pub(super) cfgs: Vec<Attribute>,
    pub(super) name: String,
    pub(super) doc: String,
    pub(super) idempotent: bool,
    pub(super) context: TypeReference,
    pub(super) request: Message,
    pub(super) reply: Message,
    /// The whole result, as written.
    pub(super) output: Type,
}

/// One way of a method.
pub(super) struct Message {
    /// The type of the message.
    pub(super) ty: Type,
    pub(super) streaming: bool,
    /// The type of the argument: a stream of them, maybe.
    pub(super) whole: Type,
}

impl Contract {
    pub(super) fn parse(arguments: Arguments, item: TokenStream) -> Result<Self> {
        let span = item
            .clone()
            .into_iter()
            .next()
            .map_or_else(Span::call_site, |token| token.span());
        let mut item = match syn::parse2(item)? {
            syn::Item::Trait(item) => item,
            _ => return Err(Error::new(span, "a contract is a trait")),
        };
        let mut problems = Problems::default();
        if let Some(auto) = &item.auto_token {
            problems.push(auto.span, "a contract is no auto trait");
        }
        if let Some(unsafety) = &item.unsafety {
            problems.push(unsafety.span, "a contract is a safe trait");
        }
        if let Some(tokens) = generics(&item.generics) {
            problems.at(
                tokens,
                "a contract has no type parameters: both sides must know each message",
            );
        }
        let mut methods = Vec::new();
        for item in std::mem::take(&mut item.items) {
            match item {
                TraitItem::Fn(item) => match Method::parse(item) {
                    Ok(method) => methods.push(method),
                    Err(err) => problems.add(err),
                },
                TraitItem::Const(item) => {
                    problems.push(item.const_token.span, "a contract has no constants");
                }
                TraitItem::Type(item) => problems.push(
                    item.type_token.span,
                    "a contract has no associated types: name the messages",
                ),
                other => problems.at(other, "a contract has methods only"),
            }
        }
        let mut seen: HashMap<&str, Span> = HashMap::new();
        for method in &methods {
            // Which of two conditional methods exists is not known here.
            if !method.cfgs.is_empty() {
                continue;
            }
            let span = method.item.sig.ident.span();
            if let Some(first) = seen.insert(&method.name, span) {
                let name = &method.name;
                problems.push(
                    span,
                    format!(
                        "two methods are called `{name}` on the wire: set `#[micro(name = \"…\")]`"
                    ),
                );
                problems.push(first, format!("`{name}` is first used here"));
            }
        }
        let name = match &arguments.name {
            Some(name) => name.value(),
            None => {
                let name = item.ident.unraw().to_string();
                if let Err(err) = check_name(&name, item.ident.span()) {
                    problems.add(err);
                }
                name
            }
        };
        problems.none()?;
        let doc = doc(&item.attrs);
        Ok(Self {
            krate: arguments
                .krate
                .unwrap_or_else(|| syn::parse_quote!(::micro)),
            package: arguments.package.map_or_else(String::new, |p| p.value()),
            name,
            doc,
            item,
            methods,
        })
    }
}

impl Method {
    fn parse(mut item: TraitItemFn) -> Result<Self> {
        let mut problems = Problems::default();
        let mut arguments = MethodArguments::default();
        item.attrs.retain(|attribute| {
            if !attribute.path().is_ident("micro") {
                return true;
            }
            if let Err(err) =
                attribute.parse_args_with(|input: ParseStream<'_>| arguments.read(input))
            {
                problems.add(err);
            }
            false
        });
        let sig = &item.sig;
        if sig.asyncness.is_none() {
            problems.push(sig.fn_token.span, "a method of a contract is an `async fn`");
        }
        if let Some(tokens) = generics(&sig.generics) {
            problems.at(
                tokens,
                "a method of a contract has no type or lifetime parameters",
            );
        }
        for (span, what) in [
            sig.constness.map(|token| (token.span, "const")),
            sig.unsafety.map(|token| (token.span, "unsafe")),
            sig.abi
                .as_ref()
                .map(|abi| (abi.extern_token.span, "extern")),
            sig.variadic
                .as_ref()
                .map(|dots| (dots.dots.spans[0], "...")),
        ]
        .into_iter()
        .flatten()
        {
            problems.push(span, format!("a method of a contract is not `{what}`"));
        }
        if let Some(body) = &item.default {
            problems.push(
                body.brace_token.span.join(),
                "a method of a contract has no body: the contract says what a service does, an implementation how",
            );
        }
        let mut inputs = sig.inputs.iter().peekable();
        match inputs.peek() {
            Some(FnArg::Receiver(receiver)) => {
                let by_reference = matches!(&receiver.reference, Some((_, None)));
                if !by_reference || receiver.mutability.is_some() || receiver.colon_token.is_some()
                {
                    problems.at(
                        receiver,
                        "a method of a contract takes `&self`: calls run side by side",
                    );
                }
                inputs.next();
            }
            _ => problems.push(sig.ident.span(), "`&self` is missing"),
        }
        let mut inputs = inputs.filter_map(|input| match input {
            FnArg::Typed(input) => Some(input),
            FnArg::Receiver(_) => None,
        });
        let context = problems.take(context(&sig.ident, inputs.next()));
        let request = match inputs.next() {
            Some(input) => problems.take(request(input)),
            None => {
                // Nothing is wrong with the message if the context stands in its place.
                if context.is_some() {
                    problems.push(
                        sig.ident.span(),
                        "the message is missing: `async fn name(&self, cx: &Context, req: Request) -> Result<Reply>`",
                    );
                }
                None
            }
        };
        for input in inputs {
            problems.at(
                input,
                "a method of a contract takes one message: put its parts in a struct",
            );
        }
        let reply = problems.take(reply(&sig.ident, &sig.output));
        let name = match &arguments.name {
            Some(name) => name.value(),
            None => {
                let name = camel(&sig.ident);
                if let Err(err) = check_name(&name, sig.ident.span()) {
                    problems.add(err);
                }
                name
            }
        };
        problems.none()?;
        let (Some(context), Some(request), Some((output, reply))) = (context, request, reply)
        else {
            // Each of them is missing for a problem told above.
            return Err(Error::new(
                sig.ident.span(),
                "this is no method of a contract",
            ));
        };
        let cfgs = item
            .attrs
            .iter()
            .filter(|attribute| attribute.path().is_ident("cfg"))
            .cloned()
            .collect();
        Ok(Self {
            cfgs,
            name,
            doc: doc(&item.attrs),
            idempotent: arguments.idempotent,
            context,
            request,
            reply,
            output,
            item,
        })
    }
}

fn context(method: &Ident, input: Option<&PatType>) -> Result<TypeReference> {
    const WANTED: &str = "the first argument after `&self` is the context: `cx: &Context`";
    let Some(input) = input else {
        return Err(Error::new(method.span(), WANTED));
    };
    let wrong = || Error::new_spanned(&input.ty, WANTED);
    check_pattern(&input.pat)?;
    let Type::Reference(reference) = bare(&input.ty) else {
        return Err(wrong());
    };
    let named = matches!(bare(&reference.elem), Type::Path(path)
        if path.qself.is_none() && path.path.segments.last().is_some_and(|last| last.ident == "Context"));
    // Any other lifetime would be a parameter, which is told elsewhere.
    let for_ever = reference
        .lifetime
        .as_ref()
        .is_some_and(|lifetime| lifetime.ident == "static");
    if !named || reference.mutability.is_some() || for_ever {
        return Err(wrong());
    }
    Ok(reference.clone())
}

fn request(input: &PatType) -> Result<Message> {
    check_pattern(&input.pat)?;
    Message::parse(&input.ty)
}

fn reply(method: &Ident, output: &ReturnType) -> Result<(Type, Message)> {
    const WANTED: &str = "a method of a contract returns `Result<Reply>`: every call can fail";
    let ReturnType::Type(_, ty) = output else {
        return Err(Error::new(method.span(), WANTED));
    };
    let wrong = || Error::new_spanned(ty, WANTED);
    let Some(arguments) = named(ty, "Result") else {
        return Err(wrong());
    };
    let mut arguments = arguments.iter();
    let (Some(GenericArgument::Type(message)), rest) = (arguments.next(), arguments.next()) else {
        return Err(wrong());
    };
    if let Some(error) = rest {
        return Err(Error::new_spanned(
            error,
            "the error of a contract is micro's: write `micro::Result<Reply>`",
        ));
    }
    Ok(((**ty).clone(), Message::parse(message)?))
}

impl Message {
    fn parse(whole: &Type) -> Result<Self> {
        let (ty, streaming) = match named(whole, "Streaming") {
            Some(arguments) => match arguments.first() {
                Some(GenericArgument::Type(ty)) if arguments.len() == 1 => (ty, true),
                _ => {
                    return Err(Error::new_spanned(
                        whole,
                        "`Streaming` has one type argument, the message",
                    ));
                }
            },
            None => (whole, false),
        };
        let mut owned = Owned(Problems::default());
        owned.visit_type(ty);
        owned.0.none()?;
        Ok(Self {
            ty: ty.clone(),
            streaming,
            whole: whole.clone(),
        })
    }
}

/// Finds what a message cannot be made of: it travels, so it owns its data and has a name.
struct Owned(Problems);

impl<'ast> Visit<'ast> for Owned {
    fn visit_type(&mut self, ty: &'ast Type) {
        let what = match ty {
            Type::Reference(_) => "a message owns its data: it cannot be a reference",
            Type::Ptr(_) => "a message cannot be a pointer",
            Type::BareFn(_) => "a message cannot be a function",
            Type::ImplTrait(_) => "a message has a named type: both sides must know it",
            Type::TraitObject(_) => "a message has a concrete type: both sides must know it",
            Type::Infer(_) => "a message has a named type",
            Type::Never(_) => "a message cannot be `!`",
            Type::Macro(_) => "a message cannot be a macro: name its type",
            _ => return visit::visit_type(self, ty),
        };
        self.0.at(ty, what);
    }

    fn visit_path(&mut self, path: &'ast Path) {
        if let Some(first) = path.segments.first()
            && first.ident == "Self"
        {
            self.0
                .push(first.ident.span(), "a message cannot be the service itself");
        }
        if let Some(last) = path.segments.last()
            && last.ident == "Streaming"
        {
            self.0.push(
                last.ident.span(),
                "`Streaming` stands alone: `Streaming<Message>`, as the argument or in the result",
            );
        }
        visit::visit_path(self, path);
    }

    fn visit_lifetime(&mut self, lifetime: &'ast syn::Lifetime) {
        if lifetime.ident != "static" {
            self.0
                .at(lifetime, "a message owns its data: it has no lifetimes");
        }
    }
}

/// The type arguments of a path that ends in `name`.
fn named<'a>(ty: &'a Type, name: &str) -> Option<&'a Punctuated<GenericArgument, Token![,]>> {
    let Type::Path(path) = bare(ty) else {
        return None;
    };
    let last = path.path.segments.last()?;
    match &last.arguments {
        PathArguments::AngleBracketed(arguments) if path.qself.is_none() && last.ident == name => {
            Some(&arguments.args)
        }
        _ => None,
    }
}

/// A type without the parentheses around it.
fn bare(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => bare(&group.elem),
        Type::Paren(paren) => bare(&paren.elem),
        _ => ty,
    }
}

fn check_pattern(pattern: &Pat) -> Result<()> {
    match pattern {
        Pat::Wild(_) => Ok(()),
        Pat::Ident(name)
            if name.by_ref.is_none() && name.mutability.is_none() && name.subpat.is_none() =>
        {
            Ok(())
        }
        _ => Err(Error::new_spanned(pattern, "an argument is a plain name")),
    }
}

/// The generics, if there are any.
fn generics(generics: &Generics) -> Option<TokenStream> {
    if !generics.params.is_empty() {
        return Some(generics.params.to_token_stream());
    }
    generics
        .where_clause
        .as_ref()
        .map(ToTokens::to_token_stream)
}

/// `say_hello` is `SayHello` on the wire.
fn camel(name: &Ident) -> String {
    let name = name.unraw().to_string();
    let mut out = String::with_capacity(name.len());
    for word in name.split('_') {
        let mut chars = word.chars();
        out.extend(chars.next().map(|first| first.to_ascii_uppercase()));
        out.push_str(chars.as_str());
    }
    out
}

fn check_name(name: &str, span: Span) -> Result<()> {
    if is_name(name) {
        return Ok(());
    }
    Err(Error::new(
        span,
        format!("`{name}` is no name on the wire: letters, digits and `_`, no digit first"),
    ))
}

fn check_package(package: &LitStr) -> Result<()> {
    let value = package.value();
    if value.is_empty() || value.split('.').all(is_name) {
        return Ok(());
    }
    Err(Error::new(
        package.span(),
        format!("`{value}` is no proto package: names with dots between them, such as `hello.v1`"),
    ))
}

/// Whether this is an identifier in protobuf.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A doc comment, without markers.
fn doc(attributes: &[Attribute]) -> String {
    let mut out = String::new();
    for attribute in attributes {
        let Meta::NameValue(meta) = &attribute.meta else {
            continue;
        };
        if !meta.path.is_ident("doc") {
            continue;
        }
        if let Expr::Lit(ExprLit {
            lit: Lit::Str(text),
            ..
        }) = &meta.value
        {
            for line in text.value().split('\n') {
                out.push_str(line.strip_prefix(' ').unwrap_or(line).trim_end());
                out.push('\n');
            }
        }
    }
    out.trim_matches('\n').to_owned()
}

/// Problems found so far: all are told, not the first only.
#[derive(Default)]
struct Problems(Option<Error>);

impl Problems {
    fn push(&mut self, span: Span, message: impl std::fmt::Display) {
        self.add(Error::new(span, message));
    }

    /// A problem with all of these tokens, not the first only.
    fn at(&mut self, tokens: impl ToTokens, message: impl std::fmt::Display) {
        self.add(Error::new_spanned(tokens, message));
    }

    fn add(&mut self, err: Error) {
        match &mut self.0 {
            Some(first) => first.combine(err),
            None => self.0 = Some(err),
        }
    }

    fn take<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|err| self.add(err)).ok()
    }

    fn none(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

/// The name of what goes with a trait: `GreeterClient` for `Greeter`.
pub(super) fn companion(item: &ItemTrait, suffix: &str) -> Ident {
    let name = format_ident!("{}{suffix}", item.ident);
    // Errors point at the trait, but lints know that a macro wrote it.
    Ident::new(
        &name.to_string(),
        Span::call_site().located_at(item.ident.span()),
    )
}
