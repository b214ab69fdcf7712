#![doc = include_str!("../README.md")]

mod consume;
pub mod envelope;
mod keyed;
mod runner;
mod seen;

pub use self::consume::{Consuming, Source, Taken, consume};
pub use self::keyed::{Keyed, KeyedQueue};
pub use self::runner::Runner;
pub use self::seen::SeenIds;
