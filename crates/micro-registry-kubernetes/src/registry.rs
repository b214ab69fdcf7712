//! The registry itself.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::stream;
use micro_core::{Clock, Random};
use micro_http::{Complaints, Lanes};
use micro_registry_core::{
    Capabilities, DeregisterOptions, Env, Error, EventStream, GetOptions, ListOptions,
    RegisterOptions, Registry, Result, Service, WatchOptions, async_trait, check_deregistration,
    check_name, check_registration,
};

use crate::api::{Api, Written};
use crate::slice::{SERVICE_NAME, Slice};
use crate::view::{Look, View};
use crate::watch::Watch;
use crate::{KubernetesConfig, SCHEME, names};

/// Changes of different services are made side by side, so many at once.
const LANES: usize = 8;
/// Of so many registrations the version is remembered.
const REMEMBERED: usize = 10_000;
/// So often a change is tried against changes of others.
const TRIES: usize = 5;

/// A registry in Kubernetes; clones share their connections.
#[derive(Clone)]
pub struct KubernetesRegistry {
    shared: Arc<Shared>,
    lanes: Arc<Lanes>,
}

pub(crate) struct Shared {
    pub(crate) api: Api,
    namespace: String,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    /// What was registered, by the slice's name.
    written: Mutex<HashMap<String, Remembered>>,
    /// The last stamp that was given.
    stamp: AtomicU64,
    complaints: Complaints,
}

#[derive(Clone)]
struct Remembered {
    service: Service,
    described: u64,
    version: String,
}

impl KubernetesRegistry {
    /// A registry; it connects when it is used. Within a tokio runtime.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if the configuration names no API server.
    pub fn new(config: KubernetesConfig, env: &Env) -> Result<Self> {
        let shared = Shared {
            api: Api::new(config, Arc::clone(env.clock()))?,
            namespace: env.namespace().to_owned(),
            clock: Arc::clone(env.clock()),
            random: Arc::clone(env.random()),
            written: Mutex::default(),
            stamp: AtomicU64::new(0),
            complaints: Complaints::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            lanes: Arc::new(Lanes::new(LANES)),
        })
    }

    /// What it was opened with.
    #[must_use]
    pub fn config(&self) -> &KubernetesConfig {
        self.shared.api.config()
    }
}

/// Says where it asks: a client puts it into the error for a service that it cannot find.
impl fmt::Debug for KubernetesRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = self.config();
        f.debug_struct("KubernetesRegistry")
            .field("servers", &config.http.endpoints)
            .field("kubernetes_namespace", &config.namespace)
            .field("namespace", &self.shared.namespace)
            .finish()
    }
}

impl Shared {
    fn unix(&self) -> Duration {
        let wall = self.clock.wall();
        wall.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.unix().as_millis()).unwrap_or(u64::MAX)
    }

    /// A stamp later than the last one, in microseconds of Unix time.
    fn stamp(&self) -> u64 {
        let now = u64::try_from(self.unix().as_micros()).unwrap_or(u64::MAX);
        let later = |last: u64| Some(now.max(last.saturating_add(1)));
        let last = self
            .stamp
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
        now.max(last.unwrap_or_else(|last| last).saturating_add(1))
    }

    /// From 0 to 1.
    pub(crate) fn jitter(&self) -> f64 {
        (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// How long a watch lasts: not all clients make it anew at the same time.
    pub(crate) fn wait(&self) -> Duration {
        self.api.config().wait.mul_f64(0.9 + 0.2 * self.jitter())
    }

    pub(crate) fn selector(&self, only: Option<&str>) -> Option<String> {
        only.map(|name| format!("{SERVICE_NAME}={}", names::service(&self.namespace, name)))
    }

    pub(crate) fn view<'a>(
        &self,
        slices: impl Iterator<Item = &'a Slice>,
        only: Option<&str>,
    ) -> View {
        let look = Look {
            namespace: &self.namespace,
            only,
            port: self.api.config().port.as_deref(),
            now: self.now(),
            complaints: &self.complaints,
        };
        View::read(slices, &look)
    }

    async fn services(&self, only: Option<&str>) -> Result<Vec<Service>> {
        let listed = self.api.list(self.selector(only).as_deref()).await?;
        Ok(self.view(listed.slices.iter(), only).services())
    }

    fn slice_of(&self, service: &Service, id: &str) -> String {
        names::slice(&self.namespace, &service.name, &service.version, id)
    }

    /// Registers a service with one node.
    async fn register(&self, service: Service, ttl: Option<Duration>) -> Result<()> {
        let id = service.nodes.first().map_or("", |node| &node.id);
        let name = self.slice_of(&service, id);
        let known = self.written().get(&name).cloned();
        let described = match &known {
            Some(known) if known.service == service => known.described,
            _ => self.stamp(),
        };
        let mut version = known.map(|known| known.version).unwrap_or_default();
        for _ in 0..TRIES {
            let (namespace, now) = (&self.namespace, self.now());
            let mut slice = Slice::write(name.clone(), namespace, &service, described, now, ttl)?;
            slice.metadata.resource_version.clone_from(&version);
            let created = version.is_empty();
            let written = if created {
                self.api.create(&slice).await?
            } else {
                self.api.update(&slice).await?
            };
            match written {
                Written::Done(version) => {
                    self.remember(name, service.clone(), described, version);
                    if created {
                        self.sweep(&service.name).await;
                    }
                    return Ok(());
                }
                Written::Missing => version.clear(),
                Written::Conflict => version = self.version_of(&name, &service).await?,
            }
        }
        Err(Error::unavailable(
            "a registration was changed by others again and again",
        ))
    }

    /// The version of our slice as it is now; empty if it is gone.
    async fn version_of(&self, name: &str, service: &Service) -> Result<String> {
        let Some(slice) = self.api.get(name).await? else {
            return Ok(String::new());
        };
        let foreign = slice.registration().is_some_and(|found| {
            slice.namespace() != self.namespace
                || found.name != service.name
                || found.version != service.version
                || !service.nodes.iter().any(|node| node.id == found.node.id)
        });
        if foreign || !slice.is_registration() {
            return Err(Error::already_exists(
                "another node has the EndpointSlice of this one: give it another id",
            )
            .with_context("slice", name));
        }
        Ok(slice.metadata.resource_version)
    }

    /// Deletes what was left behind of a service by those who did not deregister. Whoever comes new
    /// does it; it does not matter whether it succeeds.
    async fn sweep(&self, service: &str) {
        let Ok(listed) = self.api.list(self.selector(Some(service)).as_deref()).await else {
            return;
        };
        let now = self.now();
        for slice in listed.slices.iter().filter(|slice| slice.is_registration()) {
            let registration = slice.registration();
            let over = registration
                .is_some_and(|found| found.expires.is_some_and(|expires| expires <= now));
            if over {
                let meta = &slice.metadata;
                // Not if it was renewed in the meantime.
                let version = Some(&*meta.resource_version);
                if let Err(err) = self.api.delete(&meta.name, version).await {
                    tracing::debug!(slice = meta.name, %err, "an expired registration stays");
                }
            }
        }
    }

    async fn deregister(&self, name: &str) -> Result<()> {
        self.written().remove(name);
        self.api.delete(name, None).await
    }

    fn remember(&self, name: String, service: Service, described: u64, version: String) {
        let mut written = self.written();
        if written.len() >= REMEMBERED {
            written.clear();
        }
        let remembered = Remembered {
            service,
            described,
            version,
        };
        written.insert(name, remembered);
    }

    fn written(&self) -> MutexGuard<'_, HashMap<String, Remembered>> {
        // Nothing panics under it.
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Registry for KubernetesRegistry {
    fn backend(&self) -> &'static str {
        SCHEME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default().with_ttl(true).with_shared(true)
    }

    async fn register(&self, service: &Service, opts: RegisterOptions) -> Result<()> {
        fn named(err: Error) -> Error {
            err.with_operation("registry.register")
        }
        check_registration(service).map_err(named)?;
        let services: Vec<Service> = service
            .nodes
            .iter()
            .map(|node| {
                let mut service = service.clone();
                service.nodes = vec![node.clone()];
                service
            })
            .collect();
        let shared = Arc::clone(&self.shared);
        let job = async move {
            for service in services {
                shared.register(service, opts.ttl).await?;
            }
            Ok(())
        };
        self.lanes.run(&service.name, job).await.map_err(named)
    }

    async fn deregister(&self, service: &Service, _opts: DeregisterOptions) -> Result<()> {
        fn named(err: Error) -> Error {
            err.with_operation("registry.deregister")
        }
        check_deregistration(service).map_err(named)?;
        let names: Vec<String> = service
            .nodes
            .iter()
            .map(|node| self.shared.slice_of(service, &node.id))
            .collect();
        let shared = Arc::clone(&self.shared);
        let job = async move {
            for name in names {
                shared.deregister(&name).await?;
            }
            Ok(())
        };
        self.lanes.run(&service.name, job).await.map_err(named)
    }

    async fn get_service(&self, name: &str, _opts: GetOptions) -> Result<Vec<Service>> {
        fn named(err: Error) -> Error {
            err.with_operation("registry.get_service")
        }
        check_name(name).map_err(named)?;
        let found = self.shared.services(Some(name)).await.map_err(named)?;
        if found.is_empty() {
            return Err(
                named(Error::not_found("the service is not registered")).with_context("name", name)
            );
        }
        Ok(found)
    }

    async fn list_services(&self, _opts: ListOptions) -> Result<Vec<Service>> {
        let listed = self.shared.services(None).await;
        listed.map_err(|err| err.with_operation("registry.list_services"))
    }

    async fn watch(&self, opts: WatchOptions) -> Result<EventStream> {
        fn named(err: Error) -> Error {
            err.with_operation("registry.watch")
        }
        if let Some(name) = &opts.service {
            check_name(name).map_err(named)?;
        }
        let watch = Watch::begin(Arc::clone(&self.shared), opts.service).await;
        let watch = watch.map_err(named)?;
        // An error ends the stream: whoever watches lists again.
        Ok(Box::pin(stream::unfold(Some(watch), async |watch| {
            let mut watch = watch?;
            let next = watch.next().await.map_err(named);
            let watch = next.is_ok().then_some(watch);
            Some((next, watch))
        })))
    }
}
