//! A task that runs on one node of the fleet, and moves on when that node fails.

use std::any::Any;
use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use micro_core::{Error, ErrorKind, Random, Result, async_trait};
use micro_registry_core::{Registry, RegistryExt as _};
use micro_sync_core::{Coordinator, ElectOptions, Hold, Leadership, Lock, check_elect};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// How long whoever failed stays away before it campaigns again: half of the first to all of it,
/// doubled with each failure up to the longest. Others that wait have their turn meanwhile.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How long is looked for other nodes.
const LOOK: Duration = Duration::from_secs(2);

/// How a [singleton](crate::Service::singleton_with) is elected.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SingletonOptions {
    /// What is led, within the namespace: the name of a lock. `None`, the default, is the service's
    /// name. Singletons of one name exclude each other, and so do locks of that name.
    pub name: Option<String>,
    /// How long the task stays with a node that is gone; as
    /// [`ElectOptions::ttl`](crate::sync::ElectOptions::ttl).
    pub ttl: Duration,
}

impl Default for SingletonOptions {
    fn default() -> Self {
        Self {
            name: None,
            ttl: ElectOptions::default().ttl,
        }
    }
}

impl SingletonOptions {
    /// Sets [`name`](Self::name).
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets [`ttl`](Self::ttl).
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }
}

type Work =
    Box<dyn Fn(Arc<Leadership>) -> Pin<Box<dyn Future<Output = Result<()>> + Send>> + Send + Sync>;

/// A task of a service that does not run yet.
pub(crate) struct Singleton {
    options: SingletonOptions,
    work: Work,
}

impl Singleton {
    pub(crate) fn new<F, Fut>(options: SingletonOptions, work: F) -> Self
    where
        F: Fn(Arc<Leadership>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        Self {
            options,
            work: Box::new(move |leadership| Box::pin(work(leadership))),
        }
    }
}

/// A task that wants to lead.
pub(crate) struct Campaign {
    coordinator: Arc<dyn Coordinator>,
    random: Arc<dyn Random>,
    name: String,
    opts: ElectOptions,
    work: Work,
}

impl fmt::Debug for Campaign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Campaign")
            .field("name", &self.name)
            .field("opts", &self.opts)
            .finish_non_exhaustive()
    }
}

/// Checks the singletons of a service, so that a bad one ends the start.
pub(crate) fn campaigns(
    singletons: Vec<Singleton>,
    service: &str,
    coordinator: &Arc<dyn Coordinator>,
    random: &Arc<dyn Random>,
) -> Result<Vec<Campaign>> {
    let mut campaigns: Vec<Campaign> = Vec::with_capacity(singletons.len());
    for Singleton { options, work } in singletons {
        let name = options.name.unwrap_or_else(|| service.to_owned());
        let opts = ElectOptions::default().with_ttl(options.ttl);
        let bad = |err: Error| err.with_operation("service.singleton");
        check_elect(&name, &opts, &coordinator.capabilities()).map_err(bad)?;
        if campaigns.iter().any(|other| other.name == name) {
            // The second would wait for the first until the service ends.
            return Err(bad(Error::invalid_argument(
                "two singletons of a service have one name: give one of them another",
            )
            .with_context("name", name)));
        }
        campaigns.push(Campaign {
            coordinator: Arc::clone(coordinator),
            random: Arc::clone(random),
            name,
            opts,
            work,
        });
    }
    Ok(campaigns)
}

/// The singletons of a service that runs. Dropping it ends them at once.
#[derive(Debug, Default)]
pub(crate) struct Singletons {
    tasks: JoinSet<()>,
    /// Dropped, it tells them to stop.
    stop: Option<watch::Sender<()>>,
    /// How long that may take.
    stop_timeout: Duration,
    /// Whose they are.
    node: String,
    coordinator: Option<Arc<dyn Coordinator>>,
}

impl Singletons {
    /// Begins to campaign, as this node.
    pub(crate) fn start(campaigns: Vec<Campaign>, node: &str, stop_timeout: Duration) -> Self {
        let (stop, stopped) = watch::channel(());
        let mut tasks = JoinSet::new();
        let coordinator = campaigns.first().map(|one| Arc::clone(&one.coordinator));
        for mut campaign in campaigns {
            node.clone_into(&mut campaign.opts.value);
            tasks.spawn(campaign.run(stopped.clone()));
        }
        Self {
            tasks,
            stop: Some(stop),
            stop_timeout,
            node: node.to_owned(),
            coordinator,
        }
    }

    /// Says it once if locks are of this process alone and the service has other nodes: then each of
    /// them runs what one should.
    pub(crate) fn warn_if_apart(&mut self, service: &str, registry: Arc<dyn Registry>) {
        let alone = |one: &&Arc<dyn Coordinator>| !one.capabilities().shared;
        let Some(coordinator) = self.coordinator.as_ref().filter(alone) else {
            return;
        };
        // Nodes of a registry in memory may share locks in memory.
        if !registry.capabilities().shared {
            return;
        }
        let backend = coordinator.backend();
        let (service, node) = (service.to_owned(), self.node.clone());
        self.tasks.spawn(async move {
            let Ok(Ok(found)) = timeout(LOOK, registry.get(&service)).await else {
                return;
            };
            let mut nodes = found.iter().flat_map(|service| &service.nodes);
            if nodes.any(|other| other.id != node) {
                tracing::warn!(
                    service,
                    backend,
                    "locks are of this process alone, and the service has other nodes: each of them \
                     runs what one should; set MICRO_SYNC to one that they share"
                );
            }
        });
    }

    /// Ends the tasks where they stand, and resigns, so that others lead at once.
    pub(crate) async fn stop(mut self) {
        self.stop = None;
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(self.stop_timeout, ended).await.is_err() {
            tracing::warn!("a singleton may stay with this node until its time to live ends");
        }
    }
}

impl Campaign {
    async fn run(self, mut stop: watch::Receiver<()>) {
        let name = &self.name;
        let mut failures = 0;
        loop {
            let began = Instant::now();
            let err = match self.term(&mut stop).await {
                None => return,
                Some(Ok(())) => {
                    tracing::info!(singleton = name, "it is done, as far as this node goes");
                    return;
                }
                Some(Err(err)) => err,
            };
            if began.elapsed() > PAUSE.1 {
                failures = 0;
            }
            let pause = pause(&*self.random, failures);
            failures = failures.saturating_add(1);
            if err.is_retryable() || err.kind() == ErrorKind::Lost {
                tracing::warn!(singleton = name, %err, ?pause, "it does not run here");
            } else {
                tracing::error!(singleton = name, %err, ?pause, "it failed");
            }
            tokio::select! {
                () = told(&mut stop) => return,
                () = sleep(pause) => {}
            }
        }
    }

    /// Is elected, works and resigns; `None` if it was told to stop.
    async fn term(&self, stop: &mut watch::Receiver<()>) -> Option<Result<()>> {
        let elected = tokio::select! {
            biased;
            () = told(stop) => return None,
            elected = self.coordinator.elect(&self.name, self.opts.clone()) => elected,
        };
        let leadership = match elected {
            Ok(leadership) => Arc::new(leadership),
            Err(err) => return Some(Err(err)),
        };
        let token = leadership.token();
        tracing::info!(singleton = self.name, ?token, "it runs on this node now");
        let lent = Arc::new(lend(&leadership));
        let work = contained(&self.name, async { (self.work)(lent).await });
        let ended = tokio::select! {
            biased;
            () = told(stop) => None,
            ended = leadership.run(work) => Some(ended.flatten()),
        };
        resign(leadership).await;
        ended
    }
}

/// Resolves when the service stops.
async fn told(stop: &mut watch::Receiver<()>) {
    // Nothing is ever sent: it ends with the sender.
    while stop.changed().await.is_ok() {}
}

fn pause(random: &dyn Random, failures: u32) -> Duration {
    let (first, most) = PAUSE;
    let whole = first
        .saturating_mul(2_u32.saturating_pow(failures))
        .min(most);
    let half = whole / 2;
    let micros = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
    half + Duration::from_micros(random.next_u64() % micros)
}

/// Runs the work; a panic is an error of it, whose text only the log learns.
async fn contained(name: &str, work: impl Future<Output = Result<()>> + Send) -> Result<()> {
    let mut work = Box::pin(work);
    // Unwind safety: it is never polled again after a panic.
    poll_fn(|cx| {
        catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))).unwrap_or_else(|payload| {
            tracing::error!(
                singleton = name,
                panic = text(&*payload),
                "the work panicked"
            );
            Poll::Ready(Err(Error::internal("the work panicked; the log says why")))
        })
    })
    .await
}

fn text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&'static str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

/// What the work is given: the leadership itself stays here, or a copy that the work has left with
/// somebody would keep the whole fleet from leading.
fn lend(leadership: &Arc<Leadership>) -> Leadership {
    let lock = Lock::new(
        leadership.name(),
        leadership.token(),
        Arc::clone(leadership.tenure()),
        Box::new(Lent(Arc::downgrade(leadership))),
    );
    Leadership::new(lock, leadership.value())
}

#[derive(Debug)]
struct Lent(Weak<Leadership>);

const OVER: &str = "the work has ended, and the leadership with it";

#[async_trait]
impl Hold for Lent {
    async fn verify(&self) -> Result<()> {
        match self.0.upgrade() {
            Some(leadership) => leadership.verify().await,
            None => Err(Error::lost(OVER)),
        }
    }

    async fn release(self: Box<Self>) -> Result<()> {
        Err(Error::failed_precondition(
            "a singleton resigns when its work returns",
        ))
    }
}

/// Resigns, whoever still has a copy.
async fn resign(leadership: Arc<Leadership>) {
    let tenure = Arc::clone(leadership.tenure());
    let end = || {
        // If it was lost, whoever waits is told why by those who noticed it.
        if tenure.is_held() {
            tenure.end(OVER);
        }
    };
    let Some(leadership) = Arc::into_inner(leadership) else {
        // Somebody asks the backend by a copy just now, and lets go when it is answered.
        return end();
    };
    // Copies learn it once the resigning has begun: before, it would count as a loss.
    let (resigned, ()) = tokio::join!(biased; leadership.resign(), async { end() });
    match resigned {
        Err(err) if err.kind() != ErrorKind::Lost => {
            tracing::debug!(%err, "a leadership ends with its time to live");
        }
        _ => {}
    }
}

#[cfg(all(test, feature = "sync-memory"))]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    use micro_core::{FencingToken, SeededRandom};
    use micro_sync_core::LockOptions;
    use micro_sync_memory::MemoryCoordinator;

    use super::*;

    /// What happened, with the token.
    type Told = Arc<Mutex<Vec<(&'static str, FencingToken)>>>;

    /// Tells when it is dropped.
    struct Runs(Told, &'static str, FencingToken);

    impl Drop for Runs {
        fn drop(&mut self) {
            self.0.lock().unwrap().push((self.1, self.2));
        }
    }

    struct Site {
        coordinator: MemoryCoordinator,
        told: Told,
    }

    impl Site {
        fn new() -> Self {
            Self {
                coordinator: MemoryCoordinator::new(),
                told: Told::default(),
            }
        }

        /// Starts a node.
        fn node<F, Fut>(&self, name: &str, work: F) -> Singletons
        where
            F: Fn(Arc<Leadership>) -> Fut + Send + Sync + 'static,
            Fut: Future<Output = Result<()>> + Send + 'static,
        {
            let coordinator: Arc<dyn Coordinator> = Arc::new(self.coordinator.clone());
            let random: Arc<dyn Random> = Arc::new(SeededRandom::new(3));
            let work = Singleton::new(SingletonOptions::default(), work);
            let campaigns = campaigns(vec![work], "books", &coordinator, &random).unwrap();
            Singletons::start(campaigns, name, Duration::from_secs(10))
        }

        /// Starts a node that works for ever.
        fn lasting(&self, name: &'static str) -> Singletons {
            let told = Arc::clone(&self.told);
            self.node(name, move |leadership| {
                let told = Arc::clone(&told);
                async move {
                    assert_eq!((leadership.name(), leadership.value()), ("books", name));
                    let token = leadership.token();
                    told.lock().unwrap().push((name, token));
                    let _runs = Runs(told, "ended", token);
                    std::future::pending().await
                }
            })
        }

        fn told(&self) -> Vec<&'static str> {
            let told = self.told.lock().unwrap();
            told.iter().map(|(what, _)| *what).collect()
        }

        async fn is_free(&self) -> bool {
            let lock = self.coordinator.try_lock("books", LockOptions::default());
            lock.await.unwrap().is_some()
        }
    }

    /// Lets everybody go on who can.
    async fn settle() {
        sleep(Duration::from_millis(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_node_works_and_the_next_takes_over_at_once_when_it_stops() {
        let site = Site::new();
        let a = site.lasting("a");
        settle().await;
        let b = site.lasting("b");
        settle().await;
        assert_eq!(site.told(), ["a"]);
        a.stop().await;
        settle().await;
        assert_eq!(site.told(), ["a", "ended", "b"]);
        // As a process that ends in disorder, as far as memory can tell.
        drop(b);
        settle().await;
        assert_eq!(site.told(), ["a", "ended", "b", "ended"]);
        let tokens: Vec<_> = site
            .told
            .lock()
            .unwrap()
            .iter()
            .map(|told| told.1)
            .collect();
        assert!(tokens.is_sorted() && tokens[0] < tokens[2], "{tokens:?}");
        assert!(site.is_free().await);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_waiting_leaves_without_a_trace() {
        let site = Site::new();
        let held = site.coordinator.lock("books", LockOptions::default()).await;
        let node = site.lasting("a");
        settle().await;
        let begin = Instant::now();
        node.stop().await;
        assert!(begin.elapsed() < Duration::from_millis(1));
        drop(held);
        settle().await;
        assert!(site.told().is_empty() && site.is_free().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_leadership_that_is_lost_stops_the_work_and_another_begins() {
        let site = Site::new();
        let node = site.lasting("a");
        settle().await;
        assert!(site.coordinator.take_away("books"));
        settle().await;
        assert_eq!(site.told(), ["a", "ended"]);
        sleep(PAUSE.0).await;
        assert_eq!(site.told(), ["a", "ended", "a"]);
        node.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn errors_and_panics_move_the_task_on_and_are_repeated_with_pauses() {
        let site = Site::new();
        let tries = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&tries);
        let bad = site.node("bad", move |_| {
            let tries = counted.fetch_add(1, Ordering::SeqCst);
            // Before the first step of the work, and within.
            assert!(!tries.is_multiple_of(3), "the first step");
            async move {
                assert!(tries % 3 != 1, "the work");
                Err(Error::internal("a disk is full"))
            }
        });
        settle().await;
        assert_eq!(tries.load(Ordering::SeqCst), 1);
        sleep(Duration::from_secs(300)).await;
        let tried = tries.load(Ordering::SeqCst);
        // 1, 2, 4, 8, 16 and then 30 seconds at most, half of each at least.
        assert!((12..=24).contains(&tried), "{tried}");
        let good = site.lasting("good");
        sleep(PAUSE.1).await;
        assert_eq!(site.told(), ["good"]);
        good.stop().await;
        bad.stop().await;
        assert!(site.is_free().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_is_done_is_not_begun_again_by_the_same_node() {
        let site = Site::new();
        let done = |name: &'static str| {
            let told = Arc::clone(&site.told);
            site.node(name, move |leadership| {
                told.lock().unwrap().push((name, leadership.token()));
                std::future::ready(Ok(()))
            })
        };
        let (a, b) = (done("a"), done("b"));
        sleep(PAUSE.1 * 4).await;
        let mut told = site.told();
        told.sort_unstable();
        assert_eq!(told, ["a", "b"]);
        a.stop().await;
        b.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_of_the_leadership_keeps_nobody_from_leading() {
        let site = Site::new();
        let left = Arc::new(Mutex::new(None));
        let keep = Arc::clone(&left);
        let a = site.node("a", move |leadership| {
            *keep.lock().unwrap() = Some(leadership);
            std::future::pending()
        });
        settle().await;
        let copy = left.lock().unwrap().take().unwrap();
        assert!(copy.is_held());
        copy.verify().await.unwrap();
        let b = site.lasting("b");
        a.stop().await;
        settle().await;
        assert_eq!(site.told(), ["b"]);
        assert!(!copy.is_held());
        assert_eq!(copy.lost().await.kind(), ErrorKind::Lost);
        assert_eq!(copy.verify().await.unwrap_err().kind(), ErrorKind::Lost);
        // And nothing of it lets go of what another has.
        drop(copy);
        assert!(!site.is_free().await);
        b.stop().await;
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        let coordinator: Arc<dyn Coordinator> = Arc::new(MemoryCoordinator::new());
        let random: Arc<dyn Random> = Arc::new(SeededRandom::new(3));
        let make = |options: Vec<SingletonOptions>| {
            let work = |_| std::future::ready(Ok(()));
            let all = options.into_iter().map(|o| Singleton::new(o, work));
            campaigns(all.collect(), "books", &coordinator, &random).map(|all| all.len())
        };
        let options = SingletonOptions::default;
        assert_eq!(make(vec![options(), options().with_name("x")]).unwrap(), 2);
        for bad in [
            vec![options(), options().with_name("books")],
            vec![options().with_name("a/b")],
            vec![options().with_ttl(Duration::ZERO)],
        ] {
            let err = make(bad).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{err}");
        }
    }
}
