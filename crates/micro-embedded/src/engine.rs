//! What an engine has to do: keep bytes by key, and make some changes of them together.

use std::collections::BTreeMap;
use std::collections::btree_map::Iter;
use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;

use micro_store_core::{Error, Result, Url};

/// A map of its own within an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// Records, by database, table and key.
    Records,
    /// What expires, by time.
    Expiries,
    /// The highest token that was seen of each lock.
    Fences,
    /// Numbers about the store.
    Numbers,
}

impl Space {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Records, Self::Expiries, Self::Fences, Self::Numbers];
}

/// Changes that are made together: what each key holds afterwards, or that it holds nothing.
#[derive(Debug, Default)]
pub struct Changes([BTreeMap<Vec<u8>, Option<Vec<u8>>>; 4]);

impl Changes {
    /// Those of a space, in the order of the keys.
    pub fn of(&self, space: Space) -> Iter<'_, Vec<u8>, Option<Vec<u8>>> {
        self.0[space as usize].iter()
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(BTreeMap::is_empty)
    }

    pub(crate) fn get(&self, space: Space, key: &[u8]) -> Option<Option<&[u8]>> {
        let changed = self.0[space as usize].get(key)?;
        Some(changed.as_deref())
    }

    pub(crate) fn put(&mut self, space: Space, key: Vec<u8>, value: Vec<u8>) {
        self.0[space as usize].insert(key, Some(value));
    }

    pub(crate) fn remove(&mut self, space: Space, key: Vec<u8>) {
        self.0[space as usize].insert(key, None);
    }
}

/// For tests of engines: of each key, the last change counts.
impl FromIterator<(Space, Vec<u8>, Option<Vec<u8>>)> for Changes {
    fn from_iter<I: IntoIterator<Item = (Space, Vec<u8>, Option<Vec<u8>>)>>(all: I) -> Self {
        let mut changes = Self::default();
        for (space, key, value) in all {
            changes.0[space as usize].insert(key, value);
        }
        changes
    }
}

/// Why changes were not made.
#[derive(Debug)]
pub enum CommitError {
    /// Nothing was changed.
    Not(Error),
    /// They may be on the disk or not.
    Unknown(Error),
}

/// A moment of an engine: committed changes and no others, and what is committed later does not show.
pub trait View {
    /// Reads what a key holds. The bytes are borrowed, so that a head is read without a copy.
    ///
    /// # Errors
    ///
    /// `Corrupt` or `FailedPrecondition`, if the engine cannot read it.
    fn get<T>(&self, space: Space, key: &[u8], read: impl FnOnce(Option<&[u8]>) -> T) -> Result<T>;

    /// Visits keys in the order of their bytes, from this one on, until `visit` breaks or fails.
    ///
    /// # Errors
    ///
    /// Those of [`get`](Self::get), and those of `visit`.
    fn scan(
        &self,
        space: Space,
        from: &[u8],
        visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<()>;
}

/// An engine that keeps bytes by key in a directory.
///
/// All methods may wait for the disk; they are called on threads that may. A panic is contained by
/// the caller. Only one thread commits.
pub trait Engine: Send + Sync + Sized + 'static {
    /// The engine's name, and its URL scheme.
    const NAME: &'static str;
    /// All URL schemes that open it.
    const SCHEMES: &'static [&'static str];
    /// What can be chosen about it.
    type Config: EngineConfig;
    /// See [`View`].
    type View<'a>: View;

    /// Opens it, and makes it if it is not there. A crash in the middle leaves something that can be
    /// opened.
    ///
    /// # Errors
    ///
    /// `Locked` at once if another has it open; `Corrupt` if its files are damaged or another's; those
    /// of [`Directory`](crate::Directory).
    fn open(config: &Self::Config) -> Result<Self>;

    /// Whether nothing was ever committed.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    fn is_new(&self) -> Result<bool>;

    /// The present moment.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    fn view(&self) -> Result<Self::View<'_>>;

    /// Makes changes, all or none, and returns when they survive a power cut. Until then no view
    /// shows them.
    ///
    /// # Errors
    ///
    /// See [`CommitError`]. After either the engine is not used any more.
    fn commit(&self, changes: &Changes) -> Result<(), CommitError>;
}

/// The settings of an engine.
pub trait EngineConfig: Clone + fmt::Debug + PartialEq + Send + Sync + 'static {
    /// Where it is.
    fn directory(&self) -> &Path;

    /// Reads a URL: a path and options.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a URL that names no directory, an unknown option, or a value that
    /// cannot be read.
    fn from_url(url: &Url) -> Result<Self>;
}
