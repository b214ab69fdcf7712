//! What the task changes: a ledger that refuses whoever has lost the leadership.

use std::sync::{Arc, Mutex, PoisonError};

use micro::store::{Record, Table, WriteOptions};
use micro::sync::{Fence, FencingToken};
use micro::{Context, Message, Result, Running, Service, Settings};
use serde::{Deserialize, Serialize};

/// A line, and the token of who writes it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Message)]
pub(crate) struct Line {
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    pub(crate) text: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, Message)]
pub(crate) struct Written {
    pub(crate) lines: u64,
}

#[micro::service]
pub(crate) trait Ledger {
    async fn write(&self, cx: &Context, line: Line) -> Result<Written>;
}

/// Whose lines were written, in their order.
pub(crate) type Tokens = Arc<Mutex<Vec<u64>>>;

struct Fenced {
    table: Table,
    tokens: Tokens,
}

impl Ledger for Fenced {
    async fn write(&self, _cx: &Context, line: Line) -> Result<Written> {
        let token = FencingToken::new(line.epoch, line.seq);
        let opts = WriteOptions::default().with_fence(Fence::new("clock", token));
        self.table
            .write(Record::new("line", line.text), opts)
            .await?;
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.push(line.seq);
        let lines = tokens.len() as u64;
        Ok(Written { lines })
    }
}

/// Starts it on this machine; the nodes are told where.
pub(crate) async fn start() -> Result<(Running, Tokens)> {
    let tokens = Tokens::default();
    // Whatever is set for the nodes is not for the ledger.
    let service = Service::new("ledger")
        .settings(Settings::new())
        .registry_url("memory");
    let fenced = Fenced {
        table: service.store().await?,
        tokens: Arc::clone(&tokens),
    };
    let running = service.handle(LedgerServer::new(fenced)).start().await?;
    Ok((running, tokens))
}
