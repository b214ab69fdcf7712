//! The registry suite over this backend: registering goes over a list, in a file, that is empty.

use std::process::ExitCode;
use std::sync::Arc;

use micro_conformance::registry::Place;
use micro_registry_static::{StaticConfig, StaticRegistry};

fn main() -> ExitCode {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("nodes.json");
    std::fs::write(&file, "{\"services\": []}").expect("a file");
    micro_conformance::registry::run(async move |place: Place| {
        let config = StaticConfig::default().with_file(&file);
        let registry = StaticRegistry::open(config, place.env()).await?;
        Ok(Arc::new(registry) as _)
    })
}
