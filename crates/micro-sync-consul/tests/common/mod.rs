//! What the tests over real servers share.
#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses a part of it"
)]

#[path = "../../../micro-registry-consul/tests/common/mod.rs"]
mod consul;

use std::sync::{Arc, Mutex};

use micro_consul::{Client, ConsulConfig, Pair, Read};
use micro_core::Env;
use micro_core::url::{self, Options};
use micro_sync_consul::ConsulDriver;
use micro_sync_core::{Coordinator, Drivers, Result, async_trait};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

pub(crate) use self::consul::*;

pub(crate) async fn open(url: &str, env: &Env) -> Arc<dyn Coordinator> {
    let drivers = Drivers::new().with(ConsulDriver::default());
    drivers.open(url, env).await.expect("it opens")
}

pub(crate) fn client(url: &str) -> Client {
    let url = url::resolve(url).expect("it is a URL");
    let mut options = Options::new(&url);
    let config = ConsulConfig::take(&url, &mut options).expect("its options are good");
    Client::new(&config).expect("a client")
}

/// The keys of a prefix that sessions have, in the order of their creation.
pub(crate) async fn queue(client: &Client, prefix: &str) -> Result<Vec<Pair>> {
    let mut found = client.list(prefix, Read::default()).await?.value;
    found.sort_by_key(|pair| pair.create_index);
    Ok(found)
}

/// Deletes the key of whoever holds the lock, as an operator would.
pub(crate) struct Deleter {
    pub(crate) client: Client,
    pub(crate) prefix: String,
}

#[async_trait]
impl micro_conformance::sync::Thief for Deleter {
    async fn take(&self, name: &str) -> Result<()> {
        let queue = queue(&self.client, &format!("{}{name}/", self.prefix)).await?;
        let held = queue.first();
        let held = held.unwrap_or_else(|| panic!("nobody holds {name}"));
        self.client.delete(&held.key).await
    }
}

/// What stands between us and a server, and can be cut.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    target: u16,
    accepting: Option<AbortHandle>,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Proxy {
    pub(crate) async fn start(target: u16) -> Self {
        let mut proxy = Self {
            port: free_port(),
            target,
            accepting: None,
            connections: Arc::default(),
        };
        proxy.open().await;
        proxy
    }

    /// Lets connections in, to the server.
    pub(crate) async fn open(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await;
        let listener = listener.expect("the port is free again");
        let (target, connections) = (self.target, Arc::clone(&self.connections));
        let task = tokio::spawn(async move {
            while let Ok((mut ours, _)) = listener.accept().await {
                let task = tokio::spawn(async move {
                    if let Ok(mut theirs) = TcpStream::connect(("127.0.0.1", target)).await {
                        let _ = copy_bidirectional(&mut ours, &mut theirs).await;
                    }
                });
                let handle = task.abort_handle();
                connections.lock().expect("no panic").push(handle);
            }
        });
        self.accepting = Some(task.abort_handle());
    }

    /// Breaks all connections and refuses new ones.
    pub(crate) fn cut(&mut self) {
        if let Some(task) = self.accepting.take() {
            task.abort();
        }
        for connection in self.connections.lock().expect("no panic").drain(..) {
            connection.abort();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
    }
}
