//! sled behind the interface that all engines have.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use micro_embedded::{Changes, CommitError, Engine, Space, View};
use micro_store_core::Result;
use sled::{Batch, Db, IVec};

use crate::error::Failure;
use crate::files::{Files, close};
use crate::split::{damaged, head, part_place, place, split};
use crate::{SCHEME, SledConfig};

/// The engine of a [`SledStore`](crate::SledStore).
pub struct Sled {
    /// There until it is dropped.
    db: Option<Db>,
    before: RwLock<Before>,
    files: Files,
}

/// What the keys held that are changed by the commit under way. sled shows its changes at once; they
/// are to be seen only when they are on the disk, or a power cut could take back what was read.
///
/// It is locked for writing only while sled takes the changes in, and not while the disk is waited
/// for. So a view, which has it locked for reading, is one moment.
type Before = BTreeMap<Vec<u8>, Option<IVec>>;

/// What stands at places of sled's tree afterwards, or that nothing does.
type Rows = Vec<(Vec<u8>, Option<IVec>)>;

impl Sled {
    fn db(&self) -> &Db {
        self.db.as_ref().expect("it is there until it is dropped")
    }

    /// The changes by their places in sled's tree, and what is there before.
    fn prepare(&self, changes: &Changes) -> Result<(Rows, Before)> {
        let view = self.view()?;
        let (mut rows, mut before) = (Rows::new(), Before::new());
        for space in Space::ALL {
            for (key, value) in changes.of(space) {
                let place = place(space, key);
                let old = view.raw(&place)?;
                let old_parts = match &old {
                    // Of a damaged head the parts are left behind.
                    Some(bytes) => head(bytes).map_or(0, |(parts, _)| parts),
                    None => 0,
                };
                let mut parts = 0;
                let mut first = None;
                if let Some(value) = value {
                    let (head, rest) = split(value);
                    for part in rest {
                        let at = part_place(&place, parts);
                        before.insert(at.clone(), view.raw(&at)?);
                        rows.push((at, Some(part.into())));
                        parts += 1;
                    }
                    first = Some(head.into());
                }
                for nth in parts..old_parts {
                    let at = part_place(&place, nth);
                    let part = view.raw(&at)?;
                    if part.is_none() {
                        break;
                    }
                    before.insert(at.clone(), part);
                    rows.push((at, None));
                }
                before.insert(place.clone(), old);
                rows.push((place, first));
            }
        }
        Ok((rows, before))
    }

    fn apply(&self, mut rows: Rows, before: Before) -> Result<(), Failure> {
        let mut now = self.before.write().unwrap_or_else(PoisonError::into_inner);
        *now = before;
        // A batch writes to the log what belongs to it; one row alone is whole without.
        if rows.len() == 1
            && let Some((place, value)) = rows.pop()
        {
            match value {
                Some(value) => self.db().insert(place, value)?,
                None => self.db().remove(place)?,
            };
            return Ok(());
        }
        let mut batch = Batch::default();
        for (place, value) in rows {
            match value {
                Some(value) => batch.insert(place, value),
                None => batch.remove(place),
            }
        }
        Ok(self.db().apply_batch(batch)?)
    }

    fn flush(&self) -> Result<(), Failure> {
        self.db().flush()?;
        Ok(self.files.sync()?)
    }
}

impl Engine for Sled {
    const NAME: &'static str = SCHEME;
    const SCHEMES: &'static [&'static str] = &[SCHEME];
    type Config = SledConfig;
    type View<'a> = SledView<'a>;

    fn open(config: &SledConfig) -> Result<Self> {
        let (db, files) = Files::open(config)?;
        Ok(Self {
            db: Some(db),
            before: RwLock::default(),
            files,
        })
    }

    fn is_new(&self) -> Result<bool> {
        let first = self.db().first().map_err(Failure::from)?;
        Ok(first.is_none())
    }

    fn view(&self) -> Result<SledView<'_>> {
        Ok(SledView {
            db: self.db(),
            before: self.before.read().unwrap_or_else(PoisonError::into_inner),
        })
    }

    fn commit(&self, changes: &Changes) -> Result<(), CommitError> {
        let (rows, before) = self.prepare(changes).map_err(CommitError::Not)?;
        let done = self.apply(rows, before).and_then(|()| self.flush());
        // If it has failed, nobody is to see the changes any more.
        done.map_err(|failure| CommitError::Unknown(failure.into()))?;
        let mut before = self.before.write().unwrap_or_else(PoisonError::into_inner);
        before.clear();
        Ok(())
    }
}

impl Drop for Sled {
    fn drop(&mut self) {
        if let Some(db) = self.db.take() {
            // Everything that was acknowledged is on the disk, whether this goes well or not.
            let _ = close(db);
        }
    }
}

impl fmt::Debug for Sled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // sled's own would print every record.
        f.debug_struct("Sled")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// A moment of sled: what is on the disk.
pub struct SledView<'a> {
    db: &'a Db,
    before: RwLockReadGuard<'a, Before>,
}

impl SledView<'_> {
    /// What stands at a place of sled's tree.
    fn raw(&self, place: &[u8]) -> Result<Option<IVec>> {
        match self.before.get(place) {
            Some(before) => Ok(before.clone()),
            None => Ok(self.db.get(place).map_err(Failure::from)?),
        }
    }

    /// Reads a value whole, whose beginning is this.
    fn whole<T>(&self, place: &[u8], bytes: &[u8], read: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let (parts, first) = head(bytes)?;
        if parts == 0 {
            return Ok(read(first));
        }
        let mut value = first.to_vec();
        for nth in 0..parts {
            // A number that is damaged ends here as well: nothing is set aside for it.
            let part = self.raw(&part_place(place, nth))?.ok_or_else(damaged)?;
            value.extend_from_slice(&part);
        }
        Ok(read(&value))
    }
}

impl View for SledView<'_> {
    fn get<T>(&self, space: Space, key: &[u8], read: impl FnOnce(Option<&[u8]>) -> T) -> Result<T> {
        let place = place(space, key);
        match self.raw(&place)? {
            Some(bytes) => self.whole(&place, &bytes, |value| read(Some(value))),
            None => Ok(read(None)),
        }
    }

    fn scan(
        &self,
        space: Space,
        from: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let range = place(space, from)..vec![space as u8 + 1];
        let mut before = self.before.range(range.clone()).peekable();
        let mut rows = self.db.range(range).peekable();
        loop {
            let order = match (rows.peek(), before.peek()) {
                (None, None) => return Ok(()),
                (Some(Ok((at, _))), Some((changed, _))) => (**at).cmp(changed),
                (Some(_), _) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
            };
            let row = match order {
                Ordering::Less => rows.next(),
                _ => None,
            };
            let flow = match row {
                Some(row) => {
                    let (at, bytes) = row.map_err(Failure::from)?;
                    self.whole(&at, &bytes, |value| visit(&at[1..], value))??
                }
                None => {
                    if order == Ordering::Equal {
                        rows.next();
                    }
                    match before.next() {
                        Some((at, Some(bytes))) => {
                            self.whole(at, bytes, |value| visit(&at[1..], value))??
                        }
                        _ => ControlFlow::Continue(()),
                    }
                }
            };
            if flow.is_break() {
                return Ok(());
            }
        }
    }
}

impl fmt::Debug for SledView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledView").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(rows: &[(&[u8], Option<&[u8]>)]) -> Changes {
        rows.iter()
            .map(|(key, value)| (Space::Records, key.to_vec(), value.map(<[u8]>::to_vec)))
            .collect()
    }

    fn rows(sled: &Sled) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut rows = Vec::new();
        let view = sled.view().unwrap();
        view.scan(Space::Records, b"", |key, value| {
            let read = view.get(Space::Records, key, |found| found.map(<[u8]>::to_vec));
            assert_eq!(read.unwrap().as_deref(), Some(value));
            rows.push((key.to_vec(), value.to_vec()));
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        rows
    }

    /// Or a power cut could take back what somebody has read and acted upon.
    #[test]
    fn what_is_not_on_the_disk_yet_is_not_seen() {
        let root = tempfile::tempdir().unwrap();
        let sled = Sled::open(&SledConfig::new(root.path().join("data"))).unwrap();
        let long = vec![1; 100_000];
        let before = [(&b"a"[..], &b"1"[..]), (b"c", &long), (b"d", b"4")];
        let first = before.map(|(key, value)| (key, Some(value)));
        sled.commit(&changes(&first)).unwrap();
        let before = before.map(|(key, value)| (key.to_vec(), value.to_vec()));
        assert_eq!(rows(&sled), before);

        let longer = vec![2; 200_000];
        let second = changes(&[
            (b"a", Some(&longer)),
            (b"b", Some(b"new")),
            (b"c", Some(b"short")),
            (b"d", None),
        ]);
        let (changed, old) = sled.prepare(&second).unwrap();
        sled.apply(changed, old).unwrap();
        assert_eq!(rows(&sled), before, "the disk was not waited for yet");

        sled.commit(&second).unwrap();
        let after = [
            (b"a".to_vec(), longer),
            (b"b".to_vec(), b"new".to_vec()),
            (b"c".to_vec(), b"short".to_vec()),
        ];
        assert_eq!(rows(&sled), after);
    }
}
