//! The registry itself.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream;
use micro_consul::Indexed;
use micro_core::Random;
use micro_http::{Complaints, Lanes};
use micro_registry_core::{
    Capabilities, DeregisterOptions, Env, Error, EventStream, GetOptions, ListOptions,
    RegisterOptions, Registry, Result, Service, WatchOptions, async_trait, check_deregistration,
    check_name, check_registration,
};

use crate::api::{Api, Registration, TtlCheck};
use crate::layout::{self, Mark, Scope};
use crate::view::View;
use crate::watch::{All, One};
use crate::{ConsulRegistryConfig, SCHEME};

/// Changes of different services are made side by side, so many at once.
const LANES: usize = 8;
/// Of so many registrations it is remembered what they said.
const REMEMBERED: usize = 10_000;

/// A registry in Consul; clones share their connections.
#[derive(Clone)]
pub struct ConsulRegistry {
    shared: Arc<Shared>,
    lanes: Arc<Lanes>,
}

pub(crate) struct Shared {
    config: ConsulRegistryConfig,
    pub(crate) api: Api,
    pub(crate) scope: Scope,
    random: Arc<dyn Random>,
    /// What was registered with a TTL, by the agent's id: its hash. If nothing changed, passing the
    /// check is enough.
    passing: Mutex<HashMap<String, u64>>,
    complaints: Complaints,
}

impl ConsulRegistry {
    /// A registry; it connects when it is used. Within a tokio runtime.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if the configuration names no agent.
    pub fn new(config: ConsulRegistryConfig, env: &Env) -> Result<Self> {
        let shared = Shared {
            api: Api::new(&config)?,
            scope: Scope::new(&config.prefix, env.namespace()),
            random: Arc::clone(env.random()),
            passing: Mutex::default(),
            complaints: Complaints::default(),
            config,
        };
        Ok(Self {
            shared: Arc::new(shared),
            lanes: Arc::new(Lanes::new(LANES)),
        })
    }

    /// What it was opened with.
    #[must_use]
    pub fn config(&self) -> &ConsulRegistryConfig {
        &self.shared.config
    }
}

/// Says where it asks: a client puts it into the error for a service that it cannot find.
impl fmt::Debug for ConsulRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = &self.shared.config;
        f.debug_struct("ConsulRegistry")
            .field("agents", &config.consul.http.endpoints)
            .field("datacenter", &config.consul.datacenter)
            .field("scope", &self.shared.scope)
            .finish()
    }
}

impl Shared {
    /// How long a question waits for a change: not all clients ask again at the same time.
    pub(crate) fn wait(&self) -> Duration {
        let percent = u32::try_from(90 + self.random.next_u64() % 21).unwrap_or(100);
        self.config.wait * percent / 100
    }

    /// The nodes of a service, and the index of that state.
    pub(crate) async fn look(
        &self,
        name: &str,
        after: Option<(u64, Duration)>,
    ) -> Result<Indexed<View>> {
        let outer = self.scope.outer(name);
        let found = self.api.health(&outer, after).await?;
        Ok(Indexed {
            index: found.index,
            value: View::read(&outer, name, found.value, &self.complaints),
        })
    }

    async fn register(&self, registration: Registration) -> Result<()> {
        let id = registration.id.clone();
        if registration.check.is_none() {
            self.passing().remove(&id);
            return self.api.register(&registration).await;
        }
        let mut hasher = DefaultHasher::new();
        // Its text is whole, and has no secret.
        format!("{registration:?}").hash(&mut hasher);
        let hash = hasher.finish();
        let unchanged = self.passing().get(&id) == Some(&hash);
        if unchanged && self.api.pass(&id).await? {
            return Ok(());
        }
        self.api.register(&registration).await?;
        // A check that replaces another one keeps that one's status.
        if !self.api.pass(&id).await? {
            return Err(Error::unavailable(
                "Consul forgot a registration as soon as it was made",
            ));
        }
        let mut passing = self.passing();
        if passing.len() >= REMEMBERED {
            passing.clear();
        }
        passing.insert(id, hash);
        Ok(())
    }

    fn passing(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        // Nothing panics under it.
        self.passing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Registry for ConsulRegistry {
    fn backend(&self) -> &'static str {
        SCHEME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
            .with_ttl(true)
            .with_shared(true)
            .with_loopback(self.shared.config.is_here())
    }

    async fn register(&self, service: &Service, opts: RegisterOptions) -> Result<()> {
        const OPERATION: &str = "registry.register";
        let registrations = || {
            check_registration(service)?;
            let check = opts.ttl.map(TtlCheck::new);
            let scope = &self.shared.scope;
            let mut registrations = Vec::new();
            for node in &service.nodes {
                let id = scope.service_id(service, &node.id);
                let (address, port) = layout::split(&node.address);
                // Only what Consul's own fields do not say already.
                let said = id == node.id && layout::join(&address, port) == node.address;
                let mark = (!said).then(|| Mark {
                    id: node.id.clone(),
                    address: node.address.clone(),
                });
                registrations.push(Registration {
                    id,
                    name: scope.outer(&service.name),
                    tags: layout::tags(service, node, mark.as_ref())?,
                    address,
                    port,
                    check: check.clone(),
                });
            }
            Ok(registrations)
        };
        let registrations = registrations().map_err(|err: Error| err.with_operation(OPERATION))?;
        let shared = Arc::clone(&self.shared);
        let job = async move {
            for registration in registrations {
                shared.register(registration).await?;
            }
            Ok(())
        };
        let done = self.lanes.run(&service.name, job).await;
        done.map_err(|err| err.with_operation(OPERATION))
    }

    async fn deregister(&self, service: &Service, _opts: DeregisterOptions) -> Result<()> {
        const OPERATION: &str = "registry.deregister";
        check_deregistration(service).map_err(|err| err.with_operation(OPERATION))?;
        let scope = &self.shared.scope;
        let ids: Vec<String> = service
            .nodes
            .iter()
            .map(|node| scope.service_id(service, &node.id))
            .collect();
        let shared = Arc::clone(&self.shared);
        let job = async move {
            for id in ids {
                shared.passing().remove(&id);
                shared.api.deregister(&id).await?;
            }
            Ok(())
        };
        let done = self.lanes.run(&service.name, job).await;
        done.map_err(|err| err.with_operation(OPERATION))
    }

    async fn get_service(&self, name: &str, _opts: GetOptions) -> Result<Vec<Service>> {
        const OPERATION: &str = "registry.get_service";
        check_name(name).map_err(|err| err.with_operation(OPERATION))?;
        let looked = self.shared.look(name, None).await;
        let view = looked.map_err(|err| err.with_operation(OPERATION))?.value;
        let found = view.services(name);
        if found.is_empty() {
            return Err(Error::not_found("the service is not registered")
                .with_operation(OPERATION)
                .with_context("name", name));
        }
        Ok(found)
    }

    async fn list_services(&self, _opts: ListOptions) -> Result<Vec<Service>> {
        let listed = self.shared.api.services(None).await;
        let listed = listed.map_err(|err| err.with_operation("registry.list_services"))?;
        let mut services = Vec::new();
        let mut left = layout::ANSWER_LIMIT;
        for (outer, tags) in listed.value {
            let Some(name) = self.shared.scope.inner(&outer) else {
                continue;
            };
            let versions = layout::versions(&tags.unwrap_or_default(), &mut left);
            if versions.is_empty() {
                services.push(Service::new(name, ""));
            }
            services.extend(versions.iter().map(|version| Service::new(name, version)));
        }
        if left < layout::TAG_LIMIT && self.shared.complaints.is_new("list") {
            tracing::warn!(
                "the tags in Consul inflate beyond the limit; some versions are not listed"
            );
        }
        Ok(services)
    }

    async fn watch(&self, opts: WatchOptions) -> Result<EventStream> {
        fn named(err: Error) -> Error {
            err.with_operation("registry.watch")
        }
        let shared = Arc::clone(&self.shared);
        // An error ends the stream: whoever watches lists again.
        if let Some(name) = opts.service {
            check_name(&name).map_err(named)?;
            let watch = One::begin(shared, name).await.map_err(named)?;
            return Ok(Box::pin(stream::unfold(Some(watch), async |watch| {
                let mut watch = watch?;
                let next = watch.next().await.map_err(named);
                let watch = next.is_ok().then_some(watch);
                Some((next, watch))
            })));
        }
        let watch = All::begin(shared).await.map_err(named)?;
        Ok(Box::pin(stream::unfold(Some(watch), async |watch| {
            let mut watch = watch?;
            let next = watch.next().await.map_err(named);
            let watch = next.is_ok().then_some(watch);
            Some((next, watch))
        })))
    }
}
