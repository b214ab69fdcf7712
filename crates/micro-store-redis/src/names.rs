//! The names of keys in Redis.
//!
//! All begin with the prefix in braces, which is their hash tag; the names of databases and tables
//! have neither colons nor spaces, and a record's key comes last. So no two places have one name.

use micro_store_core::{Error, Result, Scope};

/// Names below one prefix.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    root: String,
}

impl Names {
    pub(crate) fn new(prefix: &str) -> Self {
        Self {
            root: format!("{{{prefix}}}"),
        }
    }

    /// What all begin with.
    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    /// The last version.
    pub(crate) fn version(&self) -> String {
        format!("{}:v", self.root)
    }

    /// Which tables have records.
    pub(crate) fn scopes(&self) -> String {
        format!("{}:s", self.root)
    }

    /// The keys of a table, in their order.
    pub(crate) fn index(&self, scope: &Scope) -> String {
        self.of("i", scope)
    }

    /// A record; of no key, what the names of the table's records begin with.
    pub(crate) fn record(&self, scope: &Scope, key: &str) -> String {
        let (database, table) = (scope.database(), scope.table());
        format!("{}:r:{database}:{table}:{key}", self.root)
    }

    /// The channel of a table's changes.
    pub(crate) fn channel(&self, scope: &Scope) -> String {
        self.of("w", scope)
    }

    fn of(&self, what: &str, scope: &Scope) -> String {
        let (database, table) = (scope.database(), scope.table());
        format!("{}:{what}:{database}:{table}", self.root)
    }
}

/// A scope, as it is listed. A space comes before all signs of a name, so that scopes are in the order of
/// database and table.
pub(crate) fn scope_entry(scope: &Scope) -> String {
    format!("{} {}", scope.database(), scope.table())
}

/// The scope of an entry.
pub(crate) fn scope_of(entry: &[u8]) -> Result<Scope> {
    let parts = std::str::from_utf8(entry)
        .ok()
        .and_then(|entry| entry.split_once(' '));
    let scope = parts.and_then(|(database, table)| Scope::new(database, table).ok());
    scope.ok_or_else(|| Error::corrupt("a key of ours in Redis holds what was not written there"))
}

/// The end of everything that begins so, for a range of Redis that does not include its end.
pub(crate) fn behind(prefix: &str) -> Option<Vec<u8>> {
    let mut end = prefix.as_bytes().to_vec();
    // A byte of text is never 255.
    *end.last_mut()? += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn s62_names_are_one_to_one() {
        let mut all = HashSet::new();
        let mut count = 0;
        for prefix in ["micro", "micro-a", "a.b"] {
            let names = Names::new(prefix);
            for (database, table) in [("a", "b"), ("a", "b.c"), ("a-b", "c"), ("a", "b-c")] {
                let scope = Scope::new(database, table).unwrap();
                for key in ["k", ":k", "c:k", "b:k", "\0", "{micro}", ""] {
                    all.insert(names.record(&scope, key));
                    count += 1;
                }
                all.extend([names.index(&scope), names.channel(&scope)]);
                count += 2;
                assert_eq!(scope_of(scope_entry(&scope).as_bytes()).unwrap(), scope);
            }
            all.extend([names.version(), names.scopes()]);
            count += 2;
        }
        assert_eq!(all.len(), count);
    }

    #[test]
    fn entries_of_scopes_are_in_their_order() {
        let scope = |database, table| Scope::new(database, table).unwrap();
        let mut scopes = [
            scope("b", "x"),
            scope("a", "x-y"),
            scope("a-b", "x"),
            scope("a", "x"),
            scope("a.b", "x"),
            scope("a", "X"),
        ];
        scopes.sort();
        assert!(scopes.map(|scope| scope_entry(&scope)).is_sorted());
    }

    #[test]
    fn what_comes_behind_a_prefix() {
        assert_eq!(behind(""), None);
        assert_eq!(behind("a"), Some(b"b".to_vec()));
        let end = behind("a\u{10ffff}").unwrap();
        assert!("a\u{10ffff}\u{10ffff}".as_bytes() < &*end && "b".as_bytes() > &*end);
    }
}
