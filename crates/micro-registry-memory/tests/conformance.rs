//! The registry suite over this backend.

use std::process::ExitCode;
use std::sync::Arc;

use micro_registry_memory::MemoryRegistry;

fn main() -> ExitCode {
    micro_conformance::registry::run(async || Ok(Arc::new(MemoryRegistry::new()) as _))
}
