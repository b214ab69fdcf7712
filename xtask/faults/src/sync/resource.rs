//! What is changed under the locks: a store that refuses old tokens, for all processes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use micro_core::{ErrorKind, Fence, FencingToken};
use micro_store_core::{Record, Scope, Store as _, WriteOptions};
use micro_store_memory::MemoryStore;
use micro_testing::locks::{Operation, Seen};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use super::{now, read, written};
use crate::Result;

/// What was done to a lock.
pub(super) type Event = (String, Operation);

/// The store, where children reach it.
pub(super) struct Resource {
    address: SocketAddr,
    events: Arc<Mutex<Vec<Event>>>,
    accepting: AbortHandle,
}

impl Resource {
    pub(super) async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let events = Arc::new(Mutex::new(Vec::new()));
        let store = MemoryStore::new();
        let told = Arc::clone(&events);
        let accepting = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (store, told) = (store.clone(), Arc::clone(&told));
                // It ends with the child's connection.
                tokio::spawn(async move { serve(socket, &store, &told).await });
            }
        });
        Ok(Self {
            address,
            events,
            accepting: accepting.abort_handle(),
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// All writes, and those that were refused.
    pub(super) fn events(&self) -> Vec<Event> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.clone()
    }
}

impl Drop for Resource {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(socket: TcpStream, store: &MemoryStore, told: &Mutex<Vec<Event>>) -> Result<()> {
    let (lines, mut answers) = socket.into_split();
    let mut lines = BufReader::new(lines).lines();
    while let Some(line) = lines.next_line().await? {
        let (name, token) = line.split_once(' ').ok_or("no write")?;
        let token = read(token)?;
        let (called, wrote) = (now(), write(store, name, token).await?);
        let seen = if wrote {
            Seen::Wrote(token)
        } else {
            Seen::Refused(token)
        };
        let operation = Operation::new(seen, called, now());
        told.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((name.to_owned(), operation));
        answers
            .write_all(if wrote { b"wrote\n" } else { b"refused\n" })
            .await?;
    }
    Ok(())
}

/// Writes, fenced; whether it was let through.
pub(super) async fn write(store: &MemoryStore, name: &str, token: FencingToken) -> Result<bool> {
    let scope = Scope::new("faults", "locks")?;
    let opts = WriteOptions::default().with_fence(Fence::new(name, token));
    let record = Record::new(name.to_owned(), written(token));
    match store.write(&scope, record, opts).await {
        Ok(_) => Ok(true),
        Err(err) if err.kind() == ErrorKind::Lost => Ok(false),
        Err(err) => Err(err.into()),
    }
}

/// A child's connection to the store.
pub(super) struct Writes {
    answers: BufReader<tokio::net::tcp::OwnedReadHalf>,
    lines: tokio::net::tcp::OwnedWriteHalf,
}

impl Writes {
    pub(super) async fn connect(address: &str) -> Result<Self> {
        let (answers, lines) = TcpStream::connect(address).await?.into_split();
        Ok(Self {
            answers: BufReader::new(answers),
            lines,
        })
    }

    /// Writes; whether it was let through.
    pub(super) async fn write(&mut self, name: &str, token: FencingToken) -> Result<bool> {
        let line = format!("{name} {}\n", written(token));
        self.lines.write_all(line.as_bytes()).await?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).await?;
        match answer.as_str() {
            "wrote\n" => Ok(true),
            "refused\n" => Ok(false),
            other => Err(format!("the store said '{other}'").into()),
        }
    }
}
