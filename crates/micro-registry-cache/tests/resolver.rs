//! The resolver over a registry that does as the test says, in paused time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use futures_util::{FutureExt as _, StreamExt as _};
use micro_core::{Clock, SeededRandom};
use micro_registry_cache::{Freshness, Resolved, Resolver, ResolverOptions};
use micro_registry_core::{
    Capabilities, DeregisterOptions, Error, ErrorKind, Event, EventKind, EventStream, GetOptions,
    ListOptions, Node, RegisterOptions, Registry, Result, Service, WatchOptions, async_trait,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

/// What `get_service` does.
#[derive(Clone, Debug)]
enum Answer {
    Nodes(Vec<&'static str>),
    Fails,
    Hangs,
    Panics,
}

/// A registry that does as it is told, and counts.
#[derive(Debug)]
struct Scripted {
    answer: Mutex<Answer>,
    /// How long an answer is under way.
    delay: Mutex<Duration>,
    asked: Mutex<Vec<Instant>>,
    watched: Mutex<Vec<Instant>>,
    watch_fails: Mutex<bool>,
    /// Of the watches that are open.
    watchers: Mutex<Vec<mpsc::UnboundedSender<Result<Event>>>>,
    open_watches: Arc<AtomicUsize>,
    capabilities: Mutex<Capabilities>,
}

impl Scripted {
    fn new(answer: Answer) -> Arc<Self> {
        Arc::new(Self {
            answer: Mutex::new(answer),
            delay: Mutex::default(),
            asked: Mutex::default(),
            watched: Mutex::default(),
            watch_fails: Mutex::default(),
            watchers: Mutex::default(),
            open_watches: Arc::default(),
            capabilities: Mutex::default(),
        })
    }

    fn answers(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// When it was asked, and the spans between.
    fn spans(times: &Mutex<Vec<Instant>>) -> Vec<Duration> {
        let times = times.lock().unwrap();
        times.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    fn tell(&self, kind: EventKind, ids: &[&str]) {
        let event = Event::new(kind, nodes(ids));
        for watcher in &*self.watchers.lock().unwrap() {
            let _ = watcher.send(Ok(event.clone()));
        }
    }

    fn break_watches(&self) {
        for watcher in self.watchers.lock().unwrap().drain(..) {
            let _ = watcher.send(Err(Error::unavailable("the watch fell behind")));
        }
    }
}

fn nodes(ids: &[&str]) -> Service {
    let mut service = Service::new("greeter", "v1");
    service.nodes = ids.iter().map(|id| Node::new(*id, "127.0.0.1:1")).collect();
    service
}

#[async_trait]
impl Registry for Scripted {
    fn backend(&self) -> &'static str {
        "scripted"
    }

    fn capabilities(&self) -> Capabilities {
        *self.capabilities.lock().unwrap()
    }

    async fn register(&self, _service: &Service, _opts: RegisterOptions) -> Result<()> {
        Ok(())
    }

    async fn deregister(&self, _service: &Service, _opts: DeregisterOptions) -> Result<()> {
        Ok(())
    }

    async fn get_service(&self, name: &str, _opts: GetOptions) -> Result<Vec<Service>> {
        assert_eq!(name, "greeter");
        self.asked.lock().unwrap().push(Instant::now());
        // What is so now is what arrives later.
        let answer = self.answer.lock().unwrap().clone();
        let delay = *self.delay.lock().unwrap();
        sleep(delay).await;
        match answer {
            Answer::Nodes(ids) if ids.is_empty() => Err(Error::not_found("not registered")),
            Answer::Nodes(ids) => Ok(vec![nodes(&ids)]),
            Answer::Fails => Err(Error::unavailable("the registry is down")),
            Answer::Hangs => std::future::pending().await,
            Answer::Panics => panic!("a fault in the registry"),
        }
    }

    async fn list_services(&self, _opts: ListOptions) -> Result<Vec<Service>> {
        Ok(Vec::new())
    }

    async fn watch(&self, opts: WatchOptions) -> Result<EventStream> {
        assert_eq!(opts.service.as_deref(), Some("greeter"));
        self.watched.lock().unwrap().push(Instant::now());
        if *self.watch_fails.lock().unwrap() {
            return Err(Error::unavailable("no watch today"));
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        self.watchers.lock().unwrap().push(sender);
        self.open_watches.fetch_add(1, Ordering::SeqCst);
        let open = Open(Arc::clone(&self.open_watches));
        Ok(Box::pin(futures_util::stream::unfold(
            (receiver, open),
            async |(mut receiver, open)| Some((receiver.recv().await?, (receiver, open))),
        )))
    }
}

/// Counts itself out when the watch is dropped.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Follows tokio's clock, which the tests pause.
#[derive(Debug)]
struct Paused;

impl Clock for Paused {
    fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }

    fn wall(&self) -> SystemTime {
        UNIX_EPOCH
    }
}

fn options() -> ResolverOptions {
    ResolverOptions::default()
        .with_clock(Arc::new(Paused))
        .with_random(Arc::new(SeededRandom::new(7)))
}

fn resolver(registry: &Arc<Scripted>) -> Resolver {
    Resolver::new(Arc::clone(registry) as Arc<dyn Registry>, options())
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

fn after(span: u64) -> Option<std::time::Instant> {
    Some(now() + secs(span))
}

fn secs(span: u64) -> Duration {
    Duration::from_secs(span)
}

fn ids(resolved: &Resolved) -> Vec<String> {
    let snapshot = resolved.snapshot();
    let nodes = snapshot.nodes();
    nodes.map(|(_, node)| node.id.clone()).collect()
}

/// Lets the task do what it can now.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_first_callers_are_one_question() {
    let registry = Scripted::new(Answer::Nodes(vec!["a", "b"]));
    *registry.delay.lock().unwrap() = Duration::from_millis(100);
    let resolver = resolver(&registry);
    let callers = (0..100).map(|_| {
        let resolver = resolver.clone();
        tokio::spawn(async move { resolver.service("greeter")?.known(after(2)).await })
    });
    for snapshot in join_all(callers).await {
        let snapshot = snapshot.unwrap().unwrap();
        assert_eq!(snapshot.len(), 2);
        assert_eq!(snapshot.freshness, Freshness::Fresh);
    }
    assert_eq!(registry.asked(), 1);
    assert_eq!(registry.watched.lock().unwrap().len(), 1);
    assert_eq!(resolver.services().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_first_caller_waits_until_somebody_is_there() {
    let registry = Scripted::new(Answer::Nodes(vec![]));
    let resolver = resolver(&registry);
    let greeter = resolver.service("greeter").unwrap();
    let start = Instant::now();
    let (known, ()) = tokio::join!(greeter.known(after(2)), async {
        sleep(Duration::from_millis(300)).await;
        registry.tell(EventKind::Create, &["a"]);
    });
    assert_eq!(known.unwrap().len(), 1);
    assert!(start.elapsed() < Duration::from_millis(310));
}

#[tokio::test(start_paused = true)]
async fn without_a_watch_waiting_callers_have_the_registry_asked_each_second() {
    let registry = Scripted::new(Answer::Nodes(vec![]));
    let resolver = resolver(&registry);
    let greeter = resolver.service("greeter").unwrap();
    let (known, ()) = tokio::join!(greeter.known(None), async {
        sleep(secs(3)).await;
        registry.answers(Answer::Nodes(vec!["a"]));
    });
    assert_eq!(known.unwrap().len(), 1);
    assert!((4..=5).contains(&registry.asked()), "{}", registry.asked());
}

#[tokio::test(start_paused = true)]
async fn errors_say_why_nobody_is_known() {
    for (answer, kind, text) in [
        (Answer::Nodes(vec![]), ErrorKind::NotFound, "does it run"),
        (
            Answer::Fails,
            ErrorKind::Unavailable,
            "the registry is down",
        ),
        (Answer::Hangs, ErrorKind::DeadlineExceeded, "not answered"),
    ] {
        let registry = Scripted::new(answer);
        let opts = options().with_namespace("staging");
        let resolver = Resolver::new(Arc::clone(&registry) as _, opts);
        let greeter = resolver.service("greeter").unwrap();
        let start = Instant::now();
        let err = greeter.known(after(2)).await.unwrap_err();
        assert_eq!(err.kind(), kind, "{err}");
        assert!(err.is_unprocessed());
        let shown = err.to_string();
        for part in [
            text,
            "service: greeter",
            "registry: scripted",
            "namespace: staging",
            "waited: 2000ms",
        ] {
            assert!(shown.contains(part), "'{part}' is not in {shown}");
        }
        assert_eq!(start.elapsed().as_secs(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn failing_at_once_takes_the_first_answer_and_remembers_it() {
    let registry = Scripted::new(Answer::Nodes(vec![]));
    let resolver = resolver(&registry);
    let greeter = resolver.service("greeter").unwrap();
    let start = Instant::now();
    for _ in 0..1000 {
        let err = greeter.first_answer(after(2)).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::NotFound);
    }
    assert_eq!(registry.asked(), 1, "a storm is one question");
    assert!(start.elapsed() < Duration::from_millis(10));
    // A second later it is asked again, once.
    sleep(secs(1)).await;
    registry.answers(Answer::Nodes(vec!["a"]));
    let known = greeter.first_answer(after(2)).await.unwrap();
    assert_eq!((known.len(), registry.asked()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn who_wants_everybody_waits_for_the_answer_and_not_for_the_first_to_be_heard() {
    let registry = Scripted::new(Answer::Nodes(vec!["a", "b"]));
    *registry.delay.lock().unwrap() = Duration::from_millis(100);
    let resolver = resolver(&registry);
    let greeter = resolver.service("greeter").unwrap();
    settle().await;
    registry.tell(EventKind::Create, &["a"]);
    settle().await;
    let part = greeter.first_answer(after(2)).await.unwrap();
    assert_eq!((part.len(), greeter.is_answered()), (1, false));
    let whole = greeter.answered(after(2)).await.unwrap();
    assert_eq!((whole.len(), greeter.is_answered()), (2, true));
    // Nobody is an answer, and so is an error if somebody is known.
    for (answer, told, expected) in [
        (Answer::Nodes(vec![]), false, Ok(0)),
        (Answer::Fails, true, Ok(1)),
        (Answer::Fails, false, Err(ErrorKind::Unavailable)),
        (Answer::Hangs, true, Err(ErrorKind::DeadlineExceeded)),
    ] {
        let registry = Scripted::new(answer);
        *registry.delay.lock().unwrap() = Duration::from_millis(100);
        let resolver = self::resolver(&registry);
        let greeter = resolver.service("greeter").unwrap();
        settle().await;
        if told {
            registry.tell(EventKind::Create, &["a"]);
        }
        let found = greeter.answered(after(2)).await;
        assert_eq!(
            found.map(|all| all.len()).map_err(|err| err.kind()),
            expected
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_removes_nobody_and_the_age_is_visible() {
    let registry = Scripted::new(Answer::Nodes(vec!["a", "b"]));
    let resolver = resolver(&registry);
    let greeter = resolver.service("greeter").unwrap();
    let first = greeter.known(after(2)).await.unwrap();
    let confirmed = now();
    registry.answers(Answer::Fails);
    registry.break_watches();
    *registry.watch_fails.lock().unwrap() = true;
    sleep(secs(3600)).await;
    let stale = greeter.known(after(0)).await.unwrap();
    assert_eq!(stale.len(), 2);
    assert_eq!(stale.revision, first.revision, "the nodes are the same");
    assert!(Arc::ptr_eq(&stale.services, &first.services));
    match &stale.freshness {
        Freshness::Stale { since, cause } => {
            assert!(since.duration_since(confirmed) < secs(31));
            assert!(cause.contains("the registry is down"), "{cause}");
        }
        other => panic!("{other:?}"),
    }
    // It comes back by itself.
    registry.answers(Answer::Nodes(vec!["a", "b", "c"]));
    sleep(secs(31)).await;
    assert_eq!(greeter.snapshot().freshness, Freshness::Fresh);
    assert_eq!(ids(&greeter), ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_registry_removes_nobody() {
    let registry = Scripted::new(Answer::Nodes(vec!["a"]));
    let resolver = resolver(&registry);
    let greeter = resolver.service("greeter").unwrap();
    greeter.known(after(2)).await.unwrap();
    registry.answers(Answer::Hangs);
    sleep(secs(60)).await;
    assert_eq!(ids(&greeter), ["a"]);
    assert!(matches!(
        greeter.snapshot().freshness,
        Freshness::Stale { .. }
    ));
    // Events still count.
    registry.tell(EventKind::Create, &["b"]);
    settle().await;
    assert_eq!(ids(&greeter), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_believed_only_after_the_grace() {
    let registry = Scripted::new(Answer::Nodes(vec!["a", "b"]));
    let resolver = resolver(&registry);
    let greeter = resolver.service("greeter").unwrap();
    greeter.known(after(2)).await.unwrap();
    registry.answers(Answer::Nodes(vec![]));
    registry.break_watches();
    sleep(secs(25)).await;
    assert_eq!(ids(&greeter), ["a", "b"]);
    assert!(matches!(
        greeter.snapshot().freshness,
        Freshness::Stale { .. }
    ));
    sleep(secs(15)).await;
    assert!(greeter.snapshot().is_empty());
    assert_eq!(greeter.snapshot().freshness, Freshness::Fresh);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_leaves_is_gone_at_once() {
    let registry = Scripted::new(Answer::Nodes(vec!["a", "b"]));
    let resolver = resolver(&registry);
    let greeter = resolver.service("greeter").unwrap();
    greeter.known(after(2)).await.unwrap();
    registry.tell(EventKind::Delete, &["a"]);
    settle().await;
    assert_eq!(ids(&greeter), ["b"]);
    // The last one is asked about first, which takes half a second at most.
    registry.answers(Answer::Nodes(vec![]));
    registry.tell(EventKind::Delete, &["b"]);
    sleep(Duration::from_millis(510)).await;
    assert!(greeter.snapshot().is_empty());
}

#[tokio::test(start_paused = true)]
async fn s47_a_goodbye_that_the_registry_does_not_confirm_removes_nobody() {
    let registry = Scripted::new(Answer::Nodes(vec!["a"]));
    let resolver = resolver(&registry);
    let greeter = resolver.service("greeter").unwrap();
    greeter.known(after(2)).await.unwrap();
    for answer in [Answer::Nodes(vec!["a"]), Answer::Fails, Answer::Hangs] {
        registry.answers(answer);
        for _ in 0..20 {
            registry.tell(EventKind::Delete, &["a"]);
            sleep(Duration::from_millis(100)).await;
            assert_eq!(ids(&greeter), ["a"]);
        }
        sleep(secs(20)).await;
        assert_eq!(ids(&greeter), ["a"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_forgets_everybody_while_it_cannot_be_asked_is_not_believed() {
    let all = vec!["a", "b", "c", "d"];
    let registry = Scripted::new(Answer::Nodes(all.clone()));
    let resolver = resolver(&registry);
    let greeter = resolver.service("greeter").unwrap();
    greeter.known(after(2)).await.unwrap();
    // Nobody can renew, so one after the other expires; and nobody can ask.
    registry.answers(Answer::Fails);
    for id in all {
        registry.tell(EventKind::Delete, &[id]);
        sleep(secs(3)).await;
    }
    assert_eq!(ids(&greeter), ["c", "d"]);
    let stale = matches!(greeter.snapshot().freshness, Freshness::Stale { .. });
    assert!(stale);
    // It says that it is so: then it is so, without grace.
    registry.answers(Answer::Nodes(vec![]));
    sleep(secs(31)).await;
    assert!(greeter.snapshot().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_was_ahead_of_the_list_is_asked_about_again() {
    let registry = Scripted::new(Answer::Nodes(vec!["a"]));
    let resolver = resolver(&registry);
    let greeter = resolver.service("greeter").unwrap();
    greeter.known(after(2)).await.unwrap();
    sleep(secs(1)).await;
    // The list is behind the watch, as on a follower of a replicated registry.
    registry.tell(EventKind::Delete, &["a"]);
    settle().await;
    registry.answers(Answer::Nodes(vec![]));
    sleep(Duration::from_millis(2100)).await;
    // Nobody listed: from here on it is the grace that counts.
    assert!(matches!(
        greeter.snapshot().freshness,
        Freshness::Stale { .. }
    ));
    sleep(secs(40)).await;
    assert!(greeter.snapshot().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_flaps_a_hundred_times_a_second_is_not_asked_for_it() {
    let registry = Scripted::new(Answer::Nodes(vec!["a", "b", "c"]));
    let resolver = resolver(&registry);
    let greeter = resolver.service("greeter").unwrap();
    greeter.known(after(2)).await.unwrap();
    let (asked, revision) = (registry.asked(), greeter.snapshot().revision);
    // Also the whole service at once, which has to be asked about.
    for i in 0..1000 {
        let (kind, ids): (_, &[&str]) = match i % 4 {
            0 => (EventKind::Create, &["d"]),
            1 => (EventKind::Delete, &["d"]),
            2 => (EventKind::Delete, &["a", "b", "c"]),
            _ => (EventKind::Update, &["a", "b", "c"]),
        };
        registry.tell(kind, ids);
        sleep(Duration::from_millis(10)).await;
        assert!(ids_of(&greeter) >= 3);
    }
    // Ten seconds: two questions a second at most.
    let asked = registry.asked() - asked;
    assert!(asked <= 22, "{asked}");
    let seen = greeter.snapshot().revision - revision;
    assert!(seen <= 1000, "{seen}");
    sleep(secs(3)).await;
    assert_eq!(ids(&greeter), ["a", "b", "c"]);
}

fn ids_of(resolved: &Resolved) -> usize {
    resolved.snapshot().len()
}

#[tokio::test(start_paused = true)]
async fn a_whole_service_that_leaves_at_once_is_confirmed_first() {
    let registry = Scripted::new(Answer::Nodes(vec!["a", "b", "c"]));
    let resolver = resolver(&registry);
    let greeter = resolver.service("greeter").unwrap();
    greeter.known(after(2)).await.unwrap();
    sleep(secs(5)).await;
    // A fault: they are still there.
    registry.tell(EventKind::Delete, &["a", "b", "c"]);
    settle().await;
    assert_eq!(ids(&greeter).len(), 3);
    sleep(secs(2)).await;
    assert_eq!(ids(&greeter).len(), 3);
    // The truth: within two seconds, without the grace.
    registry.answers(Answer::Nodes(vec![]));
    registry.tell(EventKind::Delete, &["a", "b", "c"]);
    sleep(secs(1)).await;
    assert!(greeter.snapshot().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_answer_under_way_brings_nobody_back() {
    let registry = Scripted::new(Answer::Nodes(vec!["a", "b", "c"]));
    let resolver = resolver(&registry);
    let greeter = resolver.service("greeter").unwrap();
    greeter.known(after(2)).await.unwrap();
    // The next question takes long, and is answered with what was so when it was put.
    *registry.delay.lock().unwrap() = secs(3);
    let asked = registry.asked();
    while registry.asked() == asked {
        sleep(Duration::from_millis(100)).await;
    }
    registry.tell(EventKind::Delete, &["a"]);
    registry.tell(EventKind::Create, &["d"]);
    let mut changes = greeter.changes();
    for _ in 0..40 {
        let _ = changes.changed().now_or_never();
        sleep(Duration::from_millis(100)).await;
        assert_eq!(ids(&greeter), ["b", "c", "d"]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_registry_is_asked_again_and_not_in_step() {
    let registry = Scripted::new(Answer::Nodes(vec!["a"]));
    let resolver = resolver(&registry);
    let greeter = resolver.service("greeter").unwrap();
    sleep(secs(3600)).await;
    let mut spans = Scripted::spans(&registry.asked);
    assert!((120..=151).contains(&spans.len()), "{}", spans.len());
    // Only the first one may be short: a fleet that began together is spread by it.
    assert!(spans.remove(0) <= Duration::from_millis(30_010));
    let range = Duration::from_secs(24)..=Duration::from_millis(30_010);
    assert!(spans.iter().all(|span| range.contains(span)), "{spans:?}");
    let distinct: std::collections::BTreeSet<_> = spans.iter().collect();
    assert!(distinct.len() > 100, "jitter");
    assert_eq!(greeter.snapshot().revision, 1, "nothing changed");
    assert_eq!(registry.watched.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_broken_watch_is_opened_again_and_everything_asked_anew() {
    let registry = Scripted::new(Answer::Nodes(vec!["a"]));
    let resolver = resolver(&registry);
    let greeter = resolver.service("greeter").unwrap();
    greeter.known(after(2)).await.unwrap();
    sleep(secs(15)).await;
    registry.answers(Answer::Nodes(vec!["a", "missed"]));
    registry.break_watches();
    sleep(secs(46)).await;
    assert_eq!(ids(&greeter), ["a", "missed"]);
    assert_eq!(registry.open_watches.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_goes_on_failing_is_tried_less_and_less() {
    let registry = Scripted::new(Answer::Nodes(vec!["a"]));
    *registry.watch_fails.lock().unwrap() = true;
    let resolver = resolver(&registry);
    let greeter = resolver.service("greeter").unwrap();
    assert_eq!(greeter.known(after(2)).await.unwrap().len(), 1);
    sleep(secs(600)).await;
    let spans = Scripted::spans(&registry.watched);
    assert!(
        spans
            .iter()
            .all(|span| *span <= Duration::from_millis(45_010))
    );
    // Full jitter up to 45 s is 22.5 s on average.
    assert!((15..=60).contains(&spans.len()), "{}", spans.len());
    assert!(registry.asked() <= spans.len() + 30, "{}", registry.asked());
    // A flapping one, which opens and ends at once, is no better.
    *registry.watch_fails.lock().unwrap() = false;
    registry.watched.lock().unwrap().clear();
    let until = Instant::now() + secs(600);
    while Instant::now() < until {
        registry.break_watches();
        sleep(Duration::from_millis(20)).await;
    }
    let opened = registry.watched.lock().unwrap().len();
    assert!((15..=60).contains(&opened), "{opened}");
}

#[tokio::test(start_paused = true)]
async fn a_registry_in_trouble_is_asked_less_and_less() {
    let registry = Scripted::new(Answer::Fails);
    let resolver = resolver(&registry);
    let greeter = resolver.service("greeter").unwrap();
    let err = greeter.known(after(600)).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    // Full jitter up to 5 s, for somebody waits.
    assert!(
        (180..=320).contains(&registry.asked()),
        "{}",
        registry.asked()
    );
    // Nobody waits any more.
    let asked = registry.asked();
    sleep(secs(600)).await;
    assert!(registry.asked() - asked <= 80);
    // Whoever comes now need not wait for the long pause.
    registry.answers(Answer::Nodes(vec!["a"]));
    assert_eq!(greeter.known(after(6)).await.unwrap().len(), 1);
}

/// What a fleet asks of a registry that restarts: the most requests within a second.
async fn herd(random: impl Fn(u64) -> Arc<dyn micro_core::Random>) -> usize {
    let registry = Scripted::new(Answer::Nodes(vec!["a", "b"]));
    let resolvers: Vec<_> = (0..300)
        .map(|seed| {
            let opts = options().with_random(random(seed));
            Resolver::new(Arc::clone(&registry) as _, opts)
        })
        .collect();
    let held: Vec<_> = resolvers
        .iter()
        .map(|resolver| resolver.service("greeter").unwrap())
        .collect();
    sleep(secs(65)).await;
    let (asked, watched) = (registry.asked(), registry.watched.lock().unwrap().len());
    // It is away for three seconds.
    registry.answers(Answer::Fails);
    *registry.watch_fails.lock().unwrap() = true;
    registry.break_watches();
    sleep(secs(3)).await;
    registry.answers(Answer::Nodes(vec!["a", "b"]));
    *registry.watch_fails.lock().unwrap() = false;
    let back = Instant::now();
    sleep(secs(60)).await;
    assert_eq!(registry.open_watches.load(Ordering::SeqCst), 300);
    assert!(
        held.iter()
            .all(|held| held.snapshot().freshness == Freshness::Fresh)
    );
    let mut times: Vec<_> = registry.asked.lock().unwrap()[asked..].to_vec();
    times.extend(&registry.watched.lock().unwrap()[watched..]);
    times.retain(|time| *time >= back);
    times.sort();
    let within = |begin: &Instant| {
        times
            .iter()
            .filter(|time| (*begin..*begin + secs(1)).contains(time))
            .count()
    };
    times.iter().map(within).max().unwrap_or_default()
}

/// No jitter at all.
#[derive(Debug)]
struct Zero;

impl micro_core::Random for Zero {
    fn next_u64(&self) -> u64 {
        0
    }
}

#[tokio::test(start_paused = true)]
async fn three_hundred_clients_are_no_herd() {
    let ours = herd(|seed| Arc::new(SeededRandom::new(seed))).await;
    let naive = herd(|_| Arc::new(Zero)).await;
    assert!(naive >= 600, "{naive}");
    assert!(ours * 10 <= naive, "{ours} of {naive}");
}

#[tokio::test(start_paused = true)]
async fn a_doubted_node_is_asked_about_soon_and_goes_at_once() {
    let registry = Scripted::new(Answer::Nodes(vec!["a"]));
    let resolver = resolver(&registry);
    let greeter = resolver.service("greeter").unwrap();
    greeter.known(after(2)).await.unwrap();
    sleep(secs(2)).await;
    let start = Instant::now();
    registry.answers(Answer::Nodes(vec![]));
    greeter.doubt("a");
    settle().await;
    assert!(greeter.snapshot().is_empty(), "two say that it is gone");
    assert!(start.elapsed() < Duration::from_millis(10));

    // A storm of doubts about a node that stays listed is a trickle of questions.
    registry.answers(Answer::Nodes(vec!["a"]));
    registry.tell(EventKind::Create, &["a"]);
    let asked = registry.asked();
    for _ in 0..6000 {
        greeter.doubt("a");
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(ids(&greeter), ["a"]);
    let asked = registry.asked() - asked;
    assert!((4..=12).contains(&asked), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn s51_loopback_is_not_believed_of_a_registry_elsewhere() {
    let shared = Capabilities::default().with_shared(true);
    for (capabilities, believed) in [
        (shared, false),
        (shared.with_loopback(true), true),
        (shared.with_local(true), true),
        (Capabilities::default(), true),
    ] {
        // Its nodes are at 127.0.0.1.
        let registry = Scripted::new(Answer::Nodes(vec!["a"]));
        *registry.capabilities.lock().unwrap() = capabilities;
        let resolver = resolver(&registry);
        let greeter = resolver.service("greeter").unwrap();
        let known = greeter.known(after(2)).await;
        match known {
            Ok(_) => assert!(believed, "{capabilities:?}"),
            Err(err) => {
                assert!(!believed, "{capabilities:?}");
                let shown = err.to_string();
                for part in ["none that is believed", "a: its address is loopback"] {
                    assert!(shown.contains(part), "'{part}' is not in {shown}");
                }
            }
        }
        registry.tell(EventKind::Create, &["b"]);
        settle().await;
        assert_eq!(greeter.snapshot().is_empty(), !believed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_never_changes() {
    let registry = Scripted::new(Answer::Nodes(vec!["a"]));
    let resolver = resolver(&registry);
    let greeter = resolver.service("greeter").unwrap();
    let before = greeter.known(after(2)).await.unwrap();
    let mut changes = greeter.changes();
    registry.tell(EventKind::Create, &["b"]);
    let now = changes.changed().await;
    assert_eq!((before.len(), now.len()), (1, 2));
    assert!(now.revision > before.revision);
}

#[tokio::test(start_paused = true)]
async fn a_flapping_registry_is_coalesced() {
    let registry = Scripted::new(Answer::Nodes(vec!["a"]));
    let resolver = resolver(&registry);
    let greeter = resolver.service("greeter").unwrap();
    greeter.known(after(2)).await.unwrap();
    let before = greeter.snapshot().revision;
    for _ in 0..100 {
        registry.tell(EventKind::Create, &["b"]);
        registry.tell(EventKind::Delete, &["b"]);
    }
    registry.tell(EventKind::Create, &["c"]);
    settle().await;
    assert_eq!(ids(&greeter), ["a", "c"]);
    assert!(greeter.snapshot().revision <= before + 2);
    assert_eq!(registry.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_resolver_ends_its_tasks() {
    let registry = Scripted::new(Answer::Nodes(vec!["a"]));
    let resolver = resolver(&registry);
    let greeter = resolver.service("greeter").unwrap();
    greeter.known(after(2)).await.unwrap();
    assert_eq!(registry.open_watches.load(Ordering::SeqCst), 1);
    drop(resolver);
    settle().await;
    assert_eq!(registry.open_watches.load(Ordering::SeqCst), 0);
    // What is held stays as it was.
    assert_eq!(ids(&greeter), ["a"]);
    assert_eq!(greeter.known(None).await.unwrap().len(), 1);
    drop(greeter);
    settle().await;
    assert_eq!(Arc::strong_count(&registry), 1, "nobody holds the registry");
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_hear_of_the_end() {
    let registry = Scripted::new(Answer::Nodes(vec![]));
    let resolver = resolver(&registry);
    let greeter = resolver.service("greeter").unwrap();
    let (known, ()) = tokio::join!(greeter.known(None), async {
        sleep(secs(1)).await;
        drop(resolver);
    });
    assert_eq!(known.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_needs_is_forgotten() {
    let registry = Scripted::new(Answer::Nodes(vec!["a"]));
    let resolver = resolver(&registry);
    let held = resolver.service("greeter").unwrap();
    sleep(secs(3600)).await;
    assert_eq!(resolver.services().len(), 1, "it is held");
    drop(held);
    for _ in 0..60 {
        drop(resolver.service("greeter").unwrap());
        sleep(secs(60)).await;
    }
    assert_eq!(resolver.services().len(), 1, "it is asked for");
    sleep(secs(1200)).await;
    assert_eq!(resolver.services().len(), 0);
    settle().await;
    assert_eq!(registry.open_watches.load(Ordering::SeqCst), 0);
    // And comes back.
    let again = resolver.service("greeter").unwrap();
    assert_eq!(again.known(after(2)).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_registry_is_survived() {
    let registry = Scripted::new(Answer::Nodes(vec!["a"]));
    let resolver = resolver(&registry);
    let greeter = resolver.service("greeter").unwrap();
    greeter.known(after(2)).await.unwrap();
    registry.answers(Answer::Panics);
    sleep(secs(35)).await;
    assert_eq!(ids(&greeter), ["a"]);
    registry.answers(Answer::Nodes(vec!["a", "b"]));
    sleep(secs(15)).await;
    assert_eq!(ids(&greeter), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn the_number_of_services_is_bounded() {
    let registry = micro_registry_memory::MemoryRegistry::with_clock(Arc::new(Paused));
    let resolver = Resolver::new(Arc::new(registry), options().with_max_services(2));
    let a = resolver.service("a").unwrap();
    drop(resolver.service("b").unwrap());
    sleep(secs(1)).await;
    // The one that nobody holds makes room.
    let c = resolver.service("c").unwrap();
    let mut names: Vec<_> = resolver
        .services()
        .iter()
        .map(|service| service.name().to_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["a", "c"]);
    let err = resolver.service("d").unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ResourceExhausted, "{err}");
    drop((a, c));
    assert!(resolver.service("d").is_ok());
}

#[test]
fn wrong_use_is_refused() {
    let resolver = resolver_without_runtime();
    let err = resolver.service("a/b").unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidArgument);
    let err = resolver.service("greeter").unwrap_err();
    assert_eq!(err.kind(), ErrorKind::FailedPrecondition, "{err}");
}

fn resolver_without_runtime() -> Resolver {
    let registry = micro_registry_memory::MemoryRegistry::new();
    Resolver::new(Arc::new(registry), ResolverOptions::default())
}

/// The whole way, over a real registry: what a clean stop costs.
#[tokio::test]
async fn a_clean_stop_is_seen_at_once() {
    let registry = Arc::new(micro_registry_memory::MemoryRegistry::new());
    let resolver = Resolver::new(
        Arc::clone(&registry) as Arc<dyn Registry>,
        ResolverOptions::default(),
    );
    registry
        .register(&nodes(&["a"]), RegisterOptions::default())
        .await
        .unwrap();
    let greeter = resolver.service("greeter").unwrap();
    greeter.known(None).await.unwrap();
    let mut changes = greeter.changes();
    let start = Instant::now();
    registry
        .deregister(&nodes(&["a"]), DeregisterOptions::default())
        .await
        .unwrap();
    let empty = changes.next().await.unwrap();
    assert!(empty.is_empty());
    assert!(start.elapsed() < secs(1), "{:?}", start.elapsed());
}
