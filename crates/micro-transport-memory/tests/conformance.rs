//! Runs the transport suite.

use std::process::ExitCode;
use std::sync::Arc;

use micro_transport_memory::MemoryTransport;

fn main() -> ExitCode {
    micro_conformance::transport::run(async || Ok(Arc::new(MemoryTransport::new()) as _))
}
