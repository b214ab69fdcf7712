//! What a program has open, opened when it is first asked for.

use std::sync::Arc;

use micro_client::ClientOptions;
use micro_core::{Drivers, Env, Error, Live, Result};
use micro_registry_core::Registry;
use micro_selector_core::{Selector, Zone};
use micro_transport_core::{Limits, Middleware, Policies, TlsIdentity, Transport};
use tokio::sync::OnceCell;

use crate::{Client, DriverSet, Settings};

/// What code says about the backends; variables and flags outweigh it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) name: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) registry_url: Option<String>,
    pub(crate) registry: Option<Arc<dyn Registry>>,
    pub(crate) transport_url: Option<String>,
    pub(crate) transport: Option<Arc<dyn Transport>>,
    pub(crate) selector_url: Option<String>,
    pub(crate) selector: Option<Arc<dyn Selector>>,
    pub(crate) env: Env,
    pub(crate) limits: Live<Limits>,
    pub(crate) tls: Option<Live<TlsIdentity>>,
    pub(crate) codecs: Option<micro_codec_core::Codecs>,
    pub(crate) zone: Option<String>,
    pub(crate) policies: Option<Live<Policies>>,
    pub(crate) client_middleware: Vec<Arc<dyn Middleware>>,
    pub(crate) client_timeout: Option<std::time::Duration>,
}

/// What a program has open. Each interface is opened once, when it is first asked for.
#[derive(Debug)]
pub(crate) struct Backends {
    pub(crate) settings: Settings,
    pub(crate) drivers: DriverSet,
    pub(crate) wishes: Wishes,
    registry: OnceCell<Arc<dyn Registry>>,
    transport: OnceCell<Arc<dyn Transport>>,
    client: OnceCell<Client>,
}

impl Backends {
    pub(crate) fn new(settings: Settings, drivers: DriverSet, wishes: Wishes) -> Arc<Self> {
        Arc::new(Self {
            settings,
            drivers,
            wishes,
            registry: OnceCell::new(),
            transport: OnceCell::new(),
            client: OnceCell::new(),
        })
    }

    pub(crate) fn namespace(&self) -> &str {
        let code = self.wishes.namespace.as_deref();
        self.settings.get("MICRO_NAMESPACE").or(code).unwrap_or("")
    }

    /// The zone that the program runs in.
    pub(crate) fn zone(&self) -> Option<&str> {
        self.settings
            .get("MICRO_ZONE")
            .or(self.wishes.zone.as_deref())
    }

    fn env(&self) -> Env {
        let env = self.wishes.env.clone().with_namespace(self.namespace());
        match self.zone() {
            Some(zone) => env.with::<Zone>(Zone::new(zone)),
            None => env,
        }
    }

    pub(crate) async fn registry(&self) -> Result<Arc<dyn Registry>> {
        let wishes = &self.wishes;
        let open = self.registry.get_or_try_init(|| {
            self.open(
                "MICRO_REGISTRY",
                wishes.registry.as_ref(),
                wishes.registry_url.as_deref(),
                "mdns",
                &self.drivers.registry,
            )
        });
        Ok(Arc::clone(open.await?))
    }

    pub(crate) async fn transport(&self) -> Result<Arc<dyn Transport>> {
        let wishes = &self.wishes;
        let open = self.transport.get_or_try_init(|| {
            self.open(
                "MICRO_TRANSPORT",
                wishes.transport.as_ref(),
                wishes.transport_url.as_deref(),
                "grpc",
                &self.drivers.transport,
            )
        });
        Ok(Arc::clone(open.await?))
    }

    pub(crate) async fn client(&self) -> Result<Client> {
        let client = self.client.get_or_try_init(async || {
            let wishes = &self.wishes;
            let selector = self
                .open(
                    "MICRO_SELECTOR",
                    wishes.selector.as_ref(),
                    wishes.selector_url.as_deref(),
                    "p2c",
                    &self.drivers.selector,
                )
                .await?;
            let mut options = ClientOptions::default()
                .with_namespace(self.namespace())
                .with_codecs(wishes.codecs.clone().unwrap_or_else(crate::codecs))
                .with_limits(wishes.limits.clone())
                .with_clock(Arc::clone(wishes.env.clock()))
                .with_random(Arc::clone(wishes.env.random()));
            options.name.clone_from(&wishes.name);
            options.tls.clone_from(&wishes.tls);
            options.middleware.clone_from(&wishes.client_middleware);
            options.policies.clone_from(&wishes.policies);
            if let Some(policies) = &wishes.policies {
                // Outermost: what is refused should cost nothing else.
                let limits = micro_limit::PolicyLimits::new(policies.clone());
                options.middleware.insert(0, Arc::new(limits));
            }
            let timeout = self.settings.duration("MICRO_CLIENT_TIMEOUT")?;
            if let Some(timeout) = timeout.or(wishes.client_timeout) {
                options.timeout = timeout;
            }
            if let Some(retries) = self.settings.parse("MICRO_CLIENT_RETRIES")? {
                options.retries = retries;
            }
            if let Some(wait) = self.settings.duration("MICRO_CLIENT_WAIT")? {
                options.discovery = micro_client::Discovery::WaitFor(wait);
            }
            let client = micro_client::Client::new(
                self.registry().await?,
                self.transport().await?,
                selector,
                options,
            );
            Ok::<_, Error>(Client::from(client))
        });
        Ok(client.await?.clone())
    }

    /// What code gave, else a variable or flag, else a URL from code, else the default.
    ///
    /// A value that was handed in is not outvoted by a variable: it cannot be had by a URL.
    async fn open<I: ?Sized + Send + Sync + 'static>(
        &self,
        variable: &str,
        given: Option<&Arc<I>>,
        code: Option<&str>,
        default: &str,
        drivers: &Drivers<I>,
    ) -> Result<Arc<I>> {
        let outside = self.settings.get(variable);
        if let Some(given) = given {
            if outside.is_some() {
                tracing::warn!(
                    variable,
                    "the program brings its own: the variable has no effect"
                );
            }
            return Ok(Arc::clone(given));
        }
        let url = outside.or(code).unwrap_or(default);
        let setting = if outside.is_some() { variable } else { "code" };
        drivers
            .open(url, &self.env())
            .await
            .map_err(|err| err.with_context("setting", setting))
    }
}
