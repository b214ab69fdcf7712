//! The client.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use arc_swap::ArcSwap;
use bytes::Bytes;
use micro_codec_core::{Codec, Shape};
use micro_core::{Context, Error, Live, Metadata, Result, TraceContext};
use micro_registry_cache::{Resolver, ResolverOptions};
use micro_registry_core::Registry;
use micro_selector_core::Selector;
use micro_transport_core::{
    Body, BudgetPolicy, ContractSpec, HedgeDelay, MethodSpec, Next, Policy, Request, Response,
    Transport,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::budget::Budget;
use crate::call::{Call, RawCall};
use crate::dispatch::Dispatch;
use crate::entry::ServiceEntry;
use crate::latency;
use crate::method::Method;
use crate::options::{CallOptions, ClientOptions};
use crate::retry::{Attempts, Plan};
use crate::ticks::Ticks;

/// Makes calls to services by their names. It is cheap to clone; clones share everything.
///
/// Its tasks (discovery, connections) end when the last clone is dropped.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    options: Arc<CallOptions>,
}

/// What connecting needs, shared with the tasks that do it.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) options: Arc<ClientOptions>,
}

pub(crate) struct Inner {
    pub(crate) parts: Arc<Parts>,
    pub(crate) options: Arc<ClientOptions>,
    pub(crate) selector: Arc<dyn Selector>,
    pub(crate) budget: Budget,
    pub(crate) ticks: Ticks,
    latencies: latency::Table,
    resolver: Resolver,
    /// Read on every call, replaced when a new service is called.
    entries: ArcSwap<HashMap<Arc<str>, Arc<ServiceEntry>>>,
    adding: Mutex<()>,
    /// What is sent with every call.
    from_service: Metadata,
}

/// The most services and addresses that a client keeps in mind.
const MOST_ENTRIES: usize = 1024;

impl Client {
    /// A client of these parts.
    #[must_use]
    pub fn new(
        registry: Arc<dyn Registry>,
        transport: Arc<dyn Transport>,
        selector: Arc<dyn Selector>,
        options: ClientOptions,
    ) -> Self {
        let resolver = Resolver::new(
            Arc::clone(&registry),
            ResolverOptions::default()
                // Above our own bound, which forgets what nobody calls.
                .with_max_services(2 * MOST_ENTRIES)
                .with_clock(Arc::clone(&options.clock))
                .with_random(Arc::clone(&options.random)),
        );
        let budget = Budget::new(options.clock.now());
        let from_service = from_service(options.name.as_deref());
        let options = Arc::new(options);
        Self {
            inner: Arc::new(Inner {
                parts: Arc::new(Parts {
                    registry,
                    transport,
                    options: Arc::clone(&options),
                }),
                options,
                selector,
                budget,
                ticks: Ticks::default(),
                latencies: latency::Table::default(),
                resolver,
                entries: ArcSwap::default(),
                adding: Mutex::default(),
                from_service,
            }),
            options: Arc::default(),
        }
    }

    /// The same client, making calls in another way: a filter, a timeout, a content type.
    ///
    /// ```no_run
    /// # fn f(client: micro_client::Client) {
    /// use micro_client::CallOptions;
    /// let canary = client.with_options(CallOptions::new().with_version("v2"));
    /// # }
    /// ```
    #[must_use]
    pub fn with_options(&self, options: CallOptions) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            options: Arc::new(options),
        }
    }

    /// The registry that names are resolved with.
    #[must_use]
    pub fn registry(&self) -> &Arc<dyn Registry> {
        &self.inner.parts.registry
    }

    /// One method of one service: what generated clients are made of.
    #[must_use]
    pub fn method(
        &self,
        service: &str,
        contract: &'static ContractSpec,
        method: &'static MethodSpec,
    ) -> Method {
        let path = contract.path_for(service, method);
        Method::new(self.clone(), service.into(), path.into(), method.idempotent)
    }

    /// A call without a generated type, of messages that serde knows.
    ///
    /// `endpoint` is `Contract.Method`, or a full path `/package.Contract/Method`.
    pub fn call<'a, Q, R>(&self, service: &str, endpoint: &str, message: &'a Q) -> Call<'a, Q, R>
    where
        Q: Serialize + Sync,
        R: DeserializeOwned + Send + 'static,
    {
        Call::new(self.clone(), service, endpoint, message)
    }

    /// A call without any type: encoded bytes of the given content type, in and out.
    pub fn call_raw(
        &self,
        service: &str,
        endpoint: &str,
        content_type: impl Into<Cow<'static, str>>,
        message: Bytes,
    ) -> RawCall {
        RawCall::new(
            self.clone(),
            service,
            endpoint,
            content_type.into(),
            message,
        )
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    pub(crate) fn options(&self) -> &Arc<CallOptions> {
        &self.options
    }

    /// Makes a call: everything but encoding and decoding.
    pub(crate) async fn exchange(
        &self,
        cx: &Context,
        target: Target<'_>,
        content_type: Cow<'static, str>,
        body: Body,
    ) -> Result<Response> {
        let inner = &*self.inner;
        let options = target.options;
        let stated = inner.options.policies.as_ref().map(Live::get);
        let (policy, budget) = match &stated {
            None => (Policy::default(), BudgetPolicy::default()),
            Some(policies) => {
                let found = policies.of(target.service, target.path);
                let policy = found.map_or_else(Policy::default, |found| found.policy);
                (policy, policies.budget())
            }
        };
        drop(stated);
        let timed;
        let streams = matches!(body, Body::Stream(_));
        let cx = match self.timeout(cx, options, &policy, streams) {
            Some(timeout) => {
                timed = cx.clone().with_timeout(timeout);
                &timed
            }
            None => cx,
        };
        cx.check()?;
        let entry = inner.entry(&target)?;
        let mut request = Request::new(Arc::clone(target.path), content_type, body)
            .with_metadata(inner.metadata(cx)?);
        if !inner.options.middleware.is_empty() {
            request = request.with_service(Arc::clone(target.service));
        }
        let retries = options
            .retries
            .or(policy
                .retry
                .attempts
                .map(|attempts| attempts.saturating_sub(1)))
            .unwrap_or(inner.options.retries);
        let idempotent = options.idempotent.unwrap_or(target.idempotent);
        let mut plan = Plan::new(retries, policy.retry, idempotent)
            .hedged(cx, options.hedge.unwrap_or(policy.hedge));
        plan.budget = budget;
        let by_percentile = matches!(plan.hedge, Some(HedgeDelay::P95 | HedgeDelay::P99));
        let end = Attempts {
            latencies: by_percentile
                .then(|| inner.latencies.of(target.service, target.path, cx.now())),
            dispatch: Dispatch::new(inner, &entry, options).hedged(plan.hedge.is_some()),
            plan,
        };
        let response = Next::new(&inner.options.middleware, &end)
            .run(cx, request)
            .await?;
        cx.receive(|| received(&response));
        Ok(response)
    }

    /// The timeout to add, if any: the call's own, the policy's, or the client's for calls without
    /// a deadline.
    fn timeout(
        &self,
        cx: &Context,
        options: &CallOptions,
        policy: &Policy,
        streams: bool,
    ) -> Option<std::time::Duration> {
        if options.timeout.is_some() || streams {
            return options.timeout;
        }
        let default = cx
            .deadline()
            .is_none()
            .then_some(self.inner.options.timeout);
        policy.timeout.or(default)
    }

    /// The codec for a pair of message types.
    pub(crate) fn codec<Q, R>(
        &self,
        options: &CallOptions,
        request: Shape<Q>,
        reply: Shape<R>,
    ) -> Result<&Arc<dyn Codec>> {
        let codecs = &self.inner.options.codecs;
        if let Some(content_type) = &options.content_type {
            return codecs.get(content_type);
        }
        let proto =
            (request.has_proto() || request.is_raw()) && (reply.has_proto() || reply.is_raw());
        let content_type = match (request.is_raw() && reply.is_raw(), proto) {
            (true, _) => "application/octet-stream",
            (false, true) => "application/protobuf",
            (false, false) => "application/json",
        };
        codecs.get(content_type)
    }
}

/// What ahead of and behind the reply is known when the call returns.
fn received(response: &Response) -> Metadata {
    let mut metadata = response.metadata.clone();
    if let Some(trailers) = response.trailers.get() {
        // Both are within the bounds; what does not fit in one set is left out.
        let _ = metadata.extend(trailers);
    }
    metadata
}

/// Where a call goes.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) service: &'a Arc<str>,
    pub(crate) path: &'a Arc<str>,
    pub(crate) idempotent: bool,
    pub(crate) options: &'a CallOptions,
    /// Where the service's entry is kept by who makes the same call again and again.
    pub(crate) entry: Option<&'a OnceLock<Weak<ServiceEntry>>>,
}

impl Inner {
    /// What is known of the service: one atomic load and one look-up, at most.
    fn entry(&self, target: &Target<'_>) -> Result<Arc<ServiceEntry>> {
        if let Some(entry) = target.entry.and_then(OnceLock::get).and_then(Weak::upgrade) {
            return Ok(entry);
        }
        let key = target.options.address.as_ref().unwrap_or(target.service);
        // A service's name has no colon, an address has one: the two do not mix.
        let known = self.entries.load().get(key).cloned();
        let entry = match known {
            Some(entry) => entry,
            None => self.add(target.service, target.options)?,
        };
        if let Some(kept) = target.entry {
            // One that was forgotten since is looked up each time: that is seldom, and no error.
            let _ = kept.set(Arc::downgrade(&entry));
        }
        Ok(entry)
    }

    #[cold]
    fn add(&self, service: &Arc<str>, options: &CallOptions) -> Result<Arc<ServiceEntry>> {
        let _one = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entries = HashMap::clone(&self.entries.load());
        let key = options.address.as_ref().unwrap_or(service);
        if let Some(entry) = entries.get(key) {
            return Ok(Arc::clone(entry));
        }
        let entry = match &options.address {
            Some(address) if address.contains(':') => ServiceEntry::at(address, self),
            Some(address) => {
                return Err(Error::invalid_argument("an address is 'host:port'")
                    .with_operation("client.call")
                    .with_context("address", address));
            }
            None => ServiceEntry::discovered(Arc::clone(service), self.resolver.service(service)?),
        };
        let entry = Arc::new(entry);
        if entries.len() >= MOST_ENTRIES {
            // What nobody calls just now can be found again.
            entries.retain(|_, entry| Arc::strong_count(entry) > 2);
        }
        entries.insert(Arc::clone(key), Arc::clone(&entry));
        self.entries.store(Arc::new(entries));
        Ok(entry)
    }

    fn metadata(&self, cx: &Context) -> Result<Metadata> {
        let mut metadata = self.from_service.clone();
        // First what is the client's, then the call's pairs, which are shared and not copied.
        if let Some(trace) = cx.trace()
            && !cx.outgoing().contains(TraceContext::HEADER)
        {
            let trace = trace.child(&*self.options.random).encode();
            metadata.append_bytes(
                Bytes::from_static(TraceContext::HEADER.as_bytes()),
                Bytes::copy_from_slice(&trace),
            )?;
        }
        metadata.extend(cx.outgoing())?;
        Ok(metadata)
    }
}

/// A name that cannot travel is left out: the service's own start has refused it.
fn from_service(name: Option<&str>) -> Metadata {
    let mut metadata = Metadata::new();
    if let Some(name) = name {
        let _ = metadata.insert("micro-from-service", name);
    }
    metadata
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("registry", &self.inner.parts.registry.backend())
            .field("transport", &self.inner.parts.transport.backend())
            .field("selector", &self.inner.selector.backend())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").finish_non_exhaustive()
    }
}

// A client is shared freely among tasks.
const _: fn() = || {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Client>();
};
