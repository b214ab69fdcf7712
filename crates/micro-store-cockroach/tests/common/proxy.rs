//! Stands between a store and its server, and makes the n-th request go wrong.
//!
//! A request is what the server answers with one `ReadyForQuery`: a simple query, or everything up to a
//! `Sync` (PostgreSQL's protocol 3.0, "Message Flow").

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The server refuses it with this SQLSTATE, and has not done it.
    Refused(&'static str),
    /// The server has done it, and says so with this SQLSTATE.
    Disowned(&'static str),
    /// The connection is cut before the server hears of it.
    CutBefore,
    /// The connection is cut when the server has done it.
    CutAfter,
}

#[derive(Default)]
struct State {
    requests: AtomicUsize,
    /// So many requests from here, and what then.
    armed: Mutex<Option<(usize, Fault)>>,
    stalled: AtomicBool,
    cut: Notify,
}

impl State {
    /// Counts a request, and says what becomes of it.
    fn request(&self) -> Option<Fault> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let mut armed = self.armed.lock().unwrap();
        let (left, fault) = armed.as_mut()?;
        *left -= 1;
        if *left > 0 {
            return None;
        }
        let fault = *fault;
        *armed = None;
        Some(fault)
    }

    async fn go_on(&self) {
        while self.stalled.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(5)).await;
        }
    }
}

pub(crate) struct Proxy {
    port: u16,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// In front of `host:port`.
    pub(crate) async fn new(server: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let (shared, server) = (Arc::clone(&state), server.to_owned());
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (shared, server) = (Arc::clone(&shared), server.clone());
                tokio::spawn(async move {
                    let _ = relay(client, &server, &shared).await;
                });
            }
        });
        Self { port, state, task }
    }

    /// The URL through here of one that leads to the server.
    pub(crate) fn url(&self, url: &str) -> String {
        let mut url = micro_core::url::resolve(url).unwrap();
        url.set_port(Some(self.port)).unwrap();
        url.into()
    }

    /// The n-th request from now on, counted from one, goes wrong.
    pub(crate) fn arm(&self, n: usize, fault: Fault) {
        *self.state.armed.lock().unwrap() = Some((n, fault));
    }

    /// Whether the fault has not come yet.
    pub(crate) fn is_armed(&self) -> bool {
        self.state.armed.lock().unwrap().is_some()
    }

    /// How many requests have come by.
    pub(crate) fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// Nothing goes through in either direction, and nothing is closed.
    pub(crate) fn stall(&self, stalled: bool) {
        self.state.stalled.store(stalled, Ordering::SeqCst);
    }

    /// Cuts every connection.
    pub(crate) fn cut(&self) {
        self.state.cut.notify_waiters();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

async fn relay(client: TcpStream, server: &str, state: &State) -> std::io::Result<()> {
    let cut = state.cut.notified();
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // The request that is going wrong, by its number on this connection.
    let (wrong, wrongs) = watch::channel(None);
    tokio::select! {
        result = requests(from_client, to_server, state, &wrong) => result,
        result = answers(from_server, to_client, state, wrongs) => result,
        () = cut => Ok(()),
    }
}

/// Reads a message, with its header.
async fn message(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; 5];
    from.read_exact(&mut bytes).await?;
    let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
    bytes.resize(length + 1, 0);
    from.read_exact(&mut bytes[5..]).await?;
    Ok(bytes)
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    state: &State,
    wrong: &watch::Sender<Option<(usize, Fault)>>,
) -> std::io::Result<()> {
    // The first has no type.
    let mut startup = vec![0; 4];
    from.read_exact(&mut startup).await?;
    let length = u32::from_be_bytes(startup[..4].try_into().unwrap()) as usize;
    startup.resize(length, 0);
    from.read_exact(&mut startup[4..]).await?;
    to.write_all(&startup).await?;
    let mut number = 0;
    let mut request = Vec::new();
    loop {
        let next = message(&mut from).await?;
        let ends = matches!(next[0], b'Q' | b'S');
        let passes = matches!(next[0], b'p' | b'X');
        request.extend(next);
        if !ends && !passes {
            continue;
        }
        state.go_on().await;
        if ends {
            number += 1;
            match state.request() {
                Some(Fault::CutBefore) => return Ok(()),
                Some(Fault::Refused(code)) => request = refusal(code),
                Some(fault) => {
                    wrong.send_replace(Some((number, fault)));
                }
                None => {}
            }
        }
        to.write_all(&request).await?;
        request.clear();
    }
}

/// What a server answers with this error, and nothing has happened: also to its transaction.
fn refusal(code: &str) -> Vec<u8> {
    let sql = format!(
        "DO $$ BEGIN RAISE EXCEPTION 'restart transaction: injected' USING ERRCODE = '{code}'; END $$\0"
    );
    let mut query = vec![b'Q'];
    query.extend((sql.len() as u32 + 4).to_be_bytes());
    query.extend(sql.as_bytes());
    query
}

async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    state: &State,
    wrong: watch::Receiver<Option<(usize, Fault)>>,
) -> std::io::Result<()> {
    // The one behind the greeting is of no request.
    let mut ready = 0;
    loop {
        let mut next = message(&mut from).await?;
        state.go_on().await;
        let ends = next[0] == b'Z';
        let fault = match *wrong.borrow() {
            Some((number, fault)) if number == ready && ready > 0 => Some(fault),
            _ => None,
        };
        match fault {
            Some(Fault::CutAfter) if ends => return Ok(()),
            Some(Fault::CutAfter) => continue,
            Some(Fault::Disowned(code)) if next[0] == b'C' => next = disowned(code),
            _ => {}
        }
        if ends {
            ready += 1;
        }
        to.write_all(&next).await?;
    }
}

fn disowned(code: &str) -> Vec<u8> {
    let fields = format!("SERROR\0VERROR\0C{code}\0Mresult is ambiguous: injected\0\0");
    let mut error = vec![b'E'];
    error.extend((fields.len() as u32 + 4).to_be_bytes());
    error.extend(fields.as_bytes());
    error
}
