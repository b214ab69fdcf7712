//! `Duration` and `SystemTime` as protobuf's well-known messages.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use micro_codec_core::{Error, FieldKind, FieldLabel, Result, Schema};

use super::{
    Field, Message, Reader, Value, message_field_encode, message_field_len, message_field_merge,
};

const NANOS_PER_SEC: i32 = 1_000_000_000;

/// The most that a `google.protobuf.Duration` holds: about ten thousand years. A longer one, such
/// as `Duration::MAX` for "never", is sent as this.
const MAX_DURATION: Duration = Duration::from_secs(315_576_000_000);

/// The encoded descriptor set of `google/protobuf/duration.proto`.
const DURATION: &[u8] = b"\x0au\x0a\x1egoogle/protobuf/duration.proto\x12\x0fgoogle.protobuf\x22\
    :\x0a\x08Duration\x12\x18\x0a\x07seconds\x18\x01 \x01(\x03R\x07seconds\x12\x14\x0a\x05nanos\
    \x18\x02 \x01(\x05R\x05nanosb\x06proto3";

/// The encoded descriptor set of `google/protobuf/timestamp.proto`.
const TIMESTAMP: &[u8] = b"\x0aw\x0a\x1fgoogle/protobuf/timestamp.proto\x12\x0fgoogle.protobuf\x22\
    ;\x0a\x09Timestamp\x12\x18\x0a\x07seconds\x18\x01 \x01(\x03R\x07seconds\x12\x14\x0a\x05nanos\
    \x18\x02 \x01(\x05R\x05nanosb\x06proto3";

/// What both messages are made of.
#[derive(Clone, Copy)]
struct Parts {
    seconds: i64,
    nanos: i32,
}

impl Message for Parts {
    fn empty() -> Self {
        Self {
            seconds: 0,
            nanos: 0,
        }
    }

    fn schema() -> Schema {
        duration_schema()
    }

    fn encoded_len(&self) -> usize {
        Field::encoded_len(&self.seconds, 1) + Field::encoded_len(&self.nanos, 2)
    }

    fn encode(&self, out: &mut BytesMut) {
        Field::encode(&self.seconds, 1, out);
        Field::encode(&self.nanos, 2, out);
    }

    fn merge_field(&mut self, tag: u32, from: Reader<'_>) -> Result<()> {
        match tag {
            1 => Field::merge(&mut self.seconds, from),
            2 => Field::merge(&mut self.nanos, from),
            _ => from.skip(tag),
        }
    }
}

fn duration_schema() -> Schema {
    Schema::File {
        set: DURATION,
        full_name: "google.protobuf.Duration",
    }
}

fn timestamp_schema() -> Schema {
    Schema::File {
        set: TIMESTAMP,
        full_name: "google.protobuf.Timestamp",
    }
}

impl From<&Duration> for Parts {
    fn from(value: &Duration) -> Self {
        let value = value.min(&MAX_DURATION);
        Self {
            seconds: value.as_secs() as i64,
            nanos: value.subsec_nanos() as i32,
        }
    }
}

impl TryFrom<Parts> for Duration {
    type Error = Error;

    fn try_from(parts: Parts) -> Result<Self> {
        let seconds = u64::try_from(parts.seconds);
        match (seconds, u32::try_from(parts.nanos)) {
            (Ok(seconds), Ok(nanos)) if parts.nanos < NANOS_PER_SEC => {
                Ok(Self::new(seconds, nanos))
            }
            _ => Err(Error::invalid_argument(
                "the google.protobuf.Duration is negative or has more than a second of nanoseconds",
            )),
        }
    }
}

impl From<&SystemTime> for Parts {
    fn from(value: &SystemTime) -> Self {
        match value.duration_since(UNIX_EPOCH) {
            Ok(after) => Self {
                seconds: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
                nanos: after.subsec_nanos() as i32,
            },
            Err(err) => {
                let before = err.duration();
                let seconds = i64::try_from(before.as_secs()).map_or(i64::MIN, |secs| -secs);
                match before.subsec_nanos() as i32 {
                    0 => Self { seconds, nanos: 0 },
                    // Nanoseconds count forward, also before 1970.
                    nanos => Self {
                        seconds: seconds.saturating_sub(1),
                        nanos: NANOS_PER_SEC - nanos,
                    },
                }
            }
        }
    }
}

impl TryFrom<Parts> for SystemTime {
    type Error = Error;

    fn try_from(parts: Parts) -> Result<Self> {
        let seconds = Duration::from_secs(parts.seconds.unsigned_abs());
        let whole = match parts.seconds < 0 {
            true => UNIX_EPOCH.checked_sub(seconds),
            false => UNIX_EPOCH.checked_add(seconds),
        };
        u64::try_from(parts.nanos)
            .ok()
            .filter(|_| parts.nanos < NANOS_PER_SEC)
            .and_then(|nanos| whole?.checked_add(Duration::from_nanos(nanos)))
            .ok_or_else(|| Error::invalid_argument("the google.protobuf.Timestamp is out of range"))
    }
}

macro_rules! well_known {
    ($type:ty, $schema:ident, $empty:expr) => {
        impl Value for $type {
            fn kind() -> FieldKind {
                FieldKind::Message($schema)
            }
            fn empty() -> Self {
                $empty
            }
            fn is_empty(&self) -> bool {
                Parts::from(self).encoded_len() == 0
            }
            fn encoded_len(&self, tag: u32) -> usize {
                message_field_len(&Parts::from(self), tag)
            }
            fn encode(&self, tag: u32, out: &mut BytesMut) {
                message_field_encode(&Parts::from(self), tag, out);
            }
            fn merge(&mut self, from: Reader<'_>) -> Result<bool> {
                let mut parts = Parts::from(&*self);
                message_field_merge(&mut parts, from)?;
                *self = parts.try_into()?;
                Ok(true)
            }
        }

        impl Field for $type {
            fn label() -> FieldLabel {
                FieldLabel::Implicit
            }
            fn kind() -> FieldKind {
                <Self as Value>::kind()
            }
            fn encoded_len(&self, tag: u32) -> usize {
                Value::encoded_len(self, tag)
            }
            fn encode(&self, tag: u32, out: &mut BytesMut) {
                Value::encode(self, tag, out);
            }
            fn merge(&mut self, from: Reader<'_>) -> Result<()> {
                Value::merge(self, from).map(drop)
            }
        }
    };
}

well_known!(Duration, duration_schema, Self::ZERO);
well_known!(SystemTime, timestamp_schema, UNIX_EPOCH);

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    #[test]
    fn times_before_and_after_1970_come_back() {
        for (seconds, nanos) in [
            (0, 0),
            (1, 1),
            (-1, 999_999_999),
            (-5, 0),
            (253_402_300_799, 7),
        ] {
            let time = SystemTime::try_from(Parts { seconds, nanos }).unwrap();
            let parts = Parts::from(&time);
            assert_eq!((parts.seconds, parts.nanos), (seconds, nanos));
        }
        for (seconds, nanos) in [(0, -1), (0, NANOS_PER_SEC), (i64::MAX, 0), (i64::MIN, 0)] {
            // Whether the farthest seconds fit depends on the system; none may panic.
            let time = SystemTime::try_from(Parts { seconds, nanos });
            assert!(time.is_err() || nanos == 0);
        }
    }

    #[test]
    fn a_duration_is_not_negative_and_not_endless() {
        assert!(
            Duration::try_from(Parts {
                seconds: -1,
                nanos: 0
            })
            .is_err()
        );
        assert!(
            Duration::try_from(Parts {
                seconds: 0,
                nanos: -1
            })
            .is_err()
        );
        assert_eq!(Parts::from(&Duration::MAX).seconds, 315_576_000_000);
    }

    #[test]
    fn the_descriptors_are_those_of_protobuf() {
        for (set, name) in [(DURATION, "Duration"), (TIMESTAMP, "Timestamp")] {
            let set = FileDescriptorSet::decode(set).unwrap();
            let message = &set.file[0].message_type[0];
            assert_eq!(message.name(), name);
            let fields: Vec<_> = message
                .field
                .iter()
                .map(|f| (f.name(), f.number()))
                .collect();
            assert_eq!(fields, [("seconds", 1), ("nanos", 2)]);
        }
    }
}
