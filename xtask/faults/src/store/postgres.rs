//! A real PostgreSQL: killed again and again while records are written, and the same record wanted by
//! many at once.

use std::ops::AddAssign;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::try_join_all;
use micro_core::{Random as _, SeededRandom, SystemRandom, url};
use micro_postgres::{Connection, Pool, Session};
use micro_store_cockroach::{CockroachConfig, CockroachStore};
use micro_store_core::{
    BatchOptions, Condition, Env, ErrorKind, Operation, Record, Scope, StoreErrorExt as _, Table,
    WriteOptions,
};
use tokio::time::{Instant, sleep};

use crate::report::Report;
use crate::{Options, Result};

const WRITERS: usize = 8;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let Some(programs) = programs() else {
        let reason = "PostgreSQL is not installed; apt-get install postgresql";
        report.skip("postgres", reason);
        return Ok(());
    };
    super::runtime()?.block_on(async {
        let mut server = Server::new(programs)?;
        server.start().await?;
        kills(&mut server, options, report).await?;
        increments(&server, options, report).await?;
        expiries(&server, options, report).await
    })
}

async fn open(server: &Server) -> Result<Table> {
    let url = url::resolve(&server.url())?;
    let config = CockroachConfig::from_url(&url)?.with_purge(Duration::from_millis(10));
    let store = CockroachStore::open(config, &Env::new()).await?;
    Ok(Table::new(
        Arc::new(store),
        Scope::new("faults", "records")?,
    ))
}

/// What writers have seen.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    acknowledged: u64,
    refused: u64,
    unknown: u64,
    /// Unknown, and happened.
    happened: u64,
    lost: u64,
    phantom: u64,
    unresolved: u64,
}

impl AddAssign for Seen {
    fn add_assign(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.happened += other.happened;
        self.lost += other.lost;
        self.phantom += other.phantom;
        self.unresolved += other.unresolved;
    }
}

/// Every writer has a record of its own, and with every third change a second one of the same number.
async fn kills(server: &mut Server, options: &Options, report: &mut Report) -> Result<()> {
    let kills = if options.quick { 4 } else { 20 };
    let random = SeededRandom::new(options.seed);
    let table = open(server).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let writers = (0..WRITERS).map(|writer| {
        let (table, stop) = (table.clone(), Arc::clone(&stop));
        tokio::spawn(async move { write(&table, writer, &stop).await })
    });
    let writers: Vec<_> = writers.collect();
    let mut back: Vec<f64> = Vec::new();
    for kill in 0..kills {
        sleep(Duration::from_millis(200 + random.next_u64() % 600)).await;
        // By turns all of it, and one of those that serve a connection: then the rest begins anew.
        match kill % 2 {
            0 => {
                server.kill();
                server.start().await?;
            }
            _ => server.kill_one(&random)?,
        }
        let begin = Instant::now();
        while table.find("probe").await.is_err() {
            if begin.elapsed() > PATIENCE {
                return Err("the store does not come back".into());
            }
        }
        back.push(begin.elapsed().as_secs_f64());
    }
    stop.store(true, Ordering::SeqCst);
    let mut seen = Seen::default();
    for writer in writers {
        seen += writer.await??;
    }
    eprintln!(
        "  {kills} kills: {} acknowledged, {} refused, {} unknown, of which {} had happened",
        seen.acknowledged, seen.refused, seen.unknown, seen.happened
    );
    report.figure("postgres_kills", f64::from(kills), "kills");
    report.figure("postgres_acknowledged", seen.acknowledged as f64, "changes");
    report.figure("postgres_unknown", seen.unknown as f64, "changes");
    report.at_most("postgres_lost", seen.lost as f64, "changes", 0.0);
    report.at_most("postgres_phantom", seen.phantom as f64, "changes", 0.0);
    report.at_most(
        "postgres_unresolved",
        seen.unresolved as f64,
        "changes",
        0.0,
    );
    let longest = back.iter().copied().fold(0.0, f64::max);
    report.figure("postgres_back_after", longest, "s");
    Ok(())
}

/// One number after the other, each on condition of the last one's version.
async fn write(table: &Table, writer: usize, stop: &AtomicBool) -> Result<Seen> {
    let (one, two) = (format!("one-{writer}"), format!("two-{writer}"));
    let mut seen = Seen::default();
    let (mut number, mut version, mut second) = (0_u64, None, 0_u64);
    while !stop.load(Ordering::SeqCst) {
        let next = number + 1;
        let pair = next % 3 == 0;
        let condition = version.map_or(Condition::Absent, Condition::Version);
        let opts = WriteOptions::default().with_condition(condition);
        let record = Record::new(&one, next.to_string());
        let mut operations = vec![Operation::write_with(table.scope(), record, opts)];
        if pair {
            let record = Record::new(&two, next.to_string());
            operations.push(Operation::write(table.scope(), record));
        }
        match table.batch(operations, BatchOptions::default()).await {
            Ok(written) => {
                seen.acknowledged += 1;
                (number, version) = (next, written.first().map(|written| written.version));
                second = if pair { next } else { second };
            }
            Err(err) if err.kind() == ErrorKind::OutcomeUnknown => {
                seen.unknown += 1;
                let record = find(table, &one).await?;
                let (found, now) = numbers(record)?;
                if now == version {
                    // It has not happened.
                } else if found == next {
                    seen.happened += 1;
                    (number, version) = (next, now);
                    second = if pair { next } else { second };
                } else {
                    seen.unresolved += 1;
                    (number, version) = (found, now);
                }
            }
            Err(err) if err.kind() == ErrorKind::Unavailable => seen.refused += 1,
            // Nobody else writes it: what was there has gone or something has come.
            Err(err) if err.is_conflict() => {
                let (found, now) = numbers(find(table, &one).await?)?;
                match found < number {
                    true => seen.lost += 1,
                    false => seen.phantom += 1,
                }
                (number, version) = (found, now);
            }
            Err(err) => return Err(err.into()),
        }
        // Both, since a batch is whole or nothing.
        for (key, expected) in [(&one, number), (&two, second)] {
            let (found, _) = numbers(find(table, key).await?)?;
            seen.lost += u64::from(found < expected);
            seen.phantom += u64::from(found > expected);
        }
    }
    Ok(seen)
}

/// Reads, however long the server is away.
async fn find(table: &Table, key: &str) -> Result<Option<Record>> {
    let begin = Instant::now();
    loop {
        match table.find(key).await {
            Ok(record) => return Ok(record),
            Err(err) if err.is_retryable() && begin.elapsed() < PATIENCE => {}
            Err(err) => return Err(err.into()),
        }
    }
}

fn numbers(record: Option<Record>) -> Result<(u64, Option<u64>)> {
    Ok(match record {
        Some(record) => (record.json()?, Some(record.version)),
        None => (0, None),
    })
}

/// Sixteen who want the same four records.
async fn increments(server: &Server, options: &Options, report: &mut Report) -> Result<()> {
    let total: u64 = if options.quick { 2_000 } else { 20_000 };
    let begin = Instant::now();
    let writers = (0..16_u64).map(|writer| {
        let url = server.url();
        async move {
            let table = open_at(&url).await?;
            let mut conflicts = 0_u64;
            for i in (writer..total).step_by(16) {
                let key = format!("counter-{}", i / 16 % 4);
                while !increment(&table, &key).await? {
                    conflicts += 1;
                }
            }
            Ok::<_, crate::Error>(conflicts)
        }
    });
    let writers = writers.map(tokio::spawn);
    let mut conflicts = 0;
    for writer in try_join_all(writers).await? {
        conflicts += writer?;
    }
    let table = open_at(&server.url()).await?;
    let mut sum = 0;
    for i in 0..4 {
        sum += table
            .get::<u64>(&format!("counter-{i}"))
            .await?
            .unwrap_or(0);
    }
    let took = begin.elapsed().as_secs_f64();
    eprintln!("  {total} increments in {took:.1} s, {conflicts} began anew");
    report.figure("postgres_increments", total as f64, "increments");
    let off = sum.abs_diff(total) as f64;
    report.at_most("postgres_increments_off", off, "increments", 0.0);
    Ok(())
}

/// A handle with few connections: sixteen of them have to fit.
async fn open_at(url: &str) -> Result<Table> {
    let config = CockroachConfig::from_url(&url::resolve(&format!("{url}?connections=2"))?)?;
    let store = CockroachStore::open(config, &Env::new()).await?;
    Ok(Table::new(
        Arc::new(store),
        Scope::new("faults", "counters")?,
    ))
}

async fn increment(table: &Table, key: &str) -> Result<bool> {
    let (number, condition) = match table.find(key).await? {
        Some(record) => (record.json::<u64>()?, Condition::Version(record.version)),
        None => (0, Condition::Absent),
    };
    let opts = WriteOptions::default().with_condition(condition);
    match table.put_with(key, &(number + 1), opts).await {
        Ok(_) => Ok(true),
        Err(err) if err.is_conflict() => Ok(false),
        Err(err) => Err(err.into()),
    }
}

/// Records that are written again while the old ones are being removed for good.
async fn expiries(server: &Server, options: &Options, report: &mut Report) -> Result<()> {
    const AT_ONCE: u64 = 500;
    let races: u64 = if options.quick { 5_000 } else { 100_000 };
    let table = open(server).await?;
    let url = url::resolve(&server.url())?;
    let config = CockroachConfig::from_url(&url)?.database;
    let raw = Pool::new(config, Session::default(), Arc::new(SystemRandom))?;
    let write = |n: u64, ttl| {
        let opts = WriteOptions::default().with_ttl(Duration::from_millis(ttl));
        let record = Record::new(format!("race-{n}"), "");
        Operation::write_with(table.scope(), record, opts)
    };
    let mut missing = 0_u64;
    for round in 0..races / AT_ONCE {
        let old = (0..AT_ONCE).map(|n| write(n, 1)).collect();
        table.batch(old, BatchOptions::default()).await?;
        // As if it had been long ago: they are removed at once.
        raw.attempt(|connection: Connection| async move {
            let age = "UPDATE micro_records SET expires_at = 1 WHERE expires_at IS NOT NULL";
            connection.run(age).await
        })
        .await?;
        sleep(Duration::from_micros(round * 397 % 12_000)).await;
        // By turns together and one by one.
        if round % 2 == 0 {
            let new = (0..AT_ONCE).map(|n| write(n, 3_600_000)).collect();
            table.batch(new, BatchOptions::default()).await?;
        } else {
            let new = (0..AT_ONCE).map(|n| {
                let new = vec![write(n, 3_600_000)];
                table.batch(new, BatchOptions::default())
            });
            try_join_all(new).await?;
        }
        let found = (0..AT_ONCE).map(|n| {
            let table = &table;
            async move { table.find(&format!("race-{n}")).await }
        });
        let found = try_join_all(found).await?;
        missing += found.iter().filter(|record| record.is_none()).count() as u64;
    }
    report.figure("postgres_expiry_races", races as f64, "races");
    report.at_most("postgres_expiry_missing", missing as f64, "records", 0.0);
    Ok(())
}

/// Where Debian puts them; elsewhere they are in `PATH`.
pub(crate) fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let mut folders: Vec<PathBuf> = versions
        .flatten()
        .map(|version| version.path().join("bin"))
        .collect();
    folders.sort();
    folders.reverse();
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&path));
    folders
        .into_iter()
        .find(|folder| folder.join("initdb").is_file())
}

/// A PostgreSQL of our own, on a port of its own.
pub(crate) struct Server {
    programs: PathBuf,
    folder: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
}

impl Server {
    pub(crate) fn new(programs: PathBuf) -> Result<Self> {
        let socket = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        let folder = tempfile::tempdir()?;
        let server = Self {
            programs,
            folder,
            port: socket.local_addr()?.port(),
            child: None,
        };
        if rustix::process::geteuid().is_root() {
            // Debian's nobody and nogroup.
            chown(server.folder.path(), Some(65534), Some(65534))?;
        }
        let made = server
            .command("initdb")
            .args([
                "-U",
                "micro",
                "-A",
                "trust",
                "--no-sync",
                "-E",
                "UTF8",
                "-D",
            ])
            .arg(server.data())
            .status()?;
        match made.success() {
            true => Ok(server),
            false => Err("initdb fails".into()),
        }
    }

    fn data(&self) -> PathBuf {
        Path::new(self.folder.path()).join("data")
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://micro@127.0.0.1:{}/postgres", self.port)
    }

    /// It refuses to run as root.
    fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        let mut command = if rustix::process::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]);
            command.arg(program);
            command
        } else {
            Command::new(program)
        };
        command
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Those that were orphaned by a kill still hold its memory for a moment; it is tried again until
    /// they are gone.
    pub(crate) async fn start(&mut self) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            let running = match &mut self.child {
                Some(child) => child.try_wait()?.is_none(),
                None => false,
            };
            if !running {
                let child = self
                    .command("postgres")
                    .arg("-D")
                    .arg(self.data())
                    .args(["-c", "listen_addresses=127.0.0.1"])
                    .args(["-c", "unix_socket_directories="])
                    .args(["-c", &format!("port={}", self.port)])
                    .spawn()?;
                self.child = Some(child);
            }
            sleep(Duration::from_millis(50)).await;
            let port = self.port.to_string();
            let ready = self
                .command("pg_isready")
                .args(["-q", "-h", "127.0.0.1", "-p", &port])
                .status()?;
            if ready.success() {
                return Ok(());
            }
        }
        Err("PostgreSQL does not start".into())
    }

    /// As `kill -9` of the first of its processes.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// As `kill -9` of one that serves a connection. Which it is, the title says that it gives itself.
    fn kill_one(&self, random: &SeededRandom) -> Result<()> {
        let parent = self.child.as_ref().ok_or("it does not run")?.id();
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
        let serving: Vec<i32> = children
            .split_whitespace()
            .filter(|pid| {
                let title = std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
                title.is_ok_and(|title| title.contains("micro postgres"))
            })
            .filter_map(|pid| pid.parse().ok())
            .collect();
        if serving.is_empty() {
            return Ok(());
        }
        let chosen = serving[(random.next_u64() % serving.len() as u64) as usize];
        let pid = rustix::process::Pid::from_raw(chosen).ok_or("it is no process")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
