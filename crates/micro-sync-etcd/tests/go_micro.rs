//! go-micro itself, version 2, in the same etcd: each keeps the other out, and sees it lead.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Etcd, PATIENCE, skip};
use futures_util::StreamExt as _;
use micro_core::{Env, url};
use micro_sync_core::{Coordinator, ElectOptions, LockOptions};
use micro_sync_etcd::{EtcdCoordinator, EtcdSyncConfig};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::{sleep, timeout};

/// Nothing happens that would not have happened by then.
const SILENCE: Duration = Duration::from_millis(500);

/// Builds the program, or says why not.
fn build(test: &str) -> Option<PathBuf> {
    let cure = "install Go 1.24 or newer, and let it fetch modules once";
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/go");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-micro-sync-etcd");
    let mut go = Command::new("go");
    go.arg("build").arg("-o").arg(&program).arg(".");
    match go.current_dir(source).output() {
        Ok(built) if built.status.success() => return Some(program),
        Ok(built) => {
            let why = String::from_utf8_lossy(&built.stderr);
            let why = why.lines().last().unwrap_or_default().to_owned();
            skip(
                test,
                &format!("the Go program cannot be built: {why}"),
                cure,
            );
        }
        Err(_) => skip(test, "Go is not installed", cure),
    }
    None
}

/// The program, and what is said both ways.
struct Go {
    _child: Child,
    hears: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Go {
    fn start(program: &Path, etcd: &Etcd, prefix: &str) -> Self {
        let mut child = tokio::process::Command::new(program)
            .arg(format!("127.0.0.1:{}", etcd.port()))
            .arg(prefix)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            hears: child.stdin.take().unwrap(),
            lines: BufReader::new(child.stdout.take().unwrap()).lines(),
            _child: child,
        }
    }

    async fn tell(&mut self, what: &str) {
        self.hears.write_all(what.as_bytes()).await.unwrap();
        self.hears.write_all(b"\n").await.unwrap();
    }

    async fn says(&mut self, expected: &str) {
        let line = timeout(PATIENCE, self.lines.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("{expected:?} was to be said"));
        assert_eq!(line.unwrap().as_deref(), Some(expected));
    }

    async fn is_silent(&mut self) {
        let line = timeout(SILENCE, self.lines.next_line()).await;
        assert!(line.is_err(), "{line:?}");
    }
}

fn open(etcd: &Etcd, namespace: &str) -> EtcdCoordinator {
    let config = EtcdSyncConfig::from_url(&url::resolve(&etcd.url()).unwrap()).unwrap();
    EtcdCoordinator::open(config, &Env::new().with_namespace(namespace)).unwrap()
}

async fn is_free(coordinator: &EtcdCoordinator, name: &str) -> bool {
    let tried = coordinator.try_lock(name, LockOptions::default()).await;
    match tried.unwrap() {
        Some(lock) => {
            lock.release().await.unwrap();
            true
        }
        None => false,
    }
}

#[tokio::test]
async fn go_micro_v2_and_we_keep_each_other_out() {
    const TEST: &str = "go-micro v2 locks in etcd";
    let Some(program) = build(TEST) else { return };
    let Some(etcd) = Etcd::start(TEST).await else {
        return;
    };
    let ours = open(&etcd, "");
    let mut go = Go::start(&program, &etcd, "");

    // It waits for us, and we for it.
    let lock = ours.lock("books", LockOptions::default()).await.unwrap();
    go.tell("lock books").await;
    go.is_silent().await;
    let token = lock.token();
    lock.release().await.unwrap();
    go.says("locked books").await;
    assert!(!is_free(&ours, "books").await);
    let (next, ()) = tokio::join!(ours.lock("books", LockOptions::default()), async {
        sleep(SILENCE).await;
        go.tell("unlock books").await;
        go.says("unlocked books").await;
    });
    let next = next.unwrap();
    assert!(next.token() > token);
    drop(next);

    // It leads, and we see it; we lead, and it sees that it does not.
    let mut leaders = ours.observe("chair").await.unwrap();
    assert_eq!(leaders.next().await.unwrap().unwrap(), None);
    go.tell("lead chair").await;
    go.says("leads chair").await;
    let theirs = timeout(PATIENCE, leaders.next()).await.unwrap();
    let theirs = theirs.unwrap().unwrap().unwrap();
    assert_eq!(theirs.value, "chair", "go-micro's value is the name");
    let opts = ElectOptions::default().with_value("node-1");
    let (elected, ()) = tokio::join!(ours.elect("chair", opts), async {
        sleep(SILENCE).await;
        go.tell("resign chair").await;
        go.says("resigned chair").await;
        go.says("lost chair").await;
    });
    let elected = elected.unwrap();
    assert!(elected.token() > theirs.token);
    elected.verify().await.unwrap();

    // Its prefix is our namespace.
    let mut go = Go::start(&program, &etcd, "eu:");
    go.tell("lock books").await;
    go.says("locked books").await;
    assert!(is_free(&ours, "books").await);
    assert!(!is_free(&open(&etcd, "eu"), "books").await);
}
