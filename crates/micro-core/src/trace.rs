//! The trace that a call belongs to.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Random};

/// The trace that a call belongs to, as in W3C Trace Context level 1 (`traceparent`).
///
/// ```
/// use micro_core::TraceContext;
///
/// let trace: TraceContext = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse()?;
/// assert!(trace.is_sampled());
/// assert_eq!(trace.to_string(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
/// # Ok::<(), micro_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TraceContext {
    /// The trace, not zero.
    pub trace_id: u128,
    /// The caller's span, not zero.
    pub span_id: u64,
    /// The flags; bit 0 says that the caller samples.
    pub flags: u8,
}

impl TraceContext {
    /// The metadata name that carries it.
    pub const HEADER: &'static str = "traceparent";

    /// A new trace with a new span.
    #[must_use]
    pub fn root(random: &dyn Random) -> Self {
        Self {
            trace_id: u128::from(random.next_u64()) << 64 | u128::from(random.next_u64() | 1),
            span_id: random.next_u64() | 1,
            flags: 0,
        }
    }

    /// A new span in the same trace: what a hop sends on.
    #[must_use]
    pub fn child(self, random: &dyn Random) -> Self {
        Self {
            span_id: random.next_u64() | 1,
            ..self
        }
    }

    /// Sets or clears the sampled flag.
    #[must_use]
    pub fn with_sampled(mut self, sampled: bool) -> Self {
        self.flags = self.flags & !1 | u8::from(sampled);
        self
    }

    /// Whether the caller samples the trace.
    #[must_use]
    pub const fn is_sampled(self) -> bool {
        self.flags & 1 == 1
    }

    /// The value of the `traceparent` header, without allocating.
    #[must_use]
    pub fn encode(self) -> [u8; 55] {
        let mut out = *b"00-00000000000000000000000000000000-0000000000000000-00";
        hex(&mut out[3..35], self.trace_id);
        hex(&mut out[36..52], u128::from(self.span_id));
        hex(&mut out[53..55], u128::from(self.flags));
        out
    }
}

fn hex(out: &mut [u8], mut value: u128) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 0xf) as usize];
        value >>= 4;
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.encode()).expect("hexadecimal digits are ASCII"))
    }
}

impl FromStr for TraceContext {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).ok_or_else(|| {
            Error::invalid_argument("not a W3C traceparent: 00-<32 hex>-<16 hex>-<2 hex>")
        })
    }
}

/// What a lower-case hexadecimal digit stands for; 0xff for any other byte.
const DIGITS: [u8; 256] = {
    let mut digits = [0xff; 256];
    let mut value = 0;
    while value < 16 {
        digits[b"0123456789abcdef"[value as usize] as usize] = value;
        value += 1;
    }
    digits
};

/// Up to 16 digits, read in one pass: this is done for every call that comes in.
fn number(digits: &[u8]) -> Option<u64> {
    let mut value = 0;
    let mut all = 0;
    for digit in digits {
        let digit = DIGITS[usize::from(*digit)];
        all |= digit;
        value = value << 4 | u64::from(digit & 0xf);
    }
    (all < 16).then_some(value)
}

fn parse(text: &str) -> Option<TraceContext> {
    let bytes = text.as_bytes();
    // Later versions may append fields, and must keep these (W3C Trace Context §4.3).
    let long_enough =
        bytes.len() == 55 || bytes.len() > 55 && !text.starts_with("00") && bytes[55] == b'-';
    if !long_enough || bytes[2] != b'-' || bytes[35] != b'-' || bytes[52] != b'-' {
        return None;
    }
    if number(&bytes[..2])? == 0xff {
        return None;
    }
    let trace = TraceContext {
        trace_id: u128::from(number(&bytes[3..19])?) << 64 | u128::from(number(&bytes[19..35])?),
        span_id: number(&bytes[36..52])?,
        flags: u8::try_from(number(&bytes[53..55])?).ok()?,
    };
    (trace.trace_id != 0 && trace.span_id != 0).then_some(trace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SeededRandom;

    #[test]
    fn round_trips() {
        let random = SeededRandom::new(1);
        let root = TraceContext::root(&random).with_sampled(true);
        let child = root.child(&random);
        assert_eq!(child.trace_id, root.trace_id);
        assert_ne!(child.span_id, root.span_id);
        assert_eq!(child.to_string().parse::<TraceContext>().unwrap(), child);
    }

    #[test]
    fn bad_ones_are_refused() {
        for text in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319é-b7ad6b7169203331-01",
        ] {
            assert!(text.parse::<TraceContext>().is_err(), "{text}");
        }
        assert!(
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more"
                .parse::<TraceContext>()
                .is_ok()
        );
    }
}
