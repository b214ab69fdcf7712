//! Field numbers.

#![allow(unused_imports)]

mod facade {
    pub mod __v1 {
        pub use {micro_codec_core as codec, micro_codec_proto as proto};
    }
}

use micro_macros::Message;

#[derive(Default, Message)]
#[micro(crate = "crate::facade")]
struct Mixed {
    #[micro(tag = 1)]
    first: u32,
    second: u32,
}

#[derive(Default, Message)]
#[micro(crate = "crate::facade")]
struct Twice {
    #[micro(tag = 1)]
    first: u32,
    #[micro(tag = 1)]
    second: u32,
}

#[derive(Default, Message)]
#[micro(crate = "crate::facade")]
struct Zero {
    #[micro(tag = 0)]
    first: u32,
}

#[derive(Default, Message)]
#[micro(crate = "crate::facade")]
struct Reserved {
    #[micro(tag = 19_500)]
    first: u32,
}

#[derive(Default, Message)]
#[micro(crate = "crate::facade")]
struct TooLarge {
    #[micro(tag = 536870912)]
    first: u32,
}

#[derive(Default, Message)]
#[micro(crate = "crate::facade")]
struct Text {
    #[micro(tag = "1")]
    first: u32,
}

fn main() {}
