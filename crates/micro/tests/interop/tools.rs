//! Programs of others, which are not on every machine.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::process::Command;

/// Tells `cargo xtask test`, and whoever reads, that a test could not run.
pub(crate) fn skip(test: &str, reason: &str, cure: &str) {
    if let Some(log) = std::env::var_os("MICRO_SKIP_LOG") {
        let mut log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .expect("the log of skips opens");
        // One line, or it would be taken for several skips.
        let line = format!("{test}\t{reason}\t{cure}").replace('\n', " ") + "\n";
        log.write_all(line.as_bytes())
            .expect("the log of skips takes a line");
    }
    let mut stderr = std::io::stderr();
    writeln!(stderr, "skipped {test}: {reason}; {cure}").expect("stderr takes a line");
}

/// A program in the path, or where Go puts what it installs.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join("go/bin"));
    std::env::split_paths(&path)
        .chain(home)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// Where programs are built: below `target/`, so that they are kept.
pub(crate) fn cache() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    target.expect("it is below the target").join("interop-go")
}

/// grpcurl: the one that is installed, or else built here. Without either, `test` is skipped.
pub(crate) async fn grpcurl(test: &str) -> Option<PathBuf> {
    static GRPCURL: OnceLock<Option<PathBuf>> = OnceLock::new();
    let install = || find("grpcurl").or_else(install_grpcurl);
    let found = tokio::task::spawn_blocking(move || GRPCURL.get_or_init(install)).await;
    let found = found.expect("the build does not panic").clone();
    if found.is_none() {
        let cure = format!("go install {GRPCURL_MODULE}");
        skip(test, "grpcurl is not installed", &cure);
    }
    found
}

const GRPCURL_MODULE: &str = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4";

fn install_grpcurl() -> Option<PathBuf> {
    let (go, bin) = (find("go")?, cache().join("bin"));
    let mut command = std::process::Command::new(go);
    let command = command.args(["install", GRPCURL_MODULE]).env("GOBIN", &bin);
    let output = command.output().expect("go starts");
    output.status.success().then(|| bin.join("grpcurl"))
}

/// How a program ended, and what it said on both outputs.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) ok: bool,
    pub(crate) said: String,
    pub(crate) complained: String,
}

impl Ran {
    /// What it said, if it succeeded.
    #[track_caller]
    pub(crate) fn said(self) -> String {
        assert!(self.ok, "{self:?}");
        self.said
    }
}

/// Runs a program to its end.
pub(crate) async fn run(program: &Path, args: &[&str]) -> Ran {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(60), output).await;
    let output = output.expect("it ends in time").expect("it starts");
    Ran {
        ok: output.status.success(),
        said: String::from_utf8(output.stdout).unwrap(),
        complained: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
