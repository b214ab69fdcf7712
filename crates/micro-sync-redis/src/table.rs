//! What is in Redis, and every script that there is.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use micro_core::Random;
use micro_redis::redis::{Cmd, Value, cmd};
use micro_redis::{Connection, Effect, Facts, Greeting, Script};
use micro_sync_core::{Error, ErrorKind, FencingToken, Leader, Result};
use tokio::time::{Instant, sleep};

use crate::RedisSyncConfig;

macro_rules! scripts {
    ($($name:ident = $($part:literal),+;)*) => {
        $(static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!($(include_str!(concat!("lua/", $part, ".lua"))),+))
        });)*
    };
}

scripts! {
    PROBE = "probe";
    TAKE = "prelude", "take";
    RENEW = "prelude", "renew";
    LEAVE = "prelude", "leave";
}

/// The locks of a namespace.
pub(crate) struct Table {
    pub(crate) connection: Connection,
    root: String,
    namespace: String,
    epoch: u64,
}

/// What there is to an attempt.
#[derive(Debug)]
pub(crate) enum Taken {
    /// The lock is ours.
    Ours(u64),
    /// We are the next, at the latest after so long.
    Next(Option<Duration>),
    /// Others are before us.
    Behind,
    /// Another has it, and we do not wait.
    Held,
}

impl Table {
    pub(crate) fn open(
        config: &RedisSyncConfig,
        namespace: &str,
        random: &Arc<dyn Random>,
    ) -> Result<Self> {
        let root = format!("{{{}}}", config.prefix);
        let greeting = greeting(root.clone(), config.server.timeout);
        Ok(Self {
            connection: Connection::open_greeted(config.server.clone(), random, greeting)?,
            root,
            namespace: namespace.to_owned(),
            epoch: config.epoch,
        })
    }

    /// Where a coordinator is told which of its attempts may look.
    pub(crate) fn words(&self, coordinator: &str) -> String {
        format!("{}:w:{coordinator}", self.root)
    }

    /// The key of a lock. No name has a colon in it, so no lock of one namespace is one of another.
    fn lock(&self, name: &str) -> String {
        format!("{}:l:{}:{name}", self.root, self.namespace)
    }

    fn invocation(&self, script: &Script, name: &str, owner: &str) -> Cmd {
        let mut invocation = script.invocation();
        invocation
            .arg(1)
            .arg(self.lock(name))
            .arg(&self.root)
            .arg(format!("{}:{name}", self.namespace))
            .arg(owner);
        invocation
    }

    /// Takes a lock for an owner, or waits for it, counting as there for `alive`.
    pub(crate) async fn take(
        &self,
        name: &str,
        owner: &str,
        value: &str,
        ttl: Duration,
        alive: Option<Duration>,
    ) -> Result<Taken> {
        let mut invocation = self.invocation(&TAKE, name, owner);
        invocation.arg(value).arg(millis(ttl));
        match alive {
            Some(alive) => invocation.arg(millis(alive) * 1000),
            None => invocation.arg(""),
        };
        let Value::Array(parts) = self.run(&TAKE, &invocation).await? else {
            return Err(nonsense());
        };
        let mut parts = parts.into_iter();
        let what = parts.next().and_then(text).ok_or_else(nonsense)?;
        match (&*what, parts.next()) {
            ("taken", token) => {
                let token = token.and_then(text).and_then(|token| token.parse().ok());
                token.map(Taken::Ours).ok_or_else(nonsense)
            }
            ("next", Some(Value::Int(millis))) => {
                let millis = u64::try_from(millis).ok();
                Ok(Taken::Next(millis.map(Duration::from_millis)))
            }
            ("behind", _) => Ok(Taken::Behind),
            ("held", _) => Ok(Taken::Held),
            _ => Err(nonsense()),
        }
    }

    /// Renews; whether it is still there.
    pub(crate) async fn renew(&self, name: &str, owner: &str, ttl: Duration) -> Result<bool> {
        let mut invocation = self.invocation(&RENEW, name, owner);
        invocation.arg(millis(ttl));
        flag(&self.run(&RENEW, &invocation).await?)
    }

    /// Lets go of the lock, or of the place in the queue; whether the lock was still there.
    pub(crate) async fn leave(&self, name: &str, owner: &str, token: Option<u64>) -> Result<bool> {
        let mut invocation = self.invocation(&LEAVE, name, owner);
        match token {
            Some(token) => invocation.arg(token),
            None => invocation.arg(""),
        };
        flag(&self.run(&LEAVE, &invocation).await?)
    }

    /// Whether the lock is this owner's.
    pub(crate) async fn verify(&self, name: &str, owner: &str) -> Result<bool> {
        let mut get = cmd("HGET");
        get.arg(self.lock(name)).arg("owner");
        let found = self.ask(&get).await?;
        Ok(text(found).is_some_and(|found| found == owner))
    }

    /// Who has it.
    pub(crate) async fn leader(&self, name: &str) -> Result<Option<Leader>> {
        let mut get = cmd("HMGET");
        get.arg(self.lock(name)).arg("token").arg("value");
        let Value::Array(parts) = self.ask(&get).await? else {
            return Err(nonsense());
        };
        let mut parts = parts.into_iter();
        let (Some(token), Some(value)) = (parts.next(), parts.next()) else {
            return Err(nonsense());
        };
        let Some(token) = text(token) else {
            return Ok(None);
        };
        let token = token.parse().map_err(|_| nonsense())?;
        let value = text(value).unwrap_or_default();
        Ok(Some(Leader::new(value, self.token(token))))
    }

    pub(crate) fn token(&self, number: u64) -> FencingToken {
        FencingToken::new(self.epoch, number)
    }

    async fn ask(&self, cmd: &Cmd) -> Result<Value> {
        self.connection.ask(cmd, self.connection.deadline()).await
    }

    /// Runs a script, again over the next connection if nobody knows whether it has run: all of ours may run
    /// twice.
    async fn run(&self, script: &Script, invocation: &Cmd) -> Result<Value> {
        let deadline = self.connection.deadline();
        let mut unknown = None;
        loop {
            let link = match self.connection.link(deadline).await {
                Ok(link) => link,
                Err(err) => return Err(unknown.unwrap_or(err)),
            };
            match link.run(script, invocation, Effect::Change, deadline).await {
                Err(err)
                    if err.kind() == ErrorKind::OutcomeUnknown && Instant::now() < deadline =>
                {
                    unknown = Some(err);
                    // The link is given up in a moment.
                    sleep(Duration::from_millis(10)).await;
                }
                answer => return answer,
            }
        }
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("connection", &self.connection)
            .field("root", &self.root)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// Makes sure over each connection that the server can keep what is promised, and that everything is
/// permitted that scripts need.
fn greeting(root: String, timeout: Duration) -> Greeting {
    let root: Arc<str> = root.into();
    Arc::new(move |link| {
        let root = Arc::clone(&root);
        Box::pin(async move {
            let deadline = Instant::now() + timeout;
            Facts::ask(&link, deadline).await?;
            let mut probe = PROBE.invocation();
            probe.arg(1).arg(format!("{root}:probe:l")).arg(&*root);
            let mut wait = cmd("BLPOP");
            wait.arg(format!("{root}:probe:w")).arg("0.01");
            let probed = async {
                link.run(&PROBE, &probe, Effect::Nothing, deadline).await?;
                link.call(&wait, Effect::Nothing, deadline).await
            };
            match probed.await {
                // In a full one, locks can still be let go of.
                Err(err) if err.kind() != ErrorKind::ResourceExhausted => Err(err),
                _ => Ok(()),
            }
        })
    })
}

/// Rounded up: nothing ends before its time.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

pub(crate) fn text(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

fn flag(value: &Value) -> Result<bool> {
    match value {
        Value::Int(flag) => Ok(*flag == 1),
        _ => Err(nonsense()),
    }
}

/// What a script never says.
fn nonsense() -> Error {
    Error::corrupt("Redis answers what our scripts do not say: somebody else writes to our keys")
}
