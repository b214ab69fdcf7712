//! What is wrong with a server's data is said, and not at every look.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::{Mutex, PoisonError};

/// Of so many complaints it is known that they were made; further ones are not made any more, for
/// whoever can fill a server with garbage must not fill our log.
const MOST: usize = 1000;

/// Complaints that were made.
#[derive(Debug, Default)]
pub struct Complaints(Mutex<HashSet<u64>>);

impl Complaints {
    /// Whether this is to be said: it was not before, and there were not too many others.
    #[must_use]
    pub fn is_new(&self, what: impl Hash) -> bool {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        // Nothing panics under it.
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        made.len() < MOST && made.insert(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_made_once_and_not_endlessly_many() {
        let complaints = Complaints::default();
        assert!(complaints.is_new(("a", "is garbage")));
        assert!(!complaints.is_new(("a", "is garbage")));
        assert!(complaints.is_new(("b", "is garbage")));
        let more = (0..10 * MOST).filter(|n| complaints.is_new(n)).count();
        assert_eq!(more, MOST - 2);
    }
}
