//! Fields that protobuf has no type for.

mod facade {
    pub mod __v1 {
        pub use {micro_codec_core as codec, micro_codec_proto as proto};
    }
}

use micro_macros::Message;

#[derive(Default)]
struct Foreign;

#[derive(Default, Message)]
#[micro(crate = "crate::facade")]
struct Small {
    port: u16,
}

#[derive(Default, Message)]
#[micro(crate = "crate::facade")]
struct Nested {
    foreign: Foreign,
    many: Vec<Foreign>,
    maybe: Option<Vec<u32>>,
}

#[derive(Default, Message)]
#[micro(crate = "crate::facade")]
struct Map {
    by_bytes: std::collections::BTreeMap<Vec<u8>, u32>,
}

fn main() {}
