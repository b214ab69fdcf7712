//! What a protobuf message is made of, without any library's types.

use std::borrow::Cow;

/// Where the descriptor of a protobuf message comes from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Schema {
    /// From a `.proto` file: the encoded `google.protobuf.FileDescriptorSet` that holds it, and the
    /// message's full name, such as `greeter.v1.HelloRequest`.
    File {
        /// The encoded descriptor set, with all imports.
        set: &'static [u8],
        /// The message's full name.
        full_name: &'static str,
    },
    /// From `#[derive(micro::Message)]`: the message belongs to the package of the contract that
    /// uses it.
    Derived(MessageSchema),
}

impl Schema {
    /// The message's name without its package.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::File { full_name, .. } => full_name.rsplit('.').next().unwrap_or(full_name),
            Self::Derived(message) => &message.name,
        }
    }
}

/// A message derived from a Rust type.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MessageSchema {
    /// The name, unique within the contract's package.
    pub name: Cow<'static, str>,
    /// The doc comment, without markers.
    pub doc: Cow<'static, str>,
    /// The fields by number.
    pub fields: Vec<FieldSchema>,
}

impl MessageSchema {
    /// A message without fields.
    #[must_use]
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self {
            name: name.into(),
            doc: Cow::Borrowed(""),
            fields: Vec::new(),
        }
    }

    /// Sets the doc comment.
    #[must_use]
    pub fn with_doc(mut self, doc: impl Into<Cow<'static, str>>) -> Self {
        self.doc = doc.into();
        self
    }

    /// Adds a field.
    #[must_use]
    pub fn with_field(mut self, field: FieldSchema) -> Self {
        self.fields.push(field);
        self
    }
}

/// A field of a derived message.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FieldSchema {
    /// The name, as in the Rust type.
    pub name: Cow<'static, str>,
    /// The doc comment, without markers.
    pub doc: Cow<'static, str>,
    /// The number: 1 to 536,870,911, but 19,000 to 19,999.
    pub tag: u32,
    /// How often it may appear.
    pub label: FieldLabel,
    /// What it holds.
    pub kind: FieldKind,
}

impl FieldSchema {
    /// A field.
    #[must_use]
    pub fn new(
        name: impl Into<Cow<'static, str>>,
        tag: u32,
        label: FieldLabel,
        kind: FieldKind,
    ) -> Self {
        Self {
            name: name.into(),
            doc: Cow::Borrowed(""),
            tag,
            label,
            kind,
        }
    }

    /// Sets the doc comment.
    #[must_use]
    pub fn with_doc(mut self, doc: impl Into<Cow<'static, str>>) -> Self {
        self.doc = doc.into();
        self
    }
}

/// How often a field may appear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldLabel {
    /// Once; absent is the default value.
    Implicit,
    /// Once or not at all, and the two can be told apart (proto3 `optional`).
    Optional,
    /// Any number of times; numbers are packed.
    Repeated,
}

/// What a field of a derived message holds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum FieldKind {
    /// `bool`.
    Bool,
    /// `int32`.
    Int32,
    /// `int64`.
    Int64,
    /// `uint32`.
    Uint32,
    /// `uint64`.
    Uint64,
    /// `float`.
    Float,
    /// `double`.
    Double,
    /// `string`.
    String,
    /// `bytes`.
    Bytes,
    /// An enumeration.
    Enum(EnumSchema),
    /// Another message. It is a function, for messages may contain themselves.
    Message(fn() -> Schema),
    /// A map; the key is a scalar.
    Map(Box<Self>, Box<Self>),
}

/// An enumeration derived from a Rust type.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EnumSchema {
    /// The name, unique within the contract's package.
    pub name: Cow<'static, str>,
    /// The values: name and number; the first is 0.
    pub values: Vec<(Cow<'static, str>, i32)>,
}

impl EnumSchema {
    /// An enumeration.
    #[must_use]
    pub fn new(name: impl Into<Cow<'static, str>>, values: Vec<(Cow<'static, str>, i32)>) -> Self {
        Self {
            name: name.into(),
            values,
        }
    }
}
