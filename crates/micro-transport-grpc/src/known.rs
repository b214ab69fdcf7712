//! What was made once and is needed again: a small table that is read without a lock.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use micro_core::{Live, LiveWriter};

/// Values by key. Reading is one atomic load; a new entry replaces the whole table, so it is for
/// what a program has few of. Full, it takes no more.
pub(crate) struct Known<K, V> {
    table: Live<HashMap<K, V>>,
    writer: Mutex<LiveWriter<HashMap<K, V>>>,
}

impl<K: Clone + Eq + Hash, V: Clone> Known<K, V> {
    const MOST: usize = 256;

    pub(crate) fn new() -> Self {
        let (writer, table) = Live::channel(HashMap::new());
        Self {
            table,
            writer: Mutex::new(writer),
        }
    }

    /// Looks up many at once, with one load.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&HashMap<K, V>) -> T) -> T {
        look(&self.table.get())
    }

    pub(crate) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.table.get().get(key).cloned()
    }

    pub(crate) fn add(&self, key: K, value: V) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = HashMap::clone(&self.table.get());
        if table.len() < Self::MOST && table.insert(key, value).is_none() {
            writer.set(table);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded() {
        let known = Known::new();
        for i in 0..1000_u32 {
            known.add(i, i);
        }
        assert_eq!(known.read(HashMap::len), 256);
        assert_eq!((known.get(&0), known.get(&999)), (Some(0), None));
    }
}
