#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod backends;
mod client;
mod drivers;
mod events;
#[cfg(feature = "log")]
mod log;
#[cfg(feature = "broker-http")]
mod mount;
mod section;
mod service;
mod settings;
mod singleton;

/// Moving over from go-micro: its interfaces, options, wrappers, flags and variables, and their
/// names here.
#[doc = include_str!("../docs/from-go-micro.md")]
pub mod from_go_micro {}

/// The snippets of the repository's README, compiled with the doctests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
mod repository_readme {}

pub use self::client::{Client, ClientBuilder};
pub use self::drivers::{DriverSet, Interface, codecs, drivers};
pub use self::service::{Running, Service};
pub use self::settings::{SETTINGS, Setting, Settings};
pub use self::singleton::SingletonOptions;

pub use micro_client::{CallOptions, ClientOptions, Discovery};
pub use micro_codec_core::RawBytes;
pub use micro_core::{
    Clock, Context, Detail, Driver, Drivers, Env, Error, ErrorKind, Identity, Live, Metadata,
    Result, Secret, StreamSender, Streaming, async_trait, url,
};
pub use micro_macros::{Message, service};
pub use micro_server::{Contract, Reflection, Routes};
pub use micro_transport_core::{
    Body, BudgetPolicy, ErrorExt, HedgeDelay, HedgePolicy, LimitPolicy, Limits, Middleware, Next,
    Policies, Policy, Request, Response, RetryPolicy, Stop, TlsIdentity,
};

/// How messages become bytes.
pub mod codec {
    #[cfg(feature = "codec-cbor")]
    #[doc(inline)]
    pub use micro_codec_cbor as cbor;
    #[doc(inline)]
    pub use micro_codec_core::*;
    #[cfg(feature = "codec-json")]
    #[doc(inline)]
    pub use micro_codec_json as json;
    #[cfg(feature = "codec-msgpack")]
    #[doc(inline)]
    pub use micro_codec_msgpack as msgpack;
    #[cfg(feature = "codec-proto")]
    #[doc(inline)]
    pub use micro_codec_proto as proto;
}

/// What a program is told from outside: one live, typed configuration of several sources.
pub mod config {
    #[cfg(feature = "config-args")]
    #[doc(inline)]
    pub use micro_config_args as args;
    #[doc(inline)]
    pub use micro_config_core::*;
    #[cfg(feature = "config-env")]
    #[doc(inline)]
    pub use micro_config_env as env;
    #[cfg(feature = "config-etcd")]
    #[doc(inline)]
    pub use micro_config_etcd as etcd;
    #[cfg(feature = "config-file")]
    #[doc(inline)]
    pub use micro_config_file as file;
    #[cfg(feature = "config-memory")]
    #[doc(inline)]
    pub use micro_config_memory as memory;
}

/// Publish and subscribe: [`Service::publisher`] and [`Service::subscribe`].
pub mod broker {
    #[doc(inline)]
    pub use micro_broker_core::*;
    #[cfg(feature = "broker-http")]
    #[doc(inline)]
    pub use micro_broker_http as http;
    #[cfg(feature = "broker-memory")]
    #[doc(inline)]
    pub use micro_broker_memory as memory;
    #[cfg(feature = "broker-nats")]
    #[doc(inline)]
    pub use micro_broker_nats as nats;
    #[cfg(feature = "broker-rabbitmq")]
    #[doc(inline)]
    pub use micro_broker_rabbitmq as rabbitmq;
    #[cfg(feature = "broker-redis")]
    #[doc(inline)]
    pub use micro_broker_redis as redis;
}

/// Records and messages in one step: [`Service::outbox`].
#[doc(inline)]
pub use micro_outbox as outbox;

/// Locks and leadership: [`Service::coordinator`] and [`Service::singleton`].
pub mod sync {
    #[cfg(feature = "sync-consul")]
    #[doc(inline)]
    pub use micro_sync_consul as consul;
    #[doc(inline)]
    pub use micro_sync_core::*;
    #[cfg(feature = "sync-etcd")]
    #[doc(inline)]
    pub use micro_sync_etcd as etcd;
    #[cfg(feature = "sync-memory")]
    #[doc(inline)]
    pub use micro_sync_memory as memory;
    #[cfg(feature = "sync-postgres")]
    #[doc(inline)]
    pub use micro_sync_postgres as postgres;
    #[cfg(feature = "sync-redis")]
    #[doc(inline)]
    pub use micro_sync_redis as redis;
}

/// How calls travel.
pub mod transport {
    #[doc(inline)]
    pub use micro_transport_core::*;
    #[cfg(feature = "transport-grpc")]
    #[doc(inline)]
    pub use micro_transport_grpc as grpc;
    #[cfg(feature = "transport-memory")]
    #[doc(inline)]
    pub use micro_transport_memory as memory;
}

/// Which nodes run a service.
pub mod registry {
    #[cfg(feature = "registry-consul")]
    #[doc(inline)]
    pub use micro_registry_consul as consul;
    #[doc(inline)]
    pub use micro_registry_core::*;
    #[cfg(feature = "registry-etcd")]
    #[doc(inline)]
    pub use micro_registry_etcd as etcd;
    #[cfg(feature = "registry-kubernetes")]
    #[doc(inline)]
    pub use micro_registry_kubernetes as kubernetes;
    #[cfg(feature = "registry-mdns")]
    #[doc(inline)]
    pub use micro_registry_mdns as mdns;
    #[cfg(feature = "registry-memory")]
    #[doc(inline)]
    pub use micro_registry_memory as memory;
    #[cfg(feature = "registry-nats")]
    #[doc(inline)]
    pub use micro_registry_nats as nats;
    #[cfg(feature = "registry-static")]
    #[doc(inline)]
    pub use micro_registry_static as r#static;
}

/// Which node takes the next call.
pub mod selector {
    #[doc(inline)]
    pub use micro_selector_core::*;
    #[cfg(feature = "selector-hash")]
    #[doc(inline)]
    pub use micro_selector_hash as hash;
    #[cfg(feature = "selector-p2c")]
    #[doc(inline)]
    pub use micro_selector_p2c as p2c;
    #[cfg(feature = "selector-random")]
    #[doc(inline)]
    pub use micro_selector_random as random;
    #[cfg(feature = "selector-roundrobin")]
    #[doc(inline)]
    pub use micro_selector_roundrobin as roundrobin;
}

/// Records by key.
pub mod store {
    #[cfg(feature = "store-cache")]
    #[doc(inline)]
    pub use micro_store_cache as cache;
    #[cfg(feature = "store-cockroach")]
    #[doc(inline)]
    pub use micro_store_cockroach as cockroach;
    #[doc(inline)]
    pub use micro_store_core::*;
    #[cfg(feature = "store-memory")]
    #[doc(inline)]
    pub use micro_store_memory as memory;
    #[cfg(feature = "store-redb")]
    #[doc(inline)]
    pub use micro_store_redb as redb;
    #[cfg(feature = "store-redis")]
    #[doc(inline)]
    pub use micro_store_redis as redis;
    #[cfg(feature = "store-sled")]
    #[doc(inline)]
    pub use micro_store_sled as sled;
}

/// Rate, concurrency and circuit limits as middleware.
#[doc(inline)]
pub use micro_limit as limit;
/// Certificates from PEM, and TLS configuration.
#[cfg(feature = "tls")]
#[doc(inline)]
pub use micro_tls as tls;
/// Any tower `Layer` as middleware.
#[cfg(feature = "tower")]
#[doc(inline)]
pub use micro_tower as tower;

/// Includes what `micro-build` made of the `.proto` files of a package.
///
/// ```text
/// pub mod greeter {
///     micro::include_proto!("greeter.v1");
/// }
/// ```
#[macro_export]
macro_rules! include_proto {
    ($package:tt) => {
        include!(concat!(env!("OUT_DIR"), "/", $package, ".rs"));
    };
}

#[cfg(feature = "proto-json")]
#[doc(hidden)]
#[macro_export]
macro_rules! __proto_json {
    ($($item:tt)*) => { $($item)* };
}

// Without the feature the messages of `micro-build` compile all the same, and speak protobuf only.
#[cfg(not(feature = "proto-json"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __proto_json {
    ($($item:tt)*) => {};
}

/// What generated code names. Not for people: it changes with the macros.
#[doc(hidden)]
pub mod __v1 {
    pub use crate::__proto_json as proto_json;
    pub use bytes;
    pub use micro_client::{Client, Method};
    pub use micro_codec_core as codec;
    pub use micro_codec_core::{Shape, shape};
    #[cfg(feature = "codec-proto")]
    pub use micro_codec_proto as proto;
    pub use micro_core::{Context, Error, Result, Streaming};
    pub use micro_macros::service;
    pub use micro_server::{Contract, Routes};
    pub use micro_transport_core::{ContractSpec, MethodKind, MethodSpec};
    #[cfg(feature = "proto-json")]
    pub use pbjson;
    pub use serde;
}
