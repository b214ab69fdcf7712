//! Messages in streams: a stream for each topic, a durable consumer for each group.

mod api;
mod consumer;
mod feed;
mod hold;
mod member;
mod quarantine;
mod streams;
mod wire;

pub(crate) use self::member::subscribe;
pub(crate) use self::streams::Streams;
