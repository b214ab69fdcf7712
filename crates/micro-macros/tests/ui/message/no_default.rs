//! A message without Default.

mod facade {
    pub mod __v1 {
        pub use {micro_codec_core as codec, micro_codec_proto as proto};
    }
}

use micro_macros::Message;

#[derive(Message)]
#[micro(crate = "crate::facade")]
struct NoDefault {
    name: String,
}

fn main() {}
