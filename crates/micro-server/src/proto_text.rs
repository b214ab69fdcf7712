//! A file's descriptor as the text of a `.proto` file.
//!
//! It prints what [`schema`](crate::schema) makes: proto3 messages without nested ones but the
//! entries of maps, enumerations, and services.

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::method_options::IdempotencyLevel;
use prost_types::source_code_info::Location;
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, MethodDescriptorProto,
    ServiceDescriptorProto,
};

use crate::schema::{Docs, within};

/// Prints the file; the locations say where what stands, and hold the comments.
pub(crate) fn print(file: &FileDescriptorProto, docs: &Docs) -> (String, Vec<Location>) {
    let mut printer = Printer {
        file,
        docs,
        out: String::new(),
        line: 0,
        locations: Vec::new(),
    };
    printer.file();
    (printer.out, printer.locations)
}

struct Printer<'a> {
    file: &'a FileDescriptorProto,
    docs: &'a Docs,
    out: String,
    line: i32,
    locations: Vec<Location>,
}

impl Printer<'_> {
    fn line(&mut self, indent: usize, text: &str) {
        if !text.is_empty() {
            self.out.extend(std::iter::repeat_n("  ", indent));
            self.out.push_str(text);
        }
        self.out.push('\n');
        self.line += 1;
    }

    /// Prints an element with its comment, and notes where it stands.
    fn element(&mut self, indent: usize, path: &[i32], print: impl FnOnce(&mut Self)) {
        let docs = self.docs;
        let comment = docs.get(path).map(|doc| {
            let mut comment = String::new();
            for text in doc.trim().lines() {
                let text = text.trim_end();
                let space = if text.is_empty() { "" } else { " " };
                self.line(indent, &format!("//{space}{text}"));
                comment.push_str(space);
                comment.push_str(text);
                comment.push('\n');
            }
            comment
        });
        let at = self.locations.len();
        let (begin, column) = (self.line, i32::try_from(2 * indent).unwrap_or(0));
        self.locations.push(Location {
            path: path.to_vec(),
            leading_comments: comment,
            ..Location::default()
        });
        print(self);
        // An element ends in front of the line that comes after it.
        let (end, length) = (self.line - 1, self.last_line_length());
        self.locations[at].span = if begin == end {
            vec![begin, column, length]
        } else {
            vec![begin, column, end, length]
        };
    }

    fn last_line_length(&self) -> i32 {
        let length = self.out.lines().next_back().map_or(0, str::len);
        i32::try_from(length).unwrap_or(i32::MAX)
    }

    fn file(&mut self) {
        let file = self.file;
        self.line(0, "// Printed by micro from the contract in Rust.");
        self.line(0, "");
        self.line(0, "syntax = \"proto3\";");
        self.line(0, "");
        if !file.package().is_empty() {
            self.line(0, &format!("package {};", file.package()));
            self.line(0, "");
        }
        for import in &file.dependency {
            self.line(0, &format!("import \"{import}\";"));
        }
        if !file.dependency.is_empty() {
            self.line(0, "");
        }
        let go_package = file
            .options
            .as_ref()
            .map_or("", |options| options.go_package());
        self.line(0, &format!("option go_package = \"{go_package}\";"));
        for (i, service) in (0..).zip(&file.service) {
            self.line(0, "");
            self.element(0, &[6, i], |printer| printer.service(i, service));
        }
        for (i, message) in (0..).zip(&file.message_type) {
            self.line(0, "");
            self.element(0, &[4, i], |printer| printer.message(i, message));
        }
        for (i, enumeration) in (0..).zip(&file.enum_type) {
            self.line(0, "");
            self.element(0, &[5, i], |printer| {
                printer.line(0, &format!("enum {} {{", enumeration.name()));
                for (n, value) in (0..).zip(&enumeration.value) {
                    printer.element(1, &[5, i, 2, n], |printer| {
                        let (name, number) = (value.name(), value.number());
                        printer.line(1, &format!("{name} = {number};"));
                    });
                }
                printer.line(0, "}");
            });
        }
    }

    fn service(&mut self, i: i32, service: &ServiceDescriptorProto) {
        let taken = |name: &str| service.method.iter().any(|method| method.name() == name);
        self.line(0, &format!("service {} {{", service.name()));
        for (n, method) in (0..).zip(&service.method) {
            if n > 0 {
                self.line(0, "");
            }
            self.element(1, &[6, i, 2, n], |printer| printer.method(method, &taken));
        }
        self.line(0, "}");
    }

    fn method(&mut self, method: &MethodDescriptorProto, taken: &dyn Fn(&str) -> bool) {
        let stream = |streams: bool| if streams { "stream " } else { "" };
        let rpc = format!(
            "rpc {}({}{}) returns ({}{})",
            method.name(),
            stream(method.client_streaming()),
            self.type_name(method.input_type(), taken),
            stream(method.server_streaming()),
            self.type_name(method.output_type(), taken),
        );
        let level = method
            .options
            .as_ref()
            .map_or(IdempotencyLevel::IdempotencyUnknown, |options| {
                options.idempotency_level()
            });
        if level == IdempotencyLevel::IdempotencyUnknown {
            self.line(1, &format!("{rpc};"));
        } else {
            self.line(1, &format!("{rpc} {{"));
            let level = level.as_str_name();
            self.line(2, &format!("option idempotency_level = {level};"));
            self.line(1, "}");
        }
    }

    fn message(&mut self, i: i32, message: &DescriptorProto) {
        if message.field.is_empty() {
            return self.line(0, &format!("message {} {{}}", message.name()));
        }
        self.line(0, &format!("message {} {{", message.name()));
        for (n, field) in (0..).zip(&message.field) {
            self.element(1, &[4, i, 2, n], |printer| printer.field(message, field));
        }
        self.line(0, "}");
    }

    fn field(&mut self, message: &DescriptorProto, field: &FieldDescriptorProto) {
        let taken = |name: &str| {
            message.field.iter().any(|field| field.name() == name)
                || message.nested_type.iter().any(|entry| entry.name() == name)
        };
        let entry = message.nested_type.iter().find(|entry| {
            let entry = format!(".{}.{}", message.name(), entry.name());
            field.type_name().ends_with(&entry)
        });
        let kind = match entry.map(|entry| entry.field.as_slice()) {
            Some([key, value]) => {
                let (key, value) = (self.kind(key, &taken), self.kind(value, &taken));
                format!("map<{key}, {value}>")
            }
            _ => {
                let label = match field.label() {
                    Label::Repeated => "repeated ",
                    _ if field.proto3_optional() => "optional ",
                    _ => "",
                };
                format!("{label}{}", self.kind(field, &taken))
            }
        };
        self.line(1, &format!("{kind} {} = {};", field.name(), field.number()));
    }

    fn kind(&self, field: &FieldDescriptorProto, taken: &dyn Fn(&str) -> bool) -> String {
        match scalar(field.r#type()) {
            Some(scalar) => scalar.to_owned(),
            None => self.type_name(field.type_name(), taken),
        }
    }

    /// A type's name as it can be written where `taken` names stand for something else.
    fn type_name(&self, absolute: &str, taken: &dyn Fn(&str) -> bool) -> String {
        let full = absolute.strip_prefix('.').unwrap_or(absolute);
        match within(self.file.package(), full) {
            Some(name) if !name.contains('.') && !taken(name) && !is_keyword(name) => {
                name.to_owned()
            }
            _ => absolute.to_owned(),
        }
    }
}

fn scalar(kind: Type) -> Option<&'static str> {
    Some(match kind {
        Type::Double => "double",
        Type::Float => "float",
        Type::Int64 => "int64",
        Type::Uint64 => "uint64",
        Type::Int32 => "int32",
        Type::Fixed64 => "fixed64",
        Type::Fixed32 => "fixed32",
        Type::Bool => "bool",
        Type::String => "string",
        Type::Bytes => "bytes",
        Type::Uint32 => "uint32",
        Type::Sfixed32 => "sfixed32",
        Type::Sfixed64 => "sfixed64",
        Type::Sint32 => "sint32",
        Type::Sint64 => "sint64",
        Type::Message | Type::Enum | Type::Group => return None,
    })
}

/// What a type's name would be taken for something else as, where types stand.
fn is_keyword(name: &str) -> bool {
    [
        "double",
        "float",
        "int32",
        "int64",
        "uint32",
        "uint64",
        "sint32",
        "sint64",
        "fixed32",
        "fixed64",
        "sfixed32",
        "sfixed64",
        "bool",
        "string",
        "bytes",
        "stream",
        "optional",
        "repeated",
        "required",
        "map",
        "oneof",
        "option",
        "message",
        "enum",
        "reserved",
        "extensions",
        "extend",
        "group",
        "returns",
        "rpc",
    ]
    .contains(&name)
}
