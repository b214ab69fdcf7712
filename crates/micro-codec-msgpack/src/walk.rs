//! Walks over a message before it is read.
//!
//! `rmp-serde` counts the depth of arrays and maps, but not of enums: `enum Tree { Leaf,
//! Node(Box<Tree>) }` nests in one-entry maps that it never counts, and 100,000 of them overflow
//! the stack. It does not look behind the value either. This walk needs no recursion, no memory
//! but one counter per level, and time linear in the number of values.

use micro_codec_core::{Error, Result};

/// How deep values may nest.
const MAX_DEPTH: usize = 128;

/// Checks that the bytes are one value of MessagePack, not too deep, and nothing else.
pub(crate) fn one_value(bytes: &[u8]) -> Result<()> {
    let mut rest = bytes;
    // How many values are still to come at each level.
    let mut open = [0_u64; MAX_DEPTH + 1];
    let mut depth = 0;
    open[0] = 1;
    loop {
        while open[depth] == 0 {
            if depth == 0 {
                return match rest.len() {
                    0 => Ok(()),
                    more => Err(Error::invalid_argument(
                        "there is more than one MessagePack value",
                    )
                    .with_context("bytes-behind", more)),
                };
            }
            depth -= 1;
        }
        open[depth] -= 1;
        let values = value(&mut rest)?;
        if values == 0 {
            continue;
        }
        // Every value takes a byte at least.
        if values > rest.len() as u64 {
            return Err(cut_short());
        }
        depth += 1;
        if depth > MAX_DEPTH {
            return Err(
                Error::invalid_argument("values nest too deep").with_context("limit", MAX_DEPTH)
            );
        }
        open[depth] = values;
    }
}

/// Passes over one value, but not what is inside it; returns how many values are.
fn value(rest: &mut &[u8]) -> Result<u64> {
    let [marker] = take(rest)?;
    let (skip, values) = match marker {
        // Numbers of one byte, nil, false, true.
        0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => (0, 0),
        0x80..=0x8f => (0, u64::from(marker & 0x0f) * 2),
        0x90..=0x9f => (0, u64::from(marker & 0x0f)),
        0xa0..=0xbf => (u64::from(marker & 0x1f), 0),
        // bin and str
        0xc4 | 0xd9 => (be(take::<1>(rest)?), 0),
        0xc5 | 0xda => (be(take::<2>(rest)?), 0),
        0xc6 | 0xdb => (be(take::<4>(rest)?), 0),
        // ext: a byte for the type
        0xc7 => (be(take::<1>(rest)?) + 1, 0),
        0xc8 => (be(take::<2>(rest)?) + 1, 0),
        0xc9 => (be(take::<4>(rest)?) + 1, 0),
        0xd4..=0xd8 => ((1 << (marker - 0xd4)) + 1, 0),
        // Numbers of 1, 2, 4 and 8 bytes.
        0xcc | 0xd0 => (1, 0),
        0xcd | 0xd1 => (2, 0),
        0xce | 0xd2 | 0xca => (4, 0),
        0xcf | 0xd3 | 0xcb => (8, 0),
        // array and map
        0xdc => (0, be(take::<2>(rest)?)),
        0xdd => (0, be(take::<4>(rest)?)),
        0xde => (0, be(take::<2>(rest)?) * 2),
        0xdf => (0, be(take::<4>(rest)?) * 2),
        0xc1 => {
            return Err(Error::invalid_argument(
                "the bytes are no MessagePack: it has no 0xc1",
            ));
        }
    };
    let skip = usize::try_from(skip).map_err(|_| cut_short())?;
    *rest = rest.get(skip..).ok_or_else(cut_short)?;
    Ok(values)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N]> {
    let (first, behind) = rest.split_first_chunk().ok_or_else(cut_short)?;
    *rest = behind;
    Ok(*first)
}

fn be<const N: usize>(bytes: [u8; N]) -> u64 {
    bytes
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn cut_short() -> Error {
    Error::invalid_argument("the MessagePack value is cut short")
}
