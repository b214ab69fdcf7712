#![doc = include_str!("../README.md")]

mod client;
mod config;
mod error;
mod kv;
mod lease;
mod link;
#[cfg(feature = "tls")]
mod tls;
mod watch;

#[path = "generated/etcdserverpb.rs"]
mod etcdserverpb;
#[path = "generated/mvccpb.rs"]
mod mvccpb;

pub use self::client::Client;
pub use self::config::EtcdConfig;
pub use self::kv::{
    Committed, Compare, Done, Found, KeyValue, Keys, Op, Position, RangeOptions, Txn,
};
pub use self::lease::Lease;
pub use self::watch::{Change, Watch, WatchEvent};
