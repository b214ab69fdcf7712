//! Changes: what the script is given, and what it answers.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use micro_core::FencingToken;
use micro_redis::Script;
use micro_redis::redis::{Cmd, Value};
use micro_store_core::{
    Condition, Error, Operation, Record, Result, WriteOptions, check_condition, check_fence,
    expires_at,
};

use crate::envelope::{number, seal};
use crate::names::Names;

pub(crate) static CHANGE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("lua/prelude.lua"),
        include_str!("lua/change.lua")
    ))
});

/// Who makes changes: a handle, and which of its connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Maker<'a> {
    pub(crate) handle: &'a str,
    pub(crate) epoch: u64,
}

/// The invocation that makes these changes. They are of one database, and there is at least one.
pub(crate) fn invocation(names: &Names, maker: Maker<'_>, operations: &[Operation]) -> Cmd {
    let database = operations.first().map_or("", |one| one.scope().database());
    let writes = operations
        .iter()
        .any(|operation| matches!(operation, Operation::Write { .. }));
    let mut cmd = CHANGE.invocation();
    cmd.arg(1)
        .arg(names.version())
        .arg(names.root())
        .arg(database)
        .arg(maker.handle)
        .arg(maker.epoch)
        .arg(u8::from(writes));
    for operation in operations {
        let (kind, expiry, record) = match operation {
            Operation::Write {
                record, options, ..
            } => ("w", expiry(record, options), seal(record)),
            _ => ("d", String::new(), Vec::new()),
        };
        let condition = match operation.condition() {
            Condition::Absent => "absent".to_owned(),
            Condition::Version(version) => format!("{version:016}"),
            _ => String::new(),
        };
        let (fence, token) = match operation.fence() {
            Some(fence) => (&*fence.name, token(fence.token)),
            None => ("", String::new()),
        };
        cmd.arg(kind)
            .arg(operation.scope().table())
            .arg(operation.key())
            .arg(condition)
            .arg(fence)
            .arg(token)
            .arg(expiry)
            .arg(record);
    }
    cmd
}

/// As the script reads it: a time to live is counted by the server's clock.
fn expiry(record: &Record, opts: &WriteOptions) -> String {
    if let Some(ttl) = opts.ttl {
        return format!("in{}", ttl.as_nanos().div_ceil(1000));
    }
    let at = expires_at(record, opts, SystemTime::UNIX_EPOCH);
    at.map_or_else(String::new, |at| {
        let since: Duration = at
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        format!("at{}", since.as_millis())
    })
}

/// Tokens of equal length, so that they are in the order of their digits.
fn token(token: FencingToken) -> String {
    format!("{:020}{:020}", token.epoch, token.seq)
}

fn read_token(digits: &[u8]) -> Option<FencingToken> {
    let (epoch, seq) = digits.split_at_checked(20)?;
    Some(FencingToken::new(number(epoch).ok()?, number(seq).ok()?))
}

/// The versions: of a deletion, 0 if there was nothing.
pub(crate) fn answer(value: Value, operations: &[Operation]) -> Result<Vec<u64>> {
    // Whatever has answered so may have made the changes.
    let strange =
        || Error::outcome_unknown("Redis answers to a change in a form that it never should");
    let Value::Array(parts) = value else {
        return Err(strange());
    };
    let mut parts = parts.into_iter();
    let Some(Value::BulkString(how)) = parts.next() else {
        return Err(strange());
    };
    if how == b"done" {
        let versions: Option<Vec<u64>> = parts
            .map(|part| match part {
                Value::Int(version) => u64::try_from(version).ok(),
                _ => None,
            })
            .collect();
        return versions
            .filter(|versions| versions.len() == operations.len())
            .ok_or_else(strange);
    }
    if how == b"late" {
        return Err(Error::unavailable(
            "the change came over a connection that was given up, and was not made",
        ));
    }
    let (Some(Value::Int(at)), Some(Value::BulkString(seen))) = (parts.next(), parts.next()) else {
        return Err(strange());
    };
    let operation = usize::try_from(at).ok().and_then(|at| operations.get(at));
    let operation = operation.ok_or_else(strange)?;
    let refused = match (&*how, operation.fence()) {
        (b"fence", Some(fence)) => check_fence(fence, read_token(&seen)),
        (b"condition", _) => {
            // Damaged bytes have no version that anybody could have asked for.
            let there = (!seen.is_empty()).then(|| number(&seen).unwrap_or_default());
            check_condition(operation.condition(), operation.key(), there)
        }
        _ => return Err(strange()),
    };
    Err(refused.err().unwrap_or_else(strange))
}

#[cfg(test)]
mod tests {
    use micro_store_core::{ErrorKind, Scope};

    use super::*;

    #[test]
    fn s61_an_answer_in_no_form_leaves_the_outcome_open() {
        let scope = Scope::new("shop", "orders").unwrap();
        let operations = [Operation::write(&scope, Record::new("a", "1"))];
        let word = |word: &str| Value::BulkString(word.into());
        for value in [
            Value::Nil,
            Value::Okay,
            Value::Int(7),
            Value::Array(Vec::new()),
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![word("done")]),
            Value::Array(vec![word("done"), Value::Int(-1)]),
            Value::Array(vec![word("done"), Value::Int(1), Value::Int(2)]),
            Value::Array(vec![word("done"), word("1")]),
            Value::Array(vec![word("fence"), Value::Int(0), word("1")]),
            Value::Array(vec![word("condition"), Value::Int(9), word("1")]),
            Value::Array(vec![word("condition"), Value::Int(0), word("1")]),
            Value::Array(vec![word("elsewhere"), Value::Int(0), word("1")]),
        ] {
            let err = answer(value.clone(), &operations).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::OutcomeUnknown, "{value:?}: {err:?}");
        }
        let done = Value::Array(vec![word("done"), Value::Int(7)]);
        assert_eq!(answer(done, &operations).unwrap(), [7]);
    }

    #[test]
    fn tokens_are_in_the_order_of_their_text() {
        let mut all: Vec<FencingToken> = [(0, 0), (0, 9), (0, 10), (1, 0), (1, u64::MAX), (9, 1)]
            .map(|(epoch, seq)| FencingToken::new(epoch, seq))
            .into();
        all.push(FencingToken::new(u64::MAX, u64::MAX));
        let texts: Vec<String> = all.iter().copied().map(token).collect();
        assert!(texts.is_sorted());
        for (expected, text) in all.iter().zip(&texts) {
            assert_eq!(read_token(text.as_bytes()), Some(*expected));
        }
    }
}
