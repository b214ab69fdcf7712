//! Where a test's chance begins.

use micro_core::{Random, SystemRandom};

/// Names the environment variable that overrides the seed of every cluster: a number, in decimal
/// or as `0x…`, or `random` for another one each time.
pub const SEED_VARIABLE: &str = "MICRO_TEST_SEED";

/// What a test that names no seed begins with: the same every time.
const DEFAULT: u64 = 1;

/// The seeds to run with: that of the environment alone, or else `count` from `first` on.
pub(crate) fn seeds(first: Option<u64>, count: u64) -> Result<Vec<u64>, String> {
    choose(std::env::var(SEED_VARIABLE).ok().as_deref(), first, count)
}

fn choose(variable: Option<&str>, first: Option<u64>, count: u64) -> Result<Vec<u64>, String> {
    match variable.map(str::trim) {
        None | Some("") => {
            let first = first.unwrap_or(DEFAULT);
            Ok((0..count.max(1)).map(|i| first.wrapping_add(i)).collect())
        }
        // Short enough to be typed again.
        Some("random") => Ok(vec![SystemRandom.next_u64() >> 32]),
        Some(text) => {
            let parsed = match text.strip_prefix("0x") {
                Some(hex) => u64::from_str_radix(hex, 16),
                None => text.parse(),
            };
            match parsed {
                Ok(seed) => Ok(vec![seed]),
                Err(_) => Err(format!(
                    "{SEED_VARIABLE} is a number or 'random', not '{}'",
                    text.escape_debug()
                )),
            }
        }
    }
}

/// A number between 0 and 1.
pub(crate) fn share(random: &dyn Random) -> f64 {
    (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_overrides_and_says_what_is_wrong() {
        assert_eq!(choose(None, None, 1), Ok(vec![1]));
        assert_eq!(choose(None, Some(7), 3), Ok(vec![7, 8, 9]));
        assert_eq!(choose(Some("0x1f"), Some(7), 3), Ok(vec![31]));
        assert_eq!(choose(Some(" 12 "), None, 3), Ok(vec![12]));
        assert_eq!(choose(Some("random"), None, 3).map(|s| s.len()), Ok(1));
        let wrong = choose(Some("seven\n"), None, 1).unwrap_err();
        assert!(wrong.contains("not 'seven'"), "{wrong}");
    }

    #[test]
    fn a_share_is_between_0_and_1() {
        let random = micro_core::SeededRandom::new(3);
        let mean = (0..1000).map(|_| share(&random)).sum::<f64>() / 1000.0;
        assert!((0.45..0.55).contains(&mean), "{mean}");
    }
}
