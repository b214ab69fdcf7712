//! The backends that come with micro, and how a stranger's join them.

use micro_broker_core::Broker;
use micro_config_core::Source;
use micro_core::{Driver, Drivers};
use micro_registry_core::Registry;
use micro_selector_core::Selector;
use micro_store_core::Store;
use micro_sync_core::Coordinator;
use micro_transport_core::Transport;

/// The drivers of every interface: what [`drivers`] returns.
///
/// ```
/// use micro::drivers;
///
/// let set = drivers();
/// assert!(set.registry.schemes().any(|scheme| scheme == "mdns"));
///
/// // A stranger's backend joins in the same way as ours, and is chosen by its URL.
/// # use micro::registry::memory::MemoryDriver as StrangersDriver;
/// let set = set.with(StrangersDriver::default());
/// let service = micro::Service::new("greeter").drivers(set).registry_url("memory");
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DriverSet {
    /// Publish and subscribe.
    pub broker: Drivers<dyn Broker>,
    /// Sources of configuration.
    pub config: Drivers<dyn Source>,
    /// Service discovery.
    pub registry: Drivers<dyn Registry>,
    /// Data storage.
    pub store: Drivers<dyn Store>,
    /// Locks and leadership.
    pub sync: Drivers<dyn Coordinator>,
    /// How calls travel.
    pub transport: Drivers<dyn Transport>,
    /// Load balancing.
    pub selector: Drivers<dyn Selector>,
}

impl DriverSet {
    /// No drivers at all.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a driver; for a scheme already taken, the last one wins.
    ///
    /// A driver of several interfaces is added once for each: `.with::<dyn Registry>(driver)`.
    #[must_use]
    pub fn with<I: Interface + ?Sized>(self, driver: impl Driver<I>) -> Self {
        I::add(self, driver)
    }
}

/// An interface whose backends are opened by URL. It cannot be implemented by hand.
pub trait Interface: sealed::Sealed + Send + Sync + 'static {
    #[doc(hidden)]
    fn add(set: DriverSet, driver: impl Driver<Self>) -> DriverSet;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! interfaces {
    ($($interface:ident: $field:ident),*) => {
        $(
            impl sealed::Sealed for dyn $interface {}
            impl Interface for dyn $interface {
                fn add(mut set: DriverSet, driver: impl Driver<Self>) -> DriverSet {
                    set.$field = set.$field.with(driver);
                    set
                }
            }
        )*
    };
}

interfaces!(
    Broker: broker,
    Source: config,
    Registry: registry,
    Store: store,
    Coordinator: sync,
    Transport: transport,
    Selector: selector
);

/// The backends that this program was built with.
///
/// A scheme whose backend comes with micro but was not compiled in is refused with the name of the
/// feature to add.
#[must_use]
pub fn drivers() -> DriverSet {
    let mut set = DriverSet::new();
    // Named first, so that a driver that is there answers instead.
    for (scheme, feature) in [
        ("amqp", "broker-rabbitmq"),
        ("amqps", "broker-rabbitmq"),
        ("http", "broker-http"),
        ("https", "broker-http"),
        ("memory", "broker-memory"),
        ("rabbitmq", "broker-rabbitmq"),
        ("nats", "broker-nats"),
        ("redis", "broker-redis"),
        ("rediss", "broker-redis"),
    ] {
        set.broker = set.broker.with_feature(scheme, feature);
    }
    for (scheme, feature) in [
        ("cockroach", "sync-postgres"),
        ("cockroachdb", "sync-postgres"),
        ("consul", "sync-consul"),
        ("etcd", "sync-etcd"),
        ("memory", "sync-memory"),
        ("postgres", "sync-postgres"),
        ("postgresql", "sync-postgres"),
        ("redis", "sync-redis"),
        ("rediss", "sync-redis"),
    ] {
        set.sync = set.sync.with_feature(scheme, feature);
    }
    for (scheme, feature) in [
        ("args", "config-args"),
        ("env", "config-env"),
        ("etcd", "config-etcd"),
        ("file", "config-file"),
        ("memory", "config-memory"),
    ] {
        set.config = set.config.with_feature(scheme, feature);
    }
    for (scheme, feature) in [
        ("consul", "registry-consul"),
        ("etcd", "registry-etcd"),
        ("kubernetes", "registry-kubernetes"),
        ("mdns", "registry-mdns"),
        ("memory", "registry-memory"),
        ("nats", "registry-nats"),
        ("static", "registry-static"),
    ] {
        set.registry = set.registry.with_feature(scheme, feature);
    }
    for (scheme, feature) in [
        ("cockroach", "store-cockroach"),
        ("cockroachdb", "store-cockroach"),
        ("file", "store-redb"),
        ("memory", "store-memory"),
        ("postgres", "store-cockroach"),
        ("postgresql", "store-cockroach"),
        ("redb", "store-redb"),
        ("redis", "store-redis"),
        ("rediss", "store-redis"),
        ("sled", "store-sled"),
    ] {
        set.store = set.store.with_feature(scheme, feature);
    }
    for (scheme, feature) in [("grpc", "transport-grpc"), ("memory", "transport-memory")] {
        set.transport = set.transport.with_feature(scheme, feature);
    }
    for (scheme, feature) in [
        ("p2c", "selector-p2c"),
        ("random", "selector-random"),
        ("roundrobin", "selector-roundrobin"),
        ("hash", "selector-hash"),
    ] {
        set.selector = set.selector.with_feature(scheme, feature);
    }
    #[cfg(feature = "broker-http")]
    let set = set.with(crate::mount::MountingDriver);
    #[cfg(feature = "broker-memory")]
    let set = set.with(micro_broker_memory::MemoryDriver::new());
    #[cfg(feature = "broker-rabbitmq")]
    let set = set.with(micro_broker_rabbitmq::RabbitDriver::default());
    #[cfg(feature = "broker-nats")]
    let set = set.with(micro_broker_nats::NatsDriver::default());
    #[cfg(feature = "broker-redis")]
    let set = set.with(micro_broker_redis::RedisDriver::default());
    #[cfg(feature = "config-args")]
    let set = set.with(micro_config_args::ArgsDriver);
    #[cfg(feature = "config-env")]
    let set = set.with(micro_config_env::EnvDriver);
    #[cfg(feature = "config-etcd")]
    let set = set.with(micro_config_etcd::EtcdDriver::default());
    #[cfg(feature = "config-file")]
    let set = set.with(micro_config_file::FileDriver);
    #[cfg(feature = "config-memory")]
    let set = set.with(micro_config_memory::MemoryDriver::default());
    #[cfg(feature = "registry-consul")]
    let set = set.with(micro_registry_consul::ConsulDriver);
    #[cfg(feature = "registry-etcd")]
    let set = set.with(micro_registry_etcd::EtcdDriver::default());
    #[cfg(feature = "registry-kubernetes")]
    let set = set.with(micro_registry_kubernetes::KubernetesDriver);
    #[cfg(feature = "registry-nats")]
    let set = set.with(micro_registry_nats::NatsDriver);
    #[cfg(feature = "registry-static")]
    let set = set.with(micro_registry_static::StaticDriver);
    #[cfg(feature = "registry-mdns")]
    let set = set.with(micro_registry_mdns::MdnsDriver);
    #[cfg(feature = "registry-memory")]
    let set = set.with(micro_registry_memory::MemoryDriver::default());
    #[cfg(feature = "store-cockroach")]
    let set = set.with(micro_store_cockroach::CockroachDriver);
    #[cfg(feature = "store-memory")]
    let set = set.with(micro_store_memory::MemoryDriver::new());
    #[cfg(feature = "store-redb")]
    let set = set.with(micro_store_redb::RedbDriver::new());
    #[cfg(feature = "store-redis")]
    let set = set.with(micro_store_redis::RedisDriver);
    #[cfg(feature = "store-sled")]
    let set = set.with(micro_store_sled::SledDriver::new());
    #[cfg(feature = "sync-consul")]
    let set = set.with(micro_sync_consul::ConsulDriver::default());
    #[cfg(feature = "sync-etcd")]
    let set = set.with(micro_sync_etcd::EtcdDriver::default());
    #[cfg(feature = "sync-memory")]
    let set = set.with(micro_sync_memory::MemoryDriver::new());
    #[cfg(feature = "sync-postgres")]
    let set = set.with(micro_sync_postgres::PostgresDriver::default());
    #[cfg(feature = "sync-redis")]
    let set = set.with(micro_sync_redis::RedisDriver::default());
    #[cfg(feature = "transport-grpc")]
    let set = set.with(micro_transport_grpc::GrpcDriver);
    #[cfg(feature = "transport-memory")]
    let set = set.with(micro_transport_memory::MemoryDriver::default());
    #[cfg(feature = "selector-p2c")]
    let set = set.with(micro_selector_p2c::P2cDriver);
    #[cfg(feature = "selector-random")]
    let set = set.with(micro_selector_random::RandomDriver);
    #[cfg(feature = "selector-roundrobin")]
    let set = set.with(micro_selector_roundrobin::RoundRobinDriver);
    #[cfg(feature = "selector-hash")]
    let set = set.with(micro_selector_hash::HashDriver);
    set
}

/// The codecs that this program was built with.
#[must_use]
pub fn codecs() -> micro_codec_core::Codecs {
    let codecs = micro_codec_core::Codecs::new();
    #[cfg(feature = "codec-json")]
    let codecs = codecs.with(micro_codec_json::Json);
    #[cfg(feature = "codec-proto")]
    let codecs = codecs.with(micro_codec_proto::Proto);
    #[cfg(feature = "codec-msgpack")]
    let codecs = codecs.with(micro_codec_msgpack::MsgPack);
    #[cfg(feature = "codec-cbor")]
    let codecs = codecs.with(micro_codec_cbor::Cbor);
    codecs
}
