//! What pbjson leaves out of proto3's JSON.
//!
//! Its code takes no `null` but for messages, fails for enumerations by a number without a name,
//! and writes `NaN` as `null`. The code is changed here, expression by expression; the golden files
//! show the result.

use std::collections::HashSet;

use proc_macro2::TokenStream;
use prost_build::Module;
use prost_types::field_descriptor_proto::{Label, Type as ProtoType};
use prost_types::{DescriptorProto, FieldDescriptorProto};
use quote::quote;
use syn::visit::{self, Visit};
use syn::visit_mut::{self, VisitMut};
use syn::{
    Arm, Expr, ExprMethodCall, FnArg, GenericArgument, ImplItemFn, ItemImpl, Lit, Pat,
    PathArguments, Type, parse_quote,
};

use crate::descriptors::Descriptors;

/// Fields that need more than others, as (message, name in JSON).
#[derive(Default)]
pub(super) struct Fields {
    floats: HashSet<(String, String)>,
    /// Of `google.protobuf.Value`, for which `null` is a value.
    values: HashSet<(String, String)>,
}

impl Fields {
    pub(super) fn of(descriptors: &Descriptors) -> Self {
        let mut out = Self::default();
        for file in &descriptors.files {
            // As pbjson writes a package.
            let package = Module::from_protobuf_package_name(file.descriptor.package());
            let package: Vec<&str> = package.parts().collect();
            for message in &file.descriptor.message_type {
                out.message(&package.join("."), message);
            }
        }
        out
    }

    fn message(&mut self, parent: &str, message: &DescriptorProto) {
        let name = format!("{parent}.{}", message.name());
        for nested in &message.nested_type {
            self.message(&name, nested);
        }
        for field in &message.field {
            let key = (name.clone(), field.json_name().to_owned());
            if is_float(field) || map_value(message, field).is_some_and(is_float) {
                self.floats.insert(key);
            } else if field.type_name() == ".google.protobuf.Value"
                && field.label() != Label::Repeated
                && field.oneof_index.is_none()
            {
                self.values.insert(key);
            }
        }
    }
}

fn is_float(field: &FieldDescriptorProto) -> bool {
    matches!(field.r#type(), ProtoType::Double | ProtoType::Float)
}

/// What a map's values are, if the field is a map.
fn map_value<'a>(
    message: &'a DescriptorProto,
    field: &FieldDescriptorProto,
) -> Option<&'a FieldDescriptorProto> {
    let name = field.type_name().rsplit('.').next()?;
    let entry = message.nested_type.iter().find(|nested| {
        nested.name() == name && nested.options.as_ref().is_some_and(|it| it.map_entry())
    })?;
    entry.field.iter().find(|field| field.name() == "value")
}

/// Closes the gaps in a file of pbjson's.
pub(super) fn close(file: &mut syn::File, v1: &TokenStream, fields: &Fields) {
    Gaps {
        helpers: quote!(#v1::proto::json),
        fields,
        message: String::new(),
        field: None,
    }
    .visit_file_mut(file);
}

struct Gaps<'a> {
    helpers: TokenStream,
    fields: &'a Fields,
    /// The message whose impl this is.
    message: String,
    /// The field that is being read, by its name in JSON.
    field: Option<String>,
}

impl VisitMut for Gaps<'_> {
    fn visit_item_impl_mut(&mut self, item: &mut ItemImpl) {
        let mut names = FirstText::of(&["serialize_struct", "deserialize_struct"]);
        names.visit_item_impl(item);
        // The impls inside one belong to the same message.
        let outer = names
            .found
            .map(|message| std::mem::replace(&mut self.message, message));
        visit_mut::visit_item_impl_mut(self, item);
        if let Some(outer) = outer {
            self.message = outer;
        }
    }

    fn visit_impl_item_fn_mut(&mut self, function: &mut ImplItemFn) {
        if function.sig.ident == "visit_map"
            && let Some(FnArg::Typed(map)) = function.sig.inputs.last_mut()
            && let Pat::Ident(name) = &mut *map.pat
        {
            name.mutability = None;
            let (helpers, name) = (&self.helpers, &name.ident);
            let nulls = parse_quote!(let mut #name = #helpers::nulls(#name););
            function.block.stmts.insert(0, nulls);
        }
        visit_mut::visit_impl_item_fn_mut(self, function);
    }

    fn visit_arm_mut(&mut self, arm: &mut Arm) {
        let mut name = FirstText::of(&["duplicate_field"]);
        name.visit_arm(arm);
        let outer = std::mem::replace(&mut self.field, name.found);
        visit_mut::visit_arm_mut(self, arm);
        self.field = outer;
    }

    fn visit_expr_mut(&mut self, expr: &mut Expr) {
        let helpers = &self.helpers;
        match expr {
            Expr::Assign(assign) => {
                let mut casts = Casts(false);
                casts.visit_expr(&assign.right);
                if casts.0 {
                    EnumerationType(helpers).visit_expr_mut(&mut assign.right);
                }
                let field = self.field.clone().unwrap_or_default();
                if self.fields.values.contains(&(self.message.clone(), field)) {
                    let value = &assign.right;
                    *assign.right = parse_quote!(Some(#value));
                }
            }
            Expr::MethodCall(call) if call.method == "serialize_field" => {
                let name = call.args.first().and_then(text);
                let key = (self.message.clone(), name.unwrap_or_default());
                if self.fields.floats.contains(&key)
                    && let Some(value) = call.args.last_mut()
                {
                    *value = parse_quote!(&#helpers::Float(#value));
                }
            }
            _ => {}
        }
        visit_mut::visit_expr_mut(self, expr);
        let helpers = &self.helpers;
        match expr {
            Expr::Cast(cast) if is_i32(&cast.ty) => {
                let value = &cast.expr;
                *expr = parse_quote!(#value.number());
            }
            Expr::MethodCall(call) => {
                if let Some((ty, number)) = variant(call) {
                    *expr = parse_quote!(#helpers::enumeration::<#ty, S::Error>(#number));
                }
            }
            _ => {}
        }
    }
}

/// `X` and `n` of `X::try_from(n).map_err(…)`.
fn variant(call: &ExprMethodCall) -> Option<(syn::Path, &Expr)> {
    let Expr::Call(try_from) = &*call.receiver else {
        return None;
    };
    let Expr::Path(path) = &*try_from.func else {
        return None;
    };
    let mut path = path.path.clone();
    let last = path.segments.pop()?;
    if call.method != "map_err" || last.value().ident != "try_from" {
        return None;
    }
    path.segments.pop_punct();
    // Numbers are converted so too, but those are no variants.
    if path.is_ident("i32") {
        return None;
    }
    Some((path, try_from.args.first()?))
}

fn is_i32(ty: &Type) -> bool {
    matches!(ty, Type::Path(path) if path.path.is_ident("i32"))
}

fn text(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Str(text) => Some(text.value()),
            _ => None,
        },
        _ => None,
    }
}

/// Finds the text that one of some functions is called with first.
struct FirstText {
    functions: &'static [&'static str],
    found: Option<String>,
}

impl FirstText {
    fn of(functions: &'static [&'static str]) -> Self {
        Self {
            functions,
            found: None,
        }
    }

    fn check(&mut self, name: Option<&syn::Ident>, argument: Option<&Expr>) {
        let wanted = |name: &syn::Ident| self.functions.iter().any(|function| name == function);
        if self.found.is_none() && name.is_some_and(wanted) {
            self.found = argument.and_then(text);
        }
    }
}

impl<'ast> Visit<'ast> for FirstText {
    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        self.check(Some(&call.method), call.args.first());
        visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        if let Expr::Path(path) = &*call.func {
            let last = path.path.segments.last();
            self.check(last.map(|last| &last.ident), call.args.first());
        }
        visit::visit_expr_call(self, call);
    }
}

/// Whether a variant of an enumeration becomes a number somewhere.
struct Casts(bool);

impl<'ast> Visit<'ast> for Casts {
    fn visit_expr_cast(&mut self, cast: &'ast syn::ExprCast) {
        self.0 |= is_i32(&cast.ty);
        visit::visit_expr_cast(self, cast);
    }
}

/// Reads an `Enumeration<X>` where `X` was read: the innermost type of `next_value`.
struct EnumerationType<'a>(&'a TokenStream);

impl VisitMut for EnumerationType<'_> {
    fn visit_expr_method_call_mut(&mut self, call: &mut ExprMethodCall) {
        if call.method == "next_value"
            && let Some(turbofish) = &mut call.turbofish
            && let Some(GenericArgument::Type(ty)) = turbofish.args.last_mut()
        {
            wrap_innermost(ty, self.0);
        }
        visit_mut::visit_expr_method_call_mut(self, call);
    }
}

/// Wraps `X` of `Option<X>`, `Vec<X>` and `HashMap<_, X>`, or `X` itself.
fn wrap_innermost(ty: &mut Type, helpers: &TokenStream) {
    if let Type::Path(path) = ty
        && let Some(last) = path.path.segments.last_mut()
        && let PathArguments::AngleBracketed(arguments) = &mut last.arguments
        && let Some(GenericArgument::Type(inner)) = arguments.args.last_mut()
    {
        return wrap_innermost(inner, helpers);
    }
    *ty = parse_quote!(#helpers::Enumeration<#ty>);
}
