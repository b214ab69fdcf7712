//! Checks what was seen of a lock: whether it can have been one lock, with tokens that only grow.
//!
//! Clients record what they asked for and what they were told, each with its time, and [`check`] looks
//! for an order in which everything happened at one moment between question and answer, and every
//! answer is right. If there is none, the lock was held twice, a token went back, or a write came
//! through that should have been refused.
//!
//! ```
//! use std::time::Duration;
//! use micro_core::FencingToken;
//! use micro_testing::locks::{Operation, Seen, check};
//!
//! let at = Duration::from_millis;
//! let token = |seq| FencingToken::new(0, seq);
//! let mut history = vec![
//!     Operation::new(Seen::Acquired(token(1)), at(0), at(5)),
//!     Operation::new(Seen::Released(token(1)), at(20), at(25)),
//!     Operation::new(Seen::Acquired(token(2)), at(10), at(22)), // while it was released: good
//! ];
//! assert!(check(&history).is_ok());
//!
//! history[2] = Operation::new(Seen::Acquired(token(2)), at(10), at(15)); // before it was
//! assert!(check(&history).is_err());
//! ```

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use micro_core::FencingToken;

/// An order is looked for in at most so many ways.
const STEPS: usize = 5_000_000;

/// What a client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Seen {
    /// It had the lock, with this token.
    Acquired(FencingToken),
    /// The backend said that the lock is still its own.
    Verified(FencingToken),
    /// It let go, and the backend has confirmed it.
    Released(FencingToken),
    /// A write that was fenced by the token took place.
    Wrote(FencingToken),
    /// A write that was fenced by the token was refused, since a later one was seen.
    Refused(FencingToken),
}

/// Something that a client did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Operation {
    /// What it was told.
    pub seen: Seen,
    /// When it asked, on a clock that all clients share.
    pub called: Duration,
    /// When it was answered. `None` if that is not known: then it may have happened at any time since, or
    /// never.
    pub returned: Option<Duration>,
}

impl Operation {
    /// Something that was answered.
    #[must_use]
    pub fn new(seen: Seen, called: Duration, returned: Duration) -> Self {
        Self {
            seen,
            called,
            returned: Some(returned),
        }
    }

    /// Something of which nobody knows whether it has happened.
    #[must_use]
    pub fn unanswered(seen: Seen, called: Duration) -> Self {
        Self {
            seen,
            called,
            returned: None,
        }
    }
}

/// Why a history cannot be that of one lock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// There is no order in which every answer is right.
    NoOrder {
        /// How many operations can be put in order.
        placed: usize,
        /// The ones of which none can come next.
        stuck: Vec<Operation>,
    },
    /// There are too many orders to look at all of them.
    Undecided,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoOrder { placed, stuck } => {
                write!(f, "after {placed} operations none of these can come next:")?;
                for Operation {
                    seen,
                    called,
                    returned,
                } in stuck
                {
                    write!(f, "\n  {seen:?}, asked at {called:?}")?;
                    if let Some(returned) = returned {
                        write!(f, ", answered at {returned:?}")?;
                    }
                }
                Ok(())
            }
            Self::Undecided => f.write_str("there are too many orders to look at all of them"),
        }
    }
}

impl std::error::Error for Violation {}

/// Checks the history of one lock; operations may stand in any order.
///
/// Each acquisition has a token greater than all before, and follows the end of the holding before it. Such
/// an end is the release; only a holder that is not known to have released may instead have been
/// expired by the backend, at any time. An acquisition that nobody was told of may be left out.
///
/// The search is that of Wing and Gong ("Testing and verifying concurrent objects", 1993) with Lowe's
/// memory of states already seen ("Testing for linearizability", 2017).
///
/// # Errors
///
/// Why it cannot be the history of one lock.
pub fn check(history: &[Operation]) -> Result<(), Violation> {
    Search::new(history).run()
}

/// What a lock and what it fences know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    holder: Option<FencingToken>,
    /// The newest token that was given.
    newest: Option<FencingToken>,
    /// The newest token that has written.
    written: Option<FencingToken>,
}

/// A step of the lock: what was seen, or what the backend does by itself.
#[derive(Clone, Copy, Debug)]
enum Step {
    Seen(Seen),
    Expired(FencingToken),
}

impl State {
    /// What comes of a step; `None` if it cannot be.
    fn after(self, step: Step) -> Option<Self> {
        let of = |good: bool, next: Self| good.then_some(next);
        match step {
            Step::Seen(Seen::Acquired(token)) => of(
                self.holder.is_none() && self.newest < Some(token),
                Self {
                    holder: Some(token),
                    newest: Some(token),
                    ..self
                },
            ),
            Step::Seen(Seen::Verified(token)) => of(self.holder == Some(token), self),
            Step::Seen(Seen::Released(token)) | Step::Expired(token) => of(
                self.holder == Some(token),
                Self {
                    holder: None,
                    ..self
                },
            ),
            Step::Seen(Seen::Wrote(token)) => of(
                self.written <= Some(token),
                Self {
                    written: Some(token),
                    ..self
                },
            ),
            Step::Seen(Seen::Refused(token)) => of(self.written > Some(token), self),
        }
    }
}

/// What is put in order, with the span in which it happened.
#[derive(Clone, Copy, Debug)]
struct Item<'a> {
    step: Step,
    called: Duration,
    /// `Duration::MAX` if it need not happen at all.
    returned: Duration,
    from: Option<&'a Operation>,
}

struct Search<'a> {
    /// In the order in which they were asked.
    items: Vec<Item<'a>>,
    /// How many of them must happen.
    needed: usize,
}

/// Which items were placed.
type Placed = Box<[u64]>;

/// A choice that can be taken back: the item, and the state before it.
type Choice = (usize, State);

impl<'a> Search<'a> {
    fn new(history: &'a [Operation]) -> Self {
        let mut items: Vec<Item<'a>> = history
            .iter()
            .map(|operation| Item {
                step: Step::Seen(operation.seen),
                called: operation.called,
                returned: operation.returned.unwrap_or(Duration::MAX),
                from: Some(operation),
            })
            .collect();
        let needed = history
            .iter()
            .filter(|operation| operation.returned.is_some())
            .count();
        let mut open = HashMap::new();
        for operation in history {
            if let Seen::Acquired(token) = operation.seen {
                open.insert(token, operation.called);
            }
        }
        for operation in history {
            if let (Seen::Released(token), Some(_)) = (operation.seen, operation.returned) {
                open.remove(&token);
            }
        }
        items.extend(open.into_iter().map(|(token, called)| Item {
            step: Step::Expired(token),
            called,
            returned: Duration::MAX,
            from: None,
        }));
        items.sort_by_key(|item| item.called);
        Self { items, needed }
    }

    fn run(&self) -> Result<(), Violation> {
        let words = self.items.len().div_ceil(64);
        let mut placed: Placed = vec![0; words].into();
        let mut seen: HashSet<(Placed, State)> = HashSet::new();
        let mut choices: Vec<Choice> = Vec::new();
        let mut state = State::default();
        let mut done = 0;
        let mut best = (0, Vec::new());
        // Everything before this was placed.
        let mut first = 0;
        let mut next = 0;
        for _ in 0..STEPS {
            if done == self.needed {
                return Ok(());
            }
            while self.items.get(first).is_some() && has(&placed, first) {
                first += 1;
            }
            let chosen = self.choose(next.max(first), first, &placed, state, &mut seen);
            if let Some((item, after)) = chosen {
                choices.push((item, state));
                set(&mut placed, item, true);
                done += usize::from(self.is_needed(item));
                (state, next) = (after, 0);
                continue;
            }
            if next <= first && choices.len() >= best.0 {
                best = (choices.len(), self.candidates(first, &placed));
            }
            let Some((item, before)) = choices.pop() else {
                let (placed, stuck) = best;
                return Err(Violation::NoOrder { placed, stuck });
            };
            set(&mut placed, item, false);
            done -= usize::from(self.is_needed(item));
            first = first.min(item);
            (state, next) = (before, item + 1);
        }
        Err(Violation::Undecided)
    }

    fn is_needed(&self, item: usize) -> bool {
        self.items[item].returned < Duration::MAX
    }

    /// Those that may come next, whatever the state: all that were asked before any that is left was
    /// answered.
    fn left<'s>(&'s self, first: usize, placed: &'s Placed) -> impl Iterator<Item = usize> + 's {
        let open = move |item: &usize| !has(placed, *item);
        let mut earliest = Duration::MAX;
        (first..self.items.len())
            .filter(open)
            .take_while(move |item| {
                let Item {
                    called, returned, ..
                } = self.items[*item];
                let comes = called <= earliest;
                earliest = earliest.min(returned);
                comes
            })
    }

    /// The first one from `next` on that can come next, and leads to what was not looked at yet.
    fn choose(
        &self,
        next: usize,
        first: usize,
        placed: &Placed,
        state: State,
        seen: &mut HashSet<(Placed, State)>,
    ) -> Option<(usize, State)> {
        self.left(first, placed)
            .filter(|item| *item >= next)
            .find_map(|item| {
                let after = state.after(self.items[item].step)?;
                let mut with = placed.clone();
                set(&mut with, item, true);
                seen.insert((with, after)).then_some((item, after))
            })
    }

    /// What was to come next.
    fn candidates(&self, first: usize, placed: &Placed) -> Vec<Operation> {
        let candidates = self.left(first, placed);
        let operations = candidates.filter_map(|item| self.items[item].from);
        operations.take(8).cloned().collect()
    }
}

fn has(placed: &Placed, item: usize) -> bool {
    placed[item / 64] & (1 << (item % 64)) != 0
}

fn set(placed: &mut Placed, item: usize, to: bool) {
    let bit = 1 << (item % 64);
    if to {
        placed[item / 64] |= bit;
    } else {
        placed[item / 64] &= !bit;
    }
}

#[cfg(test)]
mod tests {
    use micro_core::{Random as _, SeededRandom};

    use super::Seen::{Acquired, Refused, Released, Verified, Wrote};
    use super::*;

    fn token(seq: u64) -> FencingToken {
        FencingToken::new(0, seq)
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn op(seen: fn(FencingToken) -> Seen, seq: u64, called: u64, returned: u64) -> Operation {
        Operation::new(seen(token(seq)), at(called), at(returned))
    }

    #[test]
    fn what_one_lock_can_do_is_found_good() {
        for history in [
            vec![],
            vec![op(Acquired, 3, 0, 1)],
            // One after the other, the question overlapping.
            vec![
                op(Acquired, 1, 0, 5),
                op(Acquired, 2, 0, 25),
                op(Verified, 1, 6, 9),
                op(Released, 1, 20, 30),
            ],
            // A holder that is never heard of again has expired.
            vec![
                op(Acquired, 1, 0, 5),
                op(Acquired, 2, 10, 15),
                op(Verified, 2, 16, 17),
            ],
            // A release without an answer has happened.
            vec![
                op(Acquired, 1, 0, 5),
                Operation::unanswered(Released(token(1)), at(6)),
                op(Acquired, 2, 10, 15),
            ],
            // A late write is refused, and one that overlaps may be.
            vec![
                op(Acquired, 1, 0, 5),
                op(Acquired, 2, 10, 15),
                op(Wrote, 1, 12, 30),
                op(Wrote, 2, 20, 40),
                op(Refused, 1, 50, 51),
            ],
            vec![
                Operation::unanswered(Wrote(token(2)), at(0)),
                op(Refused, 1, 10, 11),
            ],
        ] {
            assert_eq!(check(&history), Ok(()), "{history:?}");
        }
    }

    #[test]
    fn what_one_lock_cannot_do_is_found_out() {
        for history in [
            // Two at once, neither of which has expired.
            vec![
                op(Acquired, 1, 0, 5),
                op(Acquired, 2, 10, 15),
                op(Released, 1, 20, 25),
                op(Released, 2, 30, 35),
            ],
            // A token that goes back, and one that is given twice.
            vec![op(Acquired, 2, 0, 5), op(Acquired, 1, 10, 15)],
            vec![op(Acquired, 2, 0, 5), op(Acquired, 2, 10, 15)],
            // Still its own after another had it.
            vec![
                op(Acquired, 1, 0, 5),
                op(Acquired, 2, 10, 15),
                op(Verified, 1, 20, 25),
            ],
            // Let go of twice.
            vec![
                op(Acquired, 1, 0, 5),
                op(Released, 1, 10, 15),
                op(Released, 1, 20, 25),
            ],
            // An old one writes after a new one.
            vec![op(Wrote, 2, 0, 5), op(Wrote, 1, 6, 10)],
            // Refused for nothing.
            vec![op(Wrote, 1, 0, 5), op(Refused, 1, 6, 10)],
            vec![
                op(Refused, 1, 0, 5),
                Operation::unanswered(Wrote(token(2)), at(6)),
            ],
        ] {
            assert!(check(&history).is_err(), "{history:?}");
        }
    }

    #[test]
    fn a_violation_names_what_cannot_be() {
        let history = [
            op(Acquired, 1, 0, 5),
            op(Released, 1, 6, 8),
            op(Acquired, 5, 10, 15),
            op(Released, 5, 16, 18),
            op(Acquired, 3, 20, 25),
        ];
        let violation = check(&history).unwrap_err();
        let expected = Violation::NoOrder {
            placed: 4,
            stuck: vec![history[4].clone()],
        };
        assert_eq!(violation, expected);
        let text = violation.to_string();
        assert!(text.contains("seq: 3") && text.contains("20ms"), "{text}");
    }

    /// Histories of a lock that was simulated, seen by clients whose questions and answers take time;
    /// and each of them with one answer made wrong.
    #[test]
    fn long_histories_are_judged() {
        let seed = 42;
        let random = SeededRandom::new(seed);
        let below = |most: u64| random.next_u64() % most;
        for round in 0..20 {
            let mut history = Vec::new();
            let mut now = 100;
            for seq in 1..=400 {
                let before = below(90);
                history.push(op(Acquired, seq, now - before, now + below(90)));
                now += 1 + below(20);
                history.push(op(Wrote, seq, now - below(20), now + below(20)));
                now += 1 + below(20);
                // Now and then one is never heard of again.
                if below(10) > 0 {
                    history.push(op(Released, seq, now - below(20), now + below(20)));
                }
                now += 1 + below(20);
            }
            assert_eq!(check(&history), Ok(()), "seed {seed}, round {round}");
            // The token of one is swapped for that of one long gone.
            let wrong = history
                .iter_mut()
                .filter(|operation| matches!(operation.seen, Acquired(_)))
                .nth(200);
            wrong.expect("there are 400").seen = Acquired(token(7));
            assert!(check(&history).is_err(), "seed {seed}, round {round}");
        }
    }
}
