//! Files: `<folder>/<namespace>/<service>/<node>.json`, each replaced whole.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use micro_registry_core::{Node, Service};
use serde::{Deserialize, Serialize};

/// A file that is larger is none of ours.
const LARGEST: u64 = 1024 * 1024;
/// What expired so long ago is swept away: nobody is about to renew it.
const SWEEP: Duration = Duration::from_secs(60);

/// The files of one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Folder(PathBuf);

/// One node of one version of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// With exactly one node.
    pub(crate) service: Service,
    /// Nanoseconds since 1970; the newest record describes its version.
    written: u64,
    /// The same; never, without it.
    expires: Option<u64>,
}

/// Service, version, node id.
pub(crate) type Key = (String, String, String);

impl Folder {
    /// Makes the folder of a namespace if it is not there.
    pub(crate) fn make(folder: &Path, namespace: &str) -> io::Result<Self> {
        // No namespace can be mistaken for another, or leave the folder.
        let name = match namespace {
            "" => "default".to_owned(),
            namespace => format!("ns-{}", hex(namespace.as_bytes())),
        };
        let folder = folder.join(name);
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    pub(crate) fn write(
        &self,
        service: &Service,
        now: SystemTime,
        ttl: Option<Duration>,
    ) -> io::Result<()> {
        let folder = self.0.join(&service.name);
        fs::create_dir_all(&folder)?;
        let mut one = service.clone();
        for node in &service.nodes {
            one.nodes = vec![node.clone()];
            let record = Record {
                service: one.clone(),
                written: nanos(now),
                expires: ttl.map(|ttl| nanos(now).saturating_add(nanos(UNIX_EPOCH + ttl))),
            };
            let file = folder.join(file_name(&service.version, node));
            replace(&file, &serde_json::to_vec_pretty(&record)?)?;
        }
        Ok(())
    }

    pub(crate) fn remove(&self, service: &Service) -> io::Result<()> {
        let folder = self.0.join(&service.name);
        for node in &service.nodes {
            absent_is_fine(fs::remove_file(
                folder.join(file_name(&service.version, node)),
            ))?;
        }
        // It stays if somebody is still in it.
        let _ = fs::remove_dir(&folder);
        Ok(())
    }

    /// The living nodes of a service, or of all.
    pub(crate) fn read(
        &self,
        name: Option<&str>,
        now: SystemTime,
    ) -> io::Result<BTreeMap<Key, Record>> {
        let services = match name {
            Some(name) => vec![name.to_owned()],
            None => names(&self.0)?,
        };
        let mut found = BTreeMap::new();
        for name in services {
            let folder = self.0.join(&name);
            for file in names(&folder)? {
                if !file.ends_with(".json") {
                    continue;
                }
                let path = folder.join(&file);
                let Some(record) = read(&path, &name) else {
                    continue;
                };
                if let Some(expires) = record.expires.filter(|expires| *expires <= nanos(now)) {
                    if nanos(now) - expires >= SWEEP.as_nanos() as u64 {
                        absent_is_fine(fs::remove_file(&path))?;
                    }
                    continue;
                }
                let service = &record.service;
                let key = (
                    name.clone(),
                    service.version.clone(),
                    service.nodes[0].id.clone(),
                );
                found.insert(key, record);
            }
        }
        Ok(found)
    }
}

/// One entry per version, as its newest record describes it.
pub(crate) fn merge(records: BTreeMap<Key, Record>) -> Vec<Service> {
    let mut services = Vec::<Record>::new();
    for ((name, version, _), record) in records {
        match services.last_mut() {
            Some(last) if last.service.name == name && last.service.version == version => {
                let mut nodes = std::mem::take(&mut last.service.nodes);
                nodes.extend(record.service.nodes.clone());
                if record.written >= last.written {
                    *last = record;
                }
                last.service.nodes = nodes;
            }
            _ => services.push(record),
        }
    }
    services.into_iter().map(|last| last.service).collect()
}

/// Writes beside and renames: whoever reads sees the old file or the new one.
fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let beside = file.with_extension(format!("{}-{count}.tmp", std::process::id()));
    let written = fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, file));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

/// A record, if it is one and lies where it belongs. What others put here is left alone.
fn read(path: &Path, name: &str) -> Option<Record> {
    if fs::metadata(path).ok()?.len() > LARGEST {
        return None;
    }
    let record: Record = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let [node] = &record.service.nodes[..] else {
        return None;
    };
    let sound = record.service.name == name && !node.id.is_empty() && !node.address.is_empty();
    sound.then_some(record)
}

/// What is in a folder; nothing, if it is not there.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(err),
    };
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
    Ok(names
        .filter_map(|name| OsStr::to_str(&name).map(str::to_owned))
        .collect())
}

/// Ids may be longer than a file name, and hold anything: the file says what they are.
fn file_name(version: &str, node: &Node) -> String {
    let hash = |seed: u64| {
        let bytes = version.bytes().chain([0xff]).chain(node.id.bytes());
        bytes.fold(seed, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    };
    let (a, b) = (hash(0xcbf2_9ce4_8422_2325), hash(0x9e37_79b9_7f4a_7c15));
    format!("{a:016x}{b:016x}.json")
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
