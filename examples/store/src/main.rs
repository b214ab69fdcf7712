//! A service whose records outlive it: it is killed with `kill -9` while it takes orders, and started
//! again. The same code runs over memory, over a file, and over whatever `MICRO_STORE` names.
//!
//! `cargo run -p store`, or `MICRO_STORE=postgres://… cargo run -p store`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod shop;
mod stage;

use micro::{Error, Result};

#[tokio::main]
async fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        None => stage::run().await,
        Some("tour") => shop::tour().await,
        Some("take") => shop::take_orders().await,
        Some("count") => shop::count_orders().await,
        Some("clear") => shop::clear().await,
        Some(other) => Err(Error::invalid_argument(format!(
            "'{other}' is no part of this example: say 'tour', 'take', 'count', 'clear' or nothing"
        ))),
    }
}
