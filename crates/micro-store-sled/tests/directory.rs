//! Where the files are: one directory, and nowhere else.

#![cfg(unix)]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use micro_store_core::{
    BatchOptions, Drivers, Env, Error, ErrorKind, Operation, Record, Scope, Store, Table,
    WriteOptions,
};
use micro_store_sled::SledDriver;

async fn open(directory: &Path) -> Result<Table, Error> {
    let url = format!("sled:{}", directory.display());
    let drivers = Drivers::<dyn Store>::new().with(SledDriver::new());
    let store = drivers.open(&url, &Env::new()).await?;
    Ok(Table::new(store, Scope::new("d", "t")?))
}

/// One that was dropped just now holds its files for a moment.
async fn open_again(directory: &Path) -> Result<Table, Error> {
    for _ in 0..500 {
        match open(directory).await {
            Err(err) if err.kind() == ErrorKind::Locked => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            opened => return opened,
        }
    }
    open(directory).await
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

/// S-59: links among the files lead nowhere.
#[tokio::test]
async fn s59_nothing_leads_out_of_the_directory() {
    let root = tempfile::tempdir().unwrap();
    let outside = root.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "mine").unwrap();
    for (name, target) in [("lock", "victim"), ("sled", ""), ("sled.new", "")] {
        let directory = root.path().join(format!("link-{name}"));
        fs::create_dir(&directory).unwrap();
        symlink(outside.join(target), directory.join(name)).unwrap();
        refused(&directory, ErrorKind::FailedPrecondition).await;
    }
    for inner in ["db", "conf", "blobs"] {
        let directory = root.path().join(format!("inner-{inner}"));
        drop(open(&directory).await.unwrap());
        let there = directory.join("sled").join(inner);
        let away = outside.join(format!("moved-{inner}"));
        // Until its files are closed.
        drop(open_again(&directory).await.unwrap());
        tokio::time::sleep(Duration::from_millis(200)).await;
        fs::rename(&there, &away).unwrap();
        symlink(&away, &there).unwrap();
        let err = open_again(&directory).await.expect_err("there is a link");
        assert_eq!(err.kind(), ErrorKind::FailedPrecondition, "{err:?}");
    }
    assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "mine");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 4);
}

#[tokio::test]
async fn a_missing_or_impossible_directory_is_refused() {
    let root = tempfile::tempdir().unwrap();
    refused(&root.path().join("no/such"), ErrorKind::NotFound).await;
    fs::write(root.path().join("file"), "").unwrap();
    refused(&root.path().join("file"), ErrorKind::InvalidArgument).await;
    refused(Path::new("/proc/micro-store"), ErrorKind::NotFound).await;
    let drivers = Drivers::<dyn Store>::new().with(SledDriver::new());
    for url in [
        "sled:",
        "sled://host/data",
        "sled:./x?ttl=3s",
        "sled:./x?cache_bytes=1",
    ] {
        let err = drivers.open(url, &Env::new()).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{url}: {err:?}");
    }
}

#[tokio::test]
async fn the_directory_is_its_owner_s_and_locked() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("data");
    let table = open(&directory).await.unwrap();
    table.put("k", "v").await.unwrap();
    let mode = fs::metadata(&directory).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o700);
    refused(&directory, ErrorKind::Locked).await;
    drop(table);
    let table = open_again(&directory).await.unwrap();
    assert_eq!(
        table.get::<String>("k").await.unwrap().as_deref(),
        Some("v")
    );
}

/// One that was cut off while it was made is made again; one that is no sled is not taken for one.
#[tokio::test]
async fn what_is_half_made_is_made_again() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("data");
    fs::create_dir_all(directory.join("sled.new/blobs")).unwrap();
    fs::write(directory.join("sled.new/conf"), "seg").unwrap();
    let table = open(&directory).await.unwrap();
    table.put("k", "v").await.unwrap();
    assert!(!directory.join("sled.new").exists());

    let foreign = root.path().join("foreign");
    fs::create_dir_all(foreign.join("sled")).unwrap();
    fs::write(
        foreign.join("sled/conf"),
        "not what sled writes, nor anything like it",
    )
    .unwrap();
    let err = open(&foreign).await.expect_err("it is another's");
    assert!(
        matches!(
            err.kind(),
            ErrorKind::Corrupt | ErrorKind::FailedPrecondition
        ),
        "{err:?}"
    );
}

/// Values of every length come back, also after others were in their places, and none of them is left
/// to a file that sled does not sync.
#[tokio::test]
async fn long_values_stay_in_the_log() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("data");
    let table = open(&directory).await.unwrap();
    // Long keys of one beginning, so that inner nodes of the tree are as large as they get.
    let key = |n: usize| format!("{}{n:04}", "k".repeat(4000));
    for (round, lengths) in [
        [16 << 20, 1 << 20, 40_000, 0],
        [10, 3 << 20, 32_768, 100_000],
    ]
    .into_iter()
    .enumerate()
    {
        let length = |n: usize| if n < 8 { lengths[n % 4] } else { 30_000 };
        let record = |n: usize| Record::new(key(n), vec![(n + round) as u8; length(n)]);
        for n in 0..4 {
            table
                .write(record(n), WriteOptions::default())
                .await
                .unwrap();
        }
        let others = (4..300).map(|n| Operation::write(table.scope(), record(n)));
        table
            .batch(others.collect(), BatchOptions::default())
            .await
            .unwrap();
        for n in 0..300 {
            let found = table.read(&key(n)).await.unwrap();
            assert!(found.value == record(n).value, "{n} in round {round}");
        }
        let blobs = fs::read_dir(directory.join("sled/blobs")).unwrap().count();
        assert_eq!(blobs, 0, "round {round}");
    }
    let all = (0..300).map(|n| Operation::delete(table.scope(), key(n)));
    let gone = table
        .batch(all.collect(), BatchOptions::default())
        .await
        .unwrap();
    assert!(gone.iter().all(|gone| gone.version > 0));
    assert!(table.find(&key(0)).await.unwrap().is_none());
}
