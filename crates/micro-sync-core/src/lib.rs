#![doc = include_str!("../README.md")]
//!
//! # The promise
//!
//! - For one name, every lock and every leadership has a [token](Lock::token) greater than all before
//!   it, also after a crash of holders or, where it keeps them, of the backend.
//! - A holder learns that it may have lost the lock no later than by its own monotonic clock, a
//!   safety margin before the backend gives the lock to somebody else: [`Lock::is_held`] is false
//!   and [`Lock::lost`] resolves. Wall clocks are not asked.
//! - Nothing stays behind: not after a drop, not after an error, not after a future was dropped at any
//!   await. What a crashed process held ends with its time to live.
//!
//! It is not promised that two processes never both believe to hold a lock: no lock can, since a
//! process may be stopped for any time between looking and doing. What it does must therefore be
//! [fenced](Lock::fence). A store of `micro` refuses a write whose token is older than one it has
//! seen of that lock.
//!
//! # For users
//!
//! Hold an `Arc<dyn Coordinator>` and import [`CoordinatorExt`] for the short forms.
//!
//! # For implementors
//!
//! Implement [`Coordinator`], a [`Driver`] that opens it by URL, and run the `sync` suite of
//! `micro-conformance`. Methods first call [`check_lock`], [`check_elect`] or [`check_name`], so
//! that all backends refuse the same. A [`Lock`] is made of a [`Tenure`], which the backend renews and
//! ends, and a [`Hold`], by which the guard speaks to the backend; `micro-lease` has both for
//! backends with leases. Wrappers must forward every method: put
//! `#[deny(clippy::missing_trait_methods)]` on the impl.

mod check;
mod coordinator;
mod lock;
mod options;
mod tenure;

pub use self::check::{MAX_NAME, MAX_TTL, MAX_VALUE, check_elect, check_lock, check_name};
pub use self::coordinator::{Capabilities, Coordinator, CoordinatorExt, Leader, LeaderStream};
pub use self::lock::{Hold, Leadership, Lock};
pub use self::options::{ElectOptions, LockOptions};
pub use self::tenure::Tenure;
pub use micro_core::{
    Clock, Driver, Drivers, Env, Error, ErrorKind, Fence, FencingToken, Result, Url, async_trait,
    url,
};
