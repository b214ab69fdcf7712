//! A client with its backends.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use micro_broker_core::Broker;
use micro_codec_core::Codec;
use micro_config_core::{Source, Unseal};
use micro_core::{Env, Error, Live, Result};
use micro_registry_core::Registry;
use micro_selector_core::Selector;
use micro_transport_core::{Limits, Middleware, Policies, TlsIdentity, Transport};

use crate::backends::{Backends, Wishes};
use crate::{DriverSet, Settings};

/// Makes calls to services by their names.
///
/// It derefs to [`micro_client::Client`], where its methods are; generated clients take either.
///
/// ```no_run
/// # async fn f() -> micro::Result<()> {
/// use micro::{Client, Context};
///
/// let client = Client::from_env().await?;
/// let reply: String = client
///     .call("greeter", "Greeter.Hello", &"Ada")
///     .send(&Context::new())
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    client: micro_client::Client,
    /// What else its program has open, unless it was made of a client alone.
    backends: Option<Arc<Backends>>,
}

impl Client {
    /// A client as the `MICRO_…` variables say: the backends this program was built with, and
    /// without any variable multicast DNS, gRPC and power of two choices.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a variable that cannot be read, and whatever opening a backend says.
    pub async fn from_env() -> Result<Self> {
        Self::from_env_with(crate::drivers()).await
    }

    /// [`from_env`](Self::from_env) with drivers of one's own choice.
    ///
    /// # Errors
    ///
    /// As [`from_env`](Self::from_env).
    pub async fn from_env_with(drivers: DriverSet) -> Result<Self> {
        Self::from_settings(Settings::from_env()?, drivers).await
    }

    /// A client as these settings say.
    ///
    /// # Errors
    ///
    /// As [`from_env`](Self::from_env).
    pub async fn from_settings(settings: Settings, drivers: DriverSet) -> Result<Self> {
        Self::builder()
            .settings(settings)
            .drivers(drivers)
            .build()
            .await
    }

    pub(crate) fn new(client: micro_client::Client, backends: Arc<Backends>) -> Self {
        Self {
            client,
            backends: Some(backends),
        }
    }

    pub(crate) fn backends(&self) -> Result<&Backends> {
        self.backends.as_deref().ok_or_else(|| {
            Error::failed_precondition(
                "this client was made of a micro_client::Client, and has no broker: take one of Client::builder or of a service",
            )
            .with_operation("client.broker")
        })
    }

    /// A client as code says; the `MICRO_…` variables outweigh it, as for a
    /// [`Service`](crate::Service).
    ///
    /// ```no_run
    /// # async fn f() -> micro::Result<()> {
    /// let client = micro::Client::builder()
    ///     .registry_url("mdns:?interface=lo")
    ///     .timeout(std::time::Duration::from_secs(2))
    ///     .build()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }
}

/// Makes a [`Client`]; begun by [`Client::builder`].
#[derive(Debug, Default)]
#[must_use = "a builder does nothing before build"]
pub struct ClientBuilder {
    wishes: Wishes,
    settings: Option<Settings>,
    drivers: Option<DriverSet>,
}

impl ClientBuilder {
    /// Sets the name of the caller, sent as `micro-from-service`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.wishes.name = Some(name.into());
        self
    }

    /// Sets the namespace, which separates fleets.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.wishes.namespace = Some(namespace.into());
        self
    }

    /// Adds a source of configuration by URL; see [`Service::config_url`](crate::Service::config_url).
    pub fn config_url(mut self, url: impl Into<String>) -> Self {
        self.wishes.config_urls.push(url.into());
        self
    }

    /// Adds a source of configuration: this very one, whatever `MICRO_CONFIG` says.
    pub fn with_config_source(mut self, source: impl Source) -> Self {
        self.wishes.config_sources.push(Arc::new(source));
        self
    }

    /// Opens sealed values of the configuration with this; see
    /// [`Service::config_unseal`](crate::Service::config_unseal).
    pub fn config_unseal(mut self, unseal: impl Unseal) -> Self {
        self.wishes.config_unseal = Some(Arc::new(unseal));
        self
    }

    /// Sets the registry by URL.
    pub fn registry_url(mut self, url: impl Into<String>) -> Self {
        self.wishes.registry_url = Some(url.into());
        self
    }

    /// Sets the registry: this very one, whatever `MICRO_REGISTRY` says.
    pub fn with_registry(mut self, registry: Arc<dyn Registry>) -> Self {
        self.wishes.registry = Some(registry);
        self
    }

    /// Sets the broker by URL.
    pub fn broker_url(mut self, url: impl Into<String>) -> Self {
        self.wishes.broker_url = Some(url.into());
        self
    }

    /// Sets the broker: this very one, whatever `MICRO_BROKER` says.
    pub fn with_broker(mut self, broker: Arc<dyn Broker>) -> Self {
        self.wishes.broker = Some(broker);
        self
    }

    /// Sets the transport by URL.
    pub fn transport_url(mut self, url: impl Into<String>) -> Self {
        self.wishes.transport_url = Some(url.into());
        self
    }

    /// Sets the transport: this very one, whatever `MICRO_TRANSPORT` says.
    pub fn with_transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.wishes.transport = Some(transport);
        self
    }

    /// Sets the balancing strategy by URL.
    pub fn selector_url(mut self, url: impl Into<String>) -> Self {
        self.wishes.selector_url = Some(url.into());
        self
    }

    /// Sets the balancing strategy: this very one, whatever `MICRO_SELECTOR` says.
    pub fn with_selector(mut self, selector: Arc<dyn Selector>) -> Self {
        self.wishes.selector = Some(selector);
        self
    }

    /// Adds a codec to those compiled in.
    pub fn codec(mut self, codec: impl Codec) -> Self {
        let codecs = self.wishes.codecs.take().unwrap_or_else(crate::codecs);
        self.wishes.codecs = Some(codecs.with(codec));
        self
    }

    /// Adds middleware around every call, inside of what was added before.
    pub fn middleware(mut self, middleware: impl Middleware) -> Self {
        self.wishes.client_middleware.push(Arc::new(middleware));
        self
    }

    /// Sets the time of a call that brings no deadline.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.wishes.client_timeout = Some(timeout);
        self
    }

    /// Sets timeouts, retries, hedging and limits, by service and method; they may change while
    /// the client runs.
    pub fn policies(mut self, policies: impl Into<Live<Policies>>) -> Self {
        self.wishes.policies = Some(policies.into());
        self
    }

    /// Sets the zone that the program runs in: nodes of the same zone come first.
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.wishes.zone = Some(zone.into());
        self
    }

    /// Sets what messages and connections may cost.
    pub fn limits(mut self, limits: impl Into<Live<Limits>>) -> Self {
        self.wishes.limits = limits.into();
        self
    }

    /// Sets the certificate, its key, and whom to trust: TLS.
    pub fn identity(mut self, identity: impl Into<Live<TlsIdentity>>) -> Self {
        self.wishes.tls = Some(identity.into());
        self
    }

    /// Sets clock, chance and what is open already.
    pub fn env(mut self, env: Env) -> Self {
        self.wishes.env = env;
        self
    }

    /// Sets the settings, instead of the process's variables.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = Some(settings);
        self
    }

    /// Sets the drivers, after a stranger's were added: `micro::drivers().with(..)`.
    pub fn drivers(mut self, drivers: DriverSet) -> Self {
        self.drivers = Some(drivers);
        self
    }

    /// Opens the backends and makes the client.
    ///
    /// # Errors
    ///
    /// As [`Client::from_env`].
    pub async fn build(self) -> Result<Client> {
        let settings = match self.settings {
            Some(settings) => settings,
            None => Settings::from_env()?,
        };
        settings.warn_of_unknown();
        let drivers = self.drivers.unwrap_or_else(crate::drivers);
        Backends::new(settings, drivers, self.wishes).client().await
    }
}

impl Deref for Client {
    type Target = micro_client::Client;

    fn deref(&self) -> &micro_client::Client {
        &self.client
    }
}

impl From<micro_client::Client> for Client {
    fn from(client: micro_client::Client) -> Self {
        Self {
            client,
            backends: None,
        }
    }
}

impl From<Client> for micro_client::Client {
    fn from(client: Client) -> Self {
        client.client
    }
}
