//! A service in one process, a client in another; the client finds the service by its name.
//!
//! `cargo run -p quickstart` starts both and shows what happens. In two terminals:
//! `cargo run -p quickstart serve` and `cargo run -p quickstart call`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod client;
mod contract;
mod server;
mod stage;

use micro::{Error, Result};

#[tokio::main]
async fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        None => stage::run().await,
        Some("serve") => server::run().await,
        Some("call") => client::run().await,
        Some(other) => Err(Error::invalid_argument(format!(
            "'{other}' is no part of this example: say 'serve', 'call' or nothing"
        ))),
    }
}
