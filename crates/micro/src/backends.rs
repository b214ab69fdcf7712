//! What a program has open, opened when it is first asked for.

use std::sync::Arc;

use micro_broker_core::Broker;
use micro_client::ClientOptions;
use micro_config_core::{Config, Rank, Runtime, Source, Unseal};
use micro_core::{Drivers, Env, Error, Live, Result};
use micro_limit::PolicyLimits;
use micro_registry_core::Registry;
use micro_selector_core::{Selector, Zone};
use micro_store_core::{Scope, Store, Table};
use micro_sync_core::Coordinator;
use micro_transport_core::{Limits, Middleware, Policies, TlsIdentity, Transport};
use tokio::sync::OnceCell;

use crate::section::{Kept, Outside, Section, Tuner};
use crate::settings::key;
use crate::{Client, DriverSet, Settings};

/// What code says about the backends; variables and flags outweigh it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) name: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) config_urls: Vec<String>,
    pub(crate) config_sources: Vec<Arc<dyn Source>>,
    pub(crate) config_unseal: Option<Arc<dyn Unseal>>,
    pub(crate) store_url: Option<String>,
    pub(crate) store: Option<Arc<dyn Store>>,
    pub(crate) broker_url: Option<String>,
    pub(crate) broker: Option<Arc<dyn Broker>>,
    pub(crate) coordinator_url: Option<String>,
    pub(crate) coordinator: Option<Arc<dyn Coordinator>>,
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
    /// What variables and flags say; with the configuration, [`Opened::settings`].
    outside: Settings,
    drivers: DriverSet,
    pub(crate) wishes: Wishes,
    opened: OnceCell<Opened>,
    store: OnceCell<Arc<dyn Store>>,
    broker: OnceCell<Arc<dyn Broker>>,
    /// Where the HTTP broker meets the service's port.
    #[cfg(feature = "broker-http")]
    pub(crate) mount: Arc<crate::mount::Mount>,
    coordinator: OnceCell<Arc<dyn Coordinator>>,
    registry: OnceCell<Arc<dyn Registry>>,
    transport: OnceCell<Arc<dyn Transport>>,
    client: OnceCell<micro_client::Client>,
}

/// The configuration, which comes before everything else, and what it says at start.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) config: Config,
    /// What the configuration says of the framework, variables and flags included.
    #[cfg(feature = "log")]
    pub(crate) section: Live<Section>,
    pub(crate) settings: Settings,
    /// Whose policies may change by the configuration, if it has sources.
    tuner: Option<Arc<Tuner>>,
    namespace: String,
    zone: Option<String>,
    env: Env,
}

impl Opened {
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// An error with who said the setting: its key alone leaves that open.
    fn blame(&self, err: Error, variable: &str) -> Error {
        let key = key(variable);
        let explained = self.config.explain(&key);
        let mut err = err.with_context("setting", key);
        if let Some(found) = explained.found.first() {
            err = err.with_context("source", &found.source);
            if let Some(place) = &found.place {
                err = err.with_context("place", place);
            }
        }
        err
    }

    /// What a peer may cost.
    pub(crate) fn limits(&self, code: &Live<Limits>) -> Live<Limits> {
        let tuner = self.tuner.as_ref();
        tuner.map_or(code, |tuner| tuner.limits()).clone()
    }

    /// The policies, and what keeps their limits.
    pub(crate) fn policies(
        &self,
        code: Option<&Live<Policies>>,
        limits: impl FnOnce(Live<Policies>) -> PolicyLimits,
    ) -> Option<(Live<Policies>, Arc<dyn Middleware>)> {
        let policies = match &self.tuner {
            Some(tuner) => tuner.policies(),
            None => code?,
        };
        let limits = Kept::new(limits(policies.clone()), self.tuner.clone());
        Some((policies.clone(), Arc::new(limits)))
    }
}

impl Backends {
    pub(crate) fn new(outside: Settings, drivers: DriverSet, wishes: Wishes) -> Arc<Self> {
        Arc::new(Self {
            outside,
            drivers,
            wishes,
            opened: OnceCell::new(),
            store: OnceCell::new(),
            broker: OnceCell::new(),
            #[cfg(feature = "broker-http")]
            mount: Arc::default(),
            coordinator: OnceCell::new(),
            registry: OnceCell::new(),
            transport: OnceCell::new(),
            client: OnceCell::new(),
        })
    }

    /// What variables and flags say.
    pub(crate) fn outside(&self) -> &Settings {
        &self.outside
    }

    /// What the configuration, if it is open, does not take over just now.
    #[cfg(feature = "log")]
    pub(crate) fn refusals(&self) -> Vec<micro_config_core::Refusal> {
        let opened = self.opened.get();
        opened.map_or_else(Vec::new, |opened| opened.config.refusals())
    }

    pub(crate) async fn opened(&self) -> Result<&Opened> {
        self.opened.get_or_try_init(|| self.open_config()).await
    }

    async fn open_config(&self) -> Result<Opened> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::failed_precondition(
                "micro runs within a tokio runtime: call this in an async fn under #[tokio::main]",
            )
            .with_operation("config.open"));
        }
        let wishes = &self.wishes;
        let code = wishes.namespace.as_deref();
        let namespace = self.outside.get("MICRO_NAMESPACE").or(code).unwrap_or("");
        let env = wishes.env.clone().with_namespace(namespace);
        let mut builder = Config::builder().env(&env);
        let outside = self.outside.get("MICRO_CONFIG");
        let outside = outside.filter(|urls| !urls.trim().is_empty());
        let (urls, setting) = match outside {
            Some(urls) => (urls.split_whitespace().collect(), "MICRO_CONFIG"),
            None => (
                wishes.config_urls.iter().map(String::as_str).collect(),
                "code",
            ),
        };
        let urls: Vec<&str> = urls;
        let named = |err: Error| err.with_context("setting", setting);
        for url in &urls {
            let (url, optional) = take_optional(url).map_err(named)?;
            let source = self.drivers.config.open(&url, &env).await.map_err(named)?;
            builder = match optional {
                true => builder.optional(source),
                false => builder.source(source),
            };
        }
        if let Some(unseal) = &wishes.config_unseal {
            builder = builder.unseal(Arc::clone(unseal));
        }
        for source in &wishes.config_sources {
            builder = builder.source(Arc::clone(source));
        }
        for rank in [Rank::Env, Rank::Flags] {
            builder = builder.source(Outside::new(rank, &self.outside)?);
        }
        let config = builder
            .start(Runtime::new(tokio::spawn, tokio::time::sleep))
            .await?;
        let section = Section::of(&config)?;
        let settings = section.get().settings.clone();
        let follows = !urls.is_empty() || !wishes.config_sources.is_empty();
        let tuner = match follows {
            true => {
                let code = wishes.policies.clone();
                Some(Tuner::start(
                    config.clone(),
                    section.clone(),
                    settings.clone(),
                    code,
                    wishes.limits.clone(),
                )?)
            }
            false => None,
        };
        let namespace = settings.get("MICRO_NAMESPACE").or(code).unwrap_or("");
        let zone = settings.get("MICRO_ZONE").or(wishes.zone.as_deref());
        let mut env = env
            .with_namespace(namespace)
            .with::<Config>(Arc::new(config.clone()));
        if let Some(zone) = zone {
            env = env.with::<Zone>(Zone::new(zone));
        }
        Ok(Opened {
            namespace: namespace.to_owned(),
            zone: zone.map(str::to_owned),
            config,
            #[cfg(feature = "log")]
            section,
            settings,
            tuner,
            env,
        })
    }

    /// The store.
    pub(crate) async fn store(&self) -> Result<Arc<dyn Store>> {
        let wishes = &self.wishes;
        let open = self.store.get_or_try_init(|| {
            self.open(
                "MICRO_STORE",
                wishes.store.as_ref(),
                wishes.store_url.as_deref(),
                "memory",
                &self.drivers.store,
            )
        });
        Ok(Arc::clone(open.await?))
    }

    /// The service's own table of the store.
    pub(crate) async fn table(&self, service: &str) -> Result<Table> {
        let scope = Scope::of_service(self.opened().await?.namespace(), service)?;
        Ok(Table::new(self.store().await?, scope))
    }

    /// The codecs, for calls and messages.
    pub(crate) fn codecs(&self) -> micro_codec_core::Codecs {
        self.wishes.codecs.clone().unwrap_or_else(crate::codecs)
    }

    /// The broker. It may use the registry, and the store if its URL names a table of it.
    pub(crate) async fn broker(&self) -> Result<Arc<dyn Broker>> {
        let wishes = &self.wishes;
        let open = self.broker.get_or_try_init(async || {
            const VARIABLE: &str = "MICRO_BROKER";
            let (given, code) = (wishes.broker.as_ref(), wishes.broker_url.as_deref());
            let opened = self.opened().await?;
            let mut env = opened.env.clone();
            if given.is_none() {
                env = env.with::<dyn Registry>(self.registry().await?);
                let url = opened.settings.get(VARIABLE).or(code).unwrap_or_default();
                if url.contains("outbox=") {
                    env = env.with::<dyn Store>(self.store().await?);
                }
            }
            #[cfg(feature = "broker-http")]
            let env = {
                let mount = crate::mount::MountRef {
                    mount: Arc::downgrade(&self.mount),
                    #[cfg(feature = "tls")]
                    tls: wishes.tls.clone(),
                };
                env.with::<crate::mount::MountRef>(Arc::new(mount))
            };
            self.open_in(&env, VARIABLE, given, code, "http", &self.drivers.broker)
                .await
        });
        Ok(Arc::clone(open.await?))
    }

    /// The broker's backend, if one is open.
    pub(crate) fn broker_backend(&self) -> Option<&'static str> {
        self.broker.get().map(|broker| broker.backend())
    }

    /// Closes the broker, if one was opened by URL: what this process still has to hand on is handed on.
    pub(crate) async fn close_broker(&self, grace: std::time::Duration) -> Result<()> {
        match self.broker.get() {
            // Others may use one that was handed in.
            Some(broker) if self.wishes.broker.is_none() => broker.close(grace).await,
            _ => Ok(()),
        }
    }

    /// Who gives locks and leaderships.
    pub(crate) async fn coordinator(&self) -> Result<Arc<dyn Coordinator>> {
        let wishes = &self.wishes;
        let open = self.coordinator.get_or_try_init(|| {
            self.open(
                "MICRO_SYNC",
                wishes.coordinator.as_ref(),
                wishes.coordinator_url.as_deref(),
                "memory",
                &self.drivers.sync,
            )
        });
        Ok(Arc::clone(open.await?))
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

    pub(crate) async fn client(self: &Arc<Self>) -> Result<Client> {
        let client = self.client.get_or_try_init(async || {
            let wishes = &self.wishes;
            let opened = self.opened().await?;
            let settings = &opened.settings;
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
                .with_namespace(opened.namespace())
                .with_codecs(self.codecs())
                .with_limits(opened.limits(&wishes.limits))
                .with_clock(Arc::clone(wishes.env.clock()))
                .with_random(Arc::clone(wishes.env.random()));
            options.name.clone_from(&wishes.name);
            options.tls.clone_from(&wishes.tls);
            options.middleware.clone_from(&wishes.client_middleware);
            let policies = opened.policies(wishes.policies.as_ref(), PolicyLimits::new);
            if let Some((policies, limits)) = policies {
                options.policies = Some(policies);
                // Outermost: what is refused should cost nothing else.
                options.middleware.insert(0, limits);
            }
            let timeout = settings.duration("MICRO_CLIENT_TIMEOUT")?;
            if let Some(timeout) = timeout.or(wishes.client_timeout) {
                options.timeout = timeout;
            }
            if let Some(retries) = settings.parse("MICRO_CLIENT_RETRIES")? {
                options.retries = retries;
            }
            if let Some(wait) = settings.duration("MICRO_CLIENT_WAIT")? {
                options.discovery = micro_client::Discovery::WaitFor(wait);
            }
            let client = micro_client::Client::new(
                self.registry().await?,
                self.transport().await?,
                selector,
                options,
            );
            Ok::<_, Error>(client)
        });
        Ok(Client::new(client.await?.clone(), Arc::clone(self)))
    }

    /// What code gave, else what is said from outside, else a URL from code, else the default.
    ///
    /// A value that was handed in is not outvoted by a setting: it cannot be had by a URL.
    async fn open<I: ?Sized + Send + Sync + 'static>(
        &self,
        variable: &str,
        given: Option<&Arc<I>>,
        code: Option<&str>,
        default: &str,
        drivers: &Drivers<I>,
    ) -> Result<Arc<I>> {
        let env = &self.opened().await?.env;
        self.open_in(env, variable, given, code, default, drivers)
            .await
    }

    /// [`open`](Self::open), with more than the configuration that a driver may use.
    async fn open_in<I: ?Sized + Send + Sync + 'static>(
        &self,
        env: &Env,
        variable: &str,
        given: Option<&Arc<I>>,
        code: Option<&str>,
        default: &str,
        drivers: &Drivers<I>,
    ) -> Result<Arc<I>> {
        let opened = self.opened().await?;
        let outside = opened.settings.get(variable);
        if let Some(given) = given {
            if outside.is_some() {
                tracing::warn!(
                    variable,
                    "the program brings its own: the setting has no effect"
                );
            }
            return Ok(Arc::clone(given));
        }
        let url = outside.or(code).unwrap_or(default);
        let open = drivers.open(url, env).await;
        open.map_err(|err| match outside {
            Some(_) => opened.blame(err, variable),
            None => err.with_context("setting", "code"),
        })
    }
}

/// A source's URL without `optional=true`, and whether that was there: it says how the source is
/// used, which is not the source's business.
fn take_optional(url: &str) -> Result<(String, bool)> {
    let Some((base, query)) = url.split_once('?') else {
        return Ok((url.to_owned(), false));
    };
    let mut optional = false;
    let mut rest = Vec::new();
    for pair in query.split('&') {
        match pair.strip_prefix("optional=") {
            Some("true") => optional = true,
            Some("false") => optional = false,
            Some(_) => {
                return Err(Error::invalid_argument("'optional' is true or false")
                    .with_operation("config.open"));
            }
            None => rest.push(pair),
        }
    }
    match rest.is_empty() {
        true => Ok((base.to_owned(), optional)),
        false => Ok((format!("{base}?{}", rest.join("&")), optional)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_a_source_may_be_away_is_no_option_of_the_source() {
        for (url, rest, optional) in [
            ("file:app.toml", "file:app.toml", false),
            ("file:app.toml?optional=true", "file:app.toml", true),
            ("etcd://a?optional=true&prefix=x", "etcd://a?prefix=x", true),
            (
                "etcd://a?prefix=x&optional=false",
                "etcd://a?prefix=x",
                false,
            ),
        ] {
            let taken = take_optional(url).unwrap();
            assert_eq!(taken, (rest.to_owned(), optional), "{url}");
        }
        assert!(take_optional("file:a?optional=perhaps").is_err());
    }
}
