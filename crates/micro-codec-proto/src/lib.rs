#![doc = include_str!("../README.md")]
//!
//! # For users
//!
//! What the wire does that a Rust type does not show:
//!
//! - A plain field at its zero value (`0`, `""`, `false`, empty) is not sent, as in proto3; an
//!   absent field keeps what the type's `Default` gives. So `Default` must be the zero value, as
//!   `#[derive(Default)]` makes it. Use `Option` where "absent" and "zero" differ.
//! - A message that stands in a struct without `Option` is always sent.
//! - Fields that a message does not know are skipped, and are gone when it is encoded again.
//! - A number that an enum does not know counts as absent: a plain field keeps its value, an
//!   `Option` stays `None`, and in a `Vec` or a map the element is left out. This is protobuf's
//!   rule for closed enums.
//! - Messages nest at most 100 deep when they are read.
//!
//! # For implementors
//!
//! [`prost_message!`] makes a type of prost's a message of `micro`.
//! What derived messages are made of is in the hidden module `field`.

mod bridge;
mod codec;
#[doc(hidden)]
pub mod field;
#[doc(hidden)]
pub mod json;
pub mod wkt;

#[doc(hidden)]
pub use self::bridge::prost_merge_field;
pub use self::bridge::{prost_encode, prost_merge};
pub use self::codec::Proto;

/// The content type of [`Proto`].
pub const CONTENT_TYPE: &str = "application/protobuf";

/// What the macros of this crate name; not part of the promise of semantic versioning.
#[doc(hidden)]
pub mod __private {
    pub use bytes;
    pub use micro_codec_core as codec;
    pub use prost;
}

/// What the code that micro-build generates for this crate names.
mod __v1 {
    pub(crate) use crate as proto;
}
