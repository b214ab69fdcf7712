//! What the histories come to.

use std::collections::BTreeMap;
use std::time::Duration;

use micro_testing::locks::{Operation, Seen, check};

use super::read;
use super::resource::Event;
use crate::Result;
use crate::report::Report;

/// What a child has said: an event, or something else.
pub(super) fn event(line: &str) -> Result<Option<Event>> {
    let words: Vec<&str> = line.split(' ').collect();
    let &[what, name, token, called, returned] = words.as_slice() else {
        return Ok(None);
    };
    let token = read(token)?;
    let seen = match what {
        "acquired" => Seen::Acquired(token),
        "verified" => Seen::Verified(token),
        "released" => Seen::Released(token),
        _ => return Err(format!("a child said '{line}'").into()),
    };
    let micros = |text: &str| text.parse().map(Duration::from_micros);
    let operation = Operation::new(seen, micros(called)?, micros(returned)?);
    Ok(Some((name.to_owned(), operation)))
}

/// Judges the history of every lock, and reports it.
pub(super) fn judge(events: Vec<Event>, campaign: &str, report: &mut Report) {
    let mut by_lock: BTreeMap<String, Vec<Operation>> = BTreeMap::new();
    for (name, operation) in events {
        by_lock.entry(name).or_default().push(operation);
    }
    let (mut acquired, mut wrote, mut refused) = (0, 0, 0);
    let (mut tokens_back, mut writes_back, mut impossible) = (0, 0, 0);
    for (name, history) in &by_lock {
        let mut by_end = history.clone();
        by_end.sort_by_key(|operation| operation.returned);
        let tokens = |pick: fn(Seen) -> Option<micro_core::FencingToken>| -> Vec<_> {
            by_end
                .iter()
                .filter_map(|operation| pick(operation.seen))
                .collect()
        };
        let given = tokens(|seen| match seen {
            Seen::Acquired(token) => Some(token),
            _ => None,
        });
        let written = tokens(|seen| match seen {
            Seen::Wrote(token) => Some(token),
            _ => None,
        });
        acquired += given.len();
        wrote += written.len();
        refused += history
            .iter()
            .filter(|operation| matches!(operation.seen, Seen::Refused(_)))
            .count();
        let back = |tokens: &[_]| tokens.windows(2).filter(|pair| pair[1] < pair[0]).count();
        // Who was stopped between the answer and its saying says it late: only the order tells.
        let mut given_by_question = history.clone();
        given_by_question.sort_by_key(|operation| operation.called);
        tokens_back += overtaken(&given_by_question);
        writes_back += back(&written);
        if let Err(violation) = check(history) {
            eprintln!("  {name}: {violation}");
            impossible += 1;
        }
    }
    report.figure(format!("{campaign}_acquired"), acquired as f64, "locks");
    report.figure(format!("{campaign}_writes"), wrote as f64, "writes");
    report.figure(
        format!("{campaign}_refused_writes"),
        refused as f64,
        "writes",
    );
    let mut none = |what: &str, count: usize, unit| {
        report.at_most(format!("{campaign}_{what}"), count as f64, unit, 0.0);
    };
    none("token_order_violations", tokens_back, "tokens");
    none("fenced_write_violations", writes_back, "writes");
    none("impossible_histories", impossible, "histories");
}

/// How many tokens were asked for after a greater one was had.
fn overtaken(by_question: &[Operation]) -> usize {
    let acquired: Vec<_> = by_question
        .iter()
        .filter_map(|operation| match operation.seen {
            Seen::Acquired(token) => Some((token, operation.called, operation.returned)),
            _ => None,
        })
        .collect();
    let mut ended = acquired.clone();
    ended.sort_by_key(|(_, _, returned)| *returned);
    let mut ended = ended.into_iter().peekable();
    let mut highest = None;
    let mut count = 0;
    for (token, called, _) in acquired {
        while let Some((before, _, _)) = ended.next_if(|(_, _, returned)| *returned < Some(called))
        {
            highest = highest.max(Some(before));
        }
        count += usize::from(Some(token) <= highest);
    }
    count
}

#[cfg(test)]
mod tests {
    use micro_core::FencingToken;

    use super::*;

    #[test]
    fn violations_are_counted() {
        let at = Duration::from_millis;
        let op = |seen: fn(FencingToken) -> Seen, seq, called, returned| {
            let seen = seen(FencingToken::new(0, seq));
            (
                "a".to_owned(),
                Operation::new(seen, at(called), at(returned)),
            )
        };
        let judged = |events: Vec<Event>| {
            let mut report = Report::new("sync", 1);
            judge(events, "t", &mut report);
            report.short()
        };
        let good = vec![
            op(Seen::Acquired, 1, 0, 5),
            op(Seen::Wrote, 1, 6, 7),
            op(Seen::Acquired, 2, 1, 9),
            op(Seen::Wrote, 2, 10, 11),
            op(Seen::Refused, 1, 12, 13),
        ];
        assert_eq!(judged(good.clone()), 0);
        let mut bad = good.clone();
        bad.push(op(Seen::Acquired, 1, 14, 15));
        assert_eq!(judged(bad), 2, "the order, and the history");
        let mut bad = good;
        bad.push(op(Seen::Wrote, 1, 14, 15));
        assert_eq!(judged(bad), 2, "the fence, and the history");
    }

    #[test]
    fn lines_are_read() {
        let (name, operation) = event("released books 3.17 5 9").unwrap().unwrap();
        assert_eq!(name, "books");
        assert_eq!(operation.seen, Seen::Released(FencingToken::new(3, 17)));
        assert_eq!(event("error Unavailable").unwrap(), None);
        assert!(event("jumped books 3.17 5 9").is_err());
    }
}
