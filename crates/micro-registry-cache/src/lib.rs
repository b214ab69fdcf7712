#![doc = include_str!("../README.md")]

mod options;
mod policy;
mod resolved;
mod resolver;
mod snapshot;
mod table;
mod worker;

pub use self::options::ResolverOptions;
pub use self::resolved::Resolved;
pub use self::resolver::Resolver;
pub use self::snapshot::{Freshness, Snapshot};
