//! The store suite over a store in a file with memory in front of it, opened anew each time.

use std::process::ExitCode;
use std::sync::{Arc, LazyLock};

use micro_conformance::store::Place;
use micro_store_cache::{CacheConfig, CacheStore};
use micro_store_core::Store;
use micro_store_redb::{RedbConfig, RedbStore};
use tempfile::TempDir;

static ROOT: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a directory"));

fn main() -> ExitCode {
    let code = micro_conformance::store::run(async |place: Place| {
        let clock = place.env().clock();
        let config = RedbConfig::new(ROOT.path().join(place.id()));
        let below = RedbStore::open(config, Arc::clone(clock)).await?;
        let store = CacheStore::new(Arc::new(below), CacheConfig::default(), Arc::clone(clock));
        Ok(Arc::new(store) as Arc<dyn Store>)
    });
    // A static is not dropped.
    let _ = std::fs::remove_dir_all(ROOT.path());
    code
}
