//! What the registry is told of the endpoints, in go-micro's form.

use micro_codec_core::{FieldKind, FieldLabel, MessageSchema, Schema};
use micro_registry_core::{Endpoint, Value};
use micro_transport_core::MethodKind;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto};

use crate::Routes;
use crate::routes::{Entry, Message};
use crate::schema::{Catalog, message_name, within};

/// How deep messages within messages are described, as in go-micro.
const DEPTH: usize = 3;
/// How much of a doc comment is told: registries are small.
const DESCRIPTION: usize = 256;

/// The endpoints of these routes, sorted by name.
pub(crate) fn endpoints(routes: &[Routes], catalog: &Catalog) -> Vec<Endpoint> {
    let mut endpoints: Vec<_> = routes
        .iter()
        .flat_map(|routes| {
            let methods = routes.methods.iter();
            methods.map(|entry| endpoint(&routes.name, entry, catalog))
        })
        .collect();
    endpoints.sort_by(|a, b| a.name.cmp(&b.name));
    endpoints
}

fn endpoint(contract: &str, entry: &Entry, catalog: &Catalog) -> Endpoint {
    let method = &entry.method;
    let mut endpoint = Endpoint::new(format!("{contract}.{}", method.name)).with_values(
        message(&entry.request, catalog),
        message(&entry.reply, catalog),
    );
    let streams = match entry.kind {
        MethodKind::Unary => None,
        MethodKind::ServerStreaming => Some("server"),
        MethodKind::ClientStreaming => Some("client"),
        MethodKind::BidiStreaming => Some("bidi"),
    };
    if let Some(streams) = streams {
        // The first is go-micro's, the second says more.
        endpoint = endpoint
            .with_metadata("stream", "true")
            .with_metadata("streaming", streams);
    }
    if method.idempotent {
        endpoint = endpoint.with_metadata("idempotent", "true");
    }
    let description = method.doc.trim().split("\n\n").next().unwrap_or_default();
    if !description.is_empty() {
        let lines: Vec<_> = description.lines().map(str::trim).collect();
        let text: String = lines.join(" ").chars().take(DESCRIPTION).collect();
        endpoint = endpoint.with_metadata("description", text);
    }
    endpoint
}

fn message(message: &Message, catalog: &Catalog) -> Value {
    let name = message_name(message);
    let mut value = Value::new(name.clone(), name);
    if let Message::Proto(schema) = message {
        value.values = fields(schema, catalog, DEPTH);
    }
    value
}

fn fields(schema: &Schema, catalog: &Catalog, depth: usize) -> Vec<Value> {
    if depth == 0 {
        return Vec::new();
    }
    match schema {
        Schema::Derived(message) => derived(message, catalog, depth),
        Schema::File { full_name, .. } => described(full_name, catalog, depth),
        _ => Vec::new(),
    }
}

fn derived(message: &MessageSchema, catalog: &Catalog, depth: usize) -> Vec<Value> {
    let fields = message.fields.iter();
    fields
        .map(|field| {
            let (mut kind, values) = kind(&field.kind, catalog, depth - 1);
            if field.label == FieldLabel::Repeated && !matches!(field.kind, FieldKind::Map(..)) {
                kind.insert_str(0, "[]");
            }
            let mut value = Value::new(field.name.to_string(), kind);
            value.values = values;
            value
        })
        .collect()
}

fn kind(kind: &FieldKind, catalog: &Catalog, depth: usize) -> (String, Vec<Value>) {
    let scalar = match kind {
        FieldKind::Bool => "bool",
        FieldKind::Int32 => "int32",
        FieldKind::Int64 => "int64",
        FieldKind::Uint32 => "uint32",
        FieldKind::Uint64 => "uint64",
        FieldKind::Float => "float",
        FieldKind::Double => "double",
        FieldKind::String => "string",
        FieldKind::Bytes => "bytes",
        FieldKind::Enum(schema) => return (schema.name.to_string(), Vec::new()),
        FieldKind::Message(schema) => {
            let schema = schema();
            return (schema.name().to_owned(), fields(&schema, catalog, depth));
        }
        FieldKind::Map(key, value) => {
            let (key, _) = self::kind(key, catalog, 0);
            let (value, values) = self::kind(value, catalog, depth);
            return (format!("map[{key}]{value}"), values);
        }
        _ => "",
    };
    (scalar.to_owned(), Vec::new())
}

/// The fields of a message that a file describes.
fn described(full_name: &str, catalog: &Catalog, depth: usize) -> Vec<Value> {
    let Some(message) = find(full_name, catalog) else {
        return Vec::new();
    };
    if depth == 0 {
        return Vec::new();
    }
    message
        .field
        .iter()
        .map(|field| {
            let entry = message.nested_type.iter().find(|nested| {
                let is_entry = nested.options.as_ref().is_some_and(|o| o.map_entry());
                is_entry && field.type_name() == format!(".{full_name}.{}", nested.name())
            });
            let (kind, values) = match entry.map(|entry| entry.field.as_slice()) {
                Some([key, value]) => {
                    let (key, _) = field_kind(key, catalog, 0);
                    let (value, values) = field_kind(value, catalog, depth - 1);
                    (format!("map[{key}]{value}"), values)
                }
                _ => {
                    let (mut kind, values) = field_kind(field, catalog, depth - 1);
                    if field.label() == Label::Repeated {
                        kind.insert_str(0, "[]");
                    }
                    (kind, values)
                }
            };
            let mut value = Value::new(field.name(), kind);
            value.values = values;
            value
        })
        .collect()
}

fn field_kind(
    field: &FieldDescriptorProto,
    catalog: &Catalog,
    depth: usize,
) -> (String, Vec<Value>) {
    let full_name = field.type_name();
    let full_name = full_name.strip_prefix('.').unwrap_or(full_name);
    let name = full_name.rsplit('.').next().unwrap_or(full_name).to_owned();
    match field.r#type() {
        Type::Message | Type::Group => (name, described(full_name, catalog, depth)),
        Type::Enum => (name, Vec::new()),
        scalar => {
            let name = scalar.as_str_name().trim_start_matches("TYPE_");
            (name.to_ascii_lowercase(), Vec::new())
        }
    }
}

fn find<'a>(full_name: &str, catalog: &'a Catalog) -> Option<&'a DescriptorProto> {
    let file = &catalog.defining(full_name)?.descriptor;
    let mut parts = within(file.package(), full_name)?.split('.');
    let first = parts.next()?;
    let top = &file.message_type;
    let mut message = top.iter().find(|message| message.name() == first)?;
    for part in parts {
        let nested = &message.nested_type;
        message = nested.iter().find(|nested| nested.name() == part)?;
    }
    Some(message)
}
