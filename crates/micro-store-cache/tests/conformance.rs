//! The store suite over a store in memory with memory in front of it: what is opened at one place is
//! one cache, as a program has one.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use micro_conformance::store::Place;
use micro_store_cache::{CacheConfig, CacheStore};
use micro_store_core::Store;
use micro_store_memory::{MemoryConfig, MemoryStore};

static STORES: Mutex<BTreeMap<String, CacheStore>> = Mutex::new(BTreeMap::new());

fn main() -> ExitCode {
    micro_conformance::store::run(async |place: Place| {
        let clock = place.env().clock();
        let open = || {
            let below = MemoryStore::with_config(MemoryConfig::default(), Arc::clone(clock));
            CacheStore::new(Arc::new(below), CacheConfig::default(), Arc::clone(clock))
        };
        let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
        let store = stores.entry(place.id().to_owned()).or_insert_with(open);
        Ok(Arc::new(store.clone()) as Arc<dyn Store>)
    })
}
