//! The failure cases of files: what happens to them while a program reads them.
//!
//! Cases 15 to 19 are those of `micro-config-core` and of the servers.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use micro_config_core::{
    Config, ErrorKind, Live, Runtime, Secret, Source as _, SourceState, ViewOptions,
};
use micro_config_file::{FileConfig, FileSource};
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Two values that are always written together.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Pair {
    a: u64,
    b: u64,
}

impl Pair {
    fn toml(n: u64) -> String {
        format!("a = {n}\nb = {n}\n")
    }
}

/// Events only: what is seen was seen by them.
fn quick(path: &Path) -> FileConfig {
    FileConfig::new(path)
        .with_debounce(Duration::from_millis(5))
        .with_settle(Duration::from_millis(300))
        .with_poll(Duration::from_secs(60))
}

/// Polling only.
fn polled(path: &Path) -> FileConfig {
    quick(path)
        .with_events(false)
        .with_poll(Duration::from_millis(50))
}

async fn start(config: FileConfig) -> Config {
    Config::builder()
        .source(FileSource::with_config(config))
        .start(Runtime::new(tokio::spawn, tokio::time::sleep))
        .await
        .expect("the configuration starts")
}

/// Writes beside it and renames over it.
fn replace(path: &Path, text: &str) {
    let next = path.with_extension("next");
    fs::write(&next, text).unwrap();
    fs::rename(&next, path).unwrap();
}

async fn becomes<T: Send + Sync>(
    live: &Live<T>,
    wanted: &str,
    accept: impl Fn(&T) -> bool + Send + Sync,
) {
    let mut changes = live.changes();
    let waiting = async {
        while !accept(&live.get()) {
            changes.changed().await;
        }
    };
    if timeout(PATIENCE, waiting).await.is_err() {
        panic!("it did not come: {wanted}");
    }
}

async fn refused(config: &Config) -> String {
    let status = config.status();
    becomes(&status, "a refusal", |status| {
        status.sources.iter().any(|source| source.refusal.is_some())
    })
    .await;
    config.refusals()[0].to_string()
}

/// Reads as fast as it can, and counts what is half of two states.
struct Reader {
    stop: Arc<AtomicBool>,
    torn: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<u64>,
}

impl Reader {
    fn start(live: &Live<Pair>) -> Self {
        let (stop, torn) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let thread = {
            let (live, stop, torn) = (live.clone(), Arc::clone(&stop), Arc::clone(&torn));
            std::thread::spawn(move || {
                let mut reads = 0;
                while !stop.load(Ordering::Relaxed) {
                    let pair = live.get_arc();
                    if pair.a != pair.b {
                        torn.fetch_add(1, Ordering::Relaxed);
                    }
                    reads += 1;
                    std::thread::yield_now();
                }
                reads
            })
        };
        Self { stop, torn, thread }
    }

    fn finish(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let reads = self.thread.join().unwrap();
        (reads, self.torn.load(Ordering::Relaxed))
    }
}

/// A volume as Kubernetes lays it out: keys are links to `..data`, which is replaced by renaming.
struct Volume(PathBuf);

impl Volume {
    fn new(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        let volume = Self(path);
        volume.swap(0);
        for key in ["a", "b"] {
            symlink(format!("..data/{key}"), volume.0.join(key)).unwrap();
        }
        volume
    }

    fn swap(&self, n: u64) {
        let version = format!("..version_{n}");
        fs::create_dir(self.0.join(&version)).unwrap();
        for key in ["a", "b"] {
            fs::write(self.0.join(&version).join(key), format!("{n}\n")).unwrap();
        }
        let next = self.0.join("..data_tmp");
        symlink(&version, &next).unwrap();
        fs::rename(next, self.0.join("..data")).unwrap();
        if n > 0 {
            fs::remove_dir_all(self.0.join(format!("..version_{}", n - 1))).unwrap();
        }
    }
}

/// Changes 1,000 times; of every five changes the last must be seen.
async fn thousand(config: FileConfig, change: impl Fn(u64)) {
    let config = start(config).await;
    let live = config.live::<Pair>("").unwrap();
    let reader = Reader::start(&live);
    for n in 1..=1000 {
        change(n);
        if n % 5 == 0 {
            becomes(&live, &format!("{n}"), |pair| pair.a == n).await;
        }
    }
    let (reads, torn) = reader.finish();
    assert!(reads > 0);
    assert_eq!(torn, 0, "torn reads of {reads}");
    assert!(config.refusals().is_empty(), "{:?}", config.refusals());
    config.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f01_a_thousand_swaps_of_a_kubernetes_volume() {
    let folder = tempfile::tempdir().unwrap();
    let volume = Volume::new(folder.path().join("volume"));
    thousand(quick(&volume.0), |n| volume.swap(n)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f02_a_thousand_renames_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.toml");
    replace(&path, &Pair::toml(0));
    thousand(quick(&path), |n| replace(&path, &Pair::toml(n))).await;
}

/// A writer that is slow, and stops at the ends of lines, where every part is a whole document.
async fn slow_writer(config: FileConfig, path: &Path) {
    replace(path, &Pair::toml(0));
    let config = start(config).await;
    let live = config.live::<Pair>("").unwrap();
    // From here on the file is known to be watched.
    replace(path, &Pair::toml(1));
    becomes(&live, "1", |pair| pair.b == 1).await;
    let seen = {
        let live = live.clone();
        tokio::spawn(async move {
            let mut changes = live.changes();
            let mut seen = Vec::new();
            while seen.last().is_none_or(|pair: &Pair| pair.b != 7) {
                seen.push(Pair::clone(&*changes.changed().await));
            }
            seen
        })
    };
    let mut file = fs::File::create(path).unwrap();
    for part in ["a = 7\n", "# to be continued\n", "b = 7\n"] {
        sleep(Duration::from_millis(200)).await;
        file.write_all(part.as_bytes()).unwrap();
        file.sync_all().unwrap();
        assert_eq!(
            *live.get(),
            Pair { a: 1, b: 1 },
            "half of it was taken over"
        );
    }
    drop(file);
    let seen = timeout(PATIENCE, seen).await.unwrap().unwrap();
    assert_eq!(seen, [Pair { a: 7, b: 7 }]);
    config.close().await;
}

#[tokio::test]
async fn f03_a_slow_writer_is_waited_for_by_events() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.toml");
    // The pauses are much longer than the debounce, and longer than the settle time.
    slow_writer(quick(&path).with_settle(Duration::from_millis(100)), &path).await;
}

#[tokio::test]
async fn f03_a_slow_writer_is_waited_for_by_polling() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.toml");
    slow_writer(polled(&path).with_settle(Duration::from_millis(600)), &path).await;
}

#[tokio::test]
async fn f03_a_last_line_says_that_a_file_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.toml");
    fs::write(&path, Pair::toml(0) + "#end\n").unwrap();
    let config = start(quick(&path).with_end("#end")).await;
    let live = config.live::<Pair>("").unwrap();
    // Closed after every part: nothing else could tell.
    fs::write(&path, "a = 7\n").unwrap();
    let refusal = refused(&config).await;
    assert!(refusal.contains("not complete"), "{refusal}");
    assert_eq!(live.get().a, 0);
    let mut file = fs::File::options().append(true).open(&path).unwrap();
    file.write_all(b"b = 7\n#end").unwrap();
    drop(file);
    becomes(&live, "7", |pair| *pair == Pair { a: 7, b: 7 }).await;
    config.close().await;
}

#[tokio::test]
async fn f04_an_editor_renames_away_and_creates_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.toml");
    replace(&path, &Pair::toml(0));
    let config = start(quick(&path)).await;
    let live = config.live::<Pair>("").unwrap();
    for n in 1..=5 {
        fs::rename(&path, folder.path().join("app.toml~")).unwrap();
        fs::write(&path, Pair::toml(n)).unwrap();
        becomes(&live, "the new one", |pair| pair.a == n).await;
    }
    assert!(config.refusals().is_empty());
    config.close().await;
}

#[tokio::test]
async fn f05_deleted_and_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.toml");
    replace(&path, &Pair::toml(1));
    let config = start(quick(&path)).await;
    let live = config.live::<Pair>("").unwrap();
    fs::remove_file(&path).unwrap();
    let refusal = refused(&config).await;
    assert!(refusal.contains("not there"), "{refusal}");
    assert_eq!(config.status().get().sources[0].state, SourceState::Away);
    assert_eq!(live.get().a, 1);
    replace(&path, &Pair::toml(2));
    becomes(&live, "the new one", |pair| pair.a == 2).await;
    becomes(&config.status(), "no refusal", |status| {
        status.sources[0].refusal.is_none()
    })
    .await;
    config.close().await;
}

#[tokio::test]
async fn f06_the_directory_above_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let above = folder.path().join("etc");
    fs::create_dir(&above).unwrap();
    let path = above.join("app.toml");
    replace(&path, &Pair::toml(0));
    let config = start(quick(&path)).await;
    let live = config.live::<Pair>("").unwrap();
    for n in 1..=3 {
        let next = folder.path().join("etc.next");
        fs::create_dir(&next).unwrap();
        fs::write(next.join("app.toml"), Pair::toml(n * 10)).unwrap();
        fs::rename(&above, folder.path().join(format!("etc.{n}"))).unwrap();
        fs::rename(&next, &above).unwrap();
        becomes(&live, "that of the new directory", |pair| pair.a == n * 10).await;
        replace(&path, &Pair::toml(n * 10 + 1));
        becomes(&live, "a change there", |pair| pair.a == n * 10 + 1).await;
    }
    config.close().await;
}

#[tokio::test]
async fn f07_a_link_is_turned_to_a_directory_that_was_not_watched() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["one", "two"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    let (one, two) = (
        folder.path().join("one/app.toml"),
        folder.path().join("two/app.toml"),
    );
    fs::write(&one, Pair::toml(1)).unwrap();
    fs::write(&two, Pair::toml(2)).unwrap();
    // Both kinds: the file is a link, and a directory above it is one.
    for through_directory in [false, true] {
        let link = folder.path().join(format!("link{through_directory}"));
        let (first, second, path) = match through_directory {
            false => (one.clone(), two.clone(), link.clone()),
            true => (
                folder.path().join("one"),
                folder.path().join("two"),
                link.join("app.toml"),
            ),
        };
        replace(&one, &Pair::toml(1));
        replace(&two, &Pair::toml(2));
        symlink(first, &link).unwrap();
        let config = quick(&path).with_format(micro_config_file::Format::Toml);
        let config = start(config).await;
        let live = config.live::<Pair>("").unwrap();
        let next = folder.path().join("next");
        symlink(second, &next).unwrap();
        fs::rename(&next, &link).unwrap();
        becomes(&live, "where the link leads now", |pair| pair.a == 2).await;
        replace(&two, &Pair::toml(3));
        becomes(&live, "a change there", |pair| pair.a == 3).await;
        config.close().await;
    }
}

/// Runs one test of this file again in another process.
fn in_a_child(name: &str, mut command: Command) -> bool {
    const CHILD: &str = "MICRO_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        return false;
    }
    let output = command
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .expect("the child starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    true
}

#[test]
fn f08_permissions_are_taken_away_and_given_back() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    // The superuser may read everything.
    if rustix::process::geteuid().is_root() {
        command.uid(65_534).gid(65_534);
    }
    if in_a_child("f08_permissions_are_taken_away_and_given_back", command) {
        return;
    }
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.toml");
        replace(&path, &Pair::toml(1));
        let config = start(quick(&path)).await;
        let live = config.live::<Pair>("").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        let refusal = refused(&config).await;
        assert!(refusal.contains("may not be read"), "{refusal}");
        assert_eq!(config.refusals()[0].kind, ErrorKind::PermissionDenied);
        assert_eq!(live.get().a, 1);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, Pair::toml(2)).unwrap();
        becomes(&live, "readable again", |pair| pair.a == 2).await;
        config.close().await;
    });
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "that it can be read is all that counts")]
struct Strict {
    #[serde(default)]
    a: u16,
    #[serde(default)]
    b: u16,
    #[serde(default)]
    c: Vec<u16>,
}

/// A file's name, its bytes, and what the message must name.
fn bad_files() -> Vec<(&'static str, Vec<u8>, Vec<&'static str>)> {
    let text = |text: &str| text.as_bytes().to_vec();
    let deep = |open: &str, close: &str| {
        format!("{}{}", open.repeat(10_000), close.repeat(10_000)).into_bytes()
    };
    let mut bomb = String::from("a: &a [1,1,1,1,1,1,1,1,1]\n");
    for (this, last) in "bcdefghi".chars().zip("abcdefgh".chars()) {
        let aliases = vec![format!("*{last}"); 9].join(",");
        bomb += &format!("{this}: &{this} [{aliases}]\n");
    }
    let many: Vec<String> = (0..200_000).map(|n| format!("\"k{n}\":1")).collect();
    vec![
        ("x.json", text("{\n\"a\": 1,\n"), vec!["x.json", "line"]),
        ("x.toml", text("a = 1\nb = \n"), vec!["x.toml", "line 2"]),
        ("x.yaml", text("a: 1\nb: [\n"), vec!["x.yaml", "line"]),
        (
            "x.json",
            text("{\n\"a\": \"text\"}"),
            vec!["x.json", "line 2", "key 'a'", "u16"],
        ),
        (
            "x.toml",
            text("b = 1\na = \"text\"\n"),
            vec!["x.toml", "line 2", "key 'a'"],
        ),
        ("x.yaml", text("a: text\n"), vec!["x.yaml", "key 'a'"]),
        ("x.json", text("{\"a\": 70000}"), vec!["key 'a'", "70000"]),
        ("x.json", text("{\"c\": [1,\n2,\n{}]}"), vec!["key 'c.2'"]),
        (
            "x.toml",
            text("a = 1\nz = 1\n"),
            vec!["line 2", "key 'z'", "no such key"],
        ),
        (
            "x.json",
            text("{\"a\": 1,\n\"a\": 2}"),
            vec!["line 2", "key 'a'", "twice"],
        ),
        (
            "x.toml",
            text("a = 1\na = 2\n"),
            vec!["line 2", "duplicate key", "key 'a'"],
        ),
        ("x.yaml", text("a: 1\na: 2\n"), vec!["key 'a'", "twice"]),
        (
            "x.json",
            text("\u{feff}{}"),
            vec!["x.json", "line 1", "byte order mark"],
        ),
        (
            "x.json",
            b"\xff\xfe{\0}\0".to_vec(),
            vec!["line 1", "byte order mark"],
        ),
        (
            "x.toml",
            text("a = 1\r\nb = 2\r\n"),
            vec!["x.toml", "line 1", "CR"],
        ),
        (
            "x.yaml",
            text("a: 1\nb: \"\0\"\n"),
            vec!["x.yaml", "line 2", "NUL"],
        ),
        (
            "x.toml",
            b"a = 1\nb = \"\xff\"\n".to_vec(),
            vec!["line 2", "not UTF-8"],
        ),
        (
            "x.json",
            deep("[", "]"),
            vec!["x.json", "line 1", "recursion"],
        ),
        ("x.json", deep("{\"a\":", "}"), vec!["x.json", "recursion"]),
        (
            "x.toml",
            [text("a = "), deep("[", "]")].concat(),
            vec!["x.toml", "line 1"],
        ),
        ("x.yaml", deep("[", "]"), vec!["x.yaml", "recursion"]),
        ("x.yaml", bomb.into_bytes(), vec!["x.yaml", "repetition"]),
        (
            "x.json",
            format!("{{{}}}", many.join(",")).into_bytes(),
            vec!["too large"],
        ),
        (
            "x.yaml",
            text("a: 1\n---\na: 2\n"),
            vec!["x.yaml", "more than one"],
        ),
        (
            "x.yaml",
            text("d: &d {a: 1}\ne:\n  <<: *d\n"),
            vec!["key 'e.<<'", "merge"],
        ),
        ("x.json", text("[1]"), vec!["a map of keys"]),
        ("x.json", text(""), vec!["x.json", "no JSON"]),
        ("x.json", text("{\"a\": 1e400}"), vec!["x.json", "line 1"]),
        (
            "x.toml",
            text("a = 99999999999999999999\n"),
            vec!["line 1", "64 bits"],
        ),
    ]
}

#[tokio::test]
async fn f09_what_is_not_fit_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let cases = bad_files().into_iter().enumerate();
    let cases = cases.map(|(index, (name, bytes, wanted))| {
        let place = folder.path().join(index.to_string());
        fs::create_dir(&place).unwrap();
        bad_file(place.join(name), bytes, wanted)
    });
    futures_util::future::join_all(cases).await;
}

async fn bad_file(path: PathBuf, bytes: Vec<u8>, wanted: Vec<&'static str>) {
    let name = path.file_name().unwrap().to_str().unwrap();
    let good = match name {
        "x.json" => r#"{"a": 1}"#,
        "x.toml" => "a = 1",
        _ => "a: 1",
    };
    replace(&path, good);
    let config = start(quick(&path)).await;
    let live = config.live::<Strict>("").unwrap();
    let before = live.get_arc();
    let next = path.with_extension("next");
    fs::write(&next, &bytes).unwrap();
    fs::rename(&next, &path).unwrap();
    let refusal = refused(&config).await;
    let shown = path.display();
    for part in &wanted {
        assert!(refusal.contains(part), "{shown}: no '{part}' in: {refusal}");
    }
    assert!(refusal.len() < 1_000, "{shown}: {}", refusal.len());
    // Nothing is said twice.
    assert_eq!(refusal.matches(name).count(), 1, "{shown}: {refusal}");
    assert!(!refusal.contains("place:"), "{shown}: {refusal}");
    assert!(
        Arc::ptr_eq(&before, &live.get_arc()),
        "{shown} was taken over"
    );
    assert_eq!(config.version(), 1);
    config.close().await;
    // At start the same is an error, even of an optional source.
    let outcome = Config::builder()
        .optional(FileSource::with_config(quick(&path)))
        .start(Runtime::new(tokio::spawn, tokio::time::sleep))
        .await;
    match outcome {
        Err(err) => assert!(err.to_string().contains(name), "{err}"),
        // What only the type can tell, the view tells.
        Ok(config) => assert!(config.live::<Strict>("").is_err(), "{shown}"),
    }
}

#[tokio::test]
async fn f09_a_file_of_64_mib_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.toml");
    replace(&path, &Pair::toml(1));
    let config = start(quick(&path)).await;
    let live = config.live::<Pair>("").unwrap();
    let next = path.with_extension("next");
    // Full of holes: it takes no room on the disk.
    fs::File::create(&next).unwrap().set_len(64 << 20).unwrap();
    fs::rename(&next, &path).unwrap();
    let refusal = refused(&config).await;
    assert!(
        refusal.contains("too large") && refusal.contains("app.toml"),
        "{refusal}"
    );
    assert_eq!(config.refusals()[0].kind, ErrorKind::ResourceExhausted);
    assert_eq!(live.get().a, 1);
    config.close().await;
}

#[tokio::test]
async fn f09_a_failed_check_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.toml");
    replace(&path, &Pair::toml(1));
    let config = start(quick(&path)).await;
    let options = ViewOptions::<Pair>::new().with_check(|pair| match pair.a {
        13 => Err(micro_config_core::Error::invalid_argument(
            "13 brings bad luck",
        )),
        _ => Ok(()),
    });
    let live = config.live_with("", options).unwrap();
    replace(&path, &Pair::toml(13));
    let refusal = refused(&config).await;
    assert!(refusal.contains("bad luck"), "{refusal}");
    assert_eq!(live.get().a, 1);
    replace(&path, &Pair::toml(14));
    becomes(&live, "14", |pair| pair.a == 14).await;
    assert!(config.version() == 2);
    config.close().await;
}

#[tokio::test]
async fn f10_same_size_and_same_time_and_another_content() {
    for config in [quick, polled] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.toml");
        replace(&path, &Pair::toml(1));
        let config = start(config(&path)).await;
        let live = config.live::<Pair>("").unwrap();
        let before = fs::metadata(&path).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        (&file).write_all(Pair::toml(2).as_bytes()).unwrap();
        file.set_modified(before.modified().unwrap()).unwrap();
        drop(file);
        let after = fs::metadata(&path).unwrap();
        assert_eq!(
            (before.len(), before.modified().unwrap()),
            (after.len(), after.modified().unwrap())
        );
        becomes(&live, "2", |pair| *pair == Pair { a: 2, b: 2 }).await;
        config.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f11_a_thousand_writes_in_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.toml");
    replace(&path, &Pair::toml(0));
    let debounce = Duration::from_millis(50);
    let config = start(quick(&path).with_debounce(debounce)).await;
    let live = config.live::<Pair>("").unwrap();
    let begin = Instant::now();
    for n in 1..=1000 {
        replace(&path, &Pair::toml(n));
        tokio::time::sleep_until(begin + Duration::from_millis(n)).await;
    }
    becomes(&live, "the last", |pair| pair.a == 1000).await;
    let applied = u128::from(config.version() - 1);
    let allowed = 1 + begin.elapsed().as_millis() / debounce.as_millis();
    assert!(applied <= allowed, "{applied} of {allowed}");
    config.close().await;
}

#[test]
fn f12_without_inotify_changes_are_found_by_polling() {
    // In a namespace of its own the limit can be set without disturbing anybody.
    let mut command = Command::new("unshare");
    command.args(["-Ur", "sh", "-c"]);
    command.arg("echo 0 > /proc/sys/user/max_inotify_instances && exec \"$0\" \"$@\"");
    command.arg(std::env::current_exe().unwrap());
    let possible = Command::new("unshare")
        .args([
            "-Ur",
            "sh",
            "-c",
            "echo 0 > /proc/sys/user/max_inotify_instances",
        ])
        .output()
        .is_ok_and(|output| output.status.success());
    let name = "f12_without_inotify_changes_are_found_by_polling";
    if std::env::var_os("MICRO_TEST_CHILD").is_none() && !possible {
        return skip(
            name,
            "there are no user namespaces",
            "allow them, and install util-linux",
        );
    }
    if in_a_child(name, command) {
        return;
    }
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.toml");
        replace(&path, &Pair::toml(1));
        let config = start(quick(&path).with_poll(Duration::from_millis(50))).await;
        let live = config.live::<Pair>("").unwrap();
        becomes(&config.status(), "a note", |status| {
            status.sources[0].note.is_some()
        })
        .await;
        let note = config.status().get().sources[0].note.clone().unwrap();
        assert!(
            note.contains("50ms") && note.contains("no events"),
            "{note}"
        );
        replace(&path, &Pair::toml(2));
        becomes(&live, "2", |pair| pair.a == 2).await;
        config.close().await;
    });
}

/// Says that a test did not run, and what it wants.
fn skip(test: &str, reason: &str, cure: &str) {
    let _ = writeln!(std::io::stderr(), "skipped {test}: {reason}; {cure}");
    if let Some(log) = std::env::var_os("MICRO_SKIP_LOG") {
        let mut log = fs::File::options()
            .append(true)
            .create(true)
            .open(log)
            .unwrap();
        writeln!(log, "{test}\t{reason}\t{cure}").unwrap();
    }
}

#[tokio::test]
async fn f14_without_events_a_change_shows_within_poll_and_settle() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.toml");
    replace(&path, &Pair::toml(0));
    let options = polled(&path);
    let (poll, settle) = (options.poll, options.settle);
    let config = start(options).await;
    let live = config.live::<Pair>("").unwrap();
    for n in 1..=5 {
        let begin = Instant::now();
        replace(&path, &Pair::toml(n));
        becomes(&live, "the change", |pair| pair.a == n).await;
        let took = begin.elapsed();
        assert!(
            took < poll + settle + Duration::from_millis(500),
            "{took:?}"
        );
    }
    config.close().await;
}

#[tokio::test]
async fn directories_merge_in_the_order_of_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    put("10-base.toml", "a = 1\nb = 1\n[c]\nx = 1\n");
    put("20-more.yaml", "b: 2\nc:\n  y: 2\n");
    put("30.json", r#"{"c": {"x": 3}}"#);
    put(".hidden.toml", "a = 9\n");
    put("README", "a = 9\n");
    put("backup.toml~", "a = 9\n");
    let config = start(quick(folder.path())).await;
    let values = ["a", "b", "c.x", "c.y"].map(|at| config.get::<u64>(at).unwrap());
    assert_eq!(values, [1, 2, 3, 2]);
    let place = |at: &str| config.explain(at).found[0].place.clone().unwrap();
    assert_eq!(place("a"), "10-base.toml line 1");
    assert_eq!(place("c.x"), "30.json line 1");
    config.close().await;
}

#[tokio::test]
async fn a_link_that_leads_nowhere_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("10.toml"), "a = 1\n").unwrap();
    symlink("nowhere", folder.path().join("20.toml")).unwrap();
    let source = FileSource::with_config(quick(folder.path()));
    let err = source.load().await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    let text = err.to_string();
    assert!(
        text.contains("20.toml") && text.contains("leads nowhere"),
        "{text}"
    );
}

#[tokio::test]
async fn a_directory_of_secrets_keeps_them_secret() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("db.password"), "canary-77\n").unwrap();
    fs::write(folder.path().join("port"), "8080").unwrap();
    let config = Config::builder()
        .source(FileSource::secrets(folder.path()))
        .start(Runtime::new(tokio::spawn, tokio::time::sleep))
        .await
        .unwrap();
    #[derive(Deserialize)]
    struct Database {
        #[serde(with = "micro_config_core::secret")]
        password: Secret,
    }
    let database = config.get::<Database>("db").unwrap();
    assert_eq!(database.password.expose(), "canary-77");
    assert_eq!(config.get::<u16>("port").unwrap(), 8080);
    assert_eq!(config.explain("db.password").found[0].value, "***");
    let err = config.get::<u16>("db.password").unwrap_err();
    assert!(!format!("{err:?}").contains("canary"), "{err:?}");
    config.close().await;
}

#[tokio::test]
async fn s70_a_key_named_include_includes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.yaml");
    fs::write(&path, "include: ../../../../etc/passwd\n").unwrap();
    let config = start(quick(&path)).await;
    assert_eq!(
        config.get::<String>("include").unwrap(),
        "../../../../etc/passwd"
    );
    assert_eq!(config.explain("").found.len(), 1);
    config.close().await;
}

#[tokio::test]
async fn pipes_and_devices_are_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.toml");
    let made = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let err = timeout(
        PATIENCE,
        Config::builder()
            .source(FileSource::with_config(quick(&path)))
            .start(Runtime::new(tokio::spawn, tokio::time::sleep)),
    )
    .await
    .expect("nobody waits for the writer of a pipe")
    .unwrap_err();
    assert!(err.to_string().contains("neither a file"), "{err}");
}
