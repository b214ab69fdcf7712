//! A page of a listing, out of all shards of a table.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, btree_map};
use std::ops::ControlFlow;
use std::sync::MutexGuard;
use std::time::SystemTime;

use micro_store_core::{Cursor, ListOptions, MAX_PAGE_BYTES, Page, Record};

use crate::shard::{Shard, Slot};

/// So many records are visited before the locks are given back for a moment.
const STRETCH: usize = 1024;

/// A page that is being filled.
#[derive(Debug)]
pub(crate) struct Filling {
    opts: ListOptions,
    now: SystemTime,
    records: Vec<Record>,
    bytes: usize,
}

impl Filling {
    pub(crate) fn new(opts: ListOptions, now: SystemTime) -> Self {
        Self {
            opts,
            now,
            records: Vec::new(),
            bytes: 0,
        }
    }

    /// Goes on for a stretch, with all shards of the table; breaks with the page when it is full or
    /// nothing follows.
    pub(crate) fn go_on(&mut self, shards: &[MutexGuard<'_, Shard>]) -> ControlFlow<Page> {
        let mut ranges: Vec<btree_map::Range<'_, Box<str>, Slot>> =
            shards.iter().map(|shard| shard.range(&self.opts)).collect();
        // The next of each shard; a key is in one of them only, so the slots are never compared.
        let mut heads: BinaryHeap<Reverse<Head<'_>>> = BinaryHeap::with_capacity(ranges.len());
        for (shard, range) in ranges.iter_mut().enumerate() {
            heads.extend(Head::next(shard, range).map(Reverse));
        }
        let mut visited = 0;
        while let Some(Reverse(head)) = heads.pop() {
            if !head.key.starts_with(&self.opts.prefix) {
                break;
            }
            if self.offer(&head).is_break() {
                let next = self.records.last().map(|last| Cursor::after(&last.key));
                return ControlFlow::Break(Page::new(std::mem::take(&mut self.records), next));
            }
            visited += 1;
            if visited == STRETCH {
                self.opts.after = Some(Cursor::after(head.key));
                return ControlFlow::Continue(());
            }
            heads.extend(Head::next(head.shard, &mut ranges[head.shard]).map(Reverse));
        }
        ControlFlow::Break(Page::new(std::mem::take(&mut self.records), None))
    }

    /// Takes the record if it matches; breaks if it does and there is no room for it.
    fn offer(&mut self, head: &Head<'_>) -> ControlFlow<()> {
        let Head { key, slot, .. } = head;
        if !key.ends_with(&self.opts.suffix) || !slot.is_live(self.now) {
            return ControlFlow::Continue(());
        }
        if self.opts.offset > 0 {
            self.opts.offset -= 1;
            return ControlFlow::Continue(());
        }
        let bytes = if self.opts.keys_only { 0 } else { slot.len() };
        let full = self.records.len() == self.opts.limit
            || (!self.records.is_empty() && self.bytes + bytes > MAX_PAGE_BYTES);
        if full {
            return ControlFlow::Break(());
        }
        self.bytes += bytes;
        self.records.push(slot.record(key, self.opts.keys_only));
        ControlFlow::Continue(())
    }
}

/// The next record of a shard.
struct Head<'a> {
    key: &'a str,
    shard: usize,
    slot: &'a Slot,
}

impl<'a> Head<'a> {
    fn next(shard: usize, range: &mut btree_map::Range<'a, Box<str>, Slot>) -> Option<Self> {
        let (key, slot) = range.next()?;
        Some(Self { key, shard, slot })
    }
}

impl PartialEq for Head<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Head<'_> {}

impl PartialOrd for Head<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(other.key)
    }
}
