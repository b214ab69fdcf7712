//! Enums without data.

#![allow(unused_imports)]

mod facade {
    pub mod __v1 {
        pub use {micro_codec_core as codec, micro_codec_proto as proto};
    }
}

use micro_macros::Message;

#[derive(Message)]
#[micro(crate = "crate::facade")]
enum Empty {}

#[derive(Message)]
#[micro(crate = "crate::facade")]
enum FromOne {
    One = 1,
}

#[derive(Default, Message)]
#[micro(crate = "crate::facade")]
enum OtherDefault {
    Zero,
    #[default]
    One,
}

#[derive(Message)]
#[micro(crate = "crate::facade")]
enum Computed {
    Zero,
    One = 1 + 1,
}

#[derive(Message)]
#[micro(crate = "crate::facade")]
enum TooLarge {
    Zero,
    Large = 2147483648,
}

fn main() {}
