#![doc = include_str!("../README.md")]
//!
//! # For users
//!
//! The text is what `serde_json` writes: no spaces, fields in their order, bytes as arrays of
//! numbers. Reading is strict:
//!
//! - bytes behind the value, but for white space, are refused; so are invalid UTF-8 and unpaired
//!   surrogates in strings;
//! - values nest at most 127 deep;
//! - a key that appears twice is refused in a struct (serde's derive does it), and the last one
//!   wins in a map;
//! - an unknown key is skipped, unless the type says `#[serde(deny_unknown_fields)]`.
//!
//! JSON has no NaN and no infinities: they are written as `null`, as JavaScript does, and come
//! back as `None` in an `Option`; a plain float refuses them. Integers are exact to 64 bits here,
//! and to 53 in JavaScript.

mod codec;

pub use self::codec::Json;

/// The content type of [`Json`].
pub const CONTENT_TYPE: &str = "application/json";
