//! State by key, in bounded memory.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

/// Few entries that are read on every call and seldom added: one atomic load and one look-up.
///
/// A key is the hash of what it stands for, under a seed of this table's own: entries cost the same
/// whatever a peer sends, and looking up allocates nothing. Two of them sharing an entry is as likely
/// as 64 random bits are alike.
pub(crate) struct Table<V> {
    all: ArcSwap<HashMap<u64, Arc<V>>>,
    adding: Mutex<()>,
    hasher: RandomState,
    most: usize,
}

impl<V> Table<V> {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            all: ArcSwap::default(),
            adding: Mutex::default(),
            hasher: RandomState::new(),
            most,
        }
    }

    /// The entry of a key; made if there is none, unless the table is full of entries in use.
    pub(crate) fn get(&self, key: (&str, &str), make: impl FnOnce() -> V) -> Option<Arc<V>> {
        let key = self.hasher.hash_one(key);
        if let Some(known) = self.all.load().get(&key) {
            return Some(Arc::clone(known));
        }
        let _one = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = HashMap::clone(&self.all.load());
        if let Some(known) = all.get(&key) {
            return Some(Arc::clone(known));
        }
        if all.len() >= self.most {
            // One count is the old map's, one ours.
            all.retain(|_, value| Arc::strong_count(value) > 2);
            if all.len() >= self.most {
                return None;
            }
        }
        let fresh = Arc::new(make());
        all.insert(key, Arc::clone(&fresh));
        self.all.store(Arc::new(all));
        Some(fresh)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.all.load().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_keeps_what_is_in_use() {
        let table = Table::new(8);
        let held = table.get(("a", "0"), || 0).unwrap();
        for i in 1..100 {
            let name = i.to_string();
            assert_eq!(*table.get(("a", &name), || i).unwrap(), i);
            assert_eq!(*table.get(("a", &name), || -1).unwrap(), i);
            assert!(table.len() <= 8);
        }
        assert!(Arc::ptr_eq(&held, &table.get(("a", "0"), || 1).unwrap()));
        let all: Vec<_> = (0..20)
            .filter_map(|i| table.get(("b", &i.to_string()), || i))
            .collect();
        assert_eq!(all.len(), 7, "the rest has no room");
    }
}
