//! What keeps the locks, as a process of the campaign's own.

use crate::Result;

/// What is left in an engine when nobody holds a lock any more, by what it is.
pub(super) type Left = Vec<(&'static str, usize)>;

/// An engine that may be killed. Dropping it kills it.
pub(super) trait Engine: Sized + Send + Sync {
    const NAME: &'static str;
    /// What to do if it is not installed.
    const CURE: &'static str;

    fn is_installed() -> bool;

    /// Starts one on an empty disk.
    fn start() -> impl Future<Output = Result<Self>> + Send;

    /// Starts the process again, on whatever data there are.
    fn run(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// As `kill -9`.
    fn kill(&mut self);

    fn url(&self) -> String;

    fn left(&self) -> impl Future<Output = Result<Left>> + Send;
}
