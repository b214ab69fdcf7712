//! What the tests over real servers share.
#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses a part of it"
)]

#[path = "../../../micro-etcd/tests/common/mod.rs"]
mod etcd;

use std::sync::Arc;

use micro_registry_core::{Env, ErrorKind, Registry, RegistryExt as _, Service, url};
use micro_registry_etcd::{EtcdRegistry, EtcdRegistryConfig};

pub(crate) use self::etcd::*;

pub(crate) fn open(url: &str) -> Arc<EtcdRegistry> {
    let config = EtcdRegistryConfig::from_url(&url::resolve(url).unwrap()).unwrap();
    Arc::new(EtcdRegistry::new(config, &Env::new()).unwrap())
}

/// What is found; nobody is an empty list.
pub(crate) async fn look(registry: &dyn Registry, name: &str) -> Vec<Service> {
    match registry.get(name).await {
        Ok(found) => found,
        Err(err) if err.kind() == ErrorKind::NotFound => Vec::new(),
        Err(err) => panic!("the lookup failed: {err:?}"),
    }
}
