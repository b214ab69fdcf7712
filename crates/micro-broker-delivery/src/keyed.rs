//! Order by key.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

/// What may have a key.
pub trait Keyed {
    /// The key, if it has one.
    fn key(&self) -> Option<&Arc<str>>;
}

/// A queue that gives out no item whose key is out already: items of one key come one at a time, in the
/// order in which they were put in. Items without a key, and of other keys, do not wait for them.
pub struct KeyedQueue<T> {
    ready: VecDeque<T>,
    /// Items whose key was given back: it is out again on their behalf.
    next: VecDeque<T>,
    /// Those behind an item that is out.
    behind: HashMap<Arc<str>, VecDeque<T>>,
    len: usize,
}

impl<T: Keyed> KeyedQueue<T> {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self {
            ready: VecDeque::new(),
            next: VecDeque::new(),
            behind: HashMap::new(),
            len: 0,
        }
    }

    /// How many items are in it; those that are out are not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts an item behind the others.
    pub fn push(&mut self, item: T) {
        self.len += 1;
        self.ready.push_back(item);
    }

    /// Takes out the first item whose key is free; the key is out until [`release`](Self::release).
    pub fn pop(&mut self) -> Option<T> {
        let found = self.next.pop_front().or_else(|| self.pop_ready());
        self.len -= usize::from(found.is_some());
        found
    }

    fn pop_ready(&mut self) -> Option<T> {
        while let Some(item) = self.ready.pop_front() {
            let Some(key) = item.key() else {
                return Some(item);
            };
            match self.behind.get_mut(key) {
                Some(behind) => behind.push_back(item),
                None => {
                    self.behind.insert(Arc::clone(key), VecDeque::new());
                    return Some(item);
                }
            }
        }
        None
    }

    /// Gives a key back. Whether there may now be an item to take.
    pub fn release(&mut self, key: &str) -> bool {
        match self.behind.get_mut(key).map(VecDeque::pop_front) {
            Some(Some(item)) => {
                self.next.push_back(item);
                true
            }
            Some(None) => {
                self.behind.remove(key);
                false
            }
            None => false,
        }
    }
}

impl<T: Keyed> Default for KeyedQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for KeyedQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedQueue")
            .field("len", &self.len)
            .field("keys_out", &self.behind.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use micro_core::{Random as _, SeededRandom};

    use super::*;

    #[derive(Debug, PartialEq)]
    struct Item(Option<Arc<str>>, usize);

    impl Keyed for Item {
        fn key(&self) -> Option<&Arc<str>> {
            self.0.as_ref()
        }
    }

    fn item(key: &str, number: usize) -> Item {
        Item((!key.is_empty()).then(|| Arc::from(key)), number)
    }

    #[test]
    fn one_of_a_key_is_out_at_a_time() {
        let mut queue = KeyedQueue::new();
        for (number, key) in ["a", "a", "b", "", "a"].into_iter().enumerate() {
            queue.push(item(key, number));
        }
        let pop = |queue: &mut KeyedQueue<Item>| queue.pop().map(|item| item.1);
        assert_eq!(pop(&mut queue), Some(0));
        assert_eq!(pop(&mut queue), Some(2));
        assert_eq!(pop(&mut queue), Some(3));
        assert_eq!((pop(&mut queue), queue.len()), (None, 2));
        assert!(queue.release("a"));
        assert_eq!(pop(&mut queue), Some(1));
        assert_eq!(pop(&mut queue), None);
        assert!(!queue.release("b") && queue.release("a"));
        assert_eq!(pop(&mut queue), Some(4));
        assert!(!queue.release("a") && queue.is_empty() && queue.behind.is_empty());
    }

    #[test]
    fn whatever_the_order_of_calls_keys_are_in_order_and_nothing_is_lost() {
        let random = SeededRandom::new(20261125);
        let mut queue = KeyedQueue::new();
        let (mut pushed, mut out, mut seen) = (0, Vec::new(), Vec::new());
        while pushed < 2000 || !queue.is_empty() || !out.is_empty() {
            match random.next_u64() % 3 {
                0 if pushed < 2000 => {
                    let key = ["", "a", "b", "c"][random.next_u64() as usize % 4];
                    queue.push(item(key, pushed));
                    pushed += 1;
                }
                1 => out.extend(queue.pop()),
                2 if !out.is_empty() => {
                    let done = out.swap_remove(random.next_u64() as usize % out.len());
                    if let Some(key) = done.key() {
                        queue.release(key);
                    }
                    seen.push(done);
                }
                _ => {}
            }
            let keys: Vec<_> = out.iter().filter_map(Item::key).collect();
            assert_eq!(keys.iter().collect::<HashSet<_>>().len(), keys.len());
        }
        assert_eq!(seen.len(), 2000);
        for key in ["a", "b", "c"] {
            let numbers: Vec<_> = seen
                .iter()
                .filter(|item| item.0.as_deref() == Some(key))
                .map(|item| item.1)
                .collect();
            assert!(numbers.is_sorted(), "{key}: {numbers:?}");
        }
    }
}
