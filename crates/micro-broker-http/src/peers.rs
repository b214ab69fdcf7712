//! Who subscribes to what, as the registry knows it.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::{Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use micro_broker_core::{Env, ErrorKind, Random, Result};
use micro_http::{Head, HttpConfig, Poster, Request};
use micro_registry_cache::{Resolved, Resolver, ResolverOptions};
use micro_registry_core::{Node, Registry, Service};
use tokio::time::Instant;

use crate::{HttpBrokerConfig, frame};

/// The service under which go-micro registers subscribers.
pub(crate) const SERVICE: &str = "micro.http.broker";
/// The version of subscribers without a group; that of others is the group.
pub(crate) const BROADCAST: &str = "ff.http.broadcast";

/// A port that could not be reached is tried after others for so long.
const DOWN: Duration = Duration::from_secs(2);

/// So many members of a group are tried at a time.
pub(crate) const TRIES: usize = 3;

/// A subscriber.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: String,
    /// Whether it takes frames.
    pub(crate) framed: bool,
    pub(crate) line: Arc<Line>,
    /// What every request to it begins with.
    pub(crate) head: Head,
}

/// Who is to get a message once: a group, or a subscriber without one.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: TargetName,
    pub(crate) peers: Vec<Arc<Peer>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TargetName {
    Group(String),
    /// A subscriber's id.
    Alone(String),
}

/// The peers in the order in which they are tried: those of a key always in the same, as long as they are
/// the same; those that could not be reached just now only if there are no others.
pub(crate) fn order<'a>(
    peers: &'a [Arc<Peer>],
    key: Option<&str>,
    random: &dyn Random,
) -> impl Iterator<Item = &'a Peer> + use<'a> {
    let mut first: [Option<&Peer>; TRIES] = [None; TRIES];
    if let [only] = peers {
        first[0] = Some(&**only);
        return first.into_iter().flatten();
    }
    let now = Instant::now();
    // Rendezvous hashing: whoever comes or goes moves its own keys only. Without a key it is a turn of the
    // whole circle, which costs no hash.
    let begin = random.next_u64() as usize % peers.len().max(1);
    let rank = |at: usize, peer: &Peer| {
        let place = match key {
            Some(key) => {
                let mut hasher = DefaultHasher::new();
                (key, &peer.id).hash(&mut hasher);
                hasher.finish()
            }
            None => ((at + peers.len() - begin) % peers.len()) as u64,
        };
        (peer.line.is_down(now), place)
    };
    let mut ranks = [(true, u64::MAX); TRIES];
    for (at, peer) in peers.iter().enumerate() {
        let rank = rank(at, peer);
        let place = (0..TRIES).find(|place| first[*place].is_none() || rank < ranks[*place]);
        let Some(place) = place else { continue };
        first[place..].rotate_right(1);
        ranks[place..].rotate_right(1);
        (first[place], ranks[place]) = (Some(&**peer), rank);
    }
    first.into_iter().flatten()
}

/// The way to a subscriber's port, which may have several subscribers.
pub(crate) struct Line {
    pub(crate) poster: Poster,
    failed: Mutex<Option<Instant>>,
}

impl Line {
    /// It could not be reached, or does not answer.
    pub(crate) fn failed(&self) {
        *lock(&self.failed) = Some(Instant::now());
    }

    fn is_down(&self, now: Instant) -> bool {
        let failed = *lock(&self.failed);
        failed.is_some_and(|at| now.saturating_duration_since(at) < DOWN)
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line")
            .field("failed", &*lock(&self.failed))
            .finish_non_exhaustive()
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
    lines: Mutex<Lines>,
    /// Part of the ids of this process' subscribers.
    mark: String,
    config: HttpConfig,
}

/// The lines to the ports of those who are there.
type Lines = HashMap<String, Arc<Line>>;

#[derive(Debug, Default)]
struct Own {
    revision: u64,
    services: Vec<Service>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peers {
    pub(crate) fn new(
        registry: Arc<dyn Registry>,
        mark: String,
        config: &HttpBrokerConfig,
        env: &Env,
    ) -> Self {
        let opts = ResolverOptions::from_env(env).with_negative_ttl(Duration::from_millis(100));
        Self {
            resolver: Resolver::new(registry, opts),
            resolved: Mutex::default(),
            topics: Mutex::default(),
            own: Mutex::default(),
            lines: Mutex::default(),
            mark,
            config: config.of_peers(),
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
        deadline: Option<std::time::Instant>,
    ) -> Result<Arc<Vec<Target>>> {
        let resolved = self.resolved()?;
        if !resolved.is_answered() {
            // Who is known before the first answer may be a few of many.
            resolved.answered(deadline).await?;
        }
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
        let made = Arc::new(self.by_topic(others.chain(ours)));
        *topics = Some((snapshot.revision, own.revision, Arc::clone(&made)));
        made
    }

    fn by_topic<'a>(&self, nodes: impl Iterator<Item = (&'a Service, &'a Node)>) -> Topics {
        let mut topics: HashMap<String, Vec<Target>> = HashMap::new();
        let mut lines = lock(&self.lines);
        // Those to ports that are no longer there go.
        let mut kept = Lines::new();
        for (service, node) in nodes {
            let said = |name: &str| node.metadata.get(name).map(String::as_str);
            let (Some("http"), Some(topic)) = (said("broker"), said("topic")) else {
                continue;
            };
            // Whoever can write to the registry must not make us speak in the clear.
            if (said("secure") == Some("true")) != self.config.is_secure() {
                tracing::debug!(
                    node = node.id,
                    "this subscriber and this publisher do not agree on whether to use TLS"
                );
                continue;
            }
            let known = kept.get(&node.address).or_else(|| lines.get(&node.address));
            let peer = match self.peer(node, known.map(Arc::clone)) {
                Ok(peer) => peer,
                Err(error) => {
                    tracing::debug!(node = node.id, %error, "this subscriber cannot be called");
                    continue;
                }
            };
            kept.insert(node.address.clone(), Arc::clone(&peer.line));
            let name = if service.version == BROADCAST {
                TargetName::Alone(peer.id.clone())
            } else {
                TargetName::Group(service.version.clone())
            };
            let peer = Arc::new(peer);
            let targets = topics.entry(topic.to_owned()).or_default();
            match targets.iter_mut().find(|target| target.name == name) {
                Some(target) => target.peers.push(peer),
                None => targets.push(Target {
                    name,
                    peers: vec![peer],
                }),
            }
        }
        *lines = kept;
        topics
            .into_iter()
            .map(|(topic, targets)| (topic, Arc::new(targets)))
            .collect()
    }

    fn peer(&self, node: &Node, line: Option<Arc<Line>>) -> Result<Peer> {
        let line = match line {
            Some(line) => line,
            None => {
                let mut config = self.config.clone();
                config.endpoints = vec![node.address.clone()];
                Arc::new(Line {
                    poster: Poster::new(config)?,
                    failed: Mutex::default(),
                })
            }
        };
        let framed = node
            .metadata
            .get("accepts")
            .is_some_and(|accepts| accepts == frame::CONTENT_TYPE);
        let content_type = if framed {
            frame::CONTENT_TYPE
        } else {
            "application/json"
        };
        let request = Request::post("/")
            .query("id", &node.id)
            .body(content_type, "");
        Ok(Peer {
            id: node.id.clone(),
            framed,
            head: line.poster.head(&request)?,
            line,
        })
    }
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

    async fn peers() -> Peers {
        let registry: Arc<dyn Registry> = micro_registry_core::Drivers::new()
            .with(micro_registry_memory::MemoryDriver::default())
            .open("memory", &Env::new())
            .await
            .unwrap();
        let config = HttpBrokerConfig::default();
        Peers::new(registry, "mark".to_owned(), &config, &Env::new())
    }

    fn by_topic(peers: &Peers, services: &[Service]) -> Topics {
        let nodes = services
            .iter()
            .flat_map(|service| service.nodes.iter().map(move |node| (service, node)));
        peers.by_topic(nodes)
    }

    #[tokio::test]
    async fn groups_are_versions_and_others_are_alone() {
        let group = Service::new(SERVICE, "g")
            .with_node(node("1", "t").with_metadata("accepts", frame::CONTENT_TYPE))
            .with_node(node("2", "t"));
        let alone = Service::new(SERVICE, BROADCAST)
            .with_node(node("3", "t"))
            .with_node(node("4", "u"))
            .with_node(node("5", "t").with_metadata("broker", "nats"))
            .with_node(node("6", "t").with_metadata("secure", "true"))
            .with_node(Node::new("7", "127.0.0.1:1"));
        let peers = peers().await;
        let topics = by_topic(&peers, &[group, alone]);
        assert_eq!(topics.len(), 2);
        let names: Vec<_> = topics["t"]
            .iter()
            .map(|target| (&target.name, target.peers.len()))
            .collect();
        let (g, three) = (TargetName::Group("g".into()), TargetName::Alone("3".into()));
        assert_eq!(names, [(&g, 2), (&three, 1)]);
        let framed = topics["t"][0].peers.iter().map(|peer| peer.framed);
        assert_eq!(framed.collect::<Vec<_>>(), [true, false]);
        // All are behind one port, and what is known of it stays known; what is not there any more is
        // forgotten.
        let line = Arc::clone(&topics["t"][0].peers[0].line);
        assert!(Arc::ptr_eq(&line, &topics["u"][0].peers[0].line));
        let again = Service::new(SERVICE, "g").with_node(node("1", "t"));
        let topics = by_topic(&peers, &[again]);
        assert!(Arc::ptr_eq(&line, &topics["t"][0].peers[0].line));
        by_topic(&peers, &[]);
        assert!(lock(&peers.lines).is_empty());
    }

    #[tokio::test]
    async fn a_key_keeps_its_peer_and_others_are_spread() {
        let mut group = Service::new(SERVICE, "g");
        for i in 0..10 {
            let mut node = node(&i.to_string(), "t");
            node.address = format!("127.0.0.1:{}", i + 1);
            group = group.with_node(node);
        }
        let topics = by_topic(&peers().await, &[group]);
        let all = &topics["t"][0].peers;
        let mut fewer = all.clone();
        fewer.remove(3);
        let random = SeededRandom::new(1);
        let first = |peers: &[Arc<Peer>], key: Option<&str>| {
            let tried: Vec<_> = order(peers, key, &random)
                .map(|peer| peer.id.clone())
                .collect();
            let mut distinct = tried.clone();
            distinct.sort();
            distinct.dedup();
            assert_eq!((tried.len(), distinct.len()), (TRIES, TRIES));
            tried.into_iter().next().unwrap()
        };
        let mut keyed = Vec::new();
        for key in 0..100 {
            let key = key.to_string();
            let one = first(all, Some(&key));
            assert_eq!(first(all, Some(&key)), one);
            if one != "3" {
                assert_eq!(first(&fewer, Some(&key)), one);
            }
            keyed.push(one);
        }
        for mut firsts in [keyed, (0..1000).map(|_| first(all, None)).collect()] {
            firsts.sort();
            firsts.dedup();
            assert_eq!(firsts.len(), 10);
        }
        // One that was not there a moment ago comes last, and is tried if there is nobody else.
        all[4].line.failed();
        assert!((0..1000).all(|_| first(all, None) != "4"));
        let only = order(&all[4..5], None, &random).map(|peer| &*peer.id);
        assert_eq!(only.collect::<Vec<_>>(), ["4"]);
        assert_eq!(order(&[], Some("a"), &random).count(), 0);
    }
}
