//! Calls without a generated type.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use micro_codec_core::{Codec, Decode, Encode, SerdeSlot, erased_serde};
use micro_core::{Context, Error, Metadata, Result, Streaming};
use micro_registry_core::Node;
use micro_transport_core::{Body, HedgePolicy};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::{Client, Target};
use crate::method::{Started, one_message};
use crate::options::{CallOptions, Discovery};

macro_rules! how {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) => $with:ident;)*) => {
        $(
            $(#[$doc])*
            pub fn $name(mut self, $($arg: $type),*) -> Self {
                self.how.options = self.how.options.$with($($arg),*);
                self
            }
        )*
    };
}

macro_rules! setters {
    () => {
        how! {
            /// The time for the call.
            timeout(timeout: Duration) => with_timeout;
            /// The node's address, `host:port`, instead of discovery.
            address(address: impl Into<Arc<str>>) => with_address;
            /// Only nodes of this version.
            version(version: impl Into<Arc<str>>) => with_version;
            /// Only nodes whose metadata say `name` = `value`.
            label(name: impl Into<String>, value: impl Into<String>) => with_label;
            /// The most repetitions.
            retries(retries: u32) => with_retries;
            /// Whether the call may be repeated though it may have run.
            idempotent(idempotent: bool) => with_idempotent;
            /// When the call, if it is idempotent, is made on a second node as well.
            hedge(hedge: HedgePolicy) => with_hedge;
            /// Calls of the same key keep to one node, if the selector can.
            key(key: u64) => with_key;
            /// What the call does while no node is known.
            discovery(discovery: Discovery) => with_discovery;
        }

        /// Only nodes for which `filter` returns true.
        pub fn filter(mut self, filter: impl Fn(&Node) -> bool + Send + Sync + 'static) -> Self {
            self.how.options = self
                .how
                .options
                .with_filter(move |entry| filter(entry.node()));
            self
        }

        /// Adds a pair to what is sent with the call; a bad one fails it.
        pub fn metadata(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
            if let Err(err) = self.how.metadata.insert(name, value) {
                self.how.bad = Some(err);
            }
            self
        }
    };
}

/// Where and how a call goes.
struct How {
    client: Client,
    service: Arc<str>,
    path: Arc<str>,
    options: CallOptions,
    metadata: Metadata,
    bad: Option<Error>,
}

impl How {
    fn new(client: Client, service: &str, endpoint: &str) -> Self {
        Self {
            options: CallOptions::clone(client.options()),
            service: service.into(),
            path: path(service, endpoint).into(),
            metadata: Metadata::new(),
            bad: None,
            client,
        }
    }

    fn context(&mut self, cx: &Context) -> Result<Context> {
        if let Some(bad) = self.bad.take() {
            return Err(bad);
        }
        if self.metadata.is_empty() {
            return Ok(cx.clone());
        }
        let mut outgoing = cx.outgoing().clone();
        outgoing.extend(&self.metadata)?;
        Ok(cx.clone().with_outgoing(outgoing))
    }

    fn target(&self) -> Target<'_> {
        Target {
            service: &self.service,
            path: &self.path,
            idempotent: false,
            options: &self.options,
            entry: None,
        }
    }
}

/// `Contract.Method` of a service as a path; what begins with `/` or has another form is taken as
/// it is. (go-micro's rule.)
fn path(service: &str, endpoint: &str) -> String {
    let parts: Vec<&str> = endpoint.split('.').collect();
    match parts[..] {
        [contract, method] if !endpoint.starts_with('/') => {
            let package = micro_transport_core::ContractSpec::new("", "", &[]).package_for(service);
            if package.is_empty() {
                format!("/{contract}/{method}")
            } else {
                format!("/{package}.{contract}/{method}")
            }
        }
        _ => endpoint.to_owned(),
    }
}

/// A call without a generated type, of messages that serde knows; made by [`Client::call`].
///
/// It travels as JSON unless [`content_type`](Self::content_type) names another codec.
#[must_use = "a call is made by send"]
pub struct Call<'a, Q, R> {
    how: How,
    message: &'a Q,
    reply: PhantomData<fn() -> R>,
}

impl<'a, Q, R> Call<'a, Q, R>
where
    Q: Serialize + Sync,
    R: DeserializeOwned + Send + 'static,
{
    pub(crate) fn new(client: Client, service: &str, endpoint: &str, message: &'a Q) -> Self {
        Self {
            how: How::new(client, service, endpoint),
            message,
            reply: PhantomData,
        }
    }

    setters!();

    /// The content type that the messages travel in.
    pub fn content_type(mut self, content_type: impl Into<Cow<'static, str>>) -> Self {
        self.how.options = self.how.options.with_content_type(content_type);
        self
    }

    /// Makes the call: one request, one reply.
    ///
    /// # Errors
    ///
    /// As [`Method::unary`](crate::Method::unary).
    pub async fn send(mut self, cx: &Context) -> Result<R> {
        let cx = self.how.context(cx)?;
        let (codec, body) = self.encode()?;
        let content_type = Cow::Borrowed(codec.content_type());
        let client = &self.how.client;
        let response = client
            .exchange(&cx, self.how.target(), content_type, body)
            .await?;
        let codec = client.inner().options.codecs.get(&response.content_type)?;
        read(&**codec, one_message(response.body).await?)
    }

    /// Makes the call: one request, many replies.
    ///
    /// # Errors
    ///
    /// As [`Method::server_streaming`](crate::Method::server_streaming).
    pub async fn stream(mut self, cx: &Context) -> Result<Streaming<R>> {
        let cx = self.how.context(cx)?;
        let (codec, body) = self.encode()?;
        let content_type = Cow::Borrowed(codec.content_type());
        let client = &self.how.client;
        let response = client
            .exchange(&cx, self.how.target(), content_type, body)
            .await?;
        let codec = Arc::clone(client.inner().options.codecs.get(&response.content_type)?);
        let Body::Stream(messages) = response.body else {
            let message = one_message(response.body).await?;
            let reply = read(&*codec, message);
            return Ok(Streaming::new(futures_util::stream::once(async { reply })));
        };
        Ok(Streaming::new(
            messages.map(move |message| read(&*codec, message?)),
        ))
    }

    fn encode(&self) -> Result<(Arc<dyn Codec>, Body)> {
        let content_type = self.how.options.content_type.as_deref();
        let codecs = &self.how.client.inner().options.codecs;
        let codec = codecs.get(content_type.unwrap_or("application/json"))?;
        let mut out = BytesMut::with_capacity(128);
        codec.encode(Encode::new(Some(self.message), None), &mut out)?;
        Ok((Arc::clone(codec), Body::Message(out.freeze())))
    }
}

fn read<R: DeserializeOwned>(codec: &dyn Codec, message: Bytes) -> Result<R> {
    let mut slot = Slot(None);
    codec
        .decode(message, Decode::new(Some(&mut slot), None))
        .map_err(|err| {
            Error::internal(format!("the reply cannot be read: {}", err.message()))
                .with_operation("client.decode")
                .with_source(err)
        })?;
    slot.0
        .ok_or_else(|| Error::internal("the codec filled no view of the message"))
}

/// A type that can only be read need not be `Serialize`, as `Shape` would have it.
struct Slot<R>(Option<R>);

impl<R: DeserializeOwned> SerdeSlot for Slot<R> {
    fn fill(&mut self, from: &mut dyn erased_serde::Deserializer<'_>) -> Result<()> {
        let value = erased_serde::deserialize(from)
            .map_err(|err| Error::invalid_argument(err.to_string()))?;
        self.0 = Some(value);
        Ok(())
    }
}

impl<Q, R> fmt::Debug for Call<'_, Q, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("service", &self.how.service)
            .field("path", &self.how.path)
            .finish_non_exhaustive()
    }
}

/// A call without any type: encoded bytes in and out; made by [`Client::call_raw`].
#[must_use = "a call is made by send"]
pub struct RawCall {
    how: How,
    content_type: Cow<'static, str>,
    body: Body,
}

impl RawCall {
    pub(crate) fn new(
        client: Client,
        service: &str,
        endpoint: &str,
        content_type: Cow<'static, str>,
        message: Bytes,
    ) -> Self {
        Self {
            how: How::new(client, service, endpoint),
            content_type,
            body: Body::Message(message),
        }
    }

    setters!();

    /// Sends these messages instead of the one.
    pub fn messages(mut self, messages: Streaming<Bytes>) -> Self {
        self.body = Body::Stream(Box::pin(messages));
        self
    }

    /// Makes the call and reads one reply.
    ///
    /// # Errors
    ///
    /// As [`Method::unary`](crate::Method::unary).
    pub async fn send(self, cx: &Context) -> Result<Bytes> {
        one_message(self.exchange(cx).await?).await
    }

    /// Makes the call and reads any number of replies.
    ///
    /// # Errors
    ///
    /// As [`Method::server_streaming`](crate::Method::server_streaming).
    pub async fn stream(mut self, cx: &Context) -> Result<Streaming<Bytes>> {
        let (started, body) = Started::watch(self.body);
        self.body = body;
        let cx = cx.clone();
        let replies = Box::pin(async move {
            match self.exchange(&cx).await? {
                Body::Stream(messages) => Ok(Streaming::new(messages)),
                body => {
                    let message = one_message(body).await;
                    Ok(Streaming::new(futures_util::stream::once(async {
                        message
                    })))
                }
            }
        });
        started.or(replies).await
    }

    async fn exchange(mut self, cx: &Context) -> Result<Body> {
        let cx = self.how.context(cx)?;
        let client = &self.how.client;
        let response = client
            .exchange(&cx, self.how.target(), self.content_type, self.body)
            .await?;
        Ok(response.body)
    }
}

impl fmt::Debug for RawCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawCall")
            .field("service", &self.how.service)
            .field("path", &self.how.path)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_become_paths_as_in_go_micro() {
        for (service, endpoint, expected) in [
            (
                "helloworld",
                "Greeter.SayHello",
                "/helloworld.Greeter/SayHello",
            ),
            ("", "Greeter.SayHello", "/Greeter/SayHello"),
            (
                "helloworld",
                "/helloworld.Greeter/SayHello",
                "/helloworld.Greeter/SayHello",
            ),
            (
                "go.micro.srv.greeter",
                "Say.Hello",
                "/go.micro.srv.greeter.Say/Hello",
            ),
        ] {
            assert_eq!(path(service, endpoint), expected);
        }
    }
}
