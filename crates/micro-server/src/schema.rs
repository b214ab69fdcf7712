//! From contracts to protobuf descriptors.
//!
//! What comes from a `.proto` file is used as it is there. For the rest there is one file per
//! package, made of the derived messages that its contracts use; printing it as text is
//! [`proto_text`](crate::proto_text)'s part.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use micro_codec_core::{EnumSchema, FieldKind, FieldLabel, FieldSchema, MessageSchema, Schema};
use micro_core::{Error, Result};
use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::method_options::IdempotencyLevel;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
    FileDescriptorProto, FileOptions, MessageOptions, MethodDescriptorProto, MethodOptions,
    OneofDescriptorProto, ServiceDescriptorProto, SourceCodeInfo,
};

use crate::proto_text;
use crate::routes::{Message, Routes};

/// Every file that describes the contracts of a server.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) files: BTreeMap<String, File>,
}

#[derive(Debug)]
pub(crate) struct File {
    pub(crate) descriptor: FileDescriptorProto,
    /// What is sent: for files from elsewhere it holds what our types do not know.
    pub(crate) encoded: Bytes,
    /// The text, if the file was made here.
    pub(crate) text: Option<String>,
}

/// Doc comments, by the path of descriptor fields that `SourceCodeInfo` uses.
pub(crate) type Docs = HashMap<Vec<i32>, String>;

impl Catalog {
    /// Describes these routes when `service` runs them.
    pub(crate) fn new<'a>(
        service: &str,
        routes: impl IntoIterator<Item = &'a Routes>,
    ) -> Result<Self> {
        let mut builder = Builder::default();
        let routes: Vec<_> = routes.into_iter().collect();
        // What has a name of its own goes before what is given one.
        for routes in &routes {
            builder.messages(service, routes)?;
        }
        for routes in &routes {
            builder.service(service, routes)?;
        }
        for routes in &routes {
            builder.methods(service, routes)?;
        }
        builder.finish()
    }

    /// The file that defines a service or message of this full name.
    pub(crate) fn defining(&self, full_name: &str) -> Option<&File> {
        self.files
            .values()
            .find(|file| defines(&file.descriptor, full_name))
    }
}

/// Whether the file defines a service or a message, at its top, of this full name.
fn defines(file: &FileDescriptorProto, full_name: &str) -> bool {
    let Some(name) = within(file.package(), full_name) else {
        return false;
    };
    file.service.iter().any(|service| service.name() == name)
        || file.message_type.iter().any(|message| {
            // A message may be nested: `Outer.Inner`.
            let (first, rest) = name.split_once('.').unwrap_or((name, ""));
            message.name() == first && (rest.is_empty() || has_nested(message, rest))
        })
}

fn has_nested(message: &DescriptorProto, name: &str) -> bool {
    let (first, rest) = name.split_once('.').unwrap_or((name, ""));
    message
        .nested_type
        .iter()
        .any(|nested| nested.name() == first && (rest.is_empty() || has_nested(nested, rest)))
}

/// What is left of a full name within a package.
pub(crate) fn within<'a>(package: &str, full_name: &'a str) -> Option<&'a str> {
    if package.is_empty() {
        return Some(full_name);
    }
    full_name.strip_prefix(package)?.strip_prefix('.')
}

/// Files as they are in a set, byte by byte.
#[derive(Clone, PartialEq, prost::Message)]
struct RawSet {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    file: Vec<Bytes>,
}

#[derive(Default)]
struct Builder {
    catalog: Catalog,
    packages: BTreeMap<String, Package>,
    /// The sets read so far, by address: each is one static of a crate.
    sets: HashSet<(usize, usize)>,
}

/// The file of one package while it grows.
#[derive(Default)]
struct Package {
    messages: Vec<DescriptorProto>,
    enums: Vec<EnumDescriptorProto>,
    services: Vec<ServiceDescriptorProto>,
    imports: BTreeSet<String>,
    names: HashMap<String, Named>,
    docs: Docs,
    /// The schema functions seen: what they describe is here.
    seen: HashSet<usize>,
}

/// What a name within a package stands for. proto has one scope for all of these.
#[derive(Clone, Debug, PartialEq)]
enum Named {
    Message(usize),
    Enum(usize),
    EnumValue(String),
    Service,
    Placeholder(&'static str),
}

const MESSAGES: i32 = 4;
const SERVICES: i32 = 6;
const FIELDS: i32 = 2;
const METHODS: i32 = 2;

impl Builder {
    /// Describes the messages that are protobuf.
    fn messages(&mut self, service: &str, routes: &Routes) -> Result<()> {
        let package = routes.package_for(service);
        for entry in &routes.methods {
            for message in [&entry.request, &entry.reply] {
                if let Message::Proto(schema) = message {
                    self.proto(&package, schema.clone())?;
                }
            }
        }
        Ok(())
    }

    /// Begins the service, unless the contract comes from a `.proto` file, which describes it best.
    fn service(&mut self, service: &str, routes: &Routes) -> Result<()> {
        if self.catalog.defining(&routes.full_name(service)).is_some() {
            return Ok(());
        }
        let package = routes.package_for(service);
        let file = self.package(&package);
        let mut known = file.services.iter();
        // Handlers of one service may come in several parts.
        if known.any(|known| known.name() == routes.name) {
            return Ok(());
        }
        file.name(&package, &routes.name, Named::Service)?;
        file.doc([SERVICES, index(file.services.len())], &routes.doc);
        file.services.push(ServiceDescriptorProto {
            name: Some(routes.name.to_string()),
            ..ServiceDescriptorProto::default()
        });
        Ok(())
    }

    fn methods(&mut self, service: &str, routes: &Routes) -> Result<()> {
        let package = routes.package_for(service);
        let find = |file: &Package| {
            let mut services = file.services.iter();
            services.position(|known| known.name() == routes.name)
        };
        let Some(at) = self.packages.get(&package).and_then(find) else {
            return Ok(());
        };
        for entry in &routes.methods {
            let options = entry.method.idempotent.then(|| MethodOptions {
                idempotency_level: Some(IdempotencyLevel::Idempotent.into()),
                ..MethodOptions::default()
            });
            let method = MethodDescriptorProto {
                name: Some(entry.method.name.to_string()),
                input_type: Some(self.message(&package, &entry.request)?),
                output_type: Some(self.message(&package, &entry.reply)?),
                options,
                client_streaming: entry.kind.client_streams().then_some(true),
                server_streaming: entry.kind.server_streams().then_some(true),
            };
            let file = self.package(&package);
            let number = index(file.services[at].method.len());
            file.doc([SERVICES, index(at), METHODS, number], &entry.method.doc);
            file.services[at].method.push(method);
        }
        Ok(())
    }

    fn package(&mut self, package: &str) -> &mut Package {
        self.packages.entry(package.to_owned()).or_default()
    }

    /// The type name of a message, described from now on.
    fn message(&mut self, package: &str, message: &Message) -> Result<String> {
        let (name, doc) = match message {
            Message::Proto(schema) => return self.proto(package, schema.clone()),
            Message::Raw => (
                "RawBytes",
                "Whatever bytes the content type stands for: nothing more is known of them.",
            ),
            Message::Serde(name) => (*name, PLACEHOLDER),
        };
        let type_name = message_name(message);
        let file = self.package(package);
        let mut free = type_name.clone();
        loop {
            match file.names.get(&free) {
                None => break,
                Some(Named::Placeholder(known)) if *known == name => {
                    return Ok(absolute(package, &free));
                }
                // A protobuf message or another Rust type has the name.
                Some(_) => free.push('_'),
            }
        }
        file.names.insert(free.clone(), Named::Placeholder(name));
        file.doc([MESSAGES, index(file.messages.len())], doc);
        file.messages.push(DescriptorProto {
            name: Some(free.clone()),
            ..DescriptorProto::default()
        });
        Ok(absolute(package, &free))
    }

    fn proto(&mut self, package: &str, schema: Schema) -> Result<String> {
        // A list of what is left to do instead of recursion: types may be nested as deep as
        // their author likes, and may contain themselves.
        let mut left = Vec::new();
        let name = self.refer(package, schema, &mut left)?;
        while let Some(message) = left.pop() {
            self.derived(package, &message, &mut left)?;
        }
        Ok(name)
    }

    /// The type name of a message; what has to be described for it goes to `left`.
    fn refer(
        &mut self,
        package: &str,
        schema: Schema,
        left: &mut Vec<MessageSchema>,
    ) -> Result<String> {
        match schema {
            Schema::File { set, full_name } => {
                let file = self.add_set(set, full_name)?;
                self.package(package).imports.insert(file);
                Ok(format!(".{full_name}"))
            }
            Schema::Derived(message) => {
                let name = absolute(package, &message.name);
                left.push(message);
                Ok(name)
            }
            _ => Err(Error::unimplemented(
                "reflection does not know where this message's schema comes from",
            )
            .with_operation("server.schema")),
        }
    }

    fn derived(
        &mut self,
        package: &str,
        message: &MessageSchema,
        left: &mut Vec<MessageSchema>,
    ) -> Result<()> {
        identifier(&message.name, "message")?;
        let mut descriptor = DescriptorProto {
            name: Some(message.name.to_string()),
            ..DescriptorProto::default()
        };
        for field in &message.fields {
            self.field(package, field, &mut descriptor, left)?;
        }
        // Synthetic oneofs, of which proto3 makes one for each `optional` field.
        for i in 0..descriptor.field.len() {
            if descriptor.field[i].proto3_optional() {
                let oneof = format!("_{}", descriptor.field[i].name());
                descriptor.field[i].oneof_index = Some(index(descriptor.oneof_decl.len()));
                descriptor.oneof_decl.push(OneofDescriptorProto {
                    name: Some(oneof),
                    options: None,
                });
            }
        }
        let file = self.package(package);
        if let Some(Named::Message(at)) = file.names.get(&*message.name)
            && file.messages[*at] == descriptor
        {
            return Ok(());
        }
        let at = file.messages.len();
        file.name(package, &message.name, Named::Message(at))?;
        file.doc([MESSAGES, index(at)], &message.doc);
        for (i, field) in message.fields.iter().enumerate() {
            file.doc([MESSAGES, index(at), FIELDS, index(i)], &field.doc);
        }
        file.messages.push(descriptor);
        Ok(())
    }

    fn field(
        &mut self,
        package: &str,
        field: &FieldSchema,
        message: &mut DescriptorProto,
        left: &mut Vec<MessageSchema>,
    ) -> Result<()> {
        identifier(&field.name, "field")?;
        let name = field.name.to_string();
        let mut descriptor = FieldDescriptorProto {
            json_name: Some(json_name(&name)),
            number: Some(i32::try_from(field.tag).unwrap_or(i32::MAX)),
            label: Some(Label::Optional.into()),
            ..FieldDescriptorProto::default()
        };
        let repeated = field.label == FieldLabel::Repeated;
        if let FieldKind::Map(key, value) = &field.kind {
            let entry_name = format!("{}Entry", camel(&name));
            let mut entry = DescriptorProto {
                name: Some(entry_name.clone()),
                options: Some(MessageOptions {
                    map_entry: Some(true),
                    ..MessageOptions::default()
                }),
                ..DescriptorProto::default()
            };
            for (number, name, kind) in [(1, "key", key), (2, "value", value)] {
                let (kind, type_name) = self.kind(package, kind, left)?;
                entry.field.push(FieldDescriptorProto {
                    name: Some(name.to_owned()),
                    json_name: Some(name.to_owned()),
                    number: Some(number),
                    label: Some(Label::Optional.into()),
                    r#type: Some(kind.into()),
                    type_name,
                    ..FieldDescriptorProto::default()
                });
            }
            let outer = absolute(package, message.name());
            descriptor.type_name = Some(format!("{outer}.{entry_name}"));
            descriptor.r#type = Some(Type::Message.into());
            descriptor.label = Some(Label::Repeated.into());
            message.nested_type.push(entry);
        } else {
            let (kind, type_name) = self.kind(package, &field.kind, left)?;
            descriptor.r#type = Some(kind.into());
            descriptor.type_name = type_name;
            if repeated {
                descriptor.label = Some(Label::Repeated.into());
            }
            // A message always tells absent from default.
            if field.label == FieldLabel::Optional && kind != Type::Message {
                descriptor.proto3_optional = Some(true);
            }
        }
        descriptor.name = Some(name);
        message.field.push(descriptor);
        Ok(())
    }

    fn kind(
        &mut self,
        package: &str,
        kind: &FieldKind,
        left: &mut Vec<MessageSchema>,
    ) -> Result<(Type, Option<String>)> {
        Ok(match kind {
            FieldKind::Bool => (Type::Bool, None),
            FieldKind::Int32 => (Type::Int32, None),
            FieldKind::Int64 => (Type::Int64, None),
            FieldKind::Uint32 => (Type::Uint32, None),
            FieldKind::Uint64 => (Type::Uint64, None),
            FieldKind::Float => (Type::Float, None),
            FieldKind::Double => (Type::Double, None),
            FieldKind::String => (Type::String, None),
            FieldKind::Bytes => (Type::Bytes, None),
            FieldKind::Enum(schema) => (Type::Enum, Some(self.enumeration(package, schema)?)),
            FieldKind::Message(schema) => {
                // Each function is asked for its parts once. Two that the compiler merged
                // describe the same message.
                let first = self.package(package).seen.insert(*schema as usize);
                let mut again = Vec::new();
                let left = if first { left } else { &mut again };
                (Type::Message, Some(self.refer(package, schema(), left)?))
            }
            _ => {
                return Err(Error::unimplemented(
                    "reflection does not know this kind of field, and maps stand in fields only",
                )
                .with_operation("server.schema"));
            }
        })
    }

    fn enumeration(&mut self, package: &str, schema: &EnumSchema) -> Result<String> {
        identifier(&schema.name, "enumeration")?;
        let mut descriptor = EnumDescriptorProto {
            name: Some(schema.name.to_string()),
            ..EnumDescriptorProto::default()
        };
        for (name, number) in &schema.values {
            identifier(name, "enumeration's value")?;
            descriptor.value.push(EnumValueDescriptorProto {
                name: Some(name.to_string()),
                number: Some(*number),
                options: None,
            });
        }
        let file = self.package(package);
        let known = match file.names.get(&*schema.name) {
            Some(Named::Enum(at)) => file.enums[*at] == descriptor,
            _ => false,
        };
        if !known {
            let at = file.enums.len();
            file.name(package, &schema.name, Named::Enum(at))?;
            for (name, _) in &schema.values {
                file.name(package, name, Named::EnumValue(schema.name.to_string()))?;
            }
            file.enums.push(descriptor);
        }
        Ok(absolute(package, &schema.name))
    }

    /// Adds the files of a set, and says which of them defines the message.
    fn add_set(&mut self, set: &'static [u8], full_name: &'static str) -> Result<String> {
        let unreadable = |why: String| {
            Error::internal("the descriptors compiled into a message cannot be read")
                .with_operation("server.schema")
                .with_context("message", full_name)
                .with_context("cause", why)
        };
        if self.sets.insert((set.as_ptr() as usize, set.len())) {
            let raw = RawSet::decode(set).map_err(|err| unreadable(err.to_string()))?;
            for encoded in raw.file {
                let descriptor = FileDescriptorProto::decode(encoded.clone())
                    .map_err(|err| unreadable(err.to_string()))?;
                self.catalog.add(descriptor, encoded);
            }
        }
        match self.catalog.defining(full_name) {
            Some(file) => Ok(file.descriptor.name().to_owned()),
            None => Err(unreadable("no file of the set defines it".to_owned())),
        }
    }

    fn finish(mut self) -> Result<Catalog> {
        for (package, file) in self.packages {
            if file.services.is_empty() && file.messages.is_empty() {
                continue;
            }
            let base = if package.is_empty() {
                "micro"
            } else {
                &package
            };
            let mut name = format!("{base}.proto");
            while self.catalog.files.contains_key(&name) {
                name.insert_str(0, "micro/");
            }
            let mut descriptor = FileDescriptorProto {
                name: Some(name),
                dependency: file.imports.into_iter().collect(),
                message_type: file.messages,
                enum_type: file.enums,
                service: file.services,
                options: Some(FileOptions {
                    // Go's generator insists on a path, and this one needs no further flags.
                    go_package: Some(format!("./{}", base.replace('.', ""))),
                    ..FileOptions::default()
                }),
                syntax: Some("proto3".to_owned()),
                ..FileDescriptorProto::default()
            };
            if !package.is_empty() {
                descriptor.package = Some(package);
            }
            let (text, location) = proto_text::print(&descriptor, &file.docs);
            descriptor.source_code_info = Some(SourceCodeInfo { location });
            let encoded = Bytes::from(descriptor.encode_to_vec());
            let name = descriptor.name().to_owned();
            self.catalog.files.insert(
                name,
                File {
                    descriptor,
                    encoded,
                    text: Some(text),
                },
            );
        }
        Ok(self.catalog)
    }
}

impl Catalog {
    fn add(&mut self, descriptor: FileDescriptorProto, encoded: Bytes) {
        let name = descriptor.name().to_owned();
        if let Some(known) = self.files.get(&name) {
            let mut before = known.descriptor.clone();
            let mut after = descriptor;
            before.source_code_info = None;
            after.source_code_info = None;
            // The well-known ones come with every generator, in slightly different versions.
            if before != after && !name.starts_with("google/protobuf/") {
                tracing::warn!(
                    file = name,
                    "two .proto files have the same path; reflection shows the first one"
                );
            }
            return;
        }
        self.files.insert(
            name,
            File {
                descriptor,
                encoded,
                text: None,
            },
        );
    }
}

impl Package {
    /// Takes a name; it is an error if something else has it.
    fn name(&mut self, package: &str, name: &str, named: Named) -> Result<()> {
        if self.names.insert(name.to_owned(), named).is_none() {
            return Ok(());
        }
        Err(Error::already_exists(
            "two different things have one name in one proto package: rename a type with #[micro(name = \"…\")], or give a contract a package of its own",
        )
        .with_operation("server.schema")
        .with_context("package", package)
        .with_context("name", name))
    }

    fn doc<const N: usize>(&mut self, path: [i32; N], doc: &str) {
        if !doc.trim().is_empty() {
            self.docs.insert(path.to_vec(), doc.to_owned());
        }
    }
}

const PLACEHOLDER: &str =
    "Not protobuf: the type derives serde only, so it travels as JSON, msgpack or cbor.
Derive micro::Message for it to be described here.";

/// A message's name without its package, or what comes close to it.
pub(crate) fn message_name(message: &Message) -> String {
    match message {
        Message::Proto(schema) => schema.name().to_owned(),
        Message::Raw => "RawBytes".to_owned(),
        Message::Serde(name) => {
            // `alloc::vec::Vec<demo::Item>` becomes `Vec`, `(u8, u8)` becomes `Message`.
            let path = name.split(['<', '(', '[', '&', ' ']).next().unwrap_or(name);
            let last = path.rsplit("::").next().unwrap_or(path);
            let mut chars = last
                .chars()
                .filter(|c| c.is_ascii_alphanumeric() || *c == '_');
            match chars.next() {
                // Capital, so that it is never taken for one of proto's own types.
                Some(first) if first.is_ascii_alphabetic() => {
                    let mut out = first.to_ascii_uppercase().to_string();
                    out.extend(chars);
                    out
                }
                _ => "Message".to_owned(),
            }
        }
    }
}

fn identifier(name: &str, what: &'static str) -> Result<()> {
    let first = name.bytes().next();
    let valid = first.is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if valid {
        return Ok(());
    }
    Err(
        Error::invalid_argument("a name in protobuf has ASCII letters, digits and '_' only")
            .with_operation("server.schema")
            .with_context(what, name.escape_debug()),
    )
}

/// A full type name as descriptors write it: with a dot in front.
fn absolute(package: &str, name: &str) -> String {
    if package.is_empty() {
        format!(".{name}")
    } else {
        format!(".{package}.{name}")
    }
}

fn index(at: usize) -> i32 {
    i32::try_from(at).unwrap_or(i32::MAX)
}

/// The JSON name that proto3 gives a field: `foo_bar` becomes `fooBar`.
fn json_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut upper = false;
    for c in name.chars() {
        if c == '_' {
            upper = true;
        } else {
            out.push(if upper { c.to_ascii_uppercase() } else { c });
            upper = false;
        }
    }
    out
}

/// The name that proto gives the entry of a map before `Entry`: `foo_bar` becomes `FooBar`.
fn camel(name: &str) -> String {
    let mut out = json_name(name);
    if let Some(first) = out.get_mut(0..1) {
        first.make_ascii_uppercase();
    }
    out
}

impl Routes {
    /// The contract as the text of a `.proto` file, for clients in other languages.
    ///
    /// `service` is the registry name that stands in for a missing package. Messages that only
    /// derive serde are empty there, with a comment that says so.
    ///
    /// # Errors
    ///
    /// `FailedPrecondition` if the contract comes from a `.proto` file: use that one.
    /// `AlreadyExists` if two different messages have one name, `InvalidArgument` for a name that
    /// protobuf does not take.
    pub fn to_proto(&self, service: &str) -> Result<String> {
        let full_name = self.full_name(service);
        let mut catalog = Catalog::new(service, [self])?;
        let Some(file) = catalog.defining(&full_name) else {
            return Err(
                Error::internal("the contract is in no file").with_operation("server.schema")
            );
        };
        let name = file.descriptor.name().to_owned();
        let text = catalog
            .files
            .get_mut(&name)
            .and_then(|file| file.text.take());
        text.ok_or_else(|| {
            Error::failed_precondition("the contract comes from a .proto file; use that one")
                .with_operation("server.schema")
                .with_context("file", name)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use micro_codec_core::{ProtoMessage, Shape, shape};
    use micro_core::ErrorKind;
    use micro_transport_core::{ContractSpec, MethodKind, MethodSpec};
    use protox::file::{ChainFileResolver, File as ProtoxFile, FileResolver, GoogleFileResolver};

    use super::*;

    const DURATION: &[u8] =
        b"\x0au\x0a\x1egoogle/protobuf/duration.proto\x12\x0fgoogle.protobuf\x22\
        :\x0a\x08Duration\x12\x18\x0a\x07seconds\x18\x01 \x01(\x03R\x07seconds\x12\x14\x0a\x05nanos\
        \x18\x02 \x01(\x05R\x05nanosb\x06proto3";

    /// A message of this name, as far as reflection sees it.
    macro_rules! message {
        ($type:ident, $schema:expr) => {
            #[derive(Default)]
            struct $type;

            impl $type {
                fn schema() -> Schema {
                    $schema.into()
                }
            }

            impl ProtoMessage for $type {
                fn schema(&self) -> Schema {
                    Self::schema()
                }
                fn encoded_len(&self) -> usize {
                    0
                }
                fn encode(&self, _: &mut bytes::BytesMut) -> Result<()> {
                    Ok(())
                }
                fn merge(&mut self, _: Bytes) -> Result<()> {
                    Ok(())
                }
            }
        };
    }

    struct Derived(MessageSchema);

    impl From<Derived> for Schema {
        fn from(derived: Derived) -> Self {
            Self::Derived(derived.0)
        }
    }

    fn field(name: &'static str, tag: u32, kind: FieldKind) -> FieldSchema {
        FieldSchema::new(name, tag, FieldLabel::Implicit, kind)
    }

    fn labelled(name: &'static str, tag: u32, label: FieldLabel, kind: FieldKind) -> FieldSchema {
        FieldSchema::new(name, tag, label, kind)
    }

    fn color() -> FieldKind {
        FieldKind::Enum(EnumSchema::new(
            "Color",
            vec![
                (Cow::Borrowed("COLOR_RED"), 0),
                (Cow::Borrowed("COLOR_BLUE"), 1),
            ],
        ))
    }

    fn duration() -> Schema {
        Schema::File {
            set: DURATION,
            full_name: "google.protobuf.Duration",
        }
    }

    message!(
        HelloRequest,
        Derived(
            MessageSchema::new("HelloRequest")
                .with_doc("Whom to greet.\n\n  And how.")
                .with_field(field("name", 1, FieldKind::String).with_doc("The person's name."))
                .with_field(field("is_formal", 2, FieldKind::Bool))
                .with_field(labelled("age", 3, FieldLabel::Optional, FieldKind::Uint32))
                .with_field(labelled("tags", 4, FieldLabel::Repeated, FieldKind::String))
                .with_field(labelled("shade", 5, FieldLabel::Optional, color()))
                .with_field(labelled("shades", 6, FieldLabel::Repeated, color()))
                .with_field(labelled(
                    "by_first_name",
                    7,
                    FieldLabel::Repeated,
                    FieldKind::Map(
                        Box::new(FieldKind::String),
                        Box::new(FieldKind::Message(Person::schema)),
                    ),
                ))
                .with_field(labelled(
                    "best",
                    8,
                    FieldLabel::Optional,
                    FieldKind::Message(Person::schema),
                ))
                .with_field(field("wait", 9, FieldKind::Message(duration)))
                .with_field(field("f", 19, FieldKind::Float))
                .with_field(field("d", 20, FieldKind::Double))
                .with_field(field("raw", 536_870_911, FieldKind::Bytes))
        )
    );
    message!(
        Person,
        Derived(
            MessageSchema::new("Person")
                .with_field(field("id", 1, FieldKind::Int64))
                .with_field(labelled(
                    "friends",
                    2,
                    FieldLabel::Repeated,
                    FieldKind::Message(Self::schema),
                ))
                // Its type's name is also that of a map's entry here.
                .with_field(labelled(
                    "shade",
                    3,
                    FieldLabel::Repeated,
                    FieldKind::Map(Box::new(FieldKind::Int32), Box::new(color())),
                ))
                .with_field(field("entry", 4, FieldKind::Message(ShadeEntry::schema)))
        )
    );
    message!(ShadeEntry, Derived(MessageSchema::new("ShadeEntry")));
    message!(
        OtherPerson,
        Derived(MessageSchema::new("Person").with_field(field("name", 1, FieldKind::String)))
    );
    message!(
        GreeterMessage,
        Derived(MessageSchema::new("Greeter").with_field(field("name", 1, FieldKind::String)))
    );

    static HELLO: MethodSpec = MethodSpec::new("Hello", MethodKind::Unary)
        .with_idempotent(true)
        .with_doc("Greets a person.\n\nBy name.");
    static PERSON: MethodSpec = MethodSpec::new("Person", MethodKind::BidiStreaming);
    static WATCH: MethodSpec = MethodSpec::new("Watch", MethodKind::ServerStreaming);
    static SUM: MethodSpec = MethodSpec::new("Sum", MethodKind::ClientStreaming);
    static GREETER: ContractSpec =
        ContractSpec::new("", "Greeter", &[HELLO, PERSON, WATCH, SUM]).with_doc("Greets.");

    fn greeter() -> Routes {
        Routes::new(&GREETER)
            .unary(
                &HELLO,
                Shape::<HelloRequest>::proto(),
                Shape::<Person>::proto(),
                |_, _| async { Ok(Person) },
            )
            // A type of the method's name has to be written in full.
            .bidi_streaming(
                &PERSON,
                Shape::<Person>::proto(),
                shape!(String),
                |_, _| async { Err(Error::unimplemented("")) },
            )
            .server_streaming(
                &WATCH,
                shape!(bool),
                shape!(micro_codec_core::RawBytes),
                |_, _| async { Err(Error::unimplemented("")) },
            )
            .client_streaming(&SUM, shape!(Vec<String>), shape!((u8, u8)), |_, _| async {
                Ok((1, 2))
            })
    }

    struct Text(&'static str, String);

    impl FileResolver for Text {
        fn open_file(&self, name: &str) -> Result<ProtoxFile, protox::Error> {
            if name == self.0 {
                ProtoxFile::from_source(name, &self.1)
            } else {
                Err(protox::Error::file_not_found(name))
            }
        }
    }

    fn parse(name: &'static str, text: &str) -> FileDescriptorProto {
        let mut resolver = ChainFileResolver::new();
        resolver.add(Text(name, text.to_owned()));
        resolver.add(GoogleFileResolver::new());
        let mut compiler = protox::Compiler::with_file_resolver(resolver);
        compiler.include_source_info(true).include_imports(true);
        if let Err(err) = compiler.open_file(name) {
            panic!("{err:?}\n{text}");
        }
        let set = compiler.file_descriptor_set();
        let file = set.file.into_iter().find(|file| file.name() == name);
        FileDescriptorProto::decode(&*file.unwrap().encode_to_vec()).unwrap()
    }

    /// Path to comment and first line.
    fn locations(file: &FileDescriptorProto) -> BTreeMap<Vec<i32>, (String, i32)> {
        let locations = &file.source_code_info.as_ref().unwrap().location;
        locations
            .iter()
            .map(|location| {
                let comment = location.leading_comments().to_owned();
                (location.path.clone(), (comment, location.span[0]))
            })
            .collect()
    }

    #[test]
    fn the_printed_text_says_what_the_descriptor_says() {
        let text = greeter().to_proto("my-greeter").unwrap();
        let catalog = Catalog::new("my-greeter", [&greeter()]).unwrap();
        let mut ours = catalog.files["my_greeter.proto"].descriptor.clone();
        let mut theirs = parse("my_greeter.proto", &text);
        let (our_locations, their_locations) = (locations(&ours), locations(&theirs));
        for (path, at) in our_locations {
            assert_eq!(Some(&at), their_locations.get(&path), "{path:?}\n{text}");
        }
        ours.source_code_info = None;
        theirs.source_code_info = None;
        assert_eq!(ours, theirs, "{text}");
        assert!(catalog.files.contains_key("google/protobuf/duration.proto"));
        for line in [
            "// Greets a person.",
            "  rpc Hello(HelloRequest) returns (.my_greeter.Person) {",
            "    option idempotency_level = IDEMPOTENT;",
            "  rpc Watch(Bool) returns (stream RawBytes);",
            "  rpc Sum(stream Vec) returns (Message);",
            "  optional uint32 age = 3;",
            "  map<string, Person> by_first_name = 7;",
            "  .google.protobuf.Duration wait = 9;",
            "  .my_greeter.ShadeEntry entry = 4;",
            "message String {}",
            "// Derive micro::Message for it to be described here.",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn the_names_of_json_and_of_map_entries_are_protoc_s() {
        for (name, json, entry) in [
            ("name", "name", "Name"),
            ("first_name", "firstName", "FirstName"),
            ("a_1_b", "a1B", "A1B"),
            ("_x", "X", "X"),
            ("x_", "x", "X"),
            ("x__y", "xY", "XY"),
        ] {
            assert_eq!(json_name(name), json);
            assert_eq!(camel(name), entry);
        }
    }

    #[test]
    fn one_name_for_two_things_is_an_error_that_says_what_to_do() {
        let two = |name: &str| {
            Routes::dynamic(name).unary(
                "Get",
                Shape::<OtherPerson>::proto(),
                Shape::<OtherPerson>::proto(),
                |_, _| async { Ok(OtherPerson) },
            )
        };
        let err = Catalog::new("greeter", [&greeter(), &two("People")]).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::AlreadyExists);
        assert!(err.to_string().contains("Person") && err.message().contains("#[micro(name"));
        // A package of its own is enough.
        let catalog = Catalog::new("greeter", [&greeter(), &two("other.v1.People")]).unwrap();
        assert!(catalog.defining("other.v1.Person").is_some());
        assert_eq!(catalog.files.len(), 3);
        // A message may not have the contract's name either.
        let same = Routes::dynamic("Greeter").unary(
            "Get",
            Shape::<GreeterMessage>::proto(),
            Shape::<GreeterMessage>::proto(),
            |_, _| async { Ok(GreeterMessage) },
        );
        let err = Catalog::new("greeter", [&same]).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::AlreadyExists);
        // The same message twice is one.
        assert!(Catalog::new("greeter", [&greeter(), &greeter()]).is_ok());
        // What has no name in protobuf gives way, whichever comes first.
        mod rust {
            #[derive(serde::Serialize, serde::Deserialize)]
            pub(super) struct Person;
        }
        let json = Routes::dynamic("Person").unary(
            "Get",
            shape!(rust::Person),
            shape!(rust::Person),
            |_, person| async { Ok(person) },
        );
        let err = Catalog::new("greeter", [&json, &greeter()]).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::AlreadyExists);
        let text = json.to_proto("greeter").unwrap();
        assert!(
            text.contains("rpc Get(Person_) returns (Person_);"),
            "{text}"
        );
    }

    #[test]
    fn a_contract_from_a_file_is_described_by_the_file() {
        let routes = crate::Health::new([]).routes();
        let catalog = Catalog::new("greeter", [&routes]).unwrap();
        assert_eq!(
            catalog.files.keys().collect::<Vec<_>>(),
            ["grpc/health/v1/health.proto"]
        );
        let err = routes.to_proto("greeter").unwrap_err();
        assert_eq!(err.kind(), ErrorKind::FailedPrecondition);
        assert!(err.to_string().contains("grpc/health/v1/health.proto"));
    }

    #[test]
    fn the_registry_s_endpoints_are_go_micro_s() {
        let catalog = Catalog::new("greeter", [&greeter()]).unwrap();
        let endpoints = crate::models::endpoints(&[greeter()], &catalog);
        let names: Vec<_> = endpoints.iter().map(|endpoint| &*endpoint.name).collect();
        assert_eq!(
            names,
            [
                "Greeter.Hello",
                "Greeter.Person",
                "Greeter.Sum",
                "Greeter.Watch"
            ]
        );
        let hello = &endpoints[0];
        assert_eq!(hello.metadata["idempotent"], "true");
        assert_eq!(hello.metadata["description"], "Greets a person.");
        assert!(!hello.metadata.contains_key("stream"));
        let values: Vec<_> = hello
            .request
            .values
            .iter()
            .map(|value| (&*value.name, &*value.kind))
            .collect();
        assert_eq!(values[0], ("name", "string"));
        assert_eq!(values[3], ("tags", "[]string"));
        assert_eq!(values[5], ("shades", "[]Color"));
        assert_eq!(values[6], ("by_first_name", "map[string]Person"));
        assert_eq!(values[8], ("wait", "Duration"));
        assert_eq!(hello.request.values[8].values[0].kind, "int64");
        assert_eq!(endpoints[1].metadata["stream"], "true");
        assert_eq!(endpoints[1].metadata["streaming"], "bidi");
        assert_eq!(endpoints[1].response.kind, "String");
        assert!(endpoints[1].response.values.is_empty());
    }
}
