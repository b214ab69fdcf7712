//! Options that do not exist.

#![allow(unused_imports)]

mod facade {
    pub mod __v1 {
        pub use {micro_codec_core as codec, micro_codec_proto as proto};
    }
}

use micro_macros::Message;

#[derive(Default, Message)]
#[micro(crate = "crate::facade", package = "hello")]
struct OnType {}

#[derive(Default, Message)]
#[micro(crate = "crate::facade")]
struct OnField {
    #[micro(rename = "other")]
    first: u32,
}

#[derive(Default, Message)]
#[micro(crate = "crate::facade", name = "hello.World")]
struct Name {}

#[derive(Default, Message)]
#[micro(crate = "crate::facade")]
struct Grüße {}

fn main() {}
