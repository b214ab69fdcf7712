//! The tasks of a registry: one keeps order, the other listens.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mdns_sd::{Receiver, ResolvedService, ScopedIp, ServiceEvent};
use micro_registry_core::{Node, check_name};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::address::{self, Address};
use crate::directory::{Entry, MOST_SEEN};
use crate::names;
use crate::registry::{Check, Order, Shared, State};
use crate::txt::Announcement;

/// A service that nobody watched or looked up for so long is not looked after any more.
const IDLE: Duration = Duration::from_secs(600);
const LOOK_FOR_IDLE: Duration = Duration::from_secs(60);
/// An instance that is asked whether it is there has this long to answer, at least: it may not
/// say the same twice within a second.
const SHORTEST_CHECK: Duration = Duration::from_secs(2);
/// How much later than its time an expiry may be noticed, even by a clock that jumps.
const LONGEST_NAP: Duration = Duration::from_millis(500);
/// An instance that fell silent is looked for once more, so much later, but not too often.
const SECOND_LOOK: Duration = Duration::from_secs(2);
const ASK_PAUSE: Duration = Duration::from_secs(10);
/// Instances that fell silent are looked for so often, for so long after the last one did.
const LOOK_EVERY: Duration = Duration::from_secs(4);
const LOOK_FOR: Duration = Duration::from_secs(300);
/// An instance that seems to leave has so long to contradict: answers take up to 120 ms (RFC 6762
/// section 6).
const CONFIRM: Duration = Duration::from_millis(300);
/// However many seem to leave, they are asked for no more often than this.
const CONFIRM_PAUSE: Duration = Duration::from_secs(1);

/// Tells the daemon what it is to do, and does what is due.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut look_for_idle = Instant::now() + LOOK_FOR_IDLE;
    loop {
        let orders = std::mem::take(&mut shared.lock().orders);
        for order in orders {
            carry_out(&shared, order).await;
        }
        let (checks, next) = {
            let mut state = shared.lock();
            let now = Instant::now();
            expire(&shared, &mut state);
            let (checks, mut next) = due_checks(&shared, &mut state, now);
            next = next.min(lose_silent(&mut state, now));
            if let Some(ear) = &mut state.ear
                && let Some(again) = ear.again
            {
                if again <= now {
                    ear.ask_again(now);
                    if ear.missing_until.is_some_and(|until| now < until) {
                        let later = now + jittered(&shared, LOOK_EVERY);
                        ear.again = Some(later);
                        next = next.min(later);
                    }
                } else {
                    next = next.min(again);
                }
            }
            if now >= look_for_idle {
                look_for_idle = now + LOOK_FOR_IDLE;
                end_idle(&mut state, now);
            }
            if let Some(expiry) = state.directory.next_expiry() {
                let left = expiry.saturating_duration_since(shared.clock.now());
                next = next.min(now + left.min(LONGEST_NAP));
            }
            if !state.orders.is_empty() {
                next = now;
            }
            (checks, next.min(look_for_idle))
        };
        for (fullname, patience) in checks {
            if let Err(err) = shared.daemon.verify(&fullname, patience).await {
                tracing::debug!(%err, fullname, "an instance cannot be asked");
            }
        }
        tokio::select! {
            () = shared.wake.notified() => {}
            () = sleep_until(next) => {}
        }
    }
}

async fn carry_out(shared: &Shared, order: Order) {
    match order {
        Order::Announce(info, done) => match shared.daemon.register(&info).await {
            Ok(()) => {
                done.map(|done| done.send(()));
            }
            // The sender is dropped, and the caller told.
            Err(err) => tracing::warn!(%err, "a node cannot be announced"),
        },
        Order::Withdraw(fullname, done) => match shared.daemon.unregister(&fullname).await {
            Ok(goodbye) => {
                done.map(|done| done.send(goodbye));
            }
            Err(err) => tracing::warn!(%err, fullname, "a node cannot be withdrawn"),
        },
    }
}

/// Withdraws nodes of ours that were not registered again in time.
fn expire(shared: &Shared, state: &mut State) {
    for key in state.directory.expired(shared.clock.now()) {
        if let Some(fullname) = state.withdraw(&key) {
            tracing::debug!(service = key.0, node = key.2, "a registration expired");
            state.orders.push(Order::Withdraw(fullname, None));
        }
    }
}

/// The instances to be asked now, with how long they may take, and when the next ones are.
///
/// Records of multicast DNS live for two minutes, and the daemon cannot be told otherwise; asking
/// in time makes them live as long as their node says.
fn due_checks(
    shared: &Shared,
    state: &mut State,
    now: Instant,
) -> (Vec<(String, Duration)>, Instant) {
    let mut due = Vec::new();
    let mut next = now + LOOK_FOR_IDLE;
    let all = state.directory.is_watched(None);
    for (fullname, check) in &mut state.checks {
        if check.at <= now {
            // Those whom nobody looks for are left to the two minutes.
            let wanted = all || state.wanted.contains_key(&check.service);
            let patience = patience(check.ttl);
            if wanted {
                due.push((fullname.clone(), patience));
                state
                    .asked
                    .insert(fullname.clone(), now + patience + LONGEST_NAP / 2);
            }
            check.at = now + pause(shared, check.ttl).max(patience + LONGEST_NAP);
        }
        next = next.min(check.at);
    }
    (due, next)
}

/// Takes out the instances that were asked and have not answered. Says when to look again.
///
/// The daemon forgets them by itself, but does not always say so: if it also knows an instance by
/// its subtype, it tells those who listen to the one or to the other, whichever it comes upon first
/// (mdns-sd 0.21, `evict_expired_services`). So it is made to tell which ones it knows, and the
/// others are gone.
fn lose_silent(state: &mut State, now: Instant) -> Instant {
    let due = |times: &HashMap<String, Instant>| -> Vec<String> {
        let due = times.iter().filter(|(_, at)| **at <= now);
        due.map(|(fullname, _)| fullname.clone()).collect()
    };
    for fullname in due(&state.silent) {
        let silence = state.checked.remove(&fullname);
        if state.directory.has_seen(&fullname) {
            lose(state, &fullname, now, silence);
        }
        state.silent.remove(&fullname);
    }
    let answered = due(&state.asked);
    if !answered.is_empty()
        && let Some(ear) = &mut state.ear
    {
        ear.ask_again(now);
    }
    for fullname in answered {
        state.asked.remove(&fullname);
        if state.directory.has_seen(&fullname) {
            state.checked.insert(fullname.clone());
            state.silent.insert(fullname, now + LONGEST_NAP);
        }
    }
    let times = state.asked.values().chain(state.silent.values());
    times.min().copied().unwrap_or(now + LOOK_FOR_IDLE)
}

/// Takes an instance out, and looks for it once more later: it may only have been missed.
///
/// One that fell silent may be behind a network that is cut, which nobody says when it heals: it
/// is looked for again and again for a while.
fn lose(state: &mut State, fullname: &str, now: Instant, silence: bool) {
    state.directory.lose(fullname);
    state.checks.remove(fullname);
    state.silent.remove(fullname);
    state.checked.remove(fullname);
    if let Some(ear) = &mut state.ear {
        let again = (ear.asked + ASK_PAUSE).max(now + SECOND_LOOK);
        let again = *ear.again.get_or_insert(again);
        if silence {
            ear.missing_until = Some(now + LOOK_FOR);
            ear.again = Some(again.min(now + LOOK_EVERY));
        }
    }
}

/// Between three quarters of a span and the whole, so that not all ask at once.
fn jittered(shared: &Shared, span: Duration) -> Duration {
    let part = u32::try_from(shared.random.next_u64() % 250).unwrap_or_default();
    span * (750 + part) / 1000
}

fn patience(ttl: Duration) -> Duration {
    (ttl / 5).max(SHORTEST_CHECK)
}

/// From a sign of life to the next question: 70 to 80 % of the TTL, so that not all ask at once.
fn pause(shared: &Shared, ttl: Duration) -> Duration {
    let tenths = u32::try_from(shared.random.next_u64() % 100).unwrap_or_default();
    ttl * (700 + tenths) / 1000
}

fn end_idle(state: &mut State, now: Instant) {
    let State {
        wanted, directory, ..
    } = state;
    wanted.retain(|service, wanted| {
        now.duration_since(wanted.used) < IDLE || directory.is_watched(Some(service))
    });
}

/// Listens to everything that `micro` announces.
pub(crate) async fn listen(shared: Arc<Shared>, ask: Arc<Notify>) {
    let mut next: Option<Receiver<ServiceEvent>> = None;
    loop {
        let ear = match next.take() {
            Some(ear) => ear,
            None => match shared.daemon.browse(names::TYPE).await {
                Ok(ear) => ear,
                Err(err) => {
                    tracing::warn!(%err, "multicast DNS cannot be listened to");
                    return;
                }
            },
        };
        tokio::select! {
            event = ear.recv_async() => match event {
                Ok(event) => {
                    shared.hear_all(event, &ear);
                    next = Some(ear);
                }
                Err(_) => {
                    shared.missed();
                    sleep(LONGEST_NAP).await;
                }
            },
            () = ask.notified() => {
                // Asking again is listening again. What the old ear has heard still counts.
                next = shared.daemon.browse(names::TYPE).await.ok();
                let rest = async {
                    while let Ok(event) = ear.recv_async().await {
                        shared.hear_all(event, &ear);
                    }
                };
                let _ = timeout(LONGEST_NAP, rest).await;
            }
        }
    }
}

impl Shared {
    /// Takes an event, and those behind it: the daemon hangs up on who lets a thousand wait.
    fn hear_all(&self, event: ServiceEvent, ear: &Receiver<ServiceEvent>) {
        let mut events = VecDeque::from([event]);
        for _ in 0..MOST_SEEN {
            let Some(event) = events.pop_front() else {
                break;
            };
            self.hear(event);
            events.extend(ear.try_iter().filter(tells_something));
        }
        // A flood: the rest in one go, for it is here already.
        for event in events {
            self.hear(event);
        }
        self.heard.notify_waiters();
    }

    fn hear(&self, event: ServiceEvent) {
        match event {
            ServiceEvent::ServiceResolved(resolved) => self.see(&resolved),
            ServiceEvent::ServiceRemoved(_, fullname) => self.removed(&fullname),
            ServiceEvent::SearchStarted(text) => {
                if let Some(ear) = &mut self.lock().ear {
                    ear.open = true;
                }
                if text.contains(" on 0 interfaces") {
                    self.warn_once(
                        "no interface of this machine does multicast; nobody will be found",
                    );
                }
            }
            _ => {}
        }
    }

    /// The daemon heard a goodbye, or nothing any more.
    ///
    /// Anybody can say goodbye in another's name, so whoever seems to leave is asked for, and has
    /// a moment to answer. What was asked already has had its time.
    fn removed(&self, fullname: &str) {
        let mut state = self.lock();
        if !state.directory.has_seen(fullname) {
            return;
        }
        let now = Instant::now();
        let asked = state.asked.remove(fullname).is_some() | state.silent.contains_key(fullname);
        match &mut state.ear {
            Some(ear) if !asked => {
                let ask = (ear.asked + CONFIRM_PAUSE).max(now);
                if ask == now {
                    ear.ask_again(now);
                } else {
                    ear.again = Some(ear.again.map_or(ask, |again| again.min(ask)));
                }
                state.silent.insert(fullname.to_owned(), ask + CONFIRM);
            }
            // It was asked, and has not answered.
            _ => lose(&mut state, fullname, now, true),
        }
        self.wake.notify_one();
    }

    fn see(&self, resolved: &ResolvedService) {
        let fullname = &resolved.fullname;
        let seen = self.read(resolved);
        let mut state = self.lock();
        let Some((announcement, entry)) = seen else {
            // What it was before it is no more.
            state.directory.lose(fullname);
            state.checks.remove(fullname);
            return;
        };
        let key = (
            announcement.service,
            announcement.version,
            entry.node.id.clone(),
        );
        let now = Instant::now();
        let echo = state.echoes.get(fullname).is_some_and(|until| *until > now);
        if echo || state.directory.is_own(&key, fullname) {
            return;
        }
        if let Some(wanted) = state.wanted.get_mut(&key.0) {
            wanted.changed = now;
        }
        let news = state.directory.see(fullname, &key, entry);
        state.checked.remove(fullname);
        state.silent.remove(fullname);
        if let Some(ttl) = announcement.ttl
            && state.directory.has_seen(fullname)
        {
            let check = Check {
                service: key.0,
                ttl,
                at: now + pause(self, ttl),
            };
            if news {
                state.checks.insert(fullname.clone(), check);
            } else {
                // The daemon tells what it knows whenever it is asked: that is no sign of life,
                // and does not put off the question for one.
                state.checks.entry(fullname.clone()).or_insert(check).ttl = ttl;
            }
            self.wake.notify_one();
        }
    }

    /// What an instance says, if it is one of ours and can be believed.
    fn read(&self, resolved: &ResolvedService) -> Option<(Announcement, Entry)> {
        let properties = resolved.txt_properties.iter();
        let strings: Vec<(&str, &[u8])> = properties
            .map(|property| (property.key(), property.val().unwrap_or_default()))
            .collect();
        let Some(mut announcement) = Announcement::decode(&strings) else {
            self.warn_once("an instance of _micro._tcp cannot be read; it is ignored");
            return None;
        };
        if announcement.namespace != self.namespace {
            return None;
        }
        let id = announcement
            .id
            .take()
            .unwrap_or_else(|| instance_name(&resolved.fullname));
        let sound = check_name(&announcement.service).is_ok()
            && id.len() <= 512
            && !id.contains(char::is_control);
        let address = believed(resolved, announcement.address.as_deref()).filter(|_| sound);
        let Some(address) = address else {
            self.warn_once(
                "an instance of _micro._tcp has a name or an address that is not believed; it is ignored",
            );
            return None;
        };
        let mut node = Node::new(id, address.to_string());
        node.metadata = std::mem::take(&mut announcement.node);
        let entry = Entry {
            metadata: std::mem::take(&mut announcement.metadata),
            endpoints: std::mem::take(&mut announcement.endpoints),
            node,
        };
        Some((announcement, entry))
    }

    /// Whoever fills a network with nonsense must not fill our log.
    fn warn_once(&self, message: &'static str) {
        if !std::mem::replace(&mut self.lock().warned, true) {
            tracing::warn!("{message}");
        } else {
            tracing::debug!("{message}");
        }
    }

    /// Not everything was heard: what was seen is forgotten, and told anew.
    fn missed(&self) {
        let mut state = self.lock();
        state.directory.end_watches();
        state.directory.forget();
        state.checks.clear();
        state.asked.clear();
        state.silent.clear();
        state.checked.clear();
        tracing::debug!("multicast DNS was not heard in time");
    }
}

fn tells_something(event: &ServiceEvent) -> bool {
    !matches!(event, ServiceEvent::ServiceFound(..))
}

/// The instance name: what stands before the type.
fn instance_name(fullname: &str) -> String {
    let name = fullname
        .strip_suffix(names::TYPE)
        .and_then(|name| name.strip_suffix('.'))
        .unwrap_or(fullname);
    // Dots and backslashes in it are escaped.
    name.replace("\\.", ".").replace("\\\\", "\\")
}

/// The address of an instance, if there is one to be believed.
fn believed(resolved: &ResolvedService, said: Option<&str>) -> Option<Address> {
    let from_loopback = |ip: &ScopedIp| match ip {
        ScopedIp::V4(v4) => {
            let mut interfaces = v4.interface_ids().iter();
            !v4.interface_ids().is_empty()
                && interfaces.all(|id| address::is_loopback_interface(&id.name))
        }
        ScopedIp::V6(v6) => address::is_loopback_interface(&v6.scope_id().name),
        _ => false,
    };
    if let Some(said) = said {
        // What is said about loopback counts only if nothing came from elsewhere.
        let all = resolved.addresses.iter().all(from_loopback);
        return Address::parse(said).filter(|address| address.is_believed(all));
    }
    let mut addresses: Vec<Address> = resolved
        .addresses
        .iter()
        .map(|ip| {
            let at = std::net::SocketAddr::new(ip.to_ip_addr().to_canonical(), resolved.port);
            (Address::Ip(at), from_loopback(ip))
        })
        .filter(|(address, from_loopback)| address.is_believed(*from_loopback))
        .map(|(address, _)| address)
        .collect();
    // Always the same one, however they arrive: IPv4 before IPv6, a network before loopback.
    addresses.sort_by_key(|address| (address.is_loopback(), address.to_string()));
    addresses.sort_by_key(|address| matches!(address, Address::Ip(at) if at.is_ipv6()));
    addresses.into_iter().next()
}

#[cfg(test)]
mod tests {
    use mdns_sd::ServiceInfo;

    use super::*;

    /// An instance as if it came from a network: no address is marked as heard on loopback.
    fn from_network(ip: &str, port: u16) -> ResolvedService {
        let info = ServiceInfo::new(names::TYPE, "x", "x.local.", ip, port, None).unwrap();
        info.as_resolved_service()
    }

    #[test]
    fn a_network_cannot_send_us_to_ourselves() {
        for (ip, said) in [
            ("127.0.0.1", None),
            ("::1", None),
            ("169.254.169.254", None),
            ("0.0.0.0", None),
            ("fe80::1", None),
            ("10.0.0.7", Some("127.0.0.1:22")),
            ("10.0.0.7", Some("localhost:22")),
            ("10.0.0.7", Some("169.254.169.254:80")),
            ("127.0.0.1", Some("127.0.0.1:22")),
            ("10.0.0.7", Some("[::ffff:127.0.0.1]:22")),
            ("10.0.0.7", Some("nonsense")),
        ] {
            let address = believed(&from_network(ip, 80), said);
            assert_eq!(address, None, "{ip} {said:?}");
        }
        assert_eq!(believed(&from_network("10.0.0.7", 0), None), None);
        let address = believed(&from_network("10.0.0.7", 80), Some("198.51.100.7:81"));
        assert_eq!(address.unwrap().to_string(), "198.51.100.7:81");
    }

    #[test]
    fn among_several_addresses_it_is_always_the_same() {
        let mixed = "2001:db8::7,10.0.0.8,10.0.0.7,127.0.0.1";
        let address = believed(&from_network(mixed, 80), None);
        assert_eq!(address.unwrap().to_string(), "10.0.0.7:80");
        let address = believed(&from_network("2001:db8::7", 80), None);
        assert_eq!(address.unwrap().to_string(), "[2001:db8::7]:80");
    }

    #[test]
    fn instance_names_are_read() {
        assert_eq!(
            instance_name("Frank's greeter._micro._tcp.local."),
            "Frank's greeter"
        );
        assert_eq!(instance_name("a\\.b._micro._tcp.local."), "a.b");
        assert_eq!(instance_name("odd"), "odd");
    }
}
