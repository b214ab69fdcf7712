//! A list in a file: swapped, written in pieces, broken, taken away.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use micro_registry_core::{
    Env, ErrorKind, EventKind, Registry as _, RegistryExt as _, Result, WatchOptions,
};
use micro_registry_static::{StaticConfig, StaticRegistry};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(20);

/// Two services that always have the same number of nodes: what is torn shows.
fn list(nodes: usize) -> String {
    let nodes: Vec<String> = (0..nodes)
        .map(|i| format!("{{\"address\": \"10.0.0.{}:80\"}}", i + 1))
        .collect();
    let nodes = nodes.join(",\n");
    format!(
        "{{\"services\": [\n{{\"name\": \"one\", \"nodes\": [{nodes}]}},\n{{\"name\": \"two\", \"nodes\": [{nodes}]}}\n]}}\n"
    )
}

fn config(file: impl Into<PathBuf>) -> StaticConfig {
    StaticConfig::default()
        .with_file(file)
        .with_debounce(Duration::from_millis(20))
        .with_poll(Duration::from_millis(200))
}

async fn open(file: &Path) -> Result<StaticRegistry> {
    StaticRegistry::open(config(file), &Env::new()).await
}

/// How many nodes each service has; both the same, or it is torn.
async fn nodes(registry: &StaticRegistry) -> usize {
    let listed = registry.list().await.unwrap();
    let counts: Vec<usize> = listed.iter().map(|service| service.nodes.len()).collect();
    match counts[..] {
        [] => 0,
        [one, two] if one == two => one,
        _ => panic!("a mix of two lists: {counts:?}"),
    }
}

async fn until(registry: &StaticRegistry, expected: usize) -> Duration {
    let start = Instant::now();
    loop {
        let found = nodes(registry).await;
        if found == expected {
            return start.elapsed();
        }
        assert!(start.elapsed() < PATIENCE, "{found} instead of {expected}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// It stays so, though there was time to look at the file.
async fn stays(registry: &StaticRegistry, expected: usize) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(500) {
        assert_eq!(nodes(registry).await, expected);
        sleep(Duration::from_millis(5)).await;
    }
}

fn folder() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("nodes.json");
    fs::write(&file, list(1)).unwrap();
    (dir, file)
}

/// As Kubernetes swaps the files of a config map: a link to a folder is replaced by renaming.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn f18_a_data_link_is_swapped() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let swap = |turn: usize, nodes: usize| {
        let version = format!("..v{turn}");
        fs::create_dir(at(&version)).unwrap();
        fs::write(at(&version).join("nodes.json"), list(nodes)).unwrap();
        symlink(&version, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        if turn > 0 {
            fs::remove_dir_all(at(&format!("..v{}", turn - 1))).unwrap();
        }
    };
    swap(0, 1);
    symlink("..data/nodes.json", at("nodes.json")).unwrap();
    let registry = open(&at("nodes.json")).await.unwrap();
    assert_eq!(nodes(&registry).await, 1);
    for turn in 1..1000 {
        swap(turn, 1 + turn % 7);
        if turn % 100 == 0 {
            until(&registry, 1 + turn % 7).await;
        }
    }
    until(&registry, 1 + 999 % 7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f18_a_file_is_replaced_by_renaming() {
    let (dir, file) = folder();
    let registry = open(&file).await.unwrap();
    for turn in 1..1000 {
        fs::write(dir.path().join("new"), list(1 + turn % 7)).unwrap();
        fs::rename(dir.path().join("new"), &file).unwrap();
        if turn % 100 == 0 {
            until(&registry, 1 + turn % 7).await;
        }
    }
    until(&registry, 1 + 999 % 7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f18_a_file_written_in_pieces_is_taken_when_it_is_whole() {
    let (_dir, file) = folder();
    let registry = open(&file).await.unwrap();
    let text = list(5);
    let third = text.len() / 3;
    fs::write(&file, "").unwrap();
    stays(&registry, 1).await;
    for end in [third, 2 * third, text.len() - 2] {
        fs::write(&file, &text[..end]).unwrap();
        stays(&registry, 1).await;
    }
    fs::write(&file, &text).unwrap();
    until(&registry, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f18_the_last_good_list_stays() {
    let (dir, file) = folder();
    let registry = open(&file).await.unwrap();
    let mut events = registry.watch(WatchOptions::default()).await.unwrap();
    let bad_address = list(2).replace("10.0.0.2:80", "10.0.0.2:0");
    for bad in ["not JSON", &bad_address, "{\"services\": null}"] {
        fs::write(&file, bad).unwrap();
        stays(&registry, 1).await;
    }
    fs::remove_file(&file).unwrap();
    stays(&registry, 1).await;
    fs::create_dir(&file).unwrap();
    stays(&registry, 1).await;
    fs::remove_dir(&file).unwrap();
    fs::write(&file, vec![b' '; 9 * 1024 * 1024]).unwrap();
    stays(&registry, 1).await;
    // The whole folder is another one.
    let moved = dir.path().with_extension("moved");
    fs::rename(dir.path(), &moved).unwrap();
    fs::create_dir(dir.path()).unwrap();
    stays(&registry, 1).await;
    fs::write(&file, list(3)).unwrap();
    until(&registry, 3).await;
    fs::write(&file, list(2)).unwrap();
    until(&registry, 2).await;
    fs::remove_dir_all(moved).unwrap();
    // Nothing but the good lists was reported: two nodes more of each, then one less.
    let mut kinds = Vec::new();
    while kinds.len() < 6 {
        let event = timeout(PATIENCE, events.next()).await.unwrap();
        kinds.push(event.unwrap().unwrap().kind);
    }
    let created = kinds.iter().filter(|kind| **kind == EventKind::Create);
    assert_eq!(created.count(), 4, "{kinds:?}");
    assert!(kinds[4..].iter().all(|kind| *kind == EventKind::Delete));
}

/// The content counts, not its size and age.
#[tokio::test(flavor = "multi_thread")]
async fn another_list_of_the_same_size_and_age_is_seen() {
    let (_dir, file) = folder();
    let age = fs::metadata(&file).unwrap().modified().unwrap();
    let registry = open(&file).await.unwrap();
    fs::write(&file, list(1).replace("10.0.0.1", "10.0.0.9")).unwrap();
    let opened = fs::File::options().write(true).open(&file).unwrap();
    opened.set_modified(age).unwrap();
    let start = Instant::now();
    while registry.get("one").await.unwrap()[0].nodes[0].address != "10.0.0.9:80" {
        assert!(start.elapsed() < PATIENCE);
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn s53_a_bad_file_does_not_open_and_says_where() {
    let (_dir, file) = folder();
    for (text, said) in [
        ("{\n\"services\": [\n}", "line 3"),
        (
            "{\"services\": [{\"name\": \"a\", \"nodes\": [\n{\"address\": \"h:0\"}]}]}",
            "line 2",
        ),
    ] {
        fs::write(&file, text).unwrap();
        let err = open(&file).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{err:?}");
        let text = format!("{err}");
        assert!(text.contains(said) && text.contains("nodes.json"), "{text}");
    }
    fs::remove_file(&file).unwrap();
    let err = open(&file).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound, "{err:?}");
}

/// A pipe that nobody writes to: opening it would wait for ever.
#[cfg(unix)]
#[tokio::test]
async fn s53_a_pipe_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("nodes.json");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let opened = timeout(PATIENCE, open(&pipe)).await.expect("it is refused");
    let err = opened.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{err:?}");
}

/// A dropped registry leaves no task behind.
#[tokio::test]
async fn the_task_ends_with_the_last_handle() {
    let (_dir, file) = folder();
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = tasks();
    let registry = open(&file).await.unwrap();
    let clone = registry.clone();
    drop(registry);
    assert!(tasks() > before);
    drop(clone);
    let start = Instant::now();
    while tasks() > before {
        assert!(start.elapsed() < PATIENCE, "it goes on");
        sleep(Duration::from_millis(5)).await;
    }
}
