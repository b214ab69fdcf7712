#![doc = include_str!("../README.md")]

mod keeper;
mod timings;
mod wakeful;

use std::fmt;

use micro_core::{Result, async_trait};

pub use self::keeper::Keeper;
pub use self::timings::Timings;

/// Something of the backend's that ends by itself unless it is renewed in time.
///
/// Futures may be dropped at any await, and what was dropped may still arrive at the backend, in any
/// order: a renewal behind an end must not bring the lease back.
#[async_trait]
pub trait Lease: fmt::Debug + Send + Sync + 'static {
    /// Lets it live for a whole time to live from now on. False if it is gone, or what it stands for is
    /// no longer ours.
    ///
    /// # Errors
    ///
    /// Whatever keeps the backend from knowing; it is asked again.
    async fn renew(&self) -> Result<bool>;

    /// Whether what it stands for is still ours.
    ///
    /// # Errors
    ///
    /// Whatever keeps the backend from knowing.
    async fn verify(&self) -> Result<bool>;

    /// Ends it; whether it was still there. It may be asked again.
    ///
    /// # Errors
    ///
    /// Whatever keeps the backend from knowing; it is asked again.
    async fn end(&self) -> Result<bool>;
}
