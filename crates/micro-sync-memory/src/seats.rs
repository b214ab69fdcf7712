//! Who holds what, and who waits for it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use micro_sync_core::{Clock, Error, FencingToken, Leader, Result, Tenure};
use tokio::sync::{oneshot, watch};

/// So many may wait for one name.
const WAITERS: usize = 10_000;

/// What it is to hold a name: a token, and a tenure.
pub(crate) type Held = (FencingToken, Arc<Tenure>);

/// All names of a coordinator.
#[derive(Debug)]
pub(crate) struct Seats {
    clock: Arc<dyn Clock>,
    epoch: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How many have come in.
    tickets: u64,
    /// How many were served.
    tokens: u64,
    seats: HashMap<Arc<str>, Seat>,
}

/// One name. Nobody waits while nobody holds it.
#[derive(Debug, Default)]
struct Seat {
    holder: Option<Holder>,
    queue: VecDeque<Waiter>,
    observers: Option<watch::Sender<Option<Leader>>>,
}

#[derive(Debug)]
struct Holder {
    ticket: u64,
    leader: Leader,
    tenure: Arc<Tenure>,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    value: String,
    give: oneshot::Sender<Held>,
}

/// A place in the queue or in the seat. Dropping it leaves either.
#[derive(Debug)]
pub(crate) struct Ticket {
    seats: Arc<Seats>,
    key: Arc<str>,
    number: u64,
}

/// What coming in has led to.
#[derive(Debug)]
pub(crate) enum Entry {
    /// It is ours.
    Held(Ticket, Held),
    /// It will be, in our turn.
    Queued(Ticket, oneshot::Receiver<Held>),
    /// Another holds it, and we did not want to wait.
    Taken,
}

/// The next one, who is told when nothing is locked any more.
type Next = Option<(oneshot::Sender<Held>, Held)>;

impl Seats {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        let since = clock.wall().duration_since(SystemTime::UNIX_EPOCH);
        let epoch = since.unwrap_or_default().as_millis();
        Arc::new(Self {
            clock,
            epoch: u64::try_from(epoch).unwrap_or(u64::MAX),
            state: Mutex::default(),
        })
    }

    /// Comes in.
    pub(crate) fn enter(
        self: &Arc<Self>,
        key: &Arc<str>,
        value: String,
        wait: bool,
    ) -> Result<Entry> {
        let mut state = self.lock();
        state.tickets += 1;
        let ticket = Ticket {
            seats: Arc::clone(self),
            key: Arc::clone(key),
            number: state.tickets,
        };
        let State { tokens, seats, .. } = &mut *state;
        let seat = seats.entry(Arc::clone(key)).or_default();
        if seat.holder.is_none() {
            let held = self.sit_down(seat, tokens, ticket.number, value);
            return Ok(Entry::Held(ticket, held));
        }
        if !wait || seat.queue.len() >= WAITERS {
            // The ticket is dropped on the way out, and looks for itself in what is locked here.
            drop(state);
            return if wait {
                Err(Error::resource_exhausted(
                    "so many wait for this lock that no more may",
                ))
            } else {
                Ok(Entry::Taken)
            };
        }
        let (give, given) = oneshot::channel();
        seat.queue.push_back(Waiter {
            ticket: ticket.number,
            value,
            give,
        });
        Ok(Entry::Queued(ticket, given))
    }

    fn sit_down(&self, seat: &mut Seat, tokens: &mut u64, ticket: u64, value: String) -> Held {
        *tokens += 1;
        let token = FencingToken::new(self.epoch, *tokens);
        let tenure = Arc::new(Tenure::new(Arc::clone(&self.clock), None));
        seat.holder = Some(Holder {
            ticket,
            leader: Leader::new(value, token),
            tenure: Arc::clone(&tenure),
        });
        seat.show();
        (token, tenure)
    }

    /// The seat was left: the next one takes it.
    fn next(&self, state: &mut State, key: &str) -> Next {
        let State { tokens, seats, .. } = state;
        let seat = seats.get_mut(key)?;
        let Some(waiter) = seat.queue.pop_front() else {
            seat.show();
            tidy(seats, key);
            return None;
        };
        let held = self.sit_down(seat, tokens, waiter.ticket, waiter.value);
        Some((waiter.give, held))
    }

    /// Takes a name away from its holder; whether there was one.
    pub(crate) fn take_away(&self, key: &str) -> bool {
        let mut state = self.lock();
        let seat = state.seats.get_mut(key);
        let Some(holder) = seat.and_then(|seat| seat.holder.take()) else {
            return false;
        };
        let next = self.next(&mut state, key);
        drop(state);
        holder.tenure.end("it was taken away");
        tell(next);
        true
    }

    /// Who holds a name, and who will.
    pub(crate) fn observe(self: &Arc<Self>, key: &Arc<str>) -> Observer {
        let mut state = self.lock();
        let seat = state.seats.entry(Arc::clone(key)).or_default();
        let leader = seat.leader();
        let observers = seat
            .observers
            .get_or_insert_with(|| watch::channel(leader).0);
        let mut leaders = observers.subscribe();
        // The present one is news, too.
        leaders.mark_changed();
        Observer {
            leaders,
            _interest: Interest {
                seats: Arc::clone(self),
                key: Arc::clone(key),
            },
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is locked, so a poisoned one is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    fn leader(&self) -> Option<Leader> {
        self.holder.as_ref().map(|holder| holder.leader.clone())
    }

    /// Shows observers who sits here.
    fn show(&self) {
        if let Some(observers) = &self.observers {
            observers.send_replace(self.leader());
        }
    }
}

/// Forgets a name that nobody holds or observes.
fn tidy(seats: &mut HashMap<Arc<str>, Seat>, key: &str) {
    let idle = seats.get(key).is_some_and(|seat| {
        let observers = seat.observers.as_ref();
        seat.holder.is_none() && observers.is_none_or(|observers| observers.receiver_count() == 0)
    });
    if idle {
        seats.remove(key);
    }
}

/// A next one who went away meanwhile drops its ticket, and thereby leaves the seat.
fn tell(next: Next) {
    if let Some((give, held)) = next {
        let _ = give.send(held);
    }
}

impl Ticket {
    /// Leaves the seat or the queue; whether it was in the seat.
    fn leave(&self) -> bool {
        let mut state = self.seats.lock();
        let Some(seat) = state.seats.get_mut(&self.key) else {
            return false;
        };
        let sits = seat
            .holder
            .as_ref()
            .is_some_and(|holder| holder.ticket == self.number);
        if sits && seat.queue.is_empty() && seat.observers.is_none() {
            // What most locks come to, without a second look at anything.
            let forgotten = state.seats.remove(&self.key);
            drop(state);
            drop(forgotten);
        } else if sits {
            seat.holder = None;
            let next = self.seats.next(&mut state, &self.key);
            drop(state);
            tell(next);
        } else if let Ok(at) = seat
            .queue
            // They stand in the order of their numbers.
            .binary_search_by_key(&self.number, |waiter| waiter.ticket)
        {
            seat.queue.remove(at);
        }
        sits
    }

    /// Leaves, and says whether it was in the seat.
    pub(crate) fn give_back(mut self) -> bool {
        let sat = self.leave();
        self.number = 0;
        sat
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Who has left already has no number.
        if self.number != 0 {
            self.leave();
        }
    }
}

/// Sees who holds a name.
#[derive(Debug)]
pub(crate) struct Observer {
    // Dropped before the interest, which counts those that are left.
    leaders: watch::Receiver<Option<Leader>>,
    _interest: Interest,
}

impl Observer {
    /// The present holder at first, then the next one.
    pub(crate) async fn next(&mut self) -> Option<Option<Leader>> {
        self.leaders.changed().await.ok()?;
        Some(self.leaders.borrow_and_update().clone())
    }
}

#[derive(Debug)]
struct Interest {
    seats: Arc<Seats>,
    key: Arc<str>,
}

impl Drop for Interest {
    fn drop(&mut self) {
        tidy(&mut self.seats.lock().seats, &self.key);
    }
}

#[cfg(test)]
mod tests {
    use micro_core::SystemClock;

    use super::*;

    fn seats() -> (Arc<Seats>, Arc<str>) {
        (Seats::new(Arc::new(SystemClock)), Arc::from("a"))
    }

    fn enter(seats: &Arc<Seats>, key: &Arc<str>) -> Entry {
        seats.enter(key, String::new(), true).unwrap()
    }

    #[test]
    fn a_name_that_nobody_has_to_do_with_takes_no_memory() {
        let (seats, key) = seats();
        let first = enter(&seats, &key);
        let second = enter(&seats, &key);
        let observer = seats.observe(&key);
        drop(first);
        drop(second);
        assert_eq!(seats.lock().seats.len(), 1);
        drop(observer);
        assert_eq!(seats.lock().seats.len(), 0);
        drop(seats.observe(&key));
        assert_eq!(seats.lock().seats.len(), 0);
    }

    #[test]
    fn who_was_served_and_is_gone_passes_it_on() {
        let (seats, key) = seats();
        let first = enter(&seats, &key);
        let second = enter(&seats, &key);
        let Entry::Queued(_third, mut given) = enter(&seats, &key) else {
            panic!("it is free");
        };
        // Served, and never looked.
        drop(first);
        assert!(given.try_recv().is_err());
        drop(second);
        let (token, tenure) = given.try_recv().unwrap();
        assert_eq!(token.seq, 3);
        assert!(tenure.is_held());
    }

    #[test]
    fn the_queue_has_an_end() {
        let (seats, key) = seats();
        let mut all: Vec<Entry> = (0..=WAITERS).map(|_| enter(&seats, &key)).collect();
        let err = seats.enter(&key, String::new(), true).unwrap_err();
        assert_eq!(err.kind(), micro_core::ErrorKind::ResourceExhausted);
        // From the middle, too.
        all.remove(WAITERS / 2);
        enter(&seats, &key);
        all.push(enter(&seats, &key));
        assert_eq!(seats.lock().seats[&key].queue.len(), WAITERS);
    }
}
