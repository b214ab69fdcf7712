//! The server: its connection, how it is set up, and where our keys are in it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use micro_broker_core::{Durability, Error, ErrorKind, Result, Topic};
use micro_core::Env;
use micro_redis::redis::{Cmd, Value, cmd};
use micro_redis::{Connection, Effect, Facts, Greeting, Link, Script, Survives};
use tokio::time::Instant;

use crate::RedisBrokerConfig;
use crate::scripts::{PROBE, of_topic};

pub(crate) struct Site {
    pub(crate) config: RedisBrokerConfig,
    pub(crate) env: Env,
    pub(crate) connection: Connection,
    /// What all keys begin with.
    pub(crate) root: String,
    facts: KnownFacts,
    closed: AtomicBool,
}

/// What is known of the server, once it was asked.
type KnownFacts = Arc<Mutex<Option<Facts>>>;

impl Site {
    /// Connects, and asks the server how it is set up.
    pub(crate) async fn open(config: RedisBrokerConfig, env: &Env) -> Result<Self> {
        let root = format!("{{{}}}", config.prefix);
        let facts = KnownFacts::default();
        let greeting = greeting(root.clone(), config.server.timeout, Arc::clone(&facts));
        let connection = Connection::open_greeted(config.server.clone(), env.random(), greeting)?;
        connection
            .link(Instant::now() + config.server.connect)
            .await?;
        Ok(Self {
            config,
            env: env.clone(),
            connection,
            root,
            facts,
            closed: AtomicBool::new(false),
        })
    }

    /// What messages survive that are published over a link; over none in particular, over the newest.
    pub(crate) fn durability(&self, link: Option<&Link>) -> Durability {
        let facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(facts) = &*facts else {
            return Durability::Memory;
        };
        if link.is_some_and(|link| link.epoch() != facts.epoch) {
            return Durability::Memory;
        }
        match facts.survives {
            Some(Survives::Power) => Durability::Power,
            Some(Survives::Process) => Durability::Process,
            Some(Survives::Nothing) => Durability::Memory,
            None => self.config.durability.unwrap_or(Durability::Memory),
        }
    }

    /// A topic's name with its namespace. Neither has a colon, and neither has a group: no two keys are
    /// the same.
    pub(crate) fn name(&self, topic: &Topic) -> String {
        format!("{}:{topic}", self.env.namespace())
    }

    /// Runs a script that changes something.
    pub(crate) async fn run(&self, script: &Script, invocation: &Cmd) -> Result<Value> {
        let deadline = self.connection.deadline();
        let link = self.connection.link(deadline).await?;
        link.run(script, invocation, Effect::Change, deadline).await
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::failed_precondition("the broker is closed"));
        }
        Ok(())
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site")
            .field("config", &self.config)
            .field("namespace", &self.env.namespace())
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

/// Asks the server over each connection: after a reconnection it may be another one, or be set up in
/// another way.
fn greeting(root: String, timeout: Duration, known: KnownFacts) -> Greeting {
    let common = Arc::new((root, known));
    Arc::new(move |link| {
        let common = Arc::clone(&common);
        Box::pin(async move {
            let (root, known) = &*common;
            let deadline = Instant::now() + timeout;
            let facts = Facts::ask(&link, deadline).await?;
            probe(&link, root, deadline).await?;
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            let before = known.replace(facts).map(|before| before.survives);
            if before != Some(facts.survives) {
                tracing::info!(survive = ?facts.survives, "what messages in this Redis survive");
            }
            Ok(())
        })
    })
}

/// Makes sure that everything is there and permitted that scripts need.
async fn probe(link: &Link, root: &str, deadline: Instant) -> Result<()> {
    let invocation = of_topic(&PROBE, root, ":probe");
    let mut wait = cmd("BLPOP");
    wait.arg(format!("{root}:probe:w")).arg("0.01");
    let probed = async {
        link.run(&PROBE, &invocation, Effect::Nothing, deadline)
            .await?;
        link.call(&wait, Effect::Nothing, deadline).await
    };
    match probed.await {
        Err(err) if err.kind() == ErrorKind::Internal => Err(Error::failed_precondition(
            "this Redis lacks a command that the broker needs: 7.0 or newer has them all",
        )
        .with_source(err)),
        // In a full one, messages can still be handled.
        Err(err) if err.kind() != ErrorKind::ResourceExhausted => Err(err),
        _ => Ok(()),
    }
}
