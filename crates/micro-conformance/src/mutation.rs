//! Foreign bytes for a parser: good ones, changed at random.

use micro_core::{Clock as _, Random as _, SeededRandom, SystemClock, SystemRandom};

/// So many inputs are tried if nobody says for how long.
const ROUNDS: usize = 5000;

/// What breaks parsers of text more often than bytes do.
const TOKENS: &[&[u8]] = &[
    b"null",
    b"{}",
    b"[]",
    b"\"",
    b"\\",
    b",",
    b"-1",
    b"0",
    b"65536",
    b"1e999",
    b"\\u0000",
    b"\\ud800",
    b"\r\n",
    b"\0",
    b"\xff\xfe",
    b"[[[[[[[[",
    b"../",
    b"::",
    b"\xe2\x80\xae",
];

/// Gives `parse` each of the `good` inputs, and then changes of them: bytes flipped, cut, doubled
/// and put in, and two inputs joined.
///
/// `parse` asserts what holds for any bytes; that it does not panic is the least. The seed is
/// printed, and `MICRO_FUZZ_SEED` replays it; `MICRO_FUZZ_SECONDS` goes on for so long, else it is
/// some thousand inputs.
///
/// # Panics
///
/// If `parse` does, or there is no good input.
///
/// ```
/// micro_conformance::mutation::run(&[b"1.2", b"-7"], |bytes| {
///     let text = String::from_utf8_lossy(bytes);
///     assert!(text.parse::<f64>().is_ok() || text.parse::<u8>().is_err());
/// });
/// ```
#[expect(clippy::print_stdout, reason = "a failure is replayed from its seed")]
pub fn run(good: &[&[u8]], mut parse: impl FnMut(&[u8])) {
    assert!(!good.is_empty(), "there is no good input");
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed: u64 = number("MICRO_FUZZ_SEED").unwrap_or_else(|| SystemRandom.next_u64());
    println!("MICRO_FUZZ_SEED={seed}");
    let until = number("MICRO_FUZZ_SECONDS")
        .map(|seconds| SystemClock.now() + std::time::Duration::from_secs(seconds));
    let random = SeededRandom::new(seed);
    for input in good {
        parse(input);
    }
    let mut round = 0;
    loop {
        round += 1;
        let over = match until {
            Some(until) => SystemClock.now() >= until,
            None => round > ROUNDS,
        };
        if over {
            return;
        }
        parse(&changed(good, &random));
    }
}

fn changed(good: &[&[u8]], random: &SeededRandom) -> Vec<u8> {
    let below = |n: usize| (random.next_u64() % n.max(1) as u64) as usize;
    let mut bytes = good[below(good.len())].to_vec();
    for _ in 0..=below(4) {
        let at = below(bytes.len() + 1);
        let end = (at + 1 + below(16)).min(bytes.len());
        match below(7) {
            0 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << below(8);
                }
            }
            1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = below(256) as u8;
                }
            }
            2 => drop(bytes.drain(at..end)),
            3 => {
                let part = bytes[at..end].to_vec();
                for _ in 0..=below(3) {
                    bytes.splice(at..at, part.iter().copied());
                }
            }
            4 => {
                let token = TOKENS[below(TOKENS.len())];
                bytes.splice(at..at, token.iter().copied());
            }
            5 => {
                let other = good[below(good.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[below(other.len() + 1)..]);
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}
