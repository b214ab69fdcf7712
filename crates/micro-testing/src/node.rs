//! One node, as its own code and as the test sees it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use micro_client::Client;
use micro_core::{Clock, Context, ErrorKind, Random, Result};
use micro_server::{RunningServer, Server, ServerOptions, StopReport};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::builder::Plan;
use crate::cluster::Parts;
use crate::net::REGISTRY;
use crate::registry::FaultRegistry;
use crate::transport::FaultTransport;

/// The machine that a node runs on: what a service's code is given when the node starts.
#[derive(Clone)]
pub struct Host {
    pub(crate) parts: Arc<Parts>,
    pub(crate) service: Arc<str>,
    pub(crate) index: usize,
    pub(crate) name: Arc<str>,
    pub(crate) starts: u32,
}

impl Host {
    /// The host's name: `greeter-0`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The service's name: `greeter`.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Which node of its service it is, from 0 on.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// How often the node was started before.
    #[must_use]
    pub fn restarts(&self) -> u32 {
        self.starts
    }

    /// A client on this host, for a service that calls others.
    #[must_use]
    pub fn client(&self) -> Client {
        self.parts.client(&self.name)
    }

    /// The cluster's clock.
    #[must_use]
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.parts.clock) as _
    }

    /// The cluster's chance.
    #[must_use]
    pub fn random(&self) -> Arc<dyn Random> {
        Arc::clone(&self.parts.random) as _
    }

    /// A context on the cluster's clock, for work that no call asked for.
    #[must_use]
    pub fn context(&self) -> Context {
        Context::with_clock(self.clock())
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A node of a cluster, for the test: what can be done to it.
///
/// Faults are as others see them, and add up; [`heal`](Self::heal) ends them all. Every one is
/// written into the history.
#[derive(Clone)]
pub struct NodeHandle {
    pub(crate) parts: Arc<Parts>,
    pub(crate) seat: Arc<Seat>,
}

/// A place for a node to run in.
pub(crate) struct Seat {
    pub(crate) service: Arc<str>,
    pub(crate) index: usize,
    pub(crate) host: Arc<str>,
    pub(crate) plan: Arc<Plan>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: Option<Arc<Running>>,
    starts: u32,
    flapping: Option<AbortHandle>,
}

struct Running {
    server: RunningServer,
    registry: Arc<FaultRegistry>,
}

impl Seat {
    pub(crate) fn new(plan: &Arc<Plan>, index: usize) -> Arc<Self> {
        Arc::new(Self {
            service: plan.name.as_str().into(),
            index,
            host: format!("{}-{index}", plan.name).into(),
            plan: Arc::clone(plan),
            state: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let Some(flapping) = self.flapping.take() {
            flapping.abort();
        }
    }
}

impl NodeHandle {
    /// The name of the node's host: `greeter-0`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.seat.host
    }

    /// Whether its program runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.seat.lock().running.is_some()
    }

    /// The id and address that it registers, if it runs.
    #[must_use]
    pub fn registered_as(&self) -> Option<(String, String)> {
        let running = self.seat.lock().running.clone()?;
        let node = running.server.node();
        Some((node.id.clone(), node.address.clone()))
    }

    /// How many calls reached it so far, also those that it was told to fail.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.parts.net.calls(&self.seat.host)
    }

    fn note(&self, what: impl AsRef<str>) {
        let text = format!("! {}: {}", self.seat.host, what.as_ref());
        self.parts.net.history.note(text);
    }

    /// Every call and connection takes so much longer.
    pub fn slow(&self, delay: Duration) {
        self.slow_between(delay, delay);
    }

    /// Every call and connection takes longer, by a time between these, drawn from the seed.
    pub fn slow_between(&self, least: Duration, most: Duration) {
        self.note(format!("slow by {least:?} to {most:?}"));
        self.parts.net.delay(&self.seat.host, Some((least, most)));
    }

    /// So large a part of the calls fails at once with `Unavailable`: 1 is all of them.
    pub fn fail(&self, part: f64) {
        self.fail_with(ErrorKind::Unavailable, part);
    }

    /// So large a part of the calls fails at once with this kind.
    pub fn fail_with(&self, kind: ErrorKind, part: f64) {
        self.note(format!("fails {part} with {}", kind.name()));
        self.parts.net.fail(&self.seat.host, Some((part, kind)));
    }

    /// Calls vanish and nothing comes back, while the node goes on registering. A connection is
    /// given up after the limits' keepalive, not before.
    pub fn black_hole(&self) {
        self.note("a black hole");
        self.parts.net.silence(&self.seat.host, true);
    }

    /// Connections break and are refused, while the node goes on registering.
    pub fn refuse(&self) {
        self.note("refuses connections");
        self.parts.net.refuse(&self.seat.host, true);
    }

    /// Refuses connections for one half of each period and takes them for the other.
    pub fn flap(&self, period: Duration) {
        self.note(format!("flaps every {period:?}"));
        let (net, host) = (Arc::clone(&self.parts.net), Arc::clone(&self.seat.host));
        let half = (period / 2).max(Duration::from_millis(1));
        // It ends with `heal`, or with the seat.
        let task = tokio::spawn(async move {
            loop {
                net.refuse(&host, true);
                sleep(half).await;
                net.refuse(&host, false);
                sleep(half).await;
            }
        });
        self.stop_flapping(Some(task.abort_handle()));
    }

    fn stop_flapping(&self, next: Option<AbortHandle>) {
        let before = std::mem::replace(&mut self.seat.lock().flapping, next);
        if let Some(before) = before {
            before.abort();
        }
    }

    /// Breaks its connections once; new ones can be made.
    pub fn break_connections(&self) {
        self.note("connections break");
        self.parts.net.break_connections(&self.seat.host);
    }

    /// Cuts it off from everything, the registry too.
    pub fn isolate(&self) {
        self.note("isolated");
        self.parts.net.silence(&self.seat.host, true);
        self.cut_registry();
    }

    /// Cuts it off from the registry alone: its registration ends by its TTL.
    pub fn isolate_from_registry(&self) {
        self.note("cut off from the registry");
        self.cut_registry();
    }

    fn cut_registry(&self) {
        self.parts.net.cut(&self.seat.host, REGISTRY);
        self.parts.net.cut(REGISTRY, &self.seat.host);
    }

    /// Ends all faults of this node, and all partitions around it. A program that was killed
    /// stays so.
    pub fn heal(&self) {
        self.note("healed");
        self.stop_flapping(None);
        self.parts.net.heal(&self.seat.host);
        let host = &*self.seat.host;
        self.parts.net.mend(|from, to| from == host || to == host);
    }

    /// Kills the program, as `kill -9`: connections break, and its registration stays until its
    /// TTL has passed.
    pub fn crash(&self) {
        let running = self.seat.lock().running.take();
        if let Some(running) = running {
            self.note("killed");
            running.registry.kill();
            self.parts.net.break_connections(&self.seat.host);
        }
    }

    /// Stops the program in good order.
    ///
    /// # Errors
    ///
    /// As [`RunningServer::stop`]. Stopping what does not run succeeds.
    pub async fn stop(&self) -> Result<StopReport> {
        let running = self.seat.lock().running.take();
        let Some(running) = running else {
            return Ok(StopReport::default());
        };
        self.note("stops");
        let report = running.server.stop().await?;
        self.note("stopped");
        Ok(report)
    }

    /// Starts the program anew, killing it first if it runs. It has another address and id then,
    /// as a real one.
    ///
    /// # Errors
    ///
    /// As [`Server::start`].
    pub async fn restart(&self) -> Result<()> {
        self.crash();
        let starts = {
            let mut state = self.seat.lock();
            state.starts += 1;
            state.starts - 1
        };
        let seat = &self.seat;
        let host = Host {
            parts: Arc::clone(&self.parts),
            service: Arc::clone(&seat.service),
            index: seat.index,
            name: Arc::clone(&seat.host),
            starts,
        };
        let id = match starts {
            0 => seat.host.to_string(),
            again => format!("{}.{again}", seat.host),
        };
        let options = ServerOptions::default()
            .with_id(id)
            .with_address(format!("{}:0", seat.host))
            .with_codecs(self.parts.codecs())
            .with_clock(host.clock())
            .with_random(host.random());
        let options = (self.parts.server)(&host, options);
        let mut server = Server::new(&*seat.service).options(options);
        for make in &seat.plan.contracts {
            server = server.handle(make(&host));
        }
        let parts = &self.parts;
        let registry = FaultRegistry::new(&parts.directory, &parts.net, &seat.host);
        let transport = FaultTransport::new(
            parts.transport.clone(),
            Arc::clone(&parts.net),
            Arc::clone(&seat.host),
        );
        let server = server
            .start(Arc::clone(&registry) as _, Arc::new(transport))
            .await?;
        self.note(format!("runs at {}", server.address()));
        let running = Arc::new(Running { server, registry });
        self.seat.lock().running = Some(running);
        Ok(())
    }
}

impl fmt::Debug for NodeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeHandle")
            .field("name", &self.seat.host)
            .field("running", &self.is_running())
            .finish_non_exhaustive()
    }
}
