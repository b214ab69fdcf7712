//! What goes on behind the calls: announcing, answering, listening, and looking after what is watched.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use micro_nats::async_nats::{Client, Message, Subscriber};
use micro_nats::{Status, publish_failed};
use micro_registry_core::{Error, ErrorKind, Result};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::directory::{Key, entries};
use crate::registry::{Order, Shared, jittered};
use crate::wire::{self, Change, Query};

/// Expiry is noticed so late at most; the clock may be moved by hand, and timers are not.
const LOOK: Duration = Duration::from_millis(200);
/// Nothing that is sent may take longer.
const SEND: Duration = Duration::from_secs(2);
/// How long is left for saying goodbye.
const GOODBYE: Duration = Duration::from_secs(1);
/// So many goodbyes wait for a connection; the oldest are dropped, and audits notice.
const MOST_GOODBYES: usize = 1024;
/// After a reconnection, all that is registered is announced within this time.
const ANNOUNCE: Duration = Duration::from_millis(500);
/// What others say wrongly about ours is put right after so long, and after twice as long each
/// further time, up to the second: two programs with the same node id must not shout at each other.
const CORRECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));
/// Who is in doubt is asked again after so long.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// So many watched services are audited one by one; beyond it, all that there is.
const MOST_AUDITS: usize = 16;

/// Lives as long as the registry, and a goodbye longer.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut tasks = JoinSet::new();
    let mut keeper = Keeper::new(Arc::clone(&shared));
    tasks.spawn(listen(Arc::clone(&shared)));
    tasks.spawn(audit(Arc::clone(&shared)));
    // The others end with the set.
    keeper.keep().await;
}

/// The only one who announces, so that all is said in order.
struct Keeper {
    shared: Arc<Shared>,
    status: watch::Receiver<Status>,
    epoch: u64,
    lost: u64,
    /// The connection on which we may announce, as far as we know.
    permitted: u64,
    goodbyes: VecDeque<Vec<Bytes>>,
    /// When to say again what is registered.
    again: Option<Instant>,
}

impl Keeper {
    fn new(shared: Arc<Shared>) -> Self {
        let mut status = shared.connection.status();
        let (epoch, lost) = {
            let now = status.borrow_and_update();
            (now.epoch, now.lost)
        };
        Self {
            shared,
            status,
            epoch,
            lost,
            permitted: 0,
            goodbyes: VecDeque::new(),
            again: None,
        }
    }

    async fn keep(&mut self) {
        loop {
            let look = async {
                if self.shared.lock().directory.expires() {
                    sleep(LOOK).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            let again = self.again;
            let say_again = async {
                match again {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.shared.wake.notified() => {}
                changed = self.status.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = look => {}
                () = say_again => {}
            }
            if self.shared.closing.load(Ordering::Acquire) {
                self.leave().await;
                return;
            }
            self.shared.sweep();
            let up = self.notice();
            let orders = std::mem::take(&mut self.shared.lock().orders);
            match up {
                Some(client) => self.say(&client, orders).await,
                None => {
                    // Coming back sets it anew; until then its time would be over again and again.
                    self.again = None;
                    self.keep_for_later(orders);
                }
            }
        }
    }

    /// What happened to the connection; the client, if it is up.
    fn notice(&mut self) -> Option<Client> {
        let (up, epoch, lost) = {
            let status = self.status.borrow_and_update();
            (status.up, status.epoch, status.lost)
        };
        let down = self.epoch > 0 && !up;
        let missed = self.lost != lost || (self.epoch != epoch && self.epoch > 0);
        if missed || down {
            self.shared.lock().directory.end_watches();
        }
        if missed && up {
            let within =
                ANNOUNCE * u32::try_from(self.shared.random.next_u64() % 1000).unwrap_or(0);
            self.again = Some(Instant::now() + within / 1000);
        }
        self.epoch = epoch;
        self.lost = lost;
        if !up || !*self.shared.listening.borrow() {
            return None;
        }
        // It is up: this does not wait.
        let client = self.shared.connection.client(Instant::now());
        futures_util::FutureExt::now_or_never(client)?.ok()
    }

    /// Without a connection nobody is told, but for those who left.
    fn keep_for_later(&mut self, orders: VecDeque<Order>) {
        for order in orders {
            if order.leaves {
                self.leave_later(order.payloads);
            }
            if let Some(done) = order.done {
                let _ = done.send(Err(Error::unavailable("the connection to NATS is lost")));
            }
        }
    }

    fn leave_later(&mut self, payloads: Vec<Bytes>) {
        if self.goodbyes.len() >= MOST_GOODBYES {
            self.goodbyes.pop_front();
        }
        self.goodbyes.push_back(payloads);
    }

    async fn say(&mut self, client: &Client, orders: VecDeque<Order>) {
        // Goodbyes first: whoever registered again did so after them.
        let goodbyes = std::mem::take(&mut self.goodbyes);
        let mut payloads: Vec<Bytes> = goodbyes.iter().flatten().cloned().collect();
        payloads.extend(
            orders
                .iter()
                .flat_map(|order| order.payloads.iter().cloned()),
        );
        if self.again.is_some_and(|at| at <= Instant::now()) {
            self.again = None;
            let own = self.shared.lock().directory.own_services(None);
            let parts = own.into_iter().flat_map(wire::parts);
            payloads.extend(parts.filter_map(|part| wire::write("create", Some(part)).ok()));
        }
        if payloads.is_empty() {
            return;
        }
        let done = self.publish(client, payloads).await;
        let lost = done
            .as_ref()
            .is_err_and(|err| err.kind() == ErrorKind::Unavailable);
        if lost {
            // Nobody may have heard it: who left is said to have left again, and then who is there.
            self.goodbyes = goodbyes;
            self.again = Some(Instant::now() + ANNOUNCE);
        }
        for order in orders {
            if lost && order.leaves {
                self.leave_later(order.payloads);
            }
            let Some(sender) = order.done else { continue };
            let _ = sender.send(match &done {
                Ok(()) => Ok(()),
                Err(err) => Err(Error::new(err.kind(), err.message().to_owned())),
            });
        }
        if let Err(err) = done {
            tracing::debug!(%err, "an announcement on NATS failed");
        }
    }

    async fn publish(&mut self, client: &Client, payloads: Vec<Bytes>) -> Result<()> {
        let denials = self.shared.connection.denials();
        let send = async {
            let mut too_long = None;
            for payload in payloads {
                let subject = self.shared.subjects.watch.clone();
                match client
                    .publish(subject, payload)
                    .await
                    .map_err(publish_failed)
                {
                    Ok(()) => {}
                    // The server takes no message as long as this one; the others are said.
                    Err(err) if err.kind() == ErrorKind::ResourceExhausted => too_long = Some(err),
                    Err(err) => return Err(err),
                }
            }
            Ok::<_, Error>(too_long)
        };
        let too_long = timeout(SEND, send)
            .await
            .map_err(|_| Error::unavailable("NATS does not take messages in time"))??;
        // The server has them, and whoever asks now is answered.
        let deadline = Instant::now() + self.shared.config.nats.timeout;
        let careful = self.permitted != self.epoch;
        let confirmed = self
            .shared
            .connection
            .confirm(client, denials, careful, deadline)
            .await;
        if confirmed.is_ok() {
            self.permitted = self.epoch;
        }
        confirmed.and(too_long.map_or(Ok(()), Err))
    }

    /// The registry is dropped: so is all that was registered here.
    async fn leave(&mut self) {
        let orders = {
            let mut state = self.shared.lock();
            for service in state.directory.own_services(None) {
                for (key, _) in entries(&service) {
                    state.directory.remove_own(&key);
                }
                state.order("delete", service, None);
            }
            std::mem::take(&mut state.orders)
        };
        if let Some(client) = self.notice() {
            let _ = timeout(GOODBYE, self.say(&client, orders)).await;
        }
    }
}

/// Subscribes to both subjects, and hears and answers. The library subscribes again by itself after it
/// reconnected; where another client was made, so do we.
async fn listen(shared: Arc<Shared>) {
    loop {
        let (queries, changes) = match subscribe(&shared).await {
            Ok(both) => both,
            Err(err) => {
                tracing::warn!(%err, subject = %shared.subjects.query, "NATS cannot be listened to");
                sleep(jittered(&*shared.random, ASK_AGAIN)).await;
                continue;
            }
        };
        shared.listening.send_replace(true);
        shared.wake.notify_one();
        // Who asks does not keep us from hearing what changes.
        tokio::join!(answer(&shared, queries), hear(&shared, changes));
    }
}

async fn subscribe(shared: &Shared) -> Result<(Subscriber, Subscriber)> {
    let deadline = Instant::now() + Duration::from_secs(3600);
    let client = shared.connection.client(deadline).await?;
    let denials = shared.connection.denials();
    let subscribe = async |subject: &str| {
        client
            .subscribe(subject.to_owned())
            .await
            .map_err(|err| Error::unavailable("the connection to NATS is gone").with_source(err))
    };
    let both = (
        subscribe(&shared.subjects.query).await?,
        subscribe(&shared.subjects.watch).await?,
    );
    let deadline = Instant::now() + shared.config.nats.timeout;
    let connection = &shared.connection;
    connection.confirm(&client, denials, true, deadline).await?;
    Ok(both)
}

async fn answer(shared: &Shared, mut queries: Subscriber) {
    while let Some(query) = queries.next().await {
        let Some(reply) = query
            .reply
            .as_deref()
            .filter(|reply| shared.may_answer(reply))
        else {
            continue;
        };
        let name = match Query::read(&query.payload) {
            Some(Query::Get(name)) => Some(name),
            Some(Query::List) => None,
            None => {
                shared.warn_once("a query on NATS cannot be read; it is ignored");
                continue;
            }
        };
        shared.sweep();
        let own = shared.lock().directory.own_services(name.as_deref());
        if own.is_empty() {
            continue;
        }
        let Ok(client) = shared.connection.client(Instant::now()).await else {
            continue;
        };
        for part in own.into_iter().flat_map(wire::parts) {
            let Ok(payload) = wire::write_answer(&part) else {
                continue;
            };
            // If the connection takes no more, the question is old by the time it does.
            let sent = timeout(SEND, client.publish(reply.to_owned(), payload)).await;
            if !matches!(sent, Ok(Ok(()))) {
                tracing::debug!("an answer on NATS could not be sent");
                break;
            }
        }
    }
}

impl Shared {
    /// A forged query must not make us talk to the server's own subjects, or to ourselves.
    fn may_answer(&self, reply: &str) -> bool {
        let ours = |subject: &str| {
            let rest = reply.strip_prefix(subject);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        !reply.starts_with('$') && !ours(&self.config.subject)
    }

    /// Hears a change; whether it is wrong about something of ours.
    fn change(&self, message: &Message) -> bool {
        let Some(change) = wire::read_change(&message.payload) else {
            self.warn_once("an announcement on NATS cannot be read; it is ignored");
            return false;
        };
        let mut state = self.lock();
        let mut wrong = false;
        match change {
            Change::Put(service) => {
                for (key, entry) in entries(&service) {
                    let own = state.directory.own_entry(&key);
                    wrong |= own.is_some_and(|own| *own != entry);
                    state.directory.see(&key, entry, None);
                }
            }
            Change::Delete(service) => {
                for (key, _) in entries(&service) {
                    wrong |= state.directory.own_entry(&key).is_some();
                    state.directory.lose(&key);
                }
            }
        }
        wrong
    }

    /// Lets all that is registered here be announced again.
    fn correct(&self) {
        let mut state = self.lock();
        for service in state.directory.own_services(None) {
            state.order("create", service, None);
        }
        drop(state);
        self.wake.notify_one();
    }
}

async fn hear(shared: &Shared, mut changes: Subscriber) {
    let mut pause = CORRECT.0;
    let mut last = Instant::now();
    let mut correction: Option<Instant> = None;
    loop {
        let due = async {
            match correction {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            message = changes.next() => {
                let Some(message) = message else { return };
                if shared.change(&message) && correction.is_none() {
                    correction = Some(Instant::now() + pause);
                }
            }
            () = due => {
                correction = None;
                let calm = last.elapsed() > CORRECT.1 * 2;
                pause = if calm { CORRECT.0 } else { (pause * 2).min(CORRECT.1) };
                last = Instant::now();
                shared.correct();
            }
        }
    }
}

/// Asks from time to time whether all that is watched is still there: who was killed said nothing.
async fn audit(shared: Arc<Shared>) {
    let mut wait = shared.config.refresh;
    loop {
        sleep(jittered(&*shared.random, wait)).await;
        let mut interest = shared.lock().directory.interest();
        if interest.len() > MOST_AUDITS {
            interest = vec![None];
        }
        let mut doubt = false;
        for only in interest {
            doubt |= audit_one(&shared, only.as_deref()).await;
        }
        wait = if doubt {
            ASK_AGAIN.min(shared.config.refresh)
        } else {
            shared.config.refresh
        };
    }
}

/// Whether somebody is in doubt.
async fn audit_one(shared: &Shared, only: Option<&str>) -> bool {
    let Ok(client) = shared.connection.client(Instant::now()).await else {
        return false;
    };
    let query = match only {
        Some(name) => Query::Get(name.to_owned()),
        None => Query::List,
    };
    let mark = shared.lock().directory.mark();
    let limit = SEND + shared.config.lookup * 11;
    let Ok(Ok(found)) = timeout(limit, shared.ask(&client, &query)).await else {
        return false;
    };
    let mut state = shared.lock();
    let answered: Vec<Key> = found.nodes.keys().cloned().collect();
    for (key, entry) in found.nodes {
        state.directory.see(&key, entry, Some(mark));
    }
    // Silence says nothing if the connection was gone, or there was too much to hear.
    if found.cut || !shared.connection.status().borrow().up {
        return false;
    }
    state.directory.miss(only, &answered, mark)
}
