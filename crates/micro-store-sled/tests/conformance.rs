//! The store suite over this backend: a driver of its own for each opening, as if each were another
//! process.

use std::process::ExitCode;
use std::sync::LazyLock;

use micro_conformance::store::Place;
use micro_store_core::Drivers;
use micro_store_sled::SledDriver;
use tempfile::TempDir;

static ROOT: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a directory"));

fn main() -> ExitCode {
    let code = micro_conformance::store::run(async |place: Place| {
        let url = format!("sled:{}/{}", ROOT.path().display(), place.id());
        Drivers::new()
            .with(SledDriver::new())
            .open(&url, place.env())
            .await
    });
    // A static is not dropped.
    let _ = std::fs::remove_dir_all(ROOT.path());
    code
}
