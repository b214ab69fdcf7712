//! Memory that small messages share.

use std::cell::Cell;

use bytes::{Bytes, BytesMut};
use micro_core::Result;

/// How much is allocated at a time: what a small message that is kept may hold beside itself.
const ROOM: usize = 8 << 10;
/// A message beyond this has memory of its own.
const SMALL: usize = 1 << 10;
/// What there should be before a message is written.
const LEAST: usize = 128;

thread_local! {
    static LEFT: Cell<BytesMut> = Cell::default();
}

/// What `write` appends to the buffer that it is given.
pub(crate) fn written(write: impl FnOnce(&mut BytesMut) -> Result<()>) -> Result<Bytes> {
    // Taken out: what runs within may write messages too. Without it (the thread ends), memory of
    // its own does as well.
    let mut room = LEFT.try_with(Cell::take).unwrap_or_default();
    if room.capacity() < LEAST {
        room = BytesMut::with_capacity(ROOM);
    }
    let outcome = write(&mut room);
    let bytes = room.split();
    if bytes.len() <= SMALL {
        // What is left of a large one would be held by small ones.
        let _ = LEFT.try_with(|left| left.set(room));
    }
    outcome.map(|()| bytes.freeze())
}

#[cfg(test)]
mod tests {
    use bytes::BufMut as _;
    use micro_core::Error;

    use super::*;

    fn put(fill: u8, len: usize) -> Result<Bytes> {
        written(|out| {
            out.put_bytes(fill, len);
            Ok(())
        })
    }

    #[test]
    fn small_messages_lie_side_by_side_and_large_ones_do_not() {
        let first = put(1, 100).unwrap();
        let second = put(2, 100).unwrap();
        assert_eq!(second.as_ptr(), first.as_ptr().wrapping_add(100));
        let large = put(3, 100_000).unwrap();
        let third = put(4, 100).unwrap();
        assert_eq!((&first[..], &second[..]), (&[1; 100][..], &[2; 100][..]));
        assert_eq!((&large[..], &third[..]), (&[3; 100_000][..], &[4; 100][..]));
    }

    #[test]
    fn one_within_another_and_one_that_fails_disturb_nothing() {
        let outer = written(|out| {
            out.put_bytes(1, 10);
            let inner = put(2, 10)?;
            assert_eq!(inner, [2; 10][..]);
            out.put_bytes(3, 10);
            Ok(())
        });
        assert_eq!(outer.unwrap(), [[1; 10], [3; 10]].concat()[..]);
        let failed = written(|out| {
            out.put_bytes(4, 10);
            Err(Error::internal("as the test asked"))
        });
        assert!(failed.is_err());
        assert_eq!(put(5, 10).unwrap(), [5; 10][..]);
    }
}
