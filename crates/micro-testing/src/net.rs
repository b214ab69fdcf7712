//! The network between hosts: what is slow, silent or broken.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use micro_core::{Error, ErrorKind, SeededRandom};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::history::History;
use crate::seed;

/// The registry's name as a host.
pub(crate) const REGISTRY: &str = "registry";

/// All hosts and what is wrong between them.
#[derive(Debug)]
pub(crate) struct Net {
    state: Mutex<State>,
    /// Tells those who wait that something changed. Not a `watch`: that wakes them in an order
    /// of its own chance.
    changed: Notify,
    /// How long everything takes that goes over the network.
    latency: Duration,
    pub(crate) history: History,
    /// Chance of the faults, apart from that of the system, so that the one does not depend on
    /// how often the other draws.
    pub(crate) random: SeededRandom,
}

#[derive(Debug, Default)]
struct State {
    hosts: BTreeMap<String, Faults>,
    /// From whom, to whom: what is sent does not arrive.
    cuts: BTreeSet<(String, String)>,
}

/// What is wrong with a host.
#[derive(Clone, Debug, Default)]
struct Faults {
    delay: Option<(Duration, Duration)>,
    fail: Option<(f64, ErrorKind)>,
    silent: bool,
    refuses: bool,
    /// How often its connections were broken.
    breaks: u64,
    /// Requests that reached it.
    calls: u64,
}

impl Net {
    pub(crate) fn new(seed: u64, latency: Duration) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            changed: Notify::new(),
            latency,
            history: History::new(),
            random: SeededRandom::new(seed.rotate_left(32) ^ 0x6661_756c_7473),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self, host: &str) -> Faults {
        self.lock().hosts.get(host).cloned().unwrap_or_default()
    }

    fn change(&self, host: &str, change: impl FnOnce(&mut Faults)) {
        change(self.lock().hosts.entry(host.to_owned()).or_default());
        self.changed.notify_waiters();
    }

    pub(crate) fn delay(&self, host: &str, delay: Option<(Duration, Duration)>) {
        self.change(host, |faults| faults.delay = delay);
    }

    pub(crate) fn fail(&self, host: &str, fail: Option<(f64, ErrorKind)>) {
        self.change(host, |faults| faults.fail = fail);
    }

    pub(crate) fn silence(&self, host: &str, silent: bool) {
        self.change(host, |faults| faults.silent = silent);
    }

    /// Refuses connections and breaks those there are, or takes them again.
    pub(crate) fn refuse(&self, host: &str, refuses: bool) {
        self.change(host, |faults| {
            faults.refuses = refuses;
            faults.breaks += u64::from(refuses);
        });
    }

    /// Breaks the connections there are; new ones can be made.
    pub(crate) fn break_connections(&self, host: &str) {
        self.change(host, |faults| faults.breaks += 1);
    }

    /// Lets nothing through from one host to the other.
    pub(crate) fn cut(&self, from: &str, to: &str) {
        self.lock().cuts.insert((from.to_owned(), to.to_owned()));
        self.changed.notify_waiters();
    }

    /// Ends all cuts that `picked` picks.
    pub(crate) fn mend(&self, mut picked: impl FnMut(&str, &str) -> bool) {
        self.lock().cuts.retain(|(from, to)| !picked(from, to));
        self.changed.notify_waiters();
    }

    /// Ends all that is wrong with a host itself.
    pub(crate) fn heal(&self, host: &str) {
        self.change(host, |faults| {
            *faults = Faults {
                breaks: faults.breaks,
                calls: faults.calls,
                ..Faults::default()
            };
        });
    }

    pub(crate) fn calls(&self, host: &str) -> u64 {
        self.faults(host).calls
    }

    fn is_cut(&self, from: &str, to: &str) -> bool {
        let state = self.lock();
        // A node that swallows calls still speaks to the registry.
        let silent = |host: &str, other: &str| {
            other != REGISTRY && state.hosts.get(host).is_some_and(|host| host.silent)
        };
        let cut = || state.cuts.contains(&(from.to_owned(), to.to_owned()));
        silent(from, to) || silent(to, from) || cut()
    }

    /// Waits until the state is so.
    async fn until(&self, so: impl Fn(&Self) -> bool) {
        loop {
            let mut changed = pin!(self.changed.notified());
            // In line before looking: a change between the two is not missed.
            changed.as_mut().enable();
            if so(self) {
                return;
            }
            changed.await;
        }
    }
}

/// The way between two hosts.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) net: Arc<Net>,
    pub(crate) from: Arc<str>,
    pub(crate) to: Arc<str>,
}

impl Line {
    pub(crate) fn log(&self, what: impl AsRef<str>) {
        let text = format!("> {}: {}", self.to, what.as_ref());
        self.net.history.add(&self.from, text);
    }

    pub(crate) fn refuses(&self) -> bool {
        self.net.faults(&self.to).refuses
    }

    pub(crate) fn breaks(&self) -> u64 {
        self.net.faults(&self.from).breaks + self.net.faults(&self.to).breaks
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.net.is_cut(&self.from, &self.to) || self.net.is_cut(&self.to, &self.from)
    }

    /// Waits until what is sent there arrives, and as long as it takes to arrive.
    pub(crate) async fn there(&self) {
        let open = |net: &Net| !net.is_cut(&self.from, &self.to);
        self.net.until(open).await;
        let mut takes = self.net.latency;
        if let Some((least, most)) = self.net.faults(&self.to).delay {
            let span = most.saturating_sub(least);
            takes += least + span.mul_f64(seed::share(&self.net.random));
        }
        if !takes.is_zero() {
            sleep(takes).await;
        }
        self.net.until(open).await;
    }

    /// Waits until what is sent back arrives.
    pub(crate) async fn back(&self) {
        self.net
            .until(|net| !net.is_cut(&self.to, &self.from))
            .await;
    }

    /// Waits until both ways are open.
    pub(crate) async fn both(&self) {
        self.net
            .until(|net| !net.is_cut(&self.from, &self.to) && !net.is_cut(&self.to, &self.from))
            .await;
    }

    /// Waits until more connections were broken than `breaks`.
    pub(crate) async fn broken(&self, breaks: u64) {
        self.net.until(|_| self.breaks() > breaks).await;
    }

    /// Waits until there has been nothing but silence for so long.
    pub(crate) async fn silent_for(&self, span: Duration) {
        loop {
            self.net.until(|_| self.is_silent()).await;
            tokio::select! {
                biased;
                () = self.both() => {}
                () = sleep(span) => return,
            }
        }
    }

    /// Counts a request in, which may be made to fail.
    pub(crate) fn arrive(&self) -> Result<(), Error> {
        // Nobody waits for this, so nobody is woken.
        let fail = {
            let mut state = self.net.lock();
            let faults = state.hosts.entry(self.to.to_string()).or_default();
            faults.calls += 1;
            faults.fail
        };
        match fail {
            Some((part, kind)) if seed::share(&self.net.random) < part => {
                Err(Error::new(kind, "this node was told to fail")
                    .with_operation("testing.fail")
                    .with_context("node", &self.to))
            }
            _ => Ok(()),
        }
    }
}
