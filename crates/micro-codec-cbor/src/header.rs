//! The heads of data items: RFC 8949, section 3.

use std::borrow::Cow;

use crate::decode::{Error, Result};

/// The head of a data item. A length is `None` where it is indefinite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Header {
    Unsigned(u64),
    /// The value is -1 minus this.
    Negative(u64),
    Bytes(Option<usize>),
    Text(Option<usize>),
    Array(Option<usize>),
    Map(Option<usize>),
    Tag(u64),
    Bool(bool),
    /// `null`, and `undefined`.
    Null,
    Float(f64),
    Break,
}

impl Header {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unsigned(_) | Self::Negative(_) => "an integer",
            Self::Bytes(_) => "a byte string",
            Self::Text(_) => "a text",
            Self::Array(_) => "an array",
            Self::Map(_) => "a map",
            Self::Tag(_) => "a tag",
            Self::Bool(_) => "a boolean",
            Self::Null => "null",
            Self::Float(_) => "a float",
            Self::Break => "a break",
        }
    }
}

/// What is left of the input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<'de>(pub(crate) &'de [u8]);

impl<'de> Input<'de> {
    /// Takes the head of the next item. No length in it is larger than what is left.
    pub(crate) fn header(&mut self) -> Result<Header> {
        let [first] = self.array()?;
        let (major, minor) = (first >> 5, first & 0x1f);
        if major == 7 {
            return self.simple(minor);
        }
        let argument = match minor {
            0..=23 => Some(u64::from(minor)),
            24 => Some(self.array::<1>()?[0].into()),
            25 => Some(u16::from_be_bytes(self.array()?).into()),
            26 => Some(u32::from_be_bytes(self.array()?).into()),
            27 => Some(u64::from_be_bytes(self.array()?)),
            31 => None,
            _ => return Err(malformed()),
        };
        Ok(match (major, argument) {
            (0, Some(value)) => Header::Unsigned(value),
            (1, Some(value)) => Header::Negative(value),
            (2, len) => Header::Bytes(self.len(len, 1)?),
            (3, len) => Header::Text(self.len(len, 1)?),
            (4, len) => Header::Array(self.len(len, 1)?),
            (5, len) => Header::Map(self.len(len, 2)?),
            (6, Some(tag)) => Header::Tag(tag),
            _ => return Err(malformed()),
        })
    }

    fn simple(&mut self, minor: u8) -> Result<Header> {
        Ok(match minor {
            20 => Header::Bool(false),
            21 => Header::Bool(true),
            22 | 23 => Header::Null,
            25 => Header::Float(half(u16::from_be_bytes(self.array()?))),
            26 => Header::Float(f32::from_be_bytes(self.array()?).into()),
            27 => Header::Float(f64::from_be_bytes(self.array()?)),
            31 => Header::Break,
            _ => return Err(Error::new("CBOR has no such simple value")),
        })
    }

    /// Checks a number of things against the bytes left, of which each takes `each` at least.
    fn len(&self, len: Option<u64>, each: usize) -> Result<Option<usize>> {
        let Some(len) = len else { return Ok(None) };
        match usize::try_from(len) {
            Ok(len) if len <= self.0.len() / each => Ok(Some(len)),
            _ => Err(cut_short()),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (first, behind) = self.0.split_first_chunk().ok_or_else(cut_short)?;
        self.0 = behind;
        Ok(*first)
    }

    /// Takes the bytes of a byte string, whose head was taken.
    pub(crate) fn bytes(&mut self, len: Option<usize>) -> Result<Cow<'de, [u8]>> {
        let Some(len) = len else {
            let mut all = Vec::new();
            loop {
                match self.header()? {
                    Header::Bytes(Some(len)) => all.extend_from_slice(self.take(len)?),
                    Header::Break => return Ok(Cow::Owned(all)),
                    _ => return Err(malformed()),
                }
            }
        };
        Ok(Cow::Borrowed(self.take(len)?))
    }

    /// Takes the text of a text string, whose head was taken.
    pub(crate) fn text(&mut self, len: Option<usize>) -> Result<Cow<'de, str>> {
        let Some(len) = len else {
            let mut all = String::new();
            loop {
                match self.header()? {
                    // Each part is valid on its own: characters are not split.
                    Header::Text(Some(len)) => all.push_str(utf8(self.take(len)?)?),
                    Header::Break => return Ok(Cow::Owned(all)),
                    _ => return Err(malformed()),
                }
            }
        };
        Ok(Cow::Borrowed(utf8(self.take(len)?)?))
    }

    fn take(&mut self, len: usize) -> Result<&'de [u8]> {
        let (taken, behind) = self.0.split_at_checked(len).ok_or_else(cut_short)?;
        self.0 = behind;
        Ok(taken)
    }
}

fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| Error::new("a text is not UTF-8"))
}

/// A half-precision float: RFC 8949, appendix D.
fn half(bits: u16) -> f64 {
    let exponent = i32::from(bits >> 10 & 0x1f);
    let mantissa = f64::from(bits & 0x3ff);
    let value = match exponent {
        0 => mantissa * 2_f64.powi(-24),
        31 if mantissa == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (mantissa + 1024.0) * 2_f64.powi(exponent - 25),
    };
    match bits >> 15 {
        0 => value,
        _ => -value,
    }
}

fn cut_short() -> Error {
    Error::new("the CBOR item is cut short")
}

fn malformed() -> Error {
    Error::new("the bytes are no well-formed CBOR")
}
