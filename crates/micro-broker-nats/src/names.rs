//! What topics and groups are called in NATS.
//!
//! No topic begins with `_`, so what we add ourselves is never one.

use micro_broker_core::{Group, Topic};

/// The names of one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    /// One token of a subject; `_`, which is no namespace, stands for none.
    namespace: String,
}

impl Names {
    pub(crate) fn new(namespace: &str) -> Self {
        let namespace = match namespace {
            "" => "_".to_owned(),
            namespace => token(namespace),
        };
        Self { namespace }
    }

    /// Where a topic is published with core NATS: in the default namespace as go-micro does.
    pub(crate) fn plain(&self, topic: &Topic) -> String {
        match &*self.namespace {
            "_" => topic.as_str().to_owned(),
            namespace => format!("_micro.core.{namespace}.{topic}"),
        }
    }

    /// Where a member that leaves hands its group what it had not finished, with core NATS.
    pub(crate) fn back(&self, topic: &Topic, group: &Group) -> String {
        let (namespace, group) = (&self.namespace, token(group.as_str()));
        format!("_micro.back.{namespace}.{group}.{topic}")
    }

    /// Where a topic is published with JetStream.
    pub(crate) fn subject(&self, topic: &Topic) -> String {
        format!("_micro.js.{}.{topic}", self.namespace)
    }

    /// The stream of a topic.
    pub(crate) fn stream(&self, topic: &Topic) -> String {
        format!("micro+{}+{}", self.namespace, token(topic.as_str()))
    }
}

/// A group's durable consumer.
pub(crate) fn consumer(group: &Group) -> String {
    token(group.as_str())
}

/// The name as one token: NATS takes dots apart, and our names have no `=`.
fn token(name: &str) -> String {
    name.replace('.', "=")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn s66_names_do_not_run_together() {
        let mut subjects = HashSet::new();
        let mut streams = HashSet::new();
        for namespace in ["", "a", "a.b", "a-b", "A", "core", "js"] {
            let names = Names::new(namespace);
            for topic in [
                "a", "b", "a.b", "b.a", "a-b", "a_b", "A.b", "core.a.b", "js._.a",
            ] {
                let topic = Topic::new(topic).unwrap();
                let stream = names.stream(&topic);
                assert!(!stream.contains(['.', '*', '>', ' ', '/']), "{stream}");
                assert!(streams.insert(stream));
                assert!(subjects.insert(names.plain(&topic)));
                assert!(subjects.insert(names.subject(&topic)));
                for group in ["a", "a.b", "b"] {
                    let group = Group::new(group).unwrap();
                    assert!(subjects.insert(names.back(&topic, &group)));
                }
            }
        }
    }

    #[test]
    fn the_default_namespace_is_go_micro_s() {
        let topic = Topic::new("shop.orders").unwrap();
        assert_eq!(Names::new("").plain(&topic), "shop.orders");
        assert_eq!(Names::new("").stream(&topic), "micro+_+shop=orders");
        let names = Names::new("stage.1");
        assert_eq!(names.plain(&topic), "_micro.core.stage=1.shop.orders");
        assert_eq!(names.subject(&topic), "_micro.js.stage=1.shop.orders");
    }
}
