//! Types that cannot be messages.

#![allow(unused_imports)]

mod facade {
    pub mod __v1 {
        pub use {micro_codec_core as codec, micro_codec_proto as proto};
    }
}

use micro_macros::Message;

#[derive(Default, Message)]
#[micro(crate = "crate::facade")]
struct Tuple(u32);

#[derive(Default, Message)]
#[micro(crate = "crate::facade")]
struct Generic<T> {
    value: Vec<T>,
}

#[derive(Message)]
#[micro(crate = "crate::facade")]
struct Borrowed<'a> {
    value: &'a str,
}

#[derive(Message)]
#[micro(crate = "crate::facade")]
enum Oneof {
    Number(u32),
    Text(String),
}

#[derive(Message)]
#[micro(crate = "crate::facade")]
union Either {
    a: u32,
    b: f32,
}

fn main() {}
