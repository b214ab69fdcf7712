//! Where the file is: one directory, and nowhere else.

#![cfg(unix)]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;

use micro_store_core::{Drivers, Env, Error, ErrorKind, Scope, Store, Table};
use micro_store_redb::RedbDriver;

fn drivers() -> Drivers<dyn Store> {
    Drivers::new().with(RedbDriver::new())
}

async fn open(directory: &Path) -> Result<Table, Error> {
    let path = directory.to_str().expect("the path is text");
    let path: String = path
        .bytes()
        .map(|byte| match byte {
            b'/' | b'-' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02x}"),
        })
        .collect();
    let store = drivers().open(&format!("redb:{path}"), &Env::new()).await?;
    Ok(Table::new(store, Scope::new("d", "t")?))
}

/// Opens it as soon as whoever had it has let it go, which is some moments after the last handle.
async fn open_again(directory: &Path) -> Table {
    loop {
        match open(directory).await {
            Ok(table) => return table,
            Err(err) => assert_eq!(err.kind(), ErrorKind::Locked, "{err:?}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

async fn refused(directory: &Path, kind: ErrorKind) {
    let err = open(directory)
        .await
        .expect_err("it is no place for a store");
    assert_eq!(err.kind(), kind, "{err:?}");
    assert!(
        err.to_string().contains("directory:"),
        "it names the directory: {err}"
    );
}

#[tokio::test]
async fn the_directory_is_made_and_is_its_owner_s() {
    let root = tempfile::tempdir().unwrap();
    for name in [
        "plain",
        "with space",
        "ümläut 😀",
        "new\nline",
        "per%cent",
        &"x".repeat(255),
    ] {
        let directory = root.path().join(name);
        let table = open(&directory).await.unwrap();
        table.put("k", name).await.unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700, "{name:?}");
        assert_eq!(mode(&directory.join("store.redb")), 0o600, "{name:?}");
    }
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 6);
}

#[tokio::test]
async fn a_missing_or_impossible_directory_is_refused() {
    let root = tempfile::tempdir().unwrap();
    refused(&root.path().join("no/such"), ErrorKind::NotFound).await;
    assert!(
        !root.path().join("no").exists(),
        "a misspelt path makes no tree"
    );
    refused(
        &root.path().join("x".repeat(256)),
        ErrorKind::InvalidArgument,
    )
    .await;
    fs::write(root.path().join("file"), "").unwrap();
    refused(&root.path().join("file"), ErrorKind::InvalidArgument).await;
    refused(&root.path().join("file/below"), ErrorKind::InvalidArgument).await;
    for url in [
        "redb:",
        "redb://host/data",
        "redb:./x?ttl=3s",
        "redb:./x?cache_bytes=1",
        "redb:./x?check=maybe",
    ] {
        let err = drivers().open(url, &Env::new()).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{url}: {err:?}");
    }
}

#[tokio::test]
async fn a_read_only_directory_is_refused() {
    let root = tempfile::tempdir().unwrap();
    // Not even the superuser may write there.
    refused(Path::new("/proc/micro-store"), ErrorKind::NotFound).await;
    let directory = root.path().join("mine");
    drop(open(&directory).await.unwrap());
    fs::set_permissions(
        directory.join("store.redb"),
        fs::Permissions::from_mode(0o400),
    )
    .unwrap();
    let may_write_anything = fs::File::options()
        .append(true)
        .open(directory.join("store.redb"))
        .is_ok();
    if !may_write_anything {
        refused(&directory, ErrorKind::PermissionDenied).await;
    }
}

/// S-59: neither the names of tables nor links lead out of the directory.
#[tokio::test]
async fn s59_nothing_leads_out_of_the_directory() {
    let root = tempfile::tempdir().unwrap();
    let outside = root.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let victim = outside.join("victim");
    fs::write(&victim, "mine").unwrap();
    for (name, target) in [
        ("to-file", victim.clone()),
        ("to-nothing", outside.join("new")),
    ] {
        // The file, and the one that is being made.
        for file in ["store.redb", "store.redb.new"] {
            let directory = root.path().join(format!("{name}-{file}"));
            fs::create_dir(&directory).unwrap();
            symlink(&target, directory.join(file)).unwrap();
            refused(&directory, ErrorKind::FailedPrecondition).await;
        }
    }
    let directory = root.path().join("to-directory");
    fs::create_dir_all(directory.join("store.redb")).unwrap();
    refused(&directory, ErrorKind::FailedPrecondition).await;
    for table in ["../../x", "/etc/passwd", "..", "a/b", "a\0b"] {
        assert!(Scope::new(table, "t").is_err() && Scope::new("d", table).is_err());
    }
    let directory = root.path().join("data");
    let table = open(&directory).await.unwrap();
    for key in ["../../x", "/etc/passwd", "..\\x", "\0"] {
        table.put(key, "v").await.unwrap();
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
    assert_eq!(
        fs::read_dir(&outside).unwrap().count(),
        1,
        "nothing was made outside"
    );
    assert_eq!(
        fs::read_dir(&directory).unwrap().count(),
        1,
        "one file is inside"
    );
}

/// What a crash leaves of a store that was being made is no store.
#[tokio::test]
async fn what_was_being_made_is_made_anew() {
    let root = tempfile::tempdir().unwrap();
    let whole = root.path().join("whole");
    drop(open(&whole).await.unwrap());
    let whole = fs::read(whole.join("store.redb")).unwrap();
    for (name, left) in [
        ("nothing", &[][..]),
        ("garbage", &[7; 10_000][..]),
        ("half", &whole[..whole.len() / 2]),
    ] {
        let directory = root.path().join(name);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("store.redb.new"), left).unwrap();
        let table = open(&directory).await.unwrap();
        table.put("k", name).await.unwrap();
        drop(table);
        let table = open_again(&directory).await;
        assert_eq!(table.get::<String>("k").await.unwrap().unwrap(), name);
        assert!(!directory.join("store.redb.new").exists());
    }
}

/// It opens from the moment on at which it has its name, whatever happens then.
#[tokio::test]
async fn a_store_that_was_just_made_opens_after_a_crash() {
    let root = tempfile::tempdir().unwrap();
    let (living, dead) = (root.path().join("living"), root.path().join("dead"));
    let living_table = open(&living).await.unwrap();
    fs::create_dir(&dead).unwrap();
    // As a process leaves it that is killed now.
    fs::copy(living.join("store.redb"), dead.join("store.redb")).unwrap();
    let table = open(&dead).await.unwrap();
    table.put("k", "v").await.unwrap();
    drop(living_table);
}

/// Many who make the same store at once: one does, and nobody empties what another has made.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_makes_the_store() {
    let root = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let directory = root.path().join(round.to_string());
        let openers = (0..8).map(|opener: u32| {
            let directory = directory.clone();
            tokio::spawn(async move {
                let mut written = Vec::new();
                // Each time another driver, as of another process.
                for turn in 0..5 {
                    let key = format!("{opener}-{turn}");
                    match open(&directory).await {
                        Ok(table) => {
                            table.put(&key, &turn).await.unwrap();
                            written.push(key);
                        }
                        Err(err) => assert_eq!(err.kind(), ErrorKind::Locked, "{err:?}"),
                    }
                }
                written
            })
        });
        let mut written = Vec::new();
        for opener in openers.collect::<Vec<_>>() {
            written.extend(opener.await.unwrap());
        }
        assert!(!written.is_empty());
        let table = open_again(&directory).await;
        for key in written {
            assert!(table.find(&key).await.unwrap().is_some(), "{round}: {key}");
        }
    }
}

#[tokio::test]
async fn one_driver_shares_a_store_and_another_is_locked_out() {
    let root = tempfile::tempdir().unwrap();
    let url = format!("redb:{}/data", root.path().display());
    let other_path = format!("redb:{}/./data", root.path().display());
    let drivers = drivers();
    let env = Env::new();
    let scope = Scope::new("d", "t").unwrap();
    let one = Table::new(drivers.open(&url, &env).await.unwrap(), scope.clone());
    let same = Table::new(
        drivers.open(&other_path, &env).await.unwrap(),
        scope.clone(),
    );
    one.put("k", "v").await.unwrap();
    assert_eq!(same.get::<String>("k").await.unwrap().as_deref(), Some("v"));
    let err = drivers
        .open(&format!("{url}?check=true"), &env)
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{err:?}");
    let stranger = Drivers::<dyn Store>::new().with(RedbDriver::new());
    let err = stranger.open(&url, &env).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Locked, "{err:?}");
    drop(one);
    drop(same);
    // The same driver waits for the file that it has just let go of.
    for _ in 0..10 {
        let again: Arc<dyn Store> = drivers.open(&url, &env).await.unwrap();
        let again = Table::new(again, scope.clone());
        assert_eq!(
            again.get::<String>("k").await.unwrap().as_deref(),
            Some("v")
        );
        again.put("k", "v").await.unwrap();
    }
}
