//! Counts every allocation of the process, for the column "allocations per call".
//!
//! Counting must cost next to nothing, or stacks that allocate much would look worse than they are:
//! each thread owns one counter in a fixed table and is its only writer, so a count is a plain load
//! and store, not a locked add.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Threads with a counter of their own. Later ones share the last counter, with a locked add.
const OWNED: usize = 63;

/// One counter, alone on its cache lines so that threads do not disturb each other.
#[repr(align(128))]
struct Counter(AtomicU64);

static COUNTERS: [Counter; OWNED + 1] = [const { Counter(AtomicU64::new(0)) }; OWNED + 1];
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    // No destructor and a constant start value: using it allocates nothing, so the allocator may.
    static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
}

#[global_allocator]
static COUNTING: Counting = Counting;

struct Counting;

/// The allocations and reallocations of this process so far, on all threads.
pub(crate) fn allocations() -> u64 {
    COUNTERS
        .iter()
        .map(|counter| counter.0.load(Ordering::Relaxed))
        .sum()
}

fn count() {
    let mut mine = MINE.get();
    if mine == usize::MAX {
        mine = THREADS.fetch_add(1, Ordering::Relaxed).min(OWNED);
        MINE.set(mine);
    }
    let counter = &COUNTERS[mine].0;
    if mine == OWNED {
        counter.fetch_add(1, Ordering::Relaxed);
    } else {
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

#[expect(
    unsafe_code,
    reason = "a global allocator cannot be written without; each method only forwards"
)]
// SAFETY: every method forwards its arguments unchanged to `System` and returns what it returned;
// counting neither allocates nor unwinds (the index is always within the table, and a 64-bit count
// does not overflow).
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: `block` came from `System` through us, with this layout.
        unsafe { System.realloc(block, layout, new_size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocation_is_counted_once_whichever_thread_makes_it() {
        let before = allocations();
        std::thread::spawn(|| drop(std::hint::black_box(Box::new([0_u8; 64]))))
            .join()
            .expect("the thread ends well");
        assert!(allocations() > before);
    }
}
