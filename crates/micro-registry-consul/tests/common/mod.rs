//! Real Consul servers of a test's own: each on free ports, with a state in memory.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use micro_http::{HttpClient, HttpConfig, Request};

/// The program, in the path or where Go puts what it installs.
pub(crate) fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join("go/bin"));
    std::env::split_paths(&path)
        .chain(home)
        .map(|folder| folder.join("consul"))
        .find(|file| file.is_file())
}

/// Says honestly that a test did not run.
pub(crate) fn skip(test: &str, reason: &str) {
    let line = format!("{test}\t{reason}\tcargo xtask services up consul, then cargo xtask test\n");
    if let Some(log) = std::env::var_os("MICRO_SKIP_LOG") {
        let mut log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(log)
            .expect("the log of skips opens");
        log.write_all(line.as_bytes())
            .expect("the log of skips takes a line");
    }
    let mut stderr = std::io::stderr();
    write!(stderr, "skipped {line}").expect("stderr takes a line");
}

/// A port that nobody listens on just now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it has one").port()
}

/// A running Consul; it ends with this value.
pub(crate) struct Consul {
    child: Child,
    dir: PathBuf,
    command: Command,
}

impl Drop for Consul {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Consul {
    /// Starts one with the agent's API at `port`; [`ready`](Self::ready) waits for it.
    ///
    /// `config` is a JSON object that is read besides.
    pub(crate) fn start(program: &Path, port: u16, https: bool, config: &str) -> Self {
        Self::run(program, port, https, config, &["-dev"])
    }

    /// Starts one that keeps its data over a [`restart`](Self::restart).
    pub(crate) fn start_lasting(program: &Path, port: u16) -> Self {
        let kept = ["-server", "-bootstrap-expect=1", "-data-dir=data"];
        Self::run(program, port, false, "{}", &kept)
    }

    fn run(program: &Path, port: u16, https: bool, config: &str, mode: &[&str]) -> Self {
        let dir = std::env::temp_dir().join(format!("micro-consul-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        std::fs::write(dir.join("config.json"), config).expect("a file");
        let (on, off) = if https {
            ("https", "http")
        } else {
            ("http", "https")
        };
        let mut command = Command::new(program);
        command
            .current_dir(&dir)
            .args(["agent", "-node=micro", "-log-level=warn"])
            .args(mode)
            .args(["-bind=127.0.0.1", "-client=127.0.0.1"])
            .arg(format!("-{on}-port={port}"))
            .arg(format!("-{off}-port=-1"))
            .args(["-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1"])
            .arg("-serf-wan-port=-1")
            .arg(format!("-server-port={}", free_port()))
            .arg(format!("-serf-lan-port={}", free_port()))
            .arg(format!(
                "-config-file={}",
                dir.join("config.json").display()
            ))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self {
            child: command.spawn().expect("it starts"),
            dir,
            command,
        }
    }

    /// Ends the process as a power cut would.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, on the same ports and data.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.child = self.command.spawn().expect("it starts");
    }

    /// Waits until it has a leader.
    pub(crate) async fn ready(&mut self, config: HttpConfig) {
        let client = HttpClient::new(config).expect("a client");
        let leader = Request::get("/v1/status/leader");
        for _ in 0..300 {
            if let Ok(response) = client.send(&leader).await
                && response.is_success()
                && response.body().len() > 4
            {
                return;
            }
            let ended = self.child.try_wait().expect("it can be asked");
            assert!(ended.is_none(), "Consul ended: {ended:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("Consul did not become ready within 30 s");
    }
}
