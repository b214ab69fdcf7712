//! What a server says about calling again.

use std::time::Duration;

use micro_core::{Detail, Error};

const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";
const ERROR_INFO: &str = "type.googleapis.com/google.rpc.ErrorInfo";

/// The `ErrorInfo.reason` that says that a hop further down has repeated the call already.
const RETRIED: &str = "RETRIED";

/// What an error says about making the call again; it travels with the error.
///
/// The delay is a `google.rpc.RetryInfo` detail (`google/rpc/error_details.proto`). A transport
/// hands over its own form of it, as gRPC's `grpc-retry-pushback-ms` (gRFC A6), in the same way; a
/// pushback that forbids another attempt makes the error not retryable.
///
/// ```
/// use std::time::Duration;
/// use micro_transport_core::{Error, ErrorExt as _};
///
/// let err = Error::resource_exhausted("too many calls").with_retry_after(Duration::from_millis(500));
/// assert_eq!(err.retry_after(), Some(Duration::from_millis(500)));
/// ```
pub trait ErrorExt: Sized {
    /// Asks callers to wait so long before another attempt. The first delay that was asked counts.
    #[must_use]
    fn with_retry_after(self, delay: Duration) -> Self;

    /// How long the server asks to wait, if it says so. A negative delay, which nobody can wait
    /// for, counts as none.
    fn retry_after(&self) -> Option<Duration>;

    /// Says that the call has been repeated already, or would have been if the budget had allowed,
    /// so that callers further up do not multiply the attempts.
    #[must_use]
    fn with_retried(self) -> Self;

    /// Whether a hop further down has repeated the call already.
    fn was_retried(&self) -> bool;
}

impl ErrorExt for Error {
    fn with_retry_after(self, delay: Duration) -> Self {
        let mut duration = Vec::with_capacity(16);
        field(&mut duration, 1, delay.as_secs());
        field(&mut duration, 2, u64::from(delay.subsec_nanos()));
        // An empty duration is a delay of zero.
        let mut info = Vec::with_capacity(18);
        bytes_field(&mut info, 1, &duration);
        self.with_detail(Detail::new(RETRY_INFO, info))
    }

    fn retry_after(&self) -> Option<Duration> {
        let detail = self.details().iter().find(|d| named(d, RETRY_INFO))?;
        let mut delay = None;
        read(&detail.value, |number, value| {
            if let (1, Value::Bytes(bytes)) = (number, value) {
                delay = Some(bytes);
            }
        })?;
        let (mut seconds, mut nanos) = (0_i64, 0_i32);
        read(delay?, |number, value| match (number, value) {
            (1, Value::Number(value)) => seconds = value.cast_signed(),
            // An int32 is sign-extended to 64 bits on the wire.
            (2, Value::Number(value)) => nanos = value.cast_signed() as i32,
            _ => {}
        })?;
        let (seconds, nanos) = (u64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?);
        (nanos < 1_000_000_000).then(|| Duration::new(seconds, nanos))
    }

    fn with_retried(self) -> Self {
        if self.was_retried() {
            return self;
        }
        let mut info = Vec::with_capacity(16);
        bytes_field(&mut info, 1, RETRIED.as_bytes());
        bytes_field(&mut info, 2, Self::DOMAIN.as_bytes());
        self.with_detail(Detail::new(ERROR_INFO, info))
    }

    fn was_retried(&self) -> bool {
        self.details().iter().any(|detail| {
            let (mut reason, mut domain) = (false, false);
            named(detail, ERROR_INFO)
                && read(&detail.value, |number, value| match (number, value) {
                    (1, Value::Bytes(bytes)) => reason = bytes == RETRIED.as_bytes(),
                    (2, Value::Bytes(bytes)) => domain = bytes == Self::DOMAIN.as_bytes(),
                    _ => {}
                })
                .is_some()
                && reason
                && domain
        })
    }
}

/// The host of a type URL is free; the name after it decides.
fn named(detail: &Detail, type_url: &str) -> bool {
    detail.type_url.rsplit('/').next() == type_url.rsplit('/').next()
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn field(out: &mut Vec<u8>, number: u8, value: u64) {
    if value > 0 {
        out.push(number << 3);
        varint(out, value);
    }
}

fn bytes_field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Reads the fields of a protobuf message; `None` if it is none.
fn read<'a>(mut from: &'a [u8], mut each: impl FnMut(u64, Value<'a>)) -> Option<()> {
    fn number(from: &mut &[u8]) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (first, rest) = from.split_first()?;
            *from = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
    while !from.is_empty() {
        let key = number(&mut from)?;
        let value = match key & 7 {
            0 => Value::Number(number(&mut from)?),
            2 => {
                let length = usize::try_from(number(&mut from)?).ok()?;
                let (bytes, rest) = from.split_at_checked(length)?;
                from = rest;
                Value::Bytes(bytes)
            }
            wire @ (1 | 5) => {
                let (_, rest) = from.split_at_checked(if wire == 1 { 8 } else { 4 })?;
                from = rest;
                continue;
            }
            _ => return None,
        };
        each(key >> 3, value);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_comes_back_as_it_was() {
        for delay in [
            Duration::ZERO,
            Duration::from_millis(500),
            Duration::new(3_000_000, 999_999_999),
        ] {
            let err = Error::unavailable("later").with_retry_after(delay);
            assert_eq!(err.retry_after(), Some(delay));
        }
        // As protobuf's own encoders write {seconds: 1, nanos: 500000000}.
        let theirs = [0x0a, 0x08, 0x08, 0x01, 0x10, 0x80, 0xca, 0xb5, 0xee, 0x01];
        let ours = Error::unavailable("").with_retry_after(Duration::from_millis(1500));
        assert_eq!(&*ours.details()[0].value, theirs);
    }

    #[test]
    fn what_is_no_delay_is_none() {
        let negative = [
            0x0a, 0x0b, 0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
        ];
        for bytes in [&b""[..], b"\xff", b"\x0a\x05\x08", b"\x0a\x7f", &negative] {
            let detail = Detail::new(RETRY_INFO, bytes.to_vec());
            let err = Error::unavailable("later").with_detail(detail);
            assert_eq!(err.retry_after(), None, "{bytes:?}");
        }
        assert_eq!(Error::unavailable("later").retry_after(), None);
    }

    #[test]
    fn a_mark_is_seen_and_set_once() {
        let err = Error::unavailable("down");
        assert!(!err.was_retried());
        let err = err.with_retried().with_retried();
        assert!(err.was_retried());
        assert_eq!(err.details().len(), 1);
        let foreign = Detail::new(ERROR_INFO, b"\x0a\x07RETRIED\x12\x01x".to_vec());
        assert!(
            !Error::unavailable("down")
                .with_detail(foreign)
                .was_retried()
        );
    }
}
