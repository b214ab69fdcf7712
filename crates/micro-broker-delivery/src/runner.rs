//! One attempt at handling a message.

use std::any::Any;
use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use micro_broker_core::{
    Clock, Delivery, Error, Group, Handler, Message, NackExt as _, Progress, ProgressSink, Random,
    Result, SubscribeOptions, Verdict, after_failure, received_context,
};
use micro_core::{Canceller, Env};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// Runs a subscriber's handler.
pub struct Runner {
    handler: Arc<dyn Handler>,
    opts: SubscribeOptions,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

impl Runner {
    /// Runs this handler by these options.
    #[must_use]
    pub fn new(handler: Arc<dyn Handler>, opts: SubscribeOptions, env: &Env) -> Self {
        Self {
            handler,
            opts,
            clock: Arc::clone(env.clock()),
            random: Arc::clone(env.random()),
        }
    }

    /// The subscriber's options.
    #[must_use]
    pub fn options(&self) -> &SubscribeOptions {
        &self.opts
    }

    /// The subscriber's group.
    #[must_use]
    pub fn group(&self) -> Option<&Group> {
        self.opts.group.as_ref()
    }

    /// Delivers a message to the handler, and says what becomes of it. `extend` tells the engine of
    /// progress.
    ///
    /// Dropping the future drops the handler, and cancels what it began with its context.
    pub async fn attempt<R>(
        &self,
        message: Arc<Message>,
        deliveries: u32,
        offset: Option<u64>,
        extend: impl Fn() -> R + Send + Sync,
    ) -> Verdict
    where
        R: Future<Output = ()> + Send,
    {
        let handled = match self.refusal(&message, deliveries) {
            Some(error) => Err(error),
            None => self.handle(&message, deliveries, offset, extend).await,
        };
        let Err(error) = handled else {
            return Verdict::Ack;
        };
        let verdict = after_failure(
            &message,
            self.group(),
            &self.opts,
            deliveries,
            &error,
            &*self.random,
        );
        self.tell(&message, deliveries, &error, &verdict);
        verdict
    }

    /// Why a message is not delivered any more.
    fn refusal(&self, message: &Message, deliveries: u32) -> Option<Error> {
        if message
            .deadline
            .is_some_and(|deadline| deadline <= self.clock.wall())
        {
            return Some(Error::deadline_exceeded("the message's deadline has passed").reject());
        }
        // It was delivered often enough and never answered for: its handler ended the process.
        (deliveries > self.opts.max_deliveries)
            .then(|| Error::internal("no delivery of this message was ever answered").reject())
    }

    async fn handle<R>(
        &self,
        message: &Arc<Message>,
        deliveries: u32,
        offset: Option<u64>,
        extend: impl Fn() -> R + Send + Sync,
    ) -> Result<()>
    where
        R: Future<Output = ()> + Send,
    {
        let (cx, canceller) = received_context(message, &self.clock).map_err(|err| err.reject())?;
        let beat = Arc::new(Beat::default());
        let progress = Progress::new(Arc::clone(&beat) as _);
        let delivery = Delivery::new(Arc::clone(message), deliveries, progress).with_offset(offset);
        let mut cut_off = CutOff(Some(canceller));
        let mut handling = pin!(barrier(self.handler.handle(&cx, &delivery)));
        // Many handlers are done at once: they need no timer.
        let at_once = poll_fn(|task| Poll::Ready(handling.as_mut().poll(task)));
        if let Poll::Ready(handled) = at_once.await {
            cut_off.0 = None;
            return handled;
        }
        let time = self.opts.ack_deadline;
        let mut over = pin!(sleep(time));
        loop {
            tokio::select! {
                biased;
                handled = &mut handling => {
                    cut_off.0 = None;
                    return handled;
                }
                () = beat.0.notified() => {
                    over.as_mut().reset(Instant::now() + time);
                    // While it is told, the handler goes on.
                    tokio::select! {
                        biased;
                        handled = &mut handling => {
                            cut_off.0 = None;
                            return handled;
                        }
                        () = extend() => {}
                    }
                }
                () = &mut over => {
                    return Err(Error::deadline_exceeded(
                        "the handler did not return by its acknowledgement deadline",
                    ));
                }
            }
        }
    }

    fn tell(&self, message: &Message, deliveries: u32, error: &Error, verdict: &Verdict) {
        let (topic, id) = (&message.topic, message.id.as_deref().unwrap_or_default());
        let group = self.group().map_or("", Group::as_str);
        match verdict {
            Verdict::Retry(pause) => tracing::info!(
                %topic, group, id, deliveries, ?pause, %error,
                "a message was not handled and will come again"
            ),
            Verdict::Dead(dead) => tracing::warn!(
                %topic, group, id, deliveries, to = %dead.topic, %error,
                "a message was not handled and goes to the dead letters"
            ),
            _ => tracing::error!(
                %topic, group, id, deliveries, %error,
                "a message was not handled and is dropped: the subscriber keeps no dead letters"
            ),
        }
    }
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner")
            .field("opts", &self.opts)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Beat(Notify);

impl ProgressSink for Beat {
    fn tell(&self) {
        self.0.notify_one();
    }
}

/// Cancels what a handler began, if it does not come to its end.
struct CutOff(Option<Canceller>);

impl Drop for CutOff {
    fn drop(&mut self) {
        if let Some(canceller) = &self.0 {
            canceller.cancel();
        }
    }
}

/// Runs a handler; if it panics, the result is `Internal`.
async fn barrier(handling: impl Future<Output = Result<()>> + Send) -> Result<()> {
    let mut handling = pin!(handling);
    // Unwind safety: the future is never polled again after a panic, and what it shares with others is
    // theirs to protect, as it is where each handler has a thread.
    poll_fn(|task| {
        catch_unwind(AssertUnwindSafe(|| handling.as_mut().poll(task)))
            .unwrap_or_else(|payload| Poll::Ready(Err(panicked(&*payload))))
    })
    .await
}

/// The dead letter says that there was a panic, and the log says which: the text may hold what a stranger
/// should not see.
fn panicked(payload: &(dyn Any + Send)) -> Error {
    let text = payload.downcast_ref::<&'static str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    tracing::error!(
        panic = text.unwrap_or("a panic without a message"),
        "a handler of messages panicked"
    );
    Error::internal("the handler panicked")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use micro_broker_core::{Backoff, Context, Topic, handler};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    async fn attempt<F, R>(message: Message, deliveries: u32, handle: F) -> Verdict
    where
        F: Fn(Context, Delivery) -> R + Send + Sync + 'static,
        R: Future<Output = Result<()>> + Send + 'static,
    {
        let opts = SubscribeOptions::default()
            .with_ack_deadline(DEADLINE)
            .with_max_deliveries(3)
            .with_backoff(Backoff::new(Duration::from_secs(1), Duration::from_secs(9)));
        let runner = Runner::new(handler(handle), opts, &Env::new());
        let extend = || std::future::ready(());
        runner
            .attempt(Arc::new(message), deliveries, Some(5), extend)
            .await
    }

    fn message() -> Message {
        Message::new(Topic::new("t").unwrap(), "x").with_id("1")
    }

    fn reason(verdict: &Verdict) -> &str {
        match verdict {
            Verdict::Dead(dead) => &dead.dead_letter.as_ref().unwrap().reason,
            other => panic!("it is no dead letter: {other:?}"),
        }
    }

    #[tokio::test]
    async fn the_return_value_is_the_acknowledgement() {
        let done = attempt(message(), 2, |_, delivery| async move {
            assert_eq!(
                (delivery.deliveries(), delivery.offset(), delivery.id()),
                (2, Some(5), "1")
            );
            Ok(())
        });
        assert_eq!(done.await, Verdict::Ack);
        let failed = attempt(message(), 1, |_, _| async { Err(Error::internal("no")) }).await;
        assert!(matches!(failed, Verdict::Retry(_)));
        let last = attempt(message(), 3, |_, _| async { Err(Error::internal("no")) }).await;
        assert_eq!(reason(&last), "INTERNAL: no");
    }

    #[tokio::test]
    async fn a_panic_is_a_failure_and_its_text_stays_here() {
        let text = |_, _| async { panic!("secret") };
        assert!(matches!(
            attempt(message(), 1, text).await,
            Verdict::Retry(_)
        ));
        let dead = attempt(message(), 3, text).await;
        assert_eq!(reason(&dead), "INTERNAL: the handler panicked");
        let later = |_, _| async {
            tokio::task::yield_now().await;
            panic!("secret")
        };
        assert!(matches!(
            attempt(message(), 1, later).await,
            Verdict::Retry(_)
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_ends_at_its_deadline_unless_it_tells_of_progress() {
        let begin = Instant::now();
        let slow = |cx: Context, _| async move {
            tokio::spawn(async move {
                cx.cancelled().await;
                assert!(cx.is_cancelled());
            });
            sleep(DEADLINE * 2).await;
            Ok(())
        };
        assert!(matches!(
            attempt(message(), 1, slow).await,
            Verdict::Retry(_)
        ));
        assert_eq!(begin.elapsed(), DEADLINE);
        let begin = Instant::now();
        let steady = |_, delivery: Delivery| async move {
            for _ in 0..5 {
                sleep(DEADLINE * 9 / 10).await;
                delivery.progress();
            }
            Ok(())
        };
        assert_eq!(attempt(message(), 1, steady).await, Verdict::Ack);
        assert_eq!(begin.elapsed(), DEADLINE * 9 / 2);
    }

    #[tokio::test]
    async fn what_is_late_or_was_never_answered_for_is_not_handled() {
        let never = |_, _| async { panic!("it is not called") };
        let late = message().with_deadline(SystemTime::UNIX_EPOCH);
        assert!(reason(&attempt(late, 1, never).await).starts_with("DEADLINE_EXCEEDED"));
        let often = attempt(message(), 4, never).await;
        assert!(reason(&often).contains("ever answered"));
    }
}
