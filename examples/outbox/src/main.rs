//! A shop writes an order, and tells of it. It is killed with `kill -9` in between: told by hand, the event
//! is lost; by the outbox, which writes both in one step, it is published when the shop is back.
//!
//! `cargo run -p outbox`, or `MICRO_STORE=postgres://… cargo run -p outbox`. `MICRO_BROKER` chooses the broker.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod shop;
mod stage;

use micro::{Error, Result};

#[tokio::main]
async fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        None => stage::run().await,
        Some("by-hand") => shop::by_hand().await,
        Some("by-outbox") => shop::by_outbox().await,
        Some("recover") => shop::recover().await,
        Some(other) => Err(Error::invalid_argument(format!(
            "'{other}' is no part of this example: say 'by-hand', 'by-outbox', 'recover' or nothing"
        ))),
    }
}
