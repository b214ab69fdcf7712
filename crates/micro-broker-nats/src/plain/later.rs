//! Messages that wait to be handled again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use micro_broker_core::Message;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A message that this process has.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) message: Arc<Message>,
    /// How often it was delivered.
    pub(crate) deliveries: u32,
}

/// By when they are due.
#[derive(Debug, Default)]
pub(crate) struct Later {
    waiting: Mutex<Waiting>,
    /// There is another one.
    pub(crate) more: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    count: u64,
    by_time: BTreeMap<(Instant, u64), Held>,
}

impl Later {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn put(&self, due: Instant, held: Held) {
        let mut waiting = self.waiting();
        waiting.count += 1;
        let key = (due, waiting.count);
        waiting.by_time.insert(key, held);
        drop(waiting);
        self.more.notify_one();
    }

    /// The first that is due, or when one will be; and how many there are.
    pub(crate) fn take(&self, now: Instant) -> (Option<Held>, Option<Instant>, usize) {
        let mut waiting = self.waiting();
        let due = waiting.by_time.first_key_value().map(|((due, _), _)| *due);
        let held = match due {
            Some(due) if due <= now => waiting.by_time.pop_first().map(|(_, held)| held),
            _ => None,
        };
        (held, due, waiting.by_time.len())
    }

    pub(crate) fn take_all(&self) -> Vec<Held> {
        std::mem::take(&mut self.waiting().by_time)
            .into_values()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use micro_broker_core::Topic;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_due_comes_in_the_order_of_its_time() {
        let later = Later::default();
        let held = |deliveries| Held {
            message: Arc::new(Message::new(Topic::new("t").unwrap(), "x")),
            deliveries,
        };
        let now = Instant::now();
        let second = Duration::from_secs(1);
        later.put(now + second, held(3));
        later.put(now, held(1));
        later.put(now, held(2));
        let number = |held: Option<Held>| held.map(|held| held.deliveries);
        assert_eq!(number(later.take(now).0), Some(1));
        assert_eq!(number(later.take(now).0), Some(2));
        let (none, due, count) = later.take(now);
        assert_eq!((number(none), due, count), (None, Some(now + second), 1));
        assert_eq!(number(later.take(now + second).0), Some(3));
        later.put(now, held(4));
        assert_eq!((later.take_all().len(), later.take(now).2), (1, 0));
    }
}
