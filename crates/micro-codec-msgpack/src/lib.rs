#![doc = include_str!("../README.md")]
//!
//! # For users
//!
//! Structs are maps from field names, so that other languages read them and fields may come in any
//! order; a struct written as an array is read too. Enums are strings, or maps of one entry.
//! `Vec<u8>` is an array of numbers unless it says `#[serde(with = "serde_bytes")]`; `bin` is read
//! as either. Extension types are refused, unless the type asks for one as `rmp-serde` does it.
//!
//! Reading is strict: bytes behind the value are refused, invalid UTF-8 in a string is, and values
//! nest at most 128 deep. Before anything is allocated for it, a message is walked over once, so
//! that no length in it can claim more than there is.

mod codec;
mod walk;

pub use self::codec::MsgPack;

/// The content type of [`MsgPack`].
pub const CONTENT_TYPE: &str = "application/msgpack";
