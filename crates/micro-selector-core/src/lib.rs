#![doc = include_str!("../README.md")]
//!
//! # For users
//!
//! The client picks by itself; which strategy it uses is a matter of `MICRO_SELECTOR`.
//!
//! # For implementors
//!
//! Implement [`Selector`], a [`Driver`] that opens it by URL, and run the `selector` suite of
//! `micro-conformance`. Ask [`Nodes::candidates`] which nodes may be taken: it knows readiness,
//! ejection, filters, and what was tried already.

mod balance;
mod dice;
mod ejection;
mod hint;
mod nodes;
mod pick;
mod selector;
mod state;

pub use self::balance::{Balance, Reach, Zone};
pub use self::dice::Dice;
pub use self::ejection::{Change, Ejection, Outliers};
pub use self::hint::PickHint;
pub use self::nodes::{Entry, Nodes};
pub use self::pick::{Outcome, Pick};
pub use self::selector::Selector;
pub use self::state::{NodeState, Readiness};
pub use micro_core::{Driver, Drivers, Env, Error, ErrorKind, Result, Url, async_trait, url};
pub use micro_registry_core::Node;
