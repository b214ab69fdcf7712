//! A group's messages, as they are in Redis.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use micro_broker_core::{Error, Message, Result, Topic};
use micro_redis::Script;
use micro_redis::redis::{Cmd, Value};

use crate::entry::{self, bytes, nonsense};
use crate::scripts::{BEAT, NUDGE, REMOVE, SETTLE, SUBSCRIBE, TAKE, of_topic};
use crate::site::Site;

/// So much longer than its handler may take is a message lent.
pub(crate) const MARGIN: Duration = Duration::from_millis(300);

/// So long a subscriber without a group is kept messages for, if it is not heard of.
const ALIVE: Duration = Duration::from_secs(60);

/// So often it says that it is there.
pub(crate) const BEAT_EVERY: Duration = Duration::from_secs(10);

/// The messages of a group, or of a subscriber without one.
#[derive(Debug)]
pub(crate) struct Queue {
    site: Arc<Site>,
    topic: Topic,
    /// The topic's name with its namespace.
    name: String,
    group: String,
    /// What tells this member from others.
    member: String,
    /// Whether it stays without members.
    pub(crate) lasting: bool,
    /// How long messages are lent.
    pub(crate) lease: Duration,
}

/// A message that was taken out.
#[derive(Debug)]
pub(crate) struct Lent {
    pub(crate) claim: Claim,
    /// The entry's fields.
    pub(crate) fields: Vec<Value>,
}

/// What says which message it is, and which delivery of it: whoever names an earlier one is too late.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) id: String,
    key: Bytes,
    pub(crate) deliveries: u32,
}

/// What there was to take.
#[derive(Debug)]
pub(crate) enum Found {
    Messages(Vec<Lent>),
    /// Nothing, until so much later something is due.
    Nothing(Option<Duration>),
    /// Somebody removed the group.
    Removed,
    /// Redis has lost the group.
    Lost,
}

/// What becomes of a message.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It is done with.
    Done,
    /// It comes again after so long.
    Retry(Duration),
    /// It is done with, and this is a dead letter.
    Dead(Box<Message>),
    /// It is still being handled.
    Extend,
    /// It goes back to the others.
    Back {
        /// Whether a handler has seen it.
        handled: bool,
    },
}

/// Whether it became that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    Fine,
    /// It was delivered again, or is settled.
    Late,
    /// The dead letters are full: it comes again.
    Full,
}

impl Queue {
    pub(crate) fn new(
        site: &Arc<Site>,
        topic: &Topic,
        group: Option<&str>,
        ack_deadline: Duration,
    ) -> Self {
        let random = site.env.random();
        let alone = || format!("~{:016x}{:016x}", random.next_u64(), random.next_u64());
        Self {
            site: Arc::clone(site),
            topic: topic.clone(),
            name: site.name(topic),
            group: group.map_or_else(alone, str::to_owned),
            member: format!("{:016x}", random.next_u64()),
            lasting: group.is_some(),
            lease: ack_deadline + MARGIN,
        }
    }

    pub(crate) fn site(&self) -> &Arc<Site> {
        &self.site
    }

    pub(crate) fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Where a member waits to be woken.
    pub(crate) fn word(&self) -> String {
        format!("{}:w:{}:{}", self.site.root, self.name, self.group)
    }

    /// Makes the group if it is not there, to begin behind an id.
    pub(crate) async fn create(&self, behind: &str) -> Result<()> {
        let mut invocation = self.invocation(&SUBSCRIBE);
        invocation.arg(behind);
        if self.lasting {
            invocation.arg("");
        } else {
            invocation.arg(millis(ALIVE));
        }
        self.site.run(&SUBSCRIBE, &invocation).await.map(drop)
    }

    /// Says that a subscriber without a group is still there.
    pub(crate) async fn beat(&self) -> Result<()> {
        let mut invocation = self.invocation(&BEAT);
        invocation.arg(millis(ALIVE));
        self.site.run(&BEAT, &invocation).await.map(drop)
    }

    /// Passes on a word to another member, or to the next that waits for one.
    pub(crate) async fn nudge(&self) -> Result<()> {
        self.wake("").await
    }

    /// Leaves: the word that woke us last may have been for another.
    pub(crate) async fn leave(&self) -> Result<()> {
        self.wake(&self.member).await?;
        if !self.lasting {
            self.remove(false).await?;
        }
        Ok(())
    }

    async fn wake(&self, leaving: &str) -> Result<()> {
        let mut invocation = self.invocation(&NUDGE);
        invocation.arg(leaving);
        self.site.run(&NUDGE, &invocation).await.map(drop)
    }

    /// Removes the group; whether it was there. Members that may be left are told.
    pub(crate) async fn remove(&self, members: bool) -> Result<bool> {
        let mut invocation = self.invocation(&REMOVE);
        invocation
            .arg(millis(self.site.config.retain))
            .arg(u8::from(members));
        match self.site.run(&REMOVE, &invocation).await? {
            Value::Int(existed) => Ok(existed == 1),
            _ => Err(nonsense()),
        }
    }

    /// Takes so many messages at most. Calls are numbered; what was given to one whose answer never came, and
    /// to those since, is taken back first.
    pub(crate) async fn take(
        &self,
        most: usize,
        number: u64,
        unanswered: Option<u64>,
    ) -> Result<Found> {
        let mut invocation = self.invocation(&TAKE);
        invocation
            .arg(most)
            .arg(millis(self.lease))
            .arg(millis(self.site.config.retain))
            .arg(&self.member)
            .arg(number);
        match unanswered {
            Some(number) => invocation.arg(number),
            None => invocation.arg(""),
        };
        let Value::Array(answer) = self.site.run(&TAKE, &invocation).await? else {
            return Err(nonsense());
        };
        let mut answer = answer.into_iter();
        let found = answer.next().and_then(bytes).ok_or_else(nonsense)?;
        match &*found {
            b"messages" => Ok(Found::Messages(answer.map(lent).collect::<Result<_>>()?)),
            b"nothing" => match answer.next() {
                Some(Value::Int(millis)) => {
                    let later = u64::try_from(millis).ok().map(Duration::from_millis);
                    Ok(Found::Nothing(later))
                }
                _ => Err(nonsense()),
            },
            b"removed" => Ok(Found::Removed),
            b"lost" => Ok(Found::Lost),
            _ => Err(nonsense()),
        }
    }

    /// Says what becomes of a message.
    pub(crate) async fn settle(&self, claim: &Claim, outcome: &Outcome) -> Result<Settled> {
        let (verdict, after) = match outcome {
            Outcome::Done => ("done", Duration::ZERO),
            Outcome::Retry(pause) => ("retry", *pause),
            Outcome::Dead(_) => ("dead", Duration::ZERO),
            Outcome::Extend => ("extend", self.lease),
            Outcome::Back { handled: true } => ("back", Duration::ZERO),
            Outcome::Back { handled: false } => ("unhandled", Duration::ZERO),
        };
        let mut invocation = self.invocation(&SETTLE);
        invocation
            .arg(&claim.id)
            .arg(&*claim.key)
            .arg(claim.deliveries)
            .arg(verdict)
            .arg(millis(after));
        if let Outcome::Dead(message) = outcome {
            invocation
                .arg(self.site.name(&message.topic))
                .arg(self.site.config.max_messages)
                .arg(millis(self.site.config.retain));
            entry::write(message, &mut invocation);
        }
        let settled = self.site.run(&SETTLE, &invocation).await?;
        match bytes(settled).as_deref() {
            Some(b"fine") => Ok(Settled::Fine),
            Some(b"late") => Ok(Settled::Late),
            Some(b"full") => Ok(Settled::Full),
            _ => Err(nonsense()),
        }
    }

    fn invocation(&self, script: &Script) -> Cmd {
        let mut invocation = of_topic(script, &self.site.root, &self.name);
        invocation.arg(&self.group);
        invocation
    }
}

/// Rounded up: what is not to be at once is at least a millisecond later.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

fn lent(value: Value) -> Result<Lent> {
    let Value::Array(parts) = value else {
        return Err(nonsense());
    };
    let Ok([id, key, Value::Int(deliveries), Value::Array(fields)]) = <[Value; 4]>::try_from(parts)
    else {
        return Err(nonsense());
    };
    let id = bytes(id).and_then(|id| String::from_utf8(id.into()).ok());
    Ok(Lent {
        claim: Claim {
            id: id.ok_or_else(nonsense)?,
            key: bytes(key).ok_or_else(nonsense)?,
            deliveries: u32::try_from(deliveries).map_err(|_| nonsense())?,
        },
        fields,
    })
}

/// Why there are no more messages.
pub(crate) fn removed(lasting: bool) -> Error {
    if lasting {
        return Error::not_found("the group was removed");
    }
    Error::aborted(
        "the subscriber was not heard of for a minute, so that messages were not kept for it: subscribe again",
    )
}
