//! Where a record lives.

use std::fmt;
use std::sync::Arc;

use crate::{Error, Result};

/// A database and a table in it: where a record lives.
///
/// Both names are 1 to 64 ASCII letters, digits, `.`, `-` and `_`, and begin with a letter or digit.
/// They are compared as they stand, upper and lower case apart. A name that does not fit is refused, never
/// changed into one that does: two names could become the same.
///
/// A store knows no namespaces, only scopes. What is to be apart in each namespace of a fleet takes
/// [`of_service`](Self::of_service), whose database is the namespace.
///
/// ```
/// use micro_store_core::Scope;
///
/// let scope = Scope::new("shop", "orders")?;
/// assert_eq!(scope.to_string(), "shop/orders");
/// assert!(Scope::new("shop", "orders; drop table records").is_err());
/// # Ok::<(), micro_store_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    database: Arc<str>,
    table: Arc<str>,
}

impl Scope {
    /// The database of a fleet without a namespace.
    pub const DEFAULT_DATABASE: &'static str = "micro";

    /// A database and a table.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if a name does not fit.
    pub fn new(database: &str, table: &str) -> Result<Self> {
        Self::check_name("database", database)?;
        Self::check_name("table", table)?;
        Ok(Self {
            database: database.into(),
            table: table.into(),
        })
    }

    /// The table of a service: its database is the namespace, or
    /// [`DEFAULT_DATABASE`](Self::DEFAULT_DATABASE) if that is empty.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if a name does not fit.
    pub fn of_service(namespace: &str, service: &str) -> Result<Self> {
        let database = if namespace.is_empty() {
            Self::DEFAULT_DATABASE
        } else {
            namespace
        };
        Self::new(database, service)
    }

    pub(crate) fn check_name(what: &'static str, name: &str) -> Result<()> {
        let bytes = name.as_bytes();
        let valid = bytes.len() <= 64
            && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(byte));
        if valid {
            return Ok(());
        }
        let shown: String = name.chars().take(40).flat_map(char::escape_debug).collect();
        Err(Error::invalid_argument(
            "databases and tables are named by 1 to 64 letters, digits, '.', '-' and '_', beginning with a letter or digit",
        )
        .with_context(what, shown))
    }

    /// The database.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.table
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.database, self.table)
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scope({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s55_names_that_could_mean_something_else_are_refused() {
        for name in [
            "",
            "x; DROP TABLE records;--",
            "\"",
            "'",
            "‘x’",
            "../../x",
            "/etc",
            ".hidden",
            "a\0b",
            "a b",
            "a/b",
            &"x".repeat(65),
        ] {
            assert!(Scope::new(name, "t").is_err(), "{name:?}");
            assert!(Scope::new("d", name).is_err(), "{name:?}");
        }
        assert!(Scope::new(&"x".repeat(64), "pg_catalog.pg_authid").is_ok());
    }

    #[test]
    fn s56_similar_names_are_apart() {
        let scope = |table| Scope::new("d", table).unwrap();
        assert_ne!(scope("a-b"), scope("a_b"));
        assert_ne!(scope("a_b"), scope("A_B"));
    }
}
