//! Asking everybody, and collecting the answers: for a time, and up to a number.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use micro_nats::async_nats::{Client, StatusCode};
use micro_nats::publish_failed;
use micro_registry_core::{Error, Result};
use tokio::time::{Instant, timeout_at};

use crate::directory::{Entry, Key, entries};
use crate::registry::Shared;
use crate::wire::{self, Query};

/// So many answers, nodes and bytes are taken per question; the server is told to send no more.
const MOST_ANSWERS: u64 = 4096;
const MOST_NODES: usize = 20_000;
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// What the others answered.
#[derive(Debug)]
pub(crate) struct Found {
    /// By name, version and id.
    pub(crate) nodes: BTreeMap<Key, Entry>,
    /// Whether there may be more: a bound was reached.
    pub(crate) cut: bool,
}

impl Shared {
    /// Asks the others. This program does not hear itself.
    pub(crate) async fn ask(&self, client: &Client, query: &Query) -> Result<Found> {
        let question = query.write()?;
        let name = match query {
            Query::Get(name) => Some(&**name),
            Query::List => None,
        };
        let inbox = client.new_inbox();
        let gone = |err| Error::unavailable("the connection to NATS is gone").with_source(err);
        let mut answers = client.subscribe(inbox.clone()).await.map_err(gone)?;
        answers
            .unsubscribe_after(MOST_ANSWERS)
            .await
            .map_err(|err| Error::unavailable("the connection to NATS is gone").with_source(err))?;
        let subject = self.subjects.query.clone();
        client
            .publish_with_reply(subject, inbox, question)
            .await
            .map_err(publish_failed)?;

        let mut found = Found {
            nodes: BTreeMap::new(),
            cut: false,
        };
        let lookup = self.config.lookup;
        let start = Instant::now();
        // Who found nobody waits longer: an answer may be late, and "nobody" is a strong word.
        let (until, last) = (start + 3 * lookup, start + 10 * lookup);
        let (mut until, mut count, mut bytes) = (until, 0, 0);
        while let Ok(answer) = timeout_at(until, answers.next()).await {
            let Some(answer) = answer else {
                // The server stopped at the bound, or the connection is gone for good.
                found.cut = true;
                break;
            };
            if answer.status == Some(StatusCode::NO_RESPONDERS) {
                break;
            }
            count += 1;
            bytes += answer.payload.len();
            match wire::read_answer(&answer.payload, name) {
                Some(service) => {
                    found.nodes.extend(entries(&service));
                    // While answers keep coming, there may be more of them.
                    until = (start + lookup).max(Instant::now() + lookup / 4).min(last);
                }
                None => self.warn_once("an answer on NATS cannot be read; it is ignored"),
            }
            if count >= MOST_ANSWERS || bytes > MOST_BYTES || found.nodes.len() > MOST_NODES {
                found.cut = true;
                break;
            }
        }
        // A node that only the flood kept us from hearing is not gone.
        found.cut |= Instant::now() >= last;
        if found.cut {
            self.warn_once("more answers than are taken came in on NATS; some are ignored");
        }
        Ok(found)
    }
}
