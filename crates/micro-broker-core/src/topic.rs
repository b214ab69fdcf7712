//! Names of topics and groups.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::{Error, Result};

/// The longest name of a topic, in bytes. With a namespace and a group beside it, it still fits into the
/// 255 bytes that engines grant a name.
pub const MAX_TOPIC: usize = 128;

/// The longest name of a group, in bytes.
pub const MAX_GROUP: usize = 40;

/// The longest namespace, in bytes.
const MAX_NAMESPACE: usize = 64;

/// A name that means the same to every engine: it is no pattern, no path and no command.
fn is_name(name: &str, longest: usize) -> bool {
    let bytes = name.as_bytes();
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= longest
        && ends(bytes.first())
        && ends(bytes.last())
        && !bytes.windows(2).any(|pair| pair == b"..")
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(byte))
}

fn refused(message: &'static str, what: &'static str, name: &str) -> Error {
    let shown: String = name.chars().take(40).flat_map(char::escape_debug).collect();
    Error::invalid_argument(message).with_context(what, shown)
}

/// What messages are published to: 1 to [`MAX_TOPIC`] ASCII letters, digits, `.`, `-` and `_`, without
/// `..`, beginning and ending with a letter or digit.
///
/// Upper and lower case are apart. There are no wildcards. A name that does not fit is refused, never
/// changed into one that does. Cheap to clone.
///
/// ```
/// use micro_broker_core::Topic;
///
/// assert!(Topic::new("shop.orders.created").is_ok());
/// assert!(Topic::new("shop.*").is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

impl Topic {
    /// The topic of this name.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if it does not fit.
    pub fn new(name: &str) -> Result<Self> {
        if is_name(name, MAX_TOPIC) {
            return Ok(Self(Arc::from(name)));
        }
        Err(refused(
            "a topic has 1 to 128 letters, digits, '.', '-' and '_', no '..', and begins and ends with a letter or digit",
            "topic",
            name,
        ))
    }

    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where a group's messages go that cannot be handled: `<topic>.<group>.dead`, and without a group
    /// `<topic>.dead`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if that is too long: name one by [`DeadLetters::To`](crate::DeadLetters::To).
    pub fn dead_letter(&self, group: Option<&Group>) -> Result<Self> {
        let name = match group {
            Some(group) => format!("{self}.{group}.dead"),
            None => format!("{self}.dead"),
        };
        Self::new(&name)
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({self})")
    }
}

impl FromStr for Topic {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

/// Subscribers that share a topic's messages: one of them handles each. Named like a [`Topic`], by at
/// most [`MAX_GROUP`] bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(Arc<str>);

impl Group {
    /// The group of this name.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if it does not fit.
    pub fn new(name: &str) -> Result<Self> {
        if is_name(name, MAX_GROUP) {
            return Ok(Self(Arc::from(name)));
        }
        Err(refused(
            "a group has 1 to 40 letters, digits, '.', '-' and '_', no '..', and begins and ends with a letter or digit",
            "group",
            name,
        ))
    }

    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Group({self})")
    }
}

impl FromStr for Group {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

/// Checks the namespace that a backend is opened in: none, or a name of at most 64 bytes.
///
/// # Errors
///
/// `InvalidArgument` if it does not fit.
pub fn check_namespace(namespace: &str) -> Result<()> {
    if namespace.is_empty() || is_name(namespace, MAX_NAMESPACE) {
        return Ok(());
    }
    Err(refused(
        "a namespace has at most 64 letters, digits, '.', '-' and '_', no '..', and begins and ends with a letter or digit",
        "namespace",
        namespace,
    ))
}

/// What a topic is called among those who share an engine: `<namespace>:<topic>`, and the topic's own
/// name in the default namespace, so that it is shared with go-micro. No topic has a colon, so
/// namespaces do not run together.
#[must_use]
pub fn wire_name(namespace: &str, topic: &Topic) -> String {
    if namespace.is_empty() {
        topic.as_str().to_owned()
    } else {
        format!("{namespace}:{topic}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s66_names_that_mean_something_to_an_engine_are_refused() {
        for name in [
            "",
            "*",
            ">",
            "a.*",
            "a.>",
            "a..b",
            "..",
            ".a",
            "a.",
            "$SYS.x",
            "$JS.API.x",
            "a b",
            "a\r\nPUB x 1",
            "a\0",
            "a/b",
            "/a",
            "a\\b",
            "ü",
            "а",
            "a:b",
            "a#",
            "a,b",
            "{a}",
            "-a",
        ] {
            assert!(Topic::new(name).is_err(), "{name:?}");
            assert!(Group::new(name).is_err(), "{name:?}");
            assert!(
                name.is_empty() || check_namespace(name).is_err(),
                "{name:?}"
            );
        }
        assert!(Topic::new(&"x".repeat(MAX_TOPIC)).is_ok());
        assert!(Topic::new(&"x".repeat(MAX_TOPIC + 1)).is_err());
        assert!(Group::new(&"x".repeat(MAX_GROUP + 1)).is_err());
    }

    #[test]
    fn namespaces_do_not_run_together() {
        let topic = |name| Topic::new(name).unwrap();
        assert_eq!(wire_name("", &topic("a.b")), "a.b");
        assert_ne!(wire_name("a", &topic("b.c")), wire_name("a.b", &topic("c")));
        assert_ne!(wire_name("a", &topic("b")), wire_name("", &topic("a.b")));
    }

    #[test]
    fn dead_letters_are_kept_by_group() {
        let topic = Topic::new("orders").unwrap();
        let group = Group::new("mailer").unwrap();
        assert_eq!(
            topic.dead_letter(Some(&group)).unwrap().as_str(),
            "orders.mailer.dead"
        );
        assert_eq!(topic.dead_letter(None).unwrap().as_str(), "orders.dead");
        assert!(
            Topic::new(&"x".repeat(MAX_TOPIC))
                .unwrap()
                .dead_letter(None)
                .is_err()
        );
    }
}
