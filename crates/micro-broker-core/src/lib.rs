#![doc = include_str!("../README.md")]
//!
//! # For users
//!
//! [`Publisher`] sends values of one type to one topic, and [`typed`] makes a handler of them.
//! [`handler`] takes messages as they are.
//!
//! # The promise
//!
//! - When `publish` returns, its [`Receipt`] says how far the message got. An error of kind
//!   [`OutcomeUnknown`](ErrorKind::OutcomeUnknown) means that it may have got anywhere; with any other,
//!   it has got nowhere. What is full refuses, with `ResourceExhausted`: nothing is dropped silently.
//! - A message is delivered to each group that was there when it was published, and to each subscriber
//!   without a group. With [`Class::AtLeastOnce`], that goes on until a handler of the group returns `Ok`.
//! - An `Err`, a panic, or a handler that outlives its acknowledgement deadline brings the message
//!   again, after a pause that grows. After [`max_deliveries`](SubscribeOptions::max_deliveries) it goes
//!   to the group's [dead-letter topic](Topic::dead_letter), with the reason and all that it had.
//!   Others do not wait for it.
//! - Messages of one key are handled by a group one at a time, and first delivered in the order in which
//!   they were published, as far as [`Capabilities::order`] says.
//! - With [`Capabilities::dedup`], a message whose id was published to the topic within that time is not
//!   published again.
//!
//! # For implementors
//!
//! Implement [`Broker`], a [`Driver`] that opens it by URL, and run the `broker` suite of
//! `micro-conformance`. [`prepare`] makes of what is given to [`Broker::publish`] what travels, or refuses
//! it, and [`check_subscription`] does so for [`Broker::subscribe`]. [`headers`] is how a message's
//! fields travel beside its body, and [`wire_name`] how its topic does. `micro-broker-delivery` runs
//! handlers. Wrappers must forward every method: put `#[deny(clippy::missing_trait_methods)]` on the impl.

mod broker;
mod check;
mod delivery;
pub mod headers;
mod message;
mod nack;
mod options;
mod receipt;
mod subscription;
mod topic;
mod typed;

pub use self::broker::{Broker, Capabilities, Class, Durability, Order};
pub use self::check::{
    MAX_BODY, MAX_CONCURRENCY, MAX_HOPS, MAX_ID, MAX_KEY, check_message, check_subscription,
    new_id, prepare, received_context,
};
pub use self::delivery::{Delivery, Handler, Progress, ProgressSink, handler};
pub use self::message::{DeadLetter, Message};
pub use self::nack::{NackExt, Verdict, after_failure};
pub use self::options::{
    Backoff, DeadLetters, PublishOptions, RemoveOptions, Start, SubscribeOptions,
};
pub use self::receipt::{Reach, Receipt};
pub use self::subscription::{Stopped, Subscription, SubscriptionControl};
pub use self::topic::{Group, MAX_GROUP, MAX_TOPIC, Topic, check_namespace, wire_name};
pub use self::typed::{Publisher, typed};
pub use micro_core::{
    Clock, Context, Driver, Drivers, Env, Error, ErrorKind, Metadata, Random, Result, TraceContext,
    Url, async_trait, url,
};
