//! A [`Codec`](micro_codec_core::Codec) for {{backend}}. Content type: `application/x-{{backend}}`.
//!
//! ```
//! use bytes::BytesMut;
//! use {{lib}}::{{Type}}Codec;
//! use micro_codec_core::{Codecs, shape};
//!
//! let codecs = Codecs::new().with({{Type}}Codec);
//! let codec = codecs.get({{lib}}::CONTENT_TYPE)?;
//! let mut out = BytesMut::new();
//! shape!(String).encode(&"hello".to_owned(), codec, &mut out)?;
//! assert_eq!(shape!(String).decode(codec, out.freeze())?, "hello");
//! # Ok::<(), micro_codec_core::Error>(())
//! ```

mod codec;

pub use self::codec::{{Type}}Codec;

/// The content type that chooses this codec.
pub const CONTENT_TYPE: &str = "application/x-{{backend}}";
