//! Behavior that every [`Broker`] shares.
//!
//! # Cases
//!
//! Messages:
//!
//! - `the_backend_s_name_is_a_url_scheme`
//! - `a_message_arrives_whole`
//! - `every_message_has_an_id_of_its_own`
//! - `what_the_context_brings_travels`
//! - `an_event_outlives_the_call_that_caused_it`
//! - `any_bytes_are_a_body`
//! - `large_bodies_arrive_and_too_large_ones_are_refused`
//! - `bad_messages_are_refused_and_delivered_to_nobody`
//! - `s67_what_belongs_to_the_broker_cannot_be_set`
//! - `a_call_that_is_over_publishes_nothing`
//! - `a_dropped_publish_leaves_the_broker_usable`
//! - `the_same_id_is_published_once`, if `dedup`
//!
//! Groups:
//!
//! - `a_group_shares_and_each_group_gets_all`
//! - `subscribers_without_a_group_get_everything`
//! - `nobody_being_there_is_said`
//! - `a_receipt_says_for_how_many`
//! - `topics_are_apart`
//! - `s66_similar_topics_are_apart`
//! - `namespaces_are_apart`
//! - `what_is_published_after_subscribing_arrives`
//! - `a_dropped_subscription_gets_nothing_more`
//! - `bad_subscriptions_are_refused`
//! - `handles_of_one_place_meet`
//! - `a_lasting_group_gets_what_came_without_it`, if `lasting_groups`
//! - `a_removed_group_is_forgotten`, if `lasting_groups`
//!
//! Failures:
//!
//! - `a_failure_is_delivered_again`
//! - `a_panic_is_delivered_again`
//! - `the_handler_may_say_when`
//! - `after_the_last_delivery_it_is_a_dead_letter`
//! - `a_rejected_message_is_a_dead_letter_at_once`
//! - `dead_letters_go_where_the_subscriber_says`
//! - `a_failing_group_troubles_no_other`
//! - `s68_a_poison_message_holds_up_no_other`
//! - `s68_messages_in_a_circle_come_to_an_end`
//! - `a_handler_that_is_too_slow_is_delivered_again`
//! - `progress_keeps_a_slow_handler_s_message`
//! - `a_message_that_is_too_late_is_a_dead_letter`
//!
//! Order and concurrency:
//!
//! - `a_key_is_handled_in_order_and_one_at_a_time`, if `ordered`
//! - `a_key_waits_for_no_other`
//! - `concurrency_is_used_and_kept`
//! - `a_slow_group_holds_up_no_other`
//! - `members_come_and_go_and_nothing_is_lost`
//!
//! The end:
//!
//! - `stopping_waits_for_handlers`
//! - `what_was_not_finished_goes_to_another_member`
//! - `a_closed_broker_refuses`
//!
//! Replay, if `replay`:
//!
//! - `a_new_group_begins_where_it_says`
//! - `offsets_grow_and_replay_from_one_begins_there`
//! - `replay_from_a_time_begins_there`
//! - `a_group_that_is_there_goes_on_where_it_stands`
//! - `replay_is_refused_where_there_is_none`, if not `replay`

mod ending;
mod failures;
mod groups;
mod messages;
mod order;
mod replay;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use micro_broker_core::{
    Backoff, Broker, Capabilities, Context, Delivery, Env, Error, ErrorKind, Group, Handler,
    Message, Order, PublishOptions, Receipt, Result, SubscribeOptions, Subscription, Topic,
    handler,
};
use micro_core::{Random as _, SystemRandom};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::harness::{Case, run_cases, runtime};

type Backend = Arc<dyn Broker>;

/// How long a message may take to arrive.
const PATIENCE: Duration = Duration::from_secs(15);
/// What was to arrive has arrived after so long.
const BEHIND: Duration = Duration::from_millis(200);

/// Where a case wants a broker opened.
///
/// One id is one engine's set of topics. Another id is another set, which is empty.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Place {
    id: Arc<str>,
    env: Env,
}

impl Place {
    /// A place where nothing was opened, in this run or an earlier one.
    fn new() -> Self {
        static RUN: LazyLock<u64> = LazyLock::new(|| SystemRandom.next_u64());
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let id: Arc<str> = Arc::from(format!("t{:08x}-{count}", *RUN >> 32));
        Self {
            env: Env::new().with_namespace(&id),
            id,
        }
    }

    /// A short name for the engine's set of topics: lower-case letters, digits and `-`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What to open with: a namespace that nobody else has, so that one engine can serve all cases.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.env
    }
}

/// The topics of one case, and the way to open them.
struct Site {
    place: Place,
    open: Mutex<Box<dyn FnMut(Place) -> Result<Backend> + Send>>,
}

impl Site {
    async fn open_in(self: &Arc<Self>, namespace: &str) -> Backend {
        let site = Arc::clone(self);
        let namespace = namespace.to_owned();
        // On a thread of its own: the future of a stranger's closure need not be `Send`.
        let opened = tokio::task::spawn_blocking(move || {
            let mut place = site.place.clone();
            place.env = place.env.with_namespace(&namespace);
            let mut open = site.open.lock().unwrap_or_else(PoisonError::into_inner);
            open(place)
        });
        match opened.await {
            Ok(Ok(backend)) => backend,
            Ok(Err(err)) => panic!("the backend does not open: {err:?}"),
            Err(err) => panic!("opening the backend panicked: {err}"),
        }
    }

    /// A handle.
    async fn open(self: &Arc<Self>) -> Backend {
        self.open_in(&self.place.id).await
    }
}

/// What a case may need of a backend.
#[derive(Clone, Copy, Debug)]
struct Needs {
    dedup: bool,
    lasting_groups: bool,
    ordered: bool,
    replay: bool,
    no_replay: bool,
}

impl Needs {
    fn of(capabilities: Capabilities) -> Self {
        Self {
            dedup: capabilities.dedup.is_some(),
            lasting_groups: capabilities.lasting_groups,
            ordered: capabilities.order != Order::None,
            replay: capabilities.replay,
            no_replay: !capabilities.replay,
        }
    }
}

/// Runs the suite; `open` returns a handle to the topics of a [`Place`].
///
/// Cases run side by side, each at a place of its own. What is opened twice at a place meets.
///
/// # Panics
///
/// If `open` fails the first time.
pub fn run<F>(open: F) -> ExitCode
where
    F: AsyncFn(Place) -> Result<Backend> + Clone + Send + 'static,
{
    let open = move |place: Place| runtime().block_on(open(place));
    let capabilities = match open(Place::new()) {
        Ok(backend) => backend.capabilities(),
        Err(err) => panic!("the backend does not open: {err:?}"),
    };
    let cases = [
        messages::cases(),
        groups::cases(),
        failures::cases(),
        order::cases(),
        ending::cases(),
        replay::cases(),
    ];
    run_cases(
        cases.into_iter().flatten().collect(),
        &Needs::of(capabilities),
        &move || {
            Ok(Arc::new(Site {
                place: Place::new(),
                open: Mutex::new(Box::new(open.clone())),
            }))
        },
    )
}

/// Lists cases that need one handle: `name`, or `name if need`.
macro_rules! on_one_handle {
    ($($name:ident $(if $needs:ident)?),* $(,)?) => {
        vec![$(crate::harness::Case {
            name: stringify!($name),
            applies: |_needs: &super::Needs| true $(&& _needs.$needs)?,
            run: |site: std::sync::Arc<super::Site>| {
                Box::pin(async move { $name(site.open().await).await })
            },
        }),*]
    };
}
use on_one_handle;

type Cases = Vec<Case<Site, Needs>>;

fn topic(name: &str) -> Topic {
    Topic::new(name).expect("the name is good")
}

fn group(name: &str) -> Group {
    Group::new(name).expect("the name is good")
}

/// Options of a group that is quick to try again.
fn member(name: &str) -> SubscribeOptions {
    quick().with_group(group(name))
}

/// Options of a subscriber without a group that is quick to try again.
fn quick() -> SubscribeOptions {
    SubscribeOptions::default().with_backoff(Backoff::new(
        Duration::from_millis(20),
        Duration::from_millis(100),
    ))
}

#[track_caller]
fn subscribe<'a>(
    broker: &'a Backend,
    name: &str,
    opts: SubscribeOptions,
    handler: Arc<dyn Handler>,
) -> impl Future<Output = Subscription> + Send + 'a {
    let at = std::panic::Location::caller();
    let topic = topic(name);
    async move {
        match broker.subscribe(&topic, opts, handler).await {
            Ok(subscription) => subscription,
            Err(err) => panic!("subscribing failed, at {at}: {err:?}"),
        }
    }
}

#[track_caller]
fn publish<'a>(broker: &'a Backend, message: Message) -> impl Future<Output = Receipt> + Send + 'a {
    let at = std::panic::Location::caller();
    async move {
        match try_publish(broker, message).await {
            Ok(receipt) => receipt,
            Err(err) => panic!("publishing failed, at {at}: {err:?}"),
        }
    }
}

async fn try_publish(broker: &Backend, message: Message) -> Result<Receipt> {
    let cx = Context::new().with_timeout(PATIENCE);
    broker
        .publish(&cx, message, PublishOptions::default())
        .await
}

/// Publishes a text.
#[track_caller]
fn say<'a>(
    broker: &'a Backend,
    name: &str,
    text: &str,
) -> impl Future<Output = Receipt> + Send + 'a {
    publish(broker, Message::new(topic(name), text.to_owned()))
}

/// What arrives somewhere, in its order.
struct Inbox {
    arrived: mpsc::UnboundedReceiver<(Context, Delivery)>,
    _subscription: Option<Subscription>,
}

impl Inbox {
    /// A handler that takes everything, and the inbox it goes to.
    fn new() -> (Arc<dyn Handler>, Self) {
        Self::answering(|_| Ok(()))
    }

    /// A handler that answers so.
    fn answering(
        answer: impl Fn(&Delivery) -> Result<()> + Send + Sync + 'static,
    ) -> (Arc<dyn Handler>, Self) {
        let (tell, arrived) = mpsc::unbounded_channel();
        let handle = handler(move |cx, delivery| {
            let answer = answer(&delivery);
            // The case may be over.
            let _ = tell.send((cx, delivery));
            std::future::ready(answer)
        });
        let inbox = Self {
            arrived,
            _subscription: None,
        };
        (handle, inbox)
    }

    /// Subscribes an inbox.
    #[track_caller]
    fn at<'a>(
        broker: &'a Backend,
        name: &str,
        opts: SubscribeOptions,
    ) -> impl Future<Output = Self> + Send + 'a {
        let (handle, mut inbox) = Self::new();
        let subscribed = subscribe(broker, name, opts, handle);
        async move {
            inbox._subscription = Some(subscribed.await);
            inbox
        }
    }

    /// The next delivery, which must come.
    #[track_caller]
    fn next(&mut self) -> impl Future<Output = Delivery> + Send + '_ {
        let at = std::panic::Location::caller();
        async move { self.next_with_context_at(at).await.1 }
    }

    #[track_caller]
    fn next_with_context(&mut self) -> impl Future<Output = (Context, Delivery)> + Send + '_ {
        self.next_with_context_at(std::panic::Location::caller())
    }

    async fn next_with_context_at(
        &mut self,
        at: &'static std::panic::Location<'static>,
    ) -> (Context, Delivery) {
        match timeout(PATIENCE, self.arrived.recv()).await {
            Ok(Some(arrived)) => arrived,
            Ok(None) => panic!("the subscriber is gone, at {at}"),
            Err(_) => panic!("nothing arrived, at {at}"),
        }
    }

    /// So many bodies as text, in the order of their arrival.
    #[track_caller]
    fn texts(&mut self, count: usize) -> impl Future<Output = Vec<String>> + Send + '_ {
        let at = std::panic::Location::caller();
        async move {
            let mut texts = Vec::new();
            while texts.len() < count {
                texts.push(text(&self.next_with_context_at(at).await.1));
            }
            texts
        }
    }

    /// Asserts that nothing more arrives.
    #[track_caller]
    fn silent(&mut self) -> impl Future<Output = ()> + Send + '_ {
        let at = std::panic::Location::caller();
        async move {
            if let Ok(Some((_, delivery))) = timeout(BEHIND, self.arrived.recv()).await {
                panic!("nothing was to arrive, at {at}: {delivery:?}");
            }
        }
    }
}

fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(&delivery.message().body).into_owned()
}

/// Waits until it holds.
#[track_caller]
fn eventually<'a>(
    what: &'a str,
    holds: impl Fn() -> bool + Send + 'a,
) -> impl Future<Output = ()> + Send + 'a {
    let at = std::panic::Location::caller();
    async move {
        let begin = Instant::now();
        while !holds() {
            assert!(
                begin.elapsed() < PATIENCE,
                "{what} does not come true, at {at}"
            );
            sleep(Duration::from_millis(5)).await;
        }
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind, what: &str) -> Error {
    match result {
        Err(err) if err.kind() == kind => err,
        Err(err) => panic!("{what} is to fail with {kind:?}; it failed with {err:?}"),
        Ok(done) => panic!("{what} is to fail with {kind:?}; it gave {done:?}"),
    }
}
