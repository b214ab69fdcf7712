//! Who subscribes to what, as the registry knows it.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use micro_broker_core::{Env, ErrorKind, Random, Result};
use micro_registry_cache::{Resolved, Resolver, ResolverOptions};
use micro_registry_core::{Node, Registry, Service};

/// The service under which go-micro registers subscribers.
pub(crate) const SERVICE: &str = "micro.http.broker";
/// The version of subscribers without a group; that of others is the group.
pub(crate) const BROADCAST: &str = "ff.http.broadcast";

/// A subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) id: String,
    pub(crate) address: String,
}

/// Who is to get a message once: a group, or a subscriber without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) name: TargetName,
    pub(crate) peers: Vec<Peer>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TargetName {
    Group(String),
    /// A subscriber's id.
    Alone(String),
}

impl Target {
    /// The peers in the order in which they are tried: those of a key always in the same, as long as they
    /// are the same.
    pub(crate) fn order(&self, key: Option<&str>, random: &dyn Random) -> Vec<&Peer> {
        let mut peers: Vec<_> = self.peers.iter().collect();
        match key {
            // Rendezvous hashing: whoever comes or goes moves its own keys only.
            Some(key) => peers.sort_by_cached_key(|peer| {
                let mut hasher = DefaultHasher::new();
                (key, &peer.id).hash(&mut hasher);
                hasher.finish()
            }),
            None if peers.len() > 1 => {
                let first = random.next_u64() % peers.len() as u64;
                peers.rotate_left(first as usize);
            }
            None => {}
        }
        peers
    }
}

type Topics = HashMap<String, Arc<Vec<Target>>>;

/// The subscribers that are known: those of this process at once, others as the registry tells of them.
#[derive(Debug)]
pub(crate) struct Peers {
    resolver: Resolver,
    /// Begun with the first message; a program that only subscribes asks for nobody.
    resolved: Mutex<Option<Arc<Resolved>>>,
    /// What was made of a snapshot, by its revision and that of `own`.
    topics: Mutex<Option<(u64, u64, Arc<Topics>)>>,
    own: Mutex<Own>,
    /// Part of the ids of this process' subscribers.
    mark: String,
}

#[derive(Debug, Default)]
struct Own {
    revision: u64,
    services: Vec<Service>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peers {
    pub(crate) fn new(registry: Arc<dyn Registry>, mark: String, env: &Env) -> Self {
        let opts = ResolverOptions::from_env(env).with_negative_ttl(Duration::from_millis(100));
        Self {
            resolver: Resolver::new(registry, opts),
            resolved: Mutex::default(),
            topics: Mutex::default(),
            own: Mutex::default(),
            mark,
        }
    }

    pub(crate) fn registry(&self) -> &Arc<dyn Registry> {
        self.resolver.registry()
    }

    /// A subscriber of this process is there.
    pub(crate) fn joined(&self, service: Service) {
        let mut own = lock(&self.own);
        own.revision += 1;
        own.services.push(service);
    }

    /// It is gone.
    pub(crate) fn left(&self, service: &Service) {
        let mut own = lock(&self.own);
        own.revision += 1;
        own.services.retain(|known| known.nodes != service.nodes);
    }

    /// A peer could not be reached: the registry is asked soon.
    pub(crate) fn doubt(&self, id: &str) {
        if let Some(resolved) = &*lock(&self.resolved) {
            resolved.doubt(id);
        }
    }

    fn resolved(&self) -> Result<Arc<Resolved>> {
        let mut resolved = lock(&self.resolved);
        if let Some(resolved) = &*resolved {
            return Ok(Arc::clone(resolved));
        }
        Ok(Arc::clone(resolved.insert(self.resolver.service(SERVICE)?)))
    }

    /// Who is to get the messages of a topic, by its name on the wire.
    ///
    /// # Errors
    ///
    /// `Unavailable` and `DeadlineExceeded` if the registry has never answered.
    pub(crate) async fn of(
        &self,
        topic: &str,
        deadline: Option<Instant>,
    ) -> Result<Arc<Vec<Target>>> {
        let resolved = self.resolved()?;
        if resolved.snapshot().is_empty() {
            match resolved.first_answer(deadline).await {
                Err(err) if err.kind() != ErrorKind::NotFound => return Err(err),
                _ => {}
            }
        }
        let topics = self.topics(&resolved);
        Ok(topics.get(topic).map_or_else(Arc::default, Arc::clone))
    }

    fn topics(&self, resolved: &Resolved) -> Arc<Topics> {
        let snapshot = resolved.snapshot_arc();
        let own = lock(&self.own);
        let mut topics = lock(&self.topics);
        if let Some((revision, own_revision, topics)) = &*topics
            && (*revision, *own_revision) == (snapshot.revision, own.revision)
        {
            return Arc::clone(topics);
        }
        // What the registry says of this process is older than what this process knows.
        let others = snapshot
            .nodes()
            .filter(|(_, node)| !node.id.contains(&self.mark));
        let ours = own
            .services
            .iter()
            .flat_map(|service| service.nodes.iter().map(move |node| (service, node)));
        let made = Arc::new(by_topic(others.chain(ours)));
        *topics = Some((snapshot.revision, own.revision, Arc::clone(&made)));
        made
    }
}

fn by_topic<'a>(nodes: impl Iterator<Item = (&'a Service, &'a Node)>) -> Topics {
    let mut topics: HashMap<String, Vec<Target>> = HashMap::new();
    for (service, node) in nodes {
        let said = |name: &str| node.metadata.get(name).map(String::as_str);
        let (Some("http"), Some(topic)) = (said("broker"), said("topic")) else {
            continue;
        };
        if said("secure") == Some("true") {
            tracing::debug!(
                node = node.id,
                "this subscriber wants TLS, which this broker does not speak yet"
            );
            continue;
        }
        let peer = Peer {
            id: node.id.clone(),
            address: node.address.clone(),
        };
        let targets = topics.entry(topic.to_owned()).or_default();
        if service.version == BROADCAST {
            let name = TargetName::Alone(peer.id.clone());
            targets.push(Target {
                name,
                peers: vec![peer],
            });
            continue;
        }
        let name = TargetName::Group(service.version.clone());
        match targets.iter_mut().find(|target| target.name == name) {
            Some(target) => target.peers.push(peer),
            None => targets.push(Target {
                name,
                peers: vec![peer],
            }),
        }
    }
    topics
        .into_iter()
        .map(|(topic, targets)| (topic, Arc::new(targets)))
        .collect()
}

#[cfg(test)]
mod tests {
    use micro_core::SeededRandom;

    use super::*;

    fn node(id: &str, topic: &str) -> Node {
        Node::new(id, "127.0.0.1:1")
            .with_metadata("broker", "http")
            .with_metadata("topic", topic)
    }

    #[test]
    fn groups_are_versions_and_others_are_alone() {
        let group = Service::new(SERVICE, "g")
            .with_node(node("1", "t"))
            .with_node(node("2", "t"));
        let alone = Service::new(SERVICE, BROADCAST)
            .with_node(node("3", "t"))
            .with_node(node("4", "u"))
            .with_node(node("5", "t").with_metadata("broker", "nats"))
            .with_node(node("6", "t").with_metadata("secure", "true"))
            .with_node(Node::new("7", "127.0.0.1:1"));
        let all = [group, alone];
        let topics = by_topic(
            all.iter()
                .flat_map(|service| service.nodes.iter().map(move |node| (service, node))),
        );
        assert_eq!(topics.len(), 2);
        let names: Vec<_> = topics["t"]
            .iter()
            .map(|target| (&target.name, target.peers.len()))
            .collect();
        let (g, three) = (TargetName::Group("g".into()), TargetName::Alone("3".into()));
        assert_eq!(names, [(&g, 2), (&three, 1)]);
    }

    #[test]
    fn a_key_keeps_its_peer_and_others_are_spread() {
        let peers = (0..10)
            .map(|i| Peer {
                id: i.to_string(),
                address: String::new(),
            })
            .collect();
        let all = Target {
            name: TargetName::Group("g".into()),
            peers,
        };
        let mut fewer = all.clone();
        fewer.peers.remove(3);
        let random = SeededRandom::new(1);
        for key in 0..100 {
            let key = Some(key.to_string());
            let first = all.order(key.as_deref(), &random)[0];
            assert_eq!(all.order(key.as_deref(), &random)[0], first);
            if first.id != "3" {
                assert_eq!(fewer.order(key.as_deref(), &random)[0], first);
            }
        }
        let mut firsts: Vec<_> = (0..1000).map(|_| &all.order(None, &random)[0].id).collect();
        firsts.sort();
        firsts.dedup();
        assert_eq!(firsts.len(), 10);
    }
}
