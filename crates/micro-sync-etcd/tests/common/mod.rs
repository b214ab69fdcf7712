//! What the tests over real servers share.
#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses a part of it"
)]

#[path = "../../../micro-etcd/tests/common/mod.rs"]
mod etcd;

use std::sync::Arc;

use micro_core::Env;
use micro_sync_core::{Coordinator, Drivers};
use micro_sync_etcd::EtcdDriver;

pub(crate) use self::etcd::*;

pub(crate) async fn open(url: &str) -> Arc<dyn Coordinator> {
    let drivers = Drivers::new().with(EtcdDriver::default());
    drivers.open(url, &Env::new()).await.unwrap()
}
