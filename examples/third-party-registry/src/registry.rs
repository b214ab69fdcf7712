//! The registry: what `micro` asks of one, answered by files.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::stream;
use micro_core::Clock;
use micro_registry_core::{
    Capabilities, DeregisterOptions, Env, Error, ErrorKind, Event, EventKind, EventStream,
    GetOptions, ListOptions, RegisterOptions, Registry, Result, Service, WatchOptions, async_trait,
    check_deregistration, check_name, check_registration,
};
use tokio::sync::Mutex;

use crate::folder::{Folder, Key, Record, merge};
use crate::{FileDirConfig, SCHEME};

/// A registry in a folder.
#[derive(Clone, Debug)]
pub struct FileDirRegistry {
    folder: Folder,
    poll: Duration,
    clock: Arc<dyn Clock>,
    /// Changes are made one after another, in the order of the calls, even of those that were
    /// dropped meanwhile.
    turn: Arc<Mutex<()>>,
}

impl FileDirRegistry {
    /// Opens the folder, and makes it if it is not there.
    ///
    /// # Errors
    ///
    /// `Unavailable` if it cannot be made.
    pub fn open(config: FileDirConfig, env: &Env) -> Result<Self> {
        let folder = Folder::make(&config.folder, env.namespace())
            .map_err(|err| failed(err).with_operation("registry.open"))?;
        Ok(Self {
            folder,
            poll: config.poll,
            clock: Arc::clone(env.clock()),
            turn: Arc::default(),
        })
    }

    /// Files are slow and block: they are left to a thread for such work.
    ///
    /// A call that is dropped meanwhile still takes effect, whole.
    async fn files<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Folder, SystemTime) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (folder, now) = (self.folder.clone(), self.clock.wall());
        let done = tokio::task::spawn_blocking(move || work(&folder, now)).await;
        done.map_err(|err| Error::internal("the work with files panicked").with_source(err))?
            .map_err(|err| failed(err).with_operation(operation))
    }

    /// What a watch sees of a service, or of all.
    async fn look(&self, name: Option<String>) -> Result<BTreeMap<Key, Record>> {
        self.files("registry.watch", move |folder, now| {
            folder.read(name.as_deref(), now)
        })
        .await
    }
}

/// Whatever is wrong with the folder may be right again soon.
fn failed(err: io::Error) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the registry's folder cannot be used; is it there and writable?",
    )
    .with_source(err)
}

#[async_trait]
impl Registry for FileDirRegistry {
    fn backend(&self) -> &'static str {
        SCHEME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default().with_ttl(true).with_shared(true)
    }

    async fn register(&self, service: &Service, opts: RegisterOptions) -> Result<()> {
        const OPERATION: &str = "registry.register";
        check_registration(service).map_err(|err| err.with_operation(OPERATION))?;
        let service = service.clone();
        let turn = Arc::clone(&self.turn).lock_owned().await;
        self.files(OPERATION, move |folder, now| {
            let _turn = turn;
            folder.write(&service, now, opts.ttl)
        })
        .await
    }

    async fn deregister(&self, service: &Service, _opts: DeregisterOptions) -> Result<()> {
        const OPERATION: &str = "registry.deregister";
        check_deregistration(service).map_err(|err| err.with_operation(OPERATION))?;
        let service = service.clone();
        let turn = Arc::clone(&self.turn).lock_owned().await;
        self.files(OPERATION, move |folder, _| {
            let _turn = turn;
            folder.remove(&service)
        })
        .await
    }

    async fn get_service(&self, name: &str, _opts: GetOptions) -> Result<Vec<Service>> {
        const OPERATION: &str = "registry.get_service";
        check_name(name).map_err(|err| err.with_operation(OPERATION))?;
        let wanted = name.to_owned();
        let found = self
            .files(OPERATION, move |folder, now| {
                folder.read(Some(&wanted), now)
            })
            .await?;
        if found.is_empty() {
            return Err(Error::not_found("no node of this service has a file")
                .with_operation(OPERATION)
                .with_context("service", name));
        }
        Ok(merge(found))
    }

    async fn list_services(&self, _opts: ListOptions) -> Result<Vec<Service>> {
        let found = self.files("registry.list_services", |folder, now| {
            folder.read(None, now)
        });
        Ok(merge(found.await?))
    }

    /// Looks at the folder again and again: what came and went between two looks was not there.
    async fn watch(&self, opts: WatchOptions) -> Result<EventStream> {
        if let Some(name) = &opts.service {
            check_name(name).map_err(|err| err.with_operation("registry.watch"))?;
        }
        let known = self.look(opts.service.clone()).await?;
        let start = Some((self.clone(), known, VecDeque::new()));
        Ok(Box::pin(stream::unfold(start, move |state| {
            let name = opts.service.clone();
            async move {
                // After an error there is no state, and no more to come.
                let (registry, mut known, mut events) = state?;
                while events.is_empty() {
                    tokio::time::sleep(registry.poll).await;
                    let now = match registry.look(name.clone()).await {
                        Ok(now) => now,
                        Err(err) => return Some((Err(err), None)),
                    };
                    events.extend(differences(&known, &now));
                    known = now;
                }
                let event = events.pop_front()?;
                Some((Ok(event), Some((registry, known, events))))
            }
        })))
    }
}

fn differences(before: &BTreeMap<Key, Record>, after: &BTreeMap<Key, Record>) -> Vec<Event> {
    let mut events = Vec::new();
    for (key, old) in before {
        if !after.contains_key(key) {
            events.push(Event::new(EventKind::Delete, old.service.clone()));
        }
    }
    for (key, new) in after {
        let kind = match before.get(key) {
            None => EventKind::Create,
            // Renewed only: no news.
            Some(old) if old.service == new.service => continue,
            Some(_) => EventKind::Update,
        };
        events.push(Event::new(kind, new.service.clone()));
    }
    events
}
