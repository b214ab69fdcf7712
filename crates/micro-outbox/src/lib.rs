#![doc = include_str!("../README.md")]

mod entry;
mod lease;
mod outbox;
mod relay;

pub use self::outbox::Outbox;
pub use self::relay::{Relay, RelayOptions};
