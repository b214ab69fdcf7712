//! What lies between publishers and consumers, as a process of the campaign's own, which may be killed.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::PATIENCE;
use crate::Result;

/// Which one it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The outboxes are the publishers' own, on disk. What lies between is the registry, an etcd.
    Http,
    /// NATS JetStream.
    Nats,
    /// Redis, which writes every change to its disk.
    Redis,
    /// RabbitMQ, with quorum queues.
    RabbitMq,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Http, Self::Nats, Self::Redis, Self::RabbitMq];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Nats => "nats",
            Self::Redis => "redis",
            Self::RabbitMq => "rabbitmq",
        }
    }

    pub(super) fn about(self) -> &'static str {
        match self {
            Self::Http => "HTTP with outboxes in redb, and etcd as the registry",
            Self::Nats => "NATS JetStream",
            Self::Redis => "Redis with appendfsync always",
            Self::RabbitMq => "RabbitMQ with quorum queues",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Http => "etcd",
            Self::Nats => "nats-server",
            Self::Redis => "redis-server",
            // The one in the path wants to be another user.
            Self::RabbitMq => "/usr/lib/rabbitmq/bin/rabbitmq-server",
        }
    }

    /// Why there can be no campaign here.
    pub(super) fn is_missing(self) -> Option<String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
        if folders.any(|folder| folder.join(self.program()).is_file()) {
            return None;
        }
        let package = match self {
            Self::Http => "etcd-server",
            Self::RabbitMq => "rabbitmq-server",
            Self::Nats | Self::Redis => self.program(),
        };
        Some(format!("it is not installed; apt-get install {package}"))
    }
}

/// A process, its disk, and its ports, which stay the same. Dropping it kills it.
pub(super) struct Engine {
    pub(super) kind: Kind,
    folder: TempDir,
    /// That of clients, and what else it needs.
    ports: [u16; 3],
    child: Option<Child>,
    /// RabbitMQ's port mapper, which it would otherwise start for the whole machine.
    mapper: Option<Child>,
}

impl Engine {
    /// Starts one on an empty disk.
    pub(super) async fn start(kind: Kind) -> Result<Self> {
        let free = || -> Result<u16> {
            let socket = std::net::TcpListener::bind(("127.0.0.1", 0))?;
            Ok(socket.local_addr()?.port())
        };
        let mut engine = Self {
            kind,
            folder: TempDir::new()?,
            ports: [free()?, free()?, free()?],
            child: None,
            mapper: None,
        };
        if kind == Kind::RabbitMq {
            let mut mapper = Command::new("epmd");
            mapper.args(["-address", "127.0.0.1", "-port"]);
            mapper.arg(engine.ports[2].to_string());
            engine.mapper = Some(quiet(&mut mapper).spawn()?);
        }
        engine.run().await?;
        Ok(engine)
    }

    /// Starts the process, on whatever data there are.
    pub(super) async fn run(&mut self) -> Result<()> {
        let mut command = self.command();
        // Some are started by a script, which is not to be killed alone.
        self.child = Some(quiet(&mut command).process_group(0).spawn()?);
        let ready = async {
            while TcpStream::connect(("127.0.0.1", self.ports[0]))
                .await
                .is_err()
            {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let program = self.kind.program();
        timeout(PATIENCE, ready)
            .await
            .map_err(|_| format!("{program} does not start").into())
    }

    fn command(&self) -> Command {
        let [port, other, mapper] = self.ports;
        let path = self.folder.path().join("engine");
        // What fails here fails when it starts.
        let _ = std::fs::create_dir_all(&path);
        let folder = path.display().to_string();
        let mut command = Command::new(self.kind.program());
        match self.kind {
            Kind::Http => {
                let (client, peer) = (
                    format!("http://127.0.0.1:{port}"),
                    format!("http://127.0.0.1:{other}"),
                );
                command
                    .arg(format!("--data-dir={folder}"))
                    .arg(format!("--listen-client-urls={client}"))
                    .arg(format!("--advertise-client-urls={client}"))
                    .arg(format!("--listen-peer-urls={peer}"))
                    .arg(format!("--initial-advertise-peer-urls={peer}"))
                    .arg(format!("--initial-cluster=default={peer}"));
            }
            Kind::Nats => {
                command
                    .args(["-a", "127.0.0.1", "-p", &port.to_string()])
                    .args(["-js", "-sd", &folder]);
            }
            Kind::Redis => {
                command
                    .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
                    .args(["--dir", &folder, "--save", ""])
                    .args(["--appendonly", "yes", "--appendfsync", "always"]);
            }
            Kind::RabbitMq => {
                let plugins = path.join("enabled_plugins");
                let _ = std::fs::write(&plugins, "[].\n");
                let conf = path.join("rabbitmq.conf");
                // Its default is 50 MB, and then it takes no messages.
                let _ = std::fs::write(&conf, "disk_free_limit.absolute = 10MB\n");
                command
                    .current_dir(&folder)
                    .env("HOME", &folder)
                    .env("RABBITMQ_CONFIG_FILE", conf)
                    .env("RABBITMQ_NODENAME", format!("faults{port}@localhost"))
                    .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
                    .env("RABBITMQ_NODE_PORT", port.to_string())
                    .env("RABBITMQ_DIST_PORT", other.to_string())
                    .env("RABBITMQ_MNESIA_BASE", &folder)
                    .env("RABBITMQ_LOG_BASE", &folder)
                    .env("RABBITMQ_ENABLED_PLUGINS_FILE", plugins)
                    .env("ERL_EPMD_ADDRESS", "127.0.0.1")
                    .env("ERL_EPMD_PORT", mapper.to_string());
            }
        }
        command
    }

    /// As `kill -9`, of all that belongs to it.
    pub(super) fn kill(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = child.kill();
        let _ = child.wait();
    }

    /// How publishers and consumers open the broker.
    pub(super) fn url(&self) -> String {
        let port = self.ports[0];
        match self.kind {
            Kind::Http => "http://127.0.0.1:0".to_owned(),
            Kind::Nats => format!("nats://127.0.0.1:{port}?mode=jetstream"),
            Kind::Redis => format!("redis://127.0.0.1:{port}"),
            Kind::RabbitMq => format!("rabbitmq://127.0.0.1:{port}"),
        }
    }

    /// How publishers open it, each of which may have a disk of its own.
    pub(super) fn publisher_url(&self) -> String {
        match self.kind {
            Kind::Http => format!("{}?outbox=events", self.url()),
            _ => self.url(),
        }
    }

    /// The registry that they need; `-` for none.
    pub(super) fn registry(&self) -> String {
        match self.kind {
            Kind::Http => format!("etcd://127.0.0.1:{}", self.ports[0]),
            _ => "-".to_owned(),
        }
    }

    /// The store of a publisher; `-` for none.
    pub(super) fn store(&self, publisher: usize) -> String {
        match self.kind {
            Kind::Http => {
                let file = self.folder.path().join(format!("outbox-{publisher}"));
                format!("redb:{}", file.display())
            }
            _ => "-".to_owned(),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.kill();
        if let Some(mut mapper) = self.mapper.take() {
            let _ = mapper.kill();
            let _ = mapper.wait();
        }
    }
}

fn quiet(command: &mut Command) -> &mut Command {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
}
