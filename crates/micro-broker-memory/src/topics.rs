//! The topics, and who gets what.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::SystemTime;

use micro_broker_core::{Durability, Error, Group, Message, Reach, Receipt, Result, Start};
use micro_broker_delivery::SeenIds;
use micro_core::Clock;

use crate::MemoryBrokerConfig;
use crate::queue::{Entry, Queue, cost};

/// The most ids that are known of a topic.
const MAX_IDS: usize = 100_000;

/// The most topics that messages are retained of.
const MAX_TOPICS: usize = 10_000;

/// All topics, by their names on the wire.
#[derive(Debug)]
pub(crate) struct Topics {
    config: MemoryBrokerConfig,
    clock: Arc<dyn Clock>,
    topics: RwLock<HashMap<String, Arc<Mutex<Topic>>>>,
}

/// A topic. Locked behind `topics` and before any queue.
#[derive(Debug)]
struct Topic {
    queues: Vec<Arc<Queue>>,
    seen: SeenIds,
    log: VecDeque<Kept>,
    log_bytes: usize,
    next_offset: u64,
}

/// A message that is retained.
#[derive(Debug)]
struct Kept {
    offset: u64,
    time: SystemTime,
    message: Arc<Message>,
}

fn lock(topic: &Mutex<Topic>) -> MutexGuard<'_, Topic> {
    topic.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Topics {
    pub(crate) fn new(config: MemoryBrokerConfig, clock: Arc<dyn Clock>) -> Self {
        Self {
            config,
            clock,
            topics: RwLock::default(),
        }
    }

    pub(crate) fn config(&self) -> &MemoryBrokerConfig {
        &self.config
    }

    fn get(&self, name: &str) -> Option<Arc<Mutex<Topic>>> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        topics.get(name).map(Arc::clone)
    }

    /// Gives a message to every queue of its topic, or to none. `named` says that its id is the
    /// publisher's own, so that it may have been published before.
    pub(crate) fn publish(&self, name: &str, message: Message, named: bool) -> Result<Receipt> {
        let id = message.id.clone().unwrap_or_else(|| Arc::from(""));
        let receipt = |groups: usize| {
            let reach = Reach::Stored {
                durability: Durability::Memory,
                groups: Some(groups as u32),
            };
            Receipt::new(Arc::clone(&id), reach)
        };
        let topic = match self.get(name) {
            Some(topic) => topic,
            None if self.config.retain == 0 => return Ok(receipt(0)),
            None => self.create(name)?,
        };
        let mut topic = lock(&topic);
        let now = named.then(|| self.clock.now());
        if let Some(now) = now
            && topic.seen.contains(&id, now)
        {
            return Ok(receipt(topic.queues.len()).with_duplicate(true));
        }
        let cost = cost(&message);
        for queue in &topic.queues {
            if !queue.has_room(cost, self.config.max_bytes) {
                return Err(Error::resource_exhausted(
                    "a group of this topic has too much before it already: publish more slowly, or give it more members",
                )
                .with_context("group", queue.group.as_ref().map_or("", Group::as_str))
                .with_context("max_bytes", self.config.max_bytes));
            }
        }
        if let Some(now) = now {
            topic.seen.insert(&id, now);
        }
        let message = Arc::new(message);
        let offset = (self.config.retain > 0).then(|| self.keep(&mut topic, &message, cost));
        for queue in &topic.queues {
            queue.push(Entry::new(Arc::clone(&message), offset), cost);
        }
        Ok(receipt(topic.queues.len()).with_offset(offset))
    }

    fn keep(&self, topic: &mut Topic, message: &Arc<Message>, cost: usize) -> u64 {
        let offset = topic.next_offset;
        topic.next_offset += 1;
        topic.log_bytes += cost;
        topic.log.push_back(Kept {
            offset,
            time: self.clock.wall(),
            message: Arc::clone(message),
        });
        while topic.log.len() > self.config.retain || topic.log_bytes > self.config.max_bytes {
            let Some(oldest) = topic.log.pop_front() else {
                break;
            };
            topic.log_bytes -= self::cost(&oldest.message);
        }
        offset
    }

    fn create(&self, name: &str) -> Result<Arc<Mutex<Topic>>> {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        if !topics.contains_key(name) && topics.len() >= MAX_TOPICS {
            return Err(Error::resource_exhausted(
                "the broker in memory retains messages of too many topics already",
            )
            .with_context("limit", MAX_TOPICS));
        }
        Ok(Arc::clone(self.entry(&mut topics, name)))
    }

    fn entry<'a>(
        &self,
        topics: &'a mut HashMap<String, Arc<Mutex<Topic>>>,
        name: &str,
    ) -> &'a Arc<Mutex<Topic>> {
        topics.entry(name.to_owned()).or_insert_with(|| {
            Arc::new(Mutex::new(Topic {
                queues: Vec::new(),
                seen: SeenIds::new(self.config.dedup, MAX_IDS),
                log: VecDeque::new(),
                log_bytes: 0,
                next_offset: 0,
            }))
        })
    }

    /// The queue of a group, or a new one of a subscriber without a group.
    pub(crate) fn join(&self, name: &str, group: Option<&Group>, start: Start) -> Arc<Queue> {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        let mut topic = lock(self.entry(&mut topics, name));
        if group.is_some()
            && let Some(queue) = topic
                .queues
                .iter()
                .find(|queue| queue.group.as_ref() == group)
        {
            return Arc::clone(queue);
        }
        let queue = Arc::new(Queue::new(group.cloned()));
        let begins = |kept: &Kept| match start {
            Start::Oldest => true,
            Start::Offset(offset) => kept.offset >= offset,
            Start::Time(time) => kept.time >= time,
            _ => false,
        };
        // What is retained takes no more than a queue may.
        for kept in topic.log.iter().skip_while(|kept| !begins(kept)) {
            let entry = Entry::new(Arc::clone(&kept.message), Some(kept.offset));
            queue.push(entry, cost(&kept.message));
        }
        topic.queues.push(Arc::clone(&queue));
        queue
    }

    /// Removes the queue; whether it was there.
    pub(crate) fn leave(&self, name: &str, is: impl Fn(&Arc<Queue>) -> bool) -> bool {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        let Some(topic) = topics.get(name).map(Arc::clone) else {
            return false;
        };
        let mut topic = lock(&topic);
        let Some(at) = topic.queues.iter().position(is) else {
            return false;
        };
        let queue = topic.queues.swap_remove(at);
        if topic.queues.is_empty() && topic.log.is_empty() {
            topics.remove(name);
        }
        drop(topic);
        drop(topics);
        queue.remove();
        true
    }
}
