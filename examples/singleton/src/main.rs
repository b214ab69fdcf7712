//! Three processes of one service, and a task that runs on one of them. It is killed, stopped for
//! longer than its time (`kill -STOP`), and ended in order; each time another one takes over, and what
//! the late one writes is refused.
//!
//! `cargo run -p singleton` starts an etcd of its own; `MICRO_SYNC=etcd://…` or `postgres://…` names
//! one that runs.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod engine;
mod fleet;
mod ledger;
mod node;
mod stage;

use std::time::Duration;

use micro::{Error, Result};

/// How long the task stays with a node that is gone.
const TTL: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        None => stage::run().await,
        Some("node") => node::run().await,
        Some(other) => Err(Error::invalid_argument(format!(
            "'{other}' is no part of this example: say 'node' or nothing"
        ))),
    }
}
