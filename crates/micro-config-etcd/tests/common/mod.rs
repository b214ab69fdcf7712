//! What the tests over real servers share.
#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses a part of it"
)]

#[path = "../../../micro-etcd/tests/common/mod.rs"]
mod etcd;

pub(crate) use self::etcd::*;

use micro_config_etcd::{EtcdConfigSource, EtcdSourceConfig};
use micro_core::url;

pub(crate) fn source(url: &str) -> EtcdConfigSource {
    let config = EtcdSourceConfig::from_url(&url::resolve(url).unwrap()).unwrap();
    EtcdConfigSource::new(config).unwrap()
}
