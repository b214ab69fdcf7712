//! The messages of a session, as `proto/micro/session/v1/session.proto` has them.
//!
//! Written by hand, because fields are written behind each other into the buffer that is sent, and
//! read as slices of the one that came; a test holds it to what prost does with the same schema.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use micro_core::{Error, Metadata, Result};

use crate::frame;
use crate::headers;

/// How many entries a table has, the first one being 1.
pub(crate) const ENTRIES: usize = 255;
/// The largest entry, name and value together.
pub(crate) const ENTRY: usize = 512;
/// What a message has beside its payload at most: metadata (twice, in an answer) and definitions.
pub(crate) const AROUND: usize = 64 << 10;

const VERSION: u64 = 1;

/// The first message of each side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub(crate) calls: usize,
    pub(crate) message: usize,
}

/// The stream is not what it should be; it cannot go on.
pub(crate) fn broken(what: &'static str) -> Error {
    Error::invalid_argument(what).with_operation("transport.session")
}

// ---- writing -----------------------------------------------------------------------------------

/// A few numbers on their way into a buffer, whose room is then asked for once.
#[derive(Default)]
struct Few {
    /// Room for two keys with the largest of numbers.
    bytes: [u8; 24],
    len: usize,
}

impl Few {
    fn varint(mut self, mut value: u64) -> Self {
        while value >= 0x80 {
            self.bytes[self.len] = value as u8 | 0x80;
            self.len += 1;
            value >>= 7;
        }
        self.bytes[self.len] = value as u8;
        self.len += 1;
        self
    }

    /// A field; none for 0.
    fn number(self, field: u8, value: u64) -> Self {
        if value == 0 {
            return self;
        }
        self.varint(u64::from(field << 3)).varint(value)
    }

    fn put(&self, out: &mut BytesMut) {
        out.put_slice(&self.bytes[..self.len]);
    }
}

fn varint(out: &mut BytesMut, value: u64) {
    Few::default().varint(value).put(out);
}

fn number(out: &mut BytesMut, field: u8, value: u64) {
    Few::default().number(field, value).put(out);
}

fn bytes(out: &mut BytesMut, field: u8, value: &[u8]) {
    let head = Few::default().varint(u64::from(field << 3 | 2));
    head.varint(value.len() as u64).put(out);
    out.put_slice(value);
}

fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

fn field_len(value: &[u8]) -> usize {
    1 + varint_len(value.len() as u64) + value.len()
}

/// Begins a message; [`end`] writes its length.
fn begin(out: &mut BytesMut, payload: usize) -> usize {
    let at = out.len();
    out.reserve(payload + 64);
    frame::put_prefix(out, 0);
    at
}

fn end(out: &mut BytesMut, at: usize) {
    let len = u32::try_from(out.len() - at - frame::PREFIX).unwrap_or(u32::MAX);
    out[at + 1..at + frame::PREFIX].copy_from_slice(&len.to_be_bytes());
}

/// What this side has told the other one to keep.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    known: HashMap<Box<[u8]>, usize>,
    /// The keys of `known` by index.
    keys: Vec<Box<[u8]>>,
    /// In which message each index was last used. Definitions are read before what refers to them,
    /// so what a message refers to may not be replaced by the same message.
    used: Vec<u64>,
    /// The message that is being written.
    message: u64,
    /// What is overwritten next, once the table is full.
    next: usize,
    key: Vec<u8>,
    /// The last metadata and how they were written: mostly the next are the same.
    last: Vec<(Bytes, Bytes, usize)>,
    refs: BytesMut,
    literals: Vec<(Bytes, Bytes)>,
    last_path: Option<(Arc<str>, usize)>,
    last_type: Option<(Cow<'static, str>, usize)>,
    /// What calls of the last few kinds have in common.
    kinds: Vec<Kind>,
    /// Which kind is replaced next.
    next_kind: usize,
    /// Whether the message that is being written defines anything.
    defines: bool,
}

/// Calls of one kind are alike but for number, time and message: what they have in common is put
/// together once, and copied from then on.
#[derive(Debug)]
struct Kind {
    path: Arc<str>,
    content_type: Cow<'static, str>,
    attempt: u32,
    metadata: Metadata,
    bytes: Vec<u8>,
}

impl Kind {
    /// How many are kept.
    const MOST: usize = 8;

    fn is_of(&self, call: &CallOut<'_>) -> bool {
        Arc::ptr_eq(&self.path, call.path)
            && self.metadata.shares(call.metadata)
            && self.attempt == call.attempt
            && self.content_type == *call.content_type
    }
}

impl Writer {
    /// The index of an entry, which is defined if it is new. 0 if it cannot be one.
    fn index(&mut self, name: &[u8], value: &[u8], out: &mut BytesMut) -> usize {
        if name.len() + value.len() > ENTRY {
            return 0;
        }
        self.key.clear();
        self.key.extend_from_slice(name);
        // No name has one.
        self.key.push(b':');
        self.key.extend_from_slice(value);
        if let Some(index) = self.known.get(&*self.key).copied() {
            self.refer(index);
            return index;
        }
        let index = if self.keys.len() < ENTRIES {
            let key: Box<[u8]> = self.key.as_slice().into();
            self.keys.push(key);
            self.used.push(0);
            self.keys.len()
        } else {
            let Some(at) = (0..ENTRIES)
                .map(|step| (self.next + step) % ENTRIES)
                .find(|at| self.used[*at] != self.message)
            else {
                return 0;
            };
            let key: Box<[u8]> = self.key.as_slice().into();
            let old = std::mem::replace(&mut self.keys[at], key);
            self.known.remove(&old);
            self.next = (at + 1) % ENTRIES;
            let index = at + 1;
            for (_, _, last) in &mut self.last {
                if *last == index {
                    *last = 0;
                }
            }
            if self.last_path.as_ref().is_some_and(|(_, i)| *i == index) {
                self.last_path = None;
            }
            if self.last_type.as_ref().is_some_and(|(_, i)| *i == index) {
                self.last_type = None;
            }
            self.kinds.clear();
            index
        };
        self.defines = true;
        self.known.insert(self.key.as_slice().into(), index);
        self.refer(index);
        let mut size = varint_len(index as u64) + 1 + field_len(value);
        if !name.is_empty() {
            size += field_len(name);
        }
        out.put_u8(7 << 3 | 2);
        varint(out, size as u64);
        number(out, 1, index as u64);
        if !name.is_empty() {
            bytes(out, 2, name);
        }
        bytes(out, 3, value);
        index
    }

    /// Begins a message: what earlier ones referred to may be replaced again.
    fn begin(&mut self, out: &mut BytesMut, payload: usize) -> usize {
        self.message += 1;
        self.defines = false;
        begin(out, payload)
    }

    /// Notes that the message refers to an index; 0 is none.
    fn refer(&mut self, index: usize) {
        if let Some(used) = self.used.get_mut(index.wrapping_sub(1)) {
            *used = self.message;
        }
    }

    /// `None` for a path that is too long for the table.
    fn path(&mut self, path: &Arc<str>, out: &mut BytesMut) -> Option<usize> {
        if let Some((last, index)) = &self.last_path
            && (Arc::ptr_eq(last, path) || last == path)
        {
            let index = *index;
            self.refer(index);
            return Some(index);
        }
        // What is no path is for plain gRPC to refuse.
        if !is_path(path) {
            return None;
        }
        let index = self.index(b"", path.as_bytes(), out);
        if index > 0 {
            self.last_path = Some((Arc::clone(path), index));
        }
        (index > 0).then_some(index)
    }

    #[expect(clippy::ptr_arg, reason = "a static text is kept without a copy")]
    fn content_type(&mut self, content_type: &Cow<'static, str>, out: &mut BytesMut) -> usize {
        if let Some((last, index)) = &self.last_type
            && last == content_type
        {
            let index = *index;
            self.refer(index);
            return index;
        }
        if !is_content_type(content_type) {
            return 0;
        }
        let index = self.index(b"", content_type.as_bytes(), out);
        if index > 0 {
            self.last_type = Some((content_type.clone(), index));
        }
        index
    }

    /// Writes metadata as field `field`: definitions now, literals into `self.literals`.
    fn metadata<'a>(
        &mut self,
        field: u8,
        metadata: impl Iterator<Item = (&'a Bytes, &'a Bytes)>,
        out: &mut BytesMut,
    ) {
        self.refs.clear();
        let mut place = 0;
        for (name, value) in metadata {
            let mut index = 0;
            let mut repeats = false;
            if let Some((last_name, last_value, known)) = self.last.get(place) {
                repeats = same(last_name, name) && same(last_value, value);
                if repeats {
                    index = *known;
                }
            }
            self.refer(index);
            // What differs from call to call would only push out what repeats: it is defined when
            // it has come twice in a row.
            if index == 0 && (repeats || !headers::is_unique(name)) {
                index = self.index(name, value, out);
            }
            if index == 0 {
                self.literals.push((name.clone(), value.clone()));
            }
            if !repeats {
                let entry = (name.clone(), value.clone(), index);
                match self.last.get_mut(place) {
                    Some(last) => *last = entry,
                    None => self.last.push(entry),
                }
            } else if let Some(last) = self.last.get_mut(place) {
                last.2 = index;
            }
            varint(&mut self.refs, index as u64);
            place += 1;
        }
        self.last.truncate(place.max(1));
        if !self.refs.is_empty() {
            let refs = std::mem::take(&mut self.refs);
            bytes(out, field, &refs);
            self.refs = refs;
        }
    }

    fn literals(&mut self, out: &mut BytesMut) {
        for (name, value) in self.literals.drain(..) {
            out.put_u8(9 << 3 | 2);
            varint(out, (field_len(&name) + field_len(&value)) as u64);
            bytes(out, 1, &name);
            bytes(out, 2, &value);
        }
    }

    /// Writes a call. False, and nothing written, if it cannot be one.
    pub(crate) fn call(&mut self, call: &CallOut<'_>, out: &mut BytesMut) -> bool {
        let at = self.begin(out, call.message.len());
        let own = Few::default().number(1, u64::from(call.id));
        let own = own.number(5, call.timeout);
        own.put(out);
        if let Some(kind) = self.kinds.iter().find(|kind| kind.is_of(call)) {
            out.put_slice(&kind.bytes);
            bytes(out, 15, call.message);
            end(out, at);
            return true;
        }
        let common = out.len();
        let path = self.path(call.path, out);
        let content_type = self.content_type(call.content_type, out);
        let (Some(path), true) = (path, content_type > 0) else {
            // A definition may have been written: it stands, in a message that is no call.
            let entries = out.split_off(common);
            out.truncate(at);
            if !entries.is_empty() {
                let start = begin(out, 0);
                out.put_slice(&entries);
                end(out, start);
            }
            return false;
        };
        let head = Few::default().number(3, path as u64);
        head.number(4, content_type as u64).put(out);
        number(out, 6, u64::from(call.attempt));
        let agent = call.agent.filter(|(name, _)| {
            // Metadata may bring their own.
            std::str::from_utf8(name).is_ok_and(|name| !call.metadata.contains(name))
        });
        let agent = agent.map(|(name, value)| (name, value));
        self.metadata(8, call.metadata.iter_bytes().chain(agent), out);
        if self.literals.is_empty() && !self.defines {
            self.keep_kind(call, &out[common..]);
        }
        self.literals(out);
        bytes(out, 15, call.message);
        end(out, at);
        true
    }

    fn keep_kind(&mut self, call: &CallOut<'_>, bytes: &[u8]) {
        let kind = Kind {
            path: Arc::clone(call.path),
            content_type: call.content_type.clone(),
            attempt: call.attempt,
            metadata: call.metadata.clone(),
            bytes: bytes.to_vec(),
        };
        if self.kinds.len() < Kind::MOST {
            self.kinds.push(kind);
            return;
        }
        self.kinds[self.next_kind] = kind;
        self.next_kind = (self.next_kind + 1) % Kind::MOST;
    }

    /// Writes an answer with a message.
    pub(crate) fn answer(&mut self, answer: &AnswerOut<'_>, out: &mut BytesMut) {
        let at = self.begin(out, answer.message.len());
        number(out, 1, u64::from(answer.id));
        if let Some(content_type) = answer.content_type {
            let index = self.content_type(content_type, out);
            number(out, 2, index as u64);
        }
        if !answer.metadata.is_empty() {
            self.metadata(8, answer.metadata.iter_bytes(), out);
        }
        if !answer.trailers.is_empty() {
            self.metadata(12, answer.trailers.iter_bytes(), out);
        }
        self.literals(out);
        bytes(out, 15, answer.message);
        end(out, at);
    }
}

/// What may stand in the table as a path.
fn is_path(path: &str) -> bool {
    path.starts_with('/')
        && path
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"\"#<>?\\^`{|}".contains(&byte))
}

/// What may stand in the table as a content type. The others travel as plain gRPC, if at all.
pub(crate) fn is_content_type(content_type: &str) -> bool {
    content_type.len() <= ENTRY
        && !content_type.starts_with('/')
        && headers::grpc_of(content_type).is_ok()
}

/// The same bytes; first by where they are, since mostly they are the very same.
fn same(one: &Bytes, other: &Bytes) -> bool {
    one.len() == other.len() && (one.as_ptr() == other.as_ptr() || one == other)
}

/// A call to be written.
pub(crate) struct CallOut<'a> {
    pub(crate) id: u32,
    pub(crate) path: &'a Arc<str>,
    pub(crate) content_type: &'a Cow<'static, str>,
    pub(crate) timeout: u64,
    pub(crate) attempt: u32,
    pub(crate) metadata: &'a Metadata,
    /// What is added to the metadata unless they have it: name and value.
    pub(crate) agent: Option<&'a (Bytes, Bytes)>,
    pub(crate) message: &'a [u8],
}

/// An answer to be written.
pub(crate) struct AnswerOut<'a> {
    pub(crate) id: u32,
    /// `None` if it is the request's.
    pub(crate) content_type: Option<&'a Cow<'static, str>>,
    pub(crate) metadata: &'a Metadata,
    pub(crate) trailers: &'a Metadata,
    pub(crate) message: &'a [u8],
}

pub(crate) fn put_greeting(greeting: Greeting, out: &mut BytesMut) {
    let mut inner = BytesMut::new();
    number(&mut inner, 1, VERSION);
    number(&mut inner, 2, greeting.calls as u64);
    number(&mut inner, 3, greeting.message as u64);
    let at = begin(out, 0);
    bytes(out, 10, &inner);
    end(out, at);
}

pub(crate) fn put_cancel(id: u32, out: &mut BytesMut) {
    let at = begin(out, 0);
    number(out, 1, u64::from(id));
    number(out, 2, 1);
    end(out, at);
}

pub(crate) fn put_forget(take: u64, out: &mut BytesMut) {
    let at = begin(out, 0);
    number(out, 11, take);
    end(out, at);
}

pub(crate) fn put_failure(id: u32, status: &[u8], unprocessed: bool, out: &mut BytesMut) {
    let at = begin(out, status.len());
    number(out, 1, u64::from(id));
    bytes(out, 3, status);
    number(out, 4, u64::from(unprocessed));
    end(out, at);
}

pub(crate) fn put_take(id: u32, take: u64, is_stream: bool, out: &mut BytesMut) {
    let at = begin(out, 0);
    number(out, 1, u64::from(id));
    number(out, 5, take);
    number(out, 6, u64::from(is_stream));
    end(out, at);
}

pub(crate) fn put_going_away(out: &mut BytesMut) {
    let at = begin(out, 0);
    number(out, 11, 1);
    end(out, at);
}

// ---- reading -----------------------------------------------------------------------------------

#[derive(Clone, Copy)]
enum Value<'a> {
    Number(u64),
    /// And where it begins.
    Bytes(&'a [u8], usize),
}

impl<'a> Value<'a> {
    fn number(self) -> Result<u64> {
        match self {
            Self::Number(value) => Ok(value),
            Self::Bytes(..) => Err(broken("a field of a session message has the wrong type")),
        }
    }

    fn index(self) -> Result<usize> {
        usize::try_from(self.number()?).map_err(|_| broken("a number is out of range"))
    }

    fn small(self) -> Result<u32> {
        u32::try_from(self.number()?).map_err(|_| broken("a number is out of range"))
    }

    fn bytes(self) -> Result<&'a [u8]> {
        match self {
            Self::Bytes(bytes, _) => Ok(bytes),
            Self::Number(_) => Err(broken("a field of a session message has the wrong type")),
        }
    }
}

/// The fields of a protobuf message.
struct Fields<'a> {
    buf: &'a [u8],
    at: usize,
    /// Where the last field's key lies.
    key: usize,
}

impl<'a> Fields<'a> {
    fn new(buf: &'a [u8]) -> Self {
        Self { buf, at: 0, key: 0 }
    }

    #[inline]
    fn varint(&mut self) -> Result<u64> {
        let rest = &self.buf[self.at..];
        if let Some(&first) = rest.first()
            && first < 0x80
        {
            self.at += 1;
            return Ok(u64::from(first));
        }
        let mut value = 0_u64;
        for (i, byte) in rest.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * i).min(63);
            if byte & 0x80 == 0 {
                self.at += i + 1;
                return Ok(value);
            }
        }
        Err(broken("a session message ends within a number"))
    }

    fn skip(&mut self, len: u64) -> Result<(&'a [u8], usize)> {
        let at = self.at;
        let end = usize::try_from(len)
            .ok()
            .and_then(|len| at.checked_add(len))
            .filter(|end| *end <= self.buf.len())
            .ok_or_else(|| broken("a session message ends within a field"))?;
        self.at = end;
        Ok((&self.buf[at..end], at))
    }

    #[inline]
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>> {
        loop {
            if self.at >= self.buf.len() {
                return Ok(None);
            }
            self.key = self.at;
            let key = self.varint()?;
            let value = match key & 7 {
                0 => Value::Number(self.varint()?),
                2 => {
                    let len = self.varint()?;
                    let (bytes, at) = self.skip(len)?;
                    Value::Bytes(bytes, at)
                }
                1 => {
                    self.skip(8)?;
                    continue;
                }
                5 => {
                    self.skip(4)?;
                    continue;
                }
                _ => return Err(broken("a session message is no protobuf message")),
            };
            return Ok(Some((key >> 3, value)));
        }
    }
}

/// One entry of the other side's table.
#[derive(Clone, Debug)]
enum Known {
    Pair(Bytes, Bytes),
    Path(Arc<str>),
    ContentType(Cow<'static, str>),
}

/// What the other side has told this one to keep.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    table: Vec<Option<Known>>,
    /// The last list of numbers, and the metadata that its indices stand for.
    refs: Vec<u8>,
    base: Metadata,
    /// How many zeros were in the list.
    literals: usize,
}

/// A list of numbers and where it lies.
type Refs<'a> = &'a [u8];

impl Reader {
    pub(crate) fn new() -> Self {
        Self {
            table: Vec::new(),
            refs: Vec::new(),
            base: Metadata::new(),
            literals: 0,
        }
    }

    fn define(&mut self, entry: &[u8]) -> Result<()> {
        let (mut index, mut name, mut value) = (0, &b""[..], &b""[..]);
        let mut fields = Fields::new(entry);
        while let Some((field, is)) = fields.next()? {
            match field {
                1 => index = is.index()?,
                2 => name = is.bytes()?,
                3 => value = is.bytes()?,
                _ => {}
            }
        }
        if index == 0 || index > ENTRIES || name.len() + value.len() > ENTRY {
            return Err(broken("an entry of a session's table is out of bounds"));
        }
        let known = if name.is_empty() {
            let text = std::str::from_utf8(value)
                .map_err(|_| broken("a path or content type is no text"))?;
            if is_path(text) {
                Known::Path(text.into())
            } else if is_content_type(text) {
                Known::ContentType(headers::codec_name(text))
            } else {
                return Err(broken("a text is neither a path nor a content type"));
            }
        } else {
            let mut pair = Bytes::from([name, value].concat());
            let name = pair.split_to(name.len());
            // Checked as a whole, so that a bad one is the session's end and not each call's.
            Metadata::new()
                .append_bytes(name.clone(), pair.clone())
                .map_err(|err| broken("a metadata pair cannot be one").with_source(err))?;
            Known::Pair(name, pair)
        };
        if self.table.len() < index {
            self.table.resize(index, None);
        }
        self.table[index - 1] = Some(known);
        // What was made of the entry before stands no more.
        self.refs.clear();
        self.base = Metadata::new();
        self.literals = 0;
        Ok(())
    }

    fn known(&self, index: usize) -> Option<&Known> {
        self.table.get(index.checked_sub(1)?)?.as_ref()
    }

    fn path(&self, index: usize) -> Result<Arc<str>> {
        match self.known(index) {
            Some(Known::Path(path)) => Ok(Arc::clone(path)),
            _ => Err(broken("a path was never defined")),
        }
    }

    fn content_type(&self, index: usize) -> Result<Cow<'static, str>> {
        match self.known(index) {
            Some(Known::ContentType(content_type)) => Ok(content_type.clone()),
            _ => Err(broken("a content type was never defined")),
        }
    }

    /// The metadata of a list of numbers. Too many are this call's fault only: the inner error.
    fn metadata(
        &mut self,
        refs: Refs<'_>,
        literals: &mut Literals<'_>,
    ) -> Result<Result<Metadata>> {
        if refs.is_empty() {
            return Ok(Ok(Metadata::new()));
        }
        if refs != self.refs {
            let base = match self.collect(refs, None)? {
                Ok(base) => base,
                Err(err) => return Ok(Err(err)),
            };
            self.literals = refs_of(refs).filter(|r| matches!(r, Ok(0))).count();
            self.refs.clear();
            self.refs.extend_from_slice(refs);
            self.base = base;
        }
        if self.literals == 0 {
            return Ok(Ok(self.base.clone()));
        }
        let kept = literals.clone();
        // What is this call's own, before what is shared: the latter is not copied.
        let mut metadata = Metadata::new();
        for _ in 0..self.literals {
            let (name, value) = literals.next()?;
            if is_protocols(&name) {
                continue;
            }
            if std::str::from_utf8(&name)
                .is_ok_and(|name| metadata.contains(name) || self.base.contains(name))
            {
                // Several values of a name keep their order: the long way.
                *literals = kept;
                return self.collect(refs, Some(literals));
            }
            if let Err(err) = metadata.append_bytes(name, value) {
                return Ok(Err(err));
            }
        }
        Ok(metadata.extend(&self.base).map(|()| metadata))
    }

    /// Puts metadata together one by one.
    fn collect(
        &self,
        refs: Refs<'_>,
        mut literals: Option<&mut Literals<'_>>,
    ) -> Result<Result<Metadata>> {
        let mut metadata = Metadata::with_capacity(refs.len());
        for index in refs_of(refs) {
            let (name, value) = match (index?, &mut literals) {
                (0, Some(literals)) => literals.next()?,
                (0, None) => continue,
                (index, _) => match self.known(index) {
                    Some(Known::Pair(name, value)) => (name.clone(), value.clone()),
                    _ => return Err(broken("a metadata pair was never defined")),
                },
            };
            if is_protocols(&name) {
                continue;
            }
            if let Err(err) = metadata.append_bytes(name, value) {
                return Ok(Err(err));
            }
        }
        Ok(Ok(metadata))
    }

    /// Reads what a caller sent.
    pub(crate) fn up(&mut self, message: &Bytes) -> Result<Up> {
        let (mut id, mut cancel, mut path, mut content_type) = (0, false, 0, 0);
        let (mut timeout, mut attempt, mut forget) = (0, 0, 0);
        let (mut refs, mut greeting, mut payload): (&[u8], _, _) = (&[], None, None);
        let mut literals = Literals::new(message);
        let mut fields = Fields::new(message);
        while let Some((field, is)) = fields.next()? {
            match field {
                1 => id = is.small()?,
                2 => cancel = is.number()? != 0,
                3 => path = is.index()?,
                4 => content_type = is.index()?,
                5 => timeout = is.number()?,
                6 => attempt = is.small()?,
                7 => self.define(is.bytes()?)?,
                8 => refs = is.bytes()?,
                9 => literals.begins(&is, fields.key)?,
                10 => greeting = Some(read_greeting(is.bytes()?)?),
                11 => forget = is.number()?,
                15 => payload = Some(slice(message, is)?),
                _ => {}
            }
        }
        if let Some(greeting) = greeting {
            return Ok(Up::Greeting(greeting));
        }
        if forget > 0 {
            return Ok(Up::Forget(forget));
        }
        if id == 0 {
            return Ok(Up::Nothing);
        }
        if cancel {
            return Ok(Up::Cancel(id));
        }
        let metadata = self.metadata(refs, &mut literals)?;
        let path = self.path(path)?;
        let content_type = self.content_type(content_type)?;
        Ok(Up::Call(CallIn {
            id,
            path,
            content_type,
            timeout,
            attempt,
            metadata,
            message: payload.unwrap_or_default(),
        }))
    }

    /// Reads what a server sent.
    pub(crate) fn down(&mut self, message: &Bytes) -> Result<Down> {
        let (mut id, mut content_type, mut take) = (0, 0, 0);
        let (mut unprocessed, mut going_away, mut is_stream) = (false, false, false);
        let mut status = None;
        let (mut refs, mut trailers): (&[u8], &[u8]) = (&[], &[]);
        let (mut greeting, mut payload) = (None, None);
        let mut literals = Literals::new(message);
        let mut fields = Fields::new(message);
        while let Some((field, is)) = fields.next()? {
            match field {
                1 => id = is.small()?,
                2 => content_type = is.index()?,
                3 => status = Some(slice(message, is)?),
                4 => unprocessed = is.number()? != 0,
                5 => take = is.number()?,
                6 => is_stream = is.number()? != 0,
                7 => self.define(is.bytes()?)?,
                8 => refs = is.bytes()?,
                9 => literals.begins(&is, fields.key)?,
                10 => greeting = Some(read_greeting(is.bytes()?)?),
                11 => going_away = is.number()? != 0,
                12 => trailers = is.bytes()?,
                15 => payload = Some(slice(message, is)?),
                _ => {}
            }
        }
        if let Some(greeting) = greeting {
            return Ok(Down::Greeting(greeting));
        }
        if going_away {
            return Ok(Down::GoingAway);
        }
        if id == 0 {
            return Ok(Down::Nothing);
        }
        let answer = if let Some(status) = status {
            AnswerIn::Failure(status, unprocessed)
        } else if take > 0 {
            AnswerIn::Take(take, is_stream)
        } else {
            let metadata = self.metadata(refs, &mut literals)?;
            let trailers = self.metadata(trailers, &mut literals)?;
            let content_type = match content_type {
                0 => None,
                index => Some(self.content_type(index)?),
            };
            AnswerIn::Message {
                content_type,
                metadata: metadata.and_then(|metadata| Ok((metadata, trailers?))),
                message: payload.unwrap_or_default(),
            }
        };
        Ok(Down::Answer(id, answer))
    }
}

/// As on plain gRPC: go-micro's names are the protocol's and no metadata.
fn is_protocols(name: &[u8]) -> bool {
    name == b"timeout" || name == b"x-content-type"
}

fn slice(message: &Bytes, is: Value<'_>) -> Result<Bytes> {
    match is {
        Value::Bytes(bytes, at) => Ok(message.slice(at..at + bytes.len())),
        Value::Number(_) => Err(broken("a field of a session message has the wrong type")),
    }
}

fn refs_of(refs: &[u8]) -> impl Iterator<Item = Result<usize>> {
    let mut fields = Fields::new(refs);
    std::iter::from_fn(move || {
        if fields.at >= fields.buf.len() {
            return None;
        }
        let index = fields.varint();
        if index.is_err() {
            fields.at = fields.buf.len();
        }
        Some(index.and_then(|index| {
            usize::try_from(index)
                .ok()
                .filter(|index| *index <= ENTRIES)
                .ok_or_else(|| broken("a metadata pair was never defined"))
        }))
    })
}

fn read_greeting(message: &[u8]) -> Result<Greeting> {
    let (mut version, mut greeting) = (0, Greeting::default());
    let mut fields = Fields::new(message);
    while let Some((field, is)) = fields.next()? {
        match field {
            1 => version = is.number()?,
            2 => greeting.calls = is.index()?,
            3 => greeting.message = is.index()?,
            _ => {}
        }
    }
    if version != VERSION {
        return Err(broken("the session's version is not known"));
    }
    Ok(greeting)
}

/// The pairs of a message that are in no table, read when they are needed.
#[derive(Clone)]
struct Literals<'a> {
    message: &'a Bytes,
    /// Where the first one lies; the others follow among the fields behind it.
    at: Option<usize>,
}

impl<'a> Literals<'a> {
    fn new(message: &'a Bytes) -> Self {
        Self { message, at: None }
    }

    fn begins(&mut self, is: &Value<'_>, key: usize) -> Result<()> {
        match is {
            Value::Bytes(..) => {
                self.at.get_or_insert(key);
                Ok(())
            }
            Value::Number(_) => Err(broken("a field of a session message has the wrong type")),
        }
    }

    fn next(&mut self) -> Result<(Bytes, Bytes)> {
        let missing = || broken("a metadata pair is missing");
        let mut fields = Fields {
            buf: self.message,
            at: self.at.ok_or_else(missing)?,
            key: 0,
        };
        loop {
            let Some((field, is)) = fields.next()? else {
                return Err(missing());
            };
            let (9, Value::Bytes(pair, start)) = (field, is) else {
                continue;
            };
            self.at = Some(fields.at);
            let (mut name, mut value) = (Bytes::new(), Bytes::new());
            let mut inner = Fields::new(pair);
            while let Some((field, is)) = inner.next()? {
                let Value::Bytes(bytes, at) = is else {
                    continue;
                };
                let piece = self.message.slice(start + at..start + at + bytes.len());
                match field {
                    1 => name = piece,
                    2 => value = piece,
                    _ => {}
                }
            }
            return Ok((name, value));
        }
    }
}

/// What a caller sent.
#[derive(Debug)]
pub(crate) enum Up {
    Greeting(Greeting),
    Call(CallIn),
    Cancel(u32),
    Forget(u64),
    /// Definitions only, or what a later version knows.
    Nothing,
}

#[derive(Debug)]
pub(crate) struct CallIn {
    pub(crate) id: u32,
    pub(crate) path: Arc<str>,
    pub(crate) content_type: Cow<'static, str>,
    /// In nanoseconds, 0 for none.
    pub(crate) timeout: u64,
    pub(crate) attempt: u32,
    pub(crate) metadata: Result<Metadata>,
    pub(crate) message: Bytes,
}

/// What a server sent.
#[derive(Debug)]
pub(crate) enum Down {
    Greeting(Greeting),
    Answer(u32, AnswerIn),
    GoingAway,
    Nothing,
}

#[derive(Debug)]
pub(crate) enum AnswerIn {
    Message {
        /// `None` if it is the request's.
        content_type: Option<Cow<'static, str>>,
        /// And the trailers.
        metadata: Result<(Metadata, Metadata)>,
        message: Bytes,
    },
    /// An encoded `google.rpc.Status`, and whether no handler saw the call.
    Failure(Bytes, bool),
    /// The number, and whether it is a stream.
    Take(u64, bool),
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use micro_core::{Random as _, SeededRandom, SystemRandom};
    use prost::Message as _;

    use super::*;

    /// As much of `Up` and `Down` as both have and no table is needed for.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Plain {
        #[prost(uint32, tag = "1")]
        id: u32,
        #[prost(uint64, tag = "5")]
        fifth: u64,
        #[prost(uint64, tag = "6")]
        sixth: u64,
        #[prost(bytes = "vec", repeated, tag = "7")]
        define: Vec<Vec<u8>>,
        #[prost(bytes = "vec", tag = "8")]
        metadata: Vec<u8>,
        #[prost(bytes = "vec", repeated, tag = "9")]
        literals: Vec<Vec<u8>>,
        #[prost(bytes = "bytes", tag = "15")]
        message: Bytes,
    }

    fn metadata(random: &SeededRandom) -> Metadata {
        let below = |n: u64| random.next_u64() % n;
        let mut metadata = Metadata::new();
        for _ in 0..below(6) {
            let name = ["x-a", "x-b", "x-c-bin", "x-request-id", "x-long"][below(5) as usize];
            let value = match name {
                "x-long" => "v".repeat(600),
                _ => format!("v{}", below(400)),
            };
            metadata.append(name, value).unwrap();
        }
        metadata
    }

    #[test]
    fn calls_of_one_kind_are_alike_until_what_they_refer_to_is_replaced() {
        let (mut writer, mut reader) = (Writer::default(), Reader::new());
        let agent = (Bytes::from_static(b"user-agent"), Bytes::from_static(b"t"));
        let content_type = Cow::Borrowed("application/json");
        let mut own = Metadata::new();
        own.insert("x-tenant", "acme").unwrap();
        let path: Arc<str> = "/a.B/C".into();
        let mut sent = |writer: &mut Writer, path: &Arc<str>, metadata: &Metadata| {
            let mut out = BytesMut::new();
            let call = CallOut {
                id: 1,
                path,
                content_type: &content_type,
                timeout: 5_000_000_000,
                attempt: 0,
                metadata,
                agent: Some(&agent),
                message: b"hello",
            };
            assert!(writer.call(&call, &mut out));
            let Ok(Up::Call(call)) = reader.up(&out.split_off(frame::PREFIX).freeze()) else {
                panic!("a call")
            };
            assert_eq!((&call.path, &*call.message), (path, &b"hello"[..]));
            assert_eq!(call.timeout, 5_000_000_000);
            let read = call.metadata.unwrap();
            assert_eq!(read.get("x-tenant"), metadata.get("x-tenant"));
            assert_eq!(
                read.get("user-agent"),
                metadata.get("user-agent").or(Some("t"))
            );
        };
        // The first defines, the second is kept, the third is copied.
        for kinds in [0, 1, 1] {
            sent(&mut writer, &path, &own);
            assert_eq!(writer.kinds.len(), kinds);
        }
        let mut agents = own.clone();
        agents.insert("user-agent", "mine").unwrap();
        for kinds in [1, 2, 2] {
            sent(&mut writer, &path, &agents);
            assert_eq!(writer.kinds.len(), kinds);
        }
        // So many others that all of the table is replaced.
        for i in 0..ENTRIES {
            sent(&mut writer, &format!("/a.B/C{i}").into(), &own);
        }
        sent(&mut writer, &path, &own);
        sent(&mut writer, &path, &agents);
    }

    fn change(random: &SeededRandom, bytes: &mut Vec<u8>) {
        let below = |n: usize| (random.next_u64() % n.max(1) as u64) as usize;
        for _ in 0..=below(2) {
            let at = below(bytes.len());
            let end = at + below(bytes.len() - at);
            match below(6) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << below(8),
                1 if !bytes.is_empty() => bytes[at] = random.next_u64() as u8,
                2 => bytes.truncate(at),
                3 => bytes.insert(at, random.next_u64() as u8),
                4 => drop(bytes.drain(at..end)),
                _ => bytes.extend_from_within(at..end),
            }
        }
    }

    /// Messages as they are written, and with bytes changed at random: what is right is read as it
    /// was meant, what is read agrees with prost, what is kept is bounded, and nothing panics.
    ///
    /// `MICRO_FUZZ_SECONDS` says for how long, `MICRO_FUZZ_SEED` from where.
    #[test]
    #[expect(
        clippy::print_stdout,
        clippy::disallowed_methods,
        reason = "a failure is replayed from its seed; no clock is needed to stop"
    )]
    fn changed_messages_are_read_or_refused() {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let seconds = number("MICRO_FUZZ_SECONDS").unwrap_or(1);
        let seed = number("MICRO_FUZZ_SEED").unwrap_or_else(|| SystemRandom.next_u64());
        println!("MICRO_FUZZ_SEED={seed}");
        let random = SeededRandom::new(seed);
        let end = Instant::now() + Duration::from_secs(seconds);
        let (mut messages, mut refused, mut agreed) = (0_u64, 0_u64, 0_u64);
        let paths: Vec<Arc<str>> = (0..300).map(|i| format!("/a.B/C{i}").into()).collect();
        while Instant::now() < end {
            let (mut writer, mut up, mut down) = (Writer::default(), Reader::new(), Reader::new());
            let mut answers = Writer::default();
            let mut last = (metadata(&random), 0);
            for _ in 0..200 {
                let behind = metadata(&random);
                // Every other one is like the one before, and shares its metadata.
                if random.next_u64().is_multiple_of(2) {
                    last = (metadata(&random), (random.next_u64() % 300) as usize);
                }
                let sent = last.0.clone();
                let id = (random.next_u64() % 300) as u32 + 1;
                let payload = random.next_u64().to_le_bytes();
                let path = &paths[last.1];
                let content_type = Cow::Borrowed("application/json");
                let mut out = BytesMut::new();
                assert!(writer.call(
                    &CallOut {
                        id,
                        path,
                        content_type: &content_type,
                        timeout: random.next_u64(),
                        attempt: 3,
                        metadata: &sent,
                        agent: None,
                        message: &payload,
                    },
                    &mut out,
                ));
                let whole = out.split_off(frame::PREFIX).freeze();
                let Ok(Up::Call(call)) = up.up(&whole) else {
                    panic!("a call is read, seed {seed}");
                };
                assert_eq!((call.id, &call.path, call.attempt), (id, path, 3));
                assert_eq!(call.metadata.unwrap(), sent, "seed {seed}");
                assert_eq!(
                    (&*call.message, call.content_type),
                    (&payload[..], content_type)
                );
                let mut out = BytesMut::new();
                answers.answer(
                    &AnswerOut {
                        id,
                        content_type: Some(&Cow::Borrowed("application/x")),
                        metadata: &sent,
                        trailers: &behind,
                        message: &payload,
                    },
                    &mut out,
                );
                let answer = out.split_off(frame::PREFIX).freeze();
                let Ok(Down::Answer(read, AnswerIn::Message { metadata, .. })) = down.down(&answer)
                else {
                    panic!("an answer is read, seed {seed}");
                };
                assert_eq!(
                    (read, metadata.unwrap()),
                    (id, (sent, behind)),
                    "seed {seed}"
                );

                // From here on it is a stranger's.
                for good in [whole, answer] {
                    let mut bytes = good.to_vec();
                    change(&random, &mut bytes);
                    let bytes = Bytes::from(bytes);
                    messages += 1;
                    let plain = Plain::decode(bytes.clone());
                    let (mut one, mut other) = (up.clone(), down.clone());
                    match one.up(&bytes) {
                        Ok(Up::Call(call)) => {
                            if let Ok(plain) = plain {
                                agreed += 1;
                                let read = (call.id, call.timeout, u64::from(call.attempt));
                                assert_eq!(read, (plain.id, plain.fifth, plain.sixth), "{seed}");
                                assert_eq!(call.message, plain.message, "seed {seed}");
                            }
                        }
                        Ok(_) => {}
                        Err(err) => {
                            refused += 1;
                            assert_eq!(err.kind(), micro_core::ErrorKind::InvalidArgument);
                        }
                    }
                    let _ = other.down(&bytes);
                    for reader in [one, other] {
                        assert!(reader.table.len() <= ENTRIES && reader.refs.len() <= AROUND);
                    }
                }
            }
            assert!(writer.keys.len() <= ENTRIES && writer.known.len() == writer.keys.len());
            assert!(writer.kinds.len() <= Kind::MOST);
        }
        println!("{messages} messages, {refused} refused, {agreed} read as prost does");
        assert!(refused > 0 && agreed > 0);
    }
}
