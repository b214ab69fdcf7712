//! Behavior that every selector shares.

pub mod simulation;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use micro_core::{Clock as _, Random as _, SeededRandom, SystemClock};
use micro_selector_core::{
    Entry, Node, NodeState, Nodes, Outcome, Pick, PickHint, Readiness, Selector,
};

use crate::harness::{cases, run_cases};

/// Runs the suite; `open` returns a fresh selector for each case.
pub fn run<F>(open: F) -> ExitCode
where
    F: Fn() -> Arc<dyn Selector> + Clone + Send + 'static,
{
    run_suite(open, None)
}

/// Runs the suite, and sees to it that a pick does not allocate.
///
/// `allocations` returns how often the calling thread has allocated so far: the test binary's
/// global allocator counts it.
pub fn run_counting<F>(open: F, allocations: fn() -> u64) -> ExitCode
where
    F: Fn() -> Arc<dyn Selector> + Clone + Send + 'static,
{
    run_suite(open, Some(allocations))
}

fn run_suite<F>(open: F, allocations: Option<fn() -> u64>) -> ExitCode
where
    F: Fn() -> Arc<dyn Selector> + Clone + Send + 'static,
{
    let open_one = open.clone();
    let open = move || {
        Ok(Arc::new(Setup {
            selector: open(),
            other: open(),
            allocations,
        }))
    };
    let measures = Measures {
        allocations: allocations.is_some(),
        slow_start: !open_one().balance().slow_start.is_zero(),
    };
    run_cases(
        cases![Measures;
            it_has_a_name,
            an_empty_set_gives_none,
            one_node_is_always_taken,
            every_ready_node_is_taken,
            what_the_filter_refuses_is_never_taken,
            tried_nodes_are_avoided_while_others_are_left,
            unready_nodes_are_avoided_while_a_ready_one_is_left,
            failed_nodes_are_the_last_resort,
            an_ejected_node_is_avoided_and_returns,
            if_all_are_ejected_they_are_tried_all_the_same,
            after_its_ejection_a_node_takes_one_call_at_a_time,
            in_its_slow_start_a_node_takes_less if slow_start,
            nodes_that_all_start_slowly_share_evenly,
            the_first_part_of_a_set_is_a_set_of_its_own,
            the_largest_and_the_smallest_weight_do_no_harm,
            a_pick_is_in_flight_until_it_is_told_the_outcome,
            a_pick_that_is_dropped_says_nothing_of_its_node,
            threads_pick_at_the_same_time,
            ten_thousand_nodes_are_a_set_too,
            what_is_known_survives_changes_of_the_set,
            services_share_a_selector_undisturbed,
            heavier_nodes_take_more,
            nodes_without_weight_take_nothing_while_others_are_left,
            the_same_hints_give_the_same_picks,
            a_pick_does_not_allocate if allocations,
        ],
        &measures,
        &open,
    )
}

struct Measures {
    allocations: bool,
    slow_start: bool,
}

struct Setup {
    selector: Arc<dyn Selector>,
    /// A second one like it.
    other: Arc<dyn Selector>,
    allocations: Option<fn() -> u64>,
}

type Backend = Arc<Setup>;

fn now() -> Instant {
    SystemClock.now()
}

fn entry(id: usize) -> Entry {
    let node = Node::new(
        format!("node-{id}"),
        format!("10.0.{}.{}:1", id / 250, id % 250),
    );
    let entry = Entry::new(node, "v1");
    entry.state().set_readiness(Readiness::Ready);
    entry
}

/// `n` nodes that are ready.
fn ready(n: usize) -> Nodes {
    (0..n).map(entry).collect()
}

/// Hints as calls bring them: chance and keys of their own, repeated for the same seed.
struct Hints {
    random: SeededRandom,
    now: Instant,
}

impl Hints {
    fn new(seed: u64) -> Self {
        Self {
            random: SeededRandom::new(seed),
            now: now(),
        }
    }

    fn next<'a>(&self) -> PickHint<'a> {
        PickHint::new(self.now)
            .with_random(self.random.next_u64())
            .with_key(Some(self.random.next_u64()))
    }
}

/// How often each node is taken, by calls that end at once.
fn counts(selector: &dyn Selector, nodes: &Nodes, hints: &Hints, picks: usize) -> Vec<usize> {
    let mut counts = vec![0; nodes.len()];
    for _ in 0..picks {
        let pick = selector.pick(nodes, &hints.next());
        counts[pick.expect("there are candidates").index()] += 1;
    }
    counts
}

async fn it_has_a_name(setup: Backend) {
    let name = setup.selector.backend();
    assert!(!name.is_empty());
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    assert!(name.bytes().all(plain), "{name:?} is no URL scheme");
}

async fn an_empty_set_gives_none(setup: Backend) {
    let hints = Hints::new(1);
    let empty = Nodes::default();
    for _ in 0..100 {
        assert!(setup.selector.pick(&empty, &hints.next()).is_none());
    }
    let without_key = PickHint::new(now());
    assert!(setup.selector.pick(&empty, &without_key).is_none());
}

async fn one_node_is_always_taken(setup: Backend) {
    let hints = Hints::new(2);
    let nodes = ready(1);
    let states = [
        Readiness::Ready,
        Readiness::Idle,
        Readiness::Connecting,
        Readiness::Failed,
    ];
    for readiness in states {
        nodes[0].state().set_readiness(readiness);
        assert_eq!(counts(&*setup.selector, &nodes, &hints, 100), [100]);
    }
    let without_key = PickHint::new(now());
    assert!(setup.selector.pick(&nodes, &without_key).is_some());
    // Also if it was tried: there is no other.
    let tried = hints.next().with_tried(&[0]);
    assert!(setup.selector.pick(&nodes, &tried).is_some());
}

async fn every_ready_node_is_taken(setup: Backend) {
    let nodes = ready(10);
    let counts = counts(&*setup.selector, &nodes, &Hints::new(3), 4_000);
    for count in &counts {
        assert!(
            (200..=800).contains(count),
            "400 each would be even: {counts:?}"
        );
    }
}

async fn what_the_filter_refuses_is_never_taken(setup: Backend) {
    let hints = Hints::new(4);
    let nodes = ready(10);
    let even = |entry: &Entry| entry.node().id.ends_with(['0', '2', '4', '6', '8']);
    // Not even if all that it allows is failed and ejected.
    for allowed_is_well in [true, false] {
        if !allowed_is_well {
            for entry in nodes.iter().filter(|entry| even(entry)) {
                entry.state().set_readiness(Readiness::Failed);
                entry.state().eject(hints.now, Duration::from_secs(60));
            }
        }
        let mut taken = [0; 10];
        for _ in 0..1_000 {
            let hint = hints.next().with_filter(Some(&even));
            taken[setup.selector.pick(&nodes, &hint).unwrap().index()] += 1;
        }
        for (index, count) in taken.iter().enumerate() {
            assert_eq!(*count > 0, index % 2 == 0, "{taken:?}");
        }
    }
    let nobody = |_: &Entry| false;
    let hint = hints.next().with_filter(Some(&nobody));
    assert!(setup.selector.pick(&nodes, &hint).is_none());
}

async fn tried_nodes_are_avoided_while_others_are_left(setup: Backend) {
    let hints = Hints::new(5);
    let nodes = ready(5);
    // Better a failed node than one that was tried already.
    nodes[4].state().set_readiness(Readiness::Failed);
    for _ in 0..200 {
        let mut tried = Vec::new();
        for _ in 0..5 {
            let hint = hints.next();
            let pick = setup.selector.pick(&nodes, &hint.with_tried(&tried));
            let index = pick.unwrap().index();
            assert!(!tried.contains(&index), "{index} again, after {tried:?}");
            tried.push(index);
        }
        assert_eq!(tried[4], 4, "the failed one comes last");
        let hint = hints.next();
        let again = setup.selector.pick(&nodes, &hint.with_tried(&tried));
        assert!(again.is_some(), "one that was tried is better than none");
    }
}

async fn unready_nodes_are_avoided_while_a_ready_one_is_left(setup: Backend) {
    let hints = Hints::new(6);
    let nodes = ready(6);
    for (index, readiness) in [
        (0, Readiness::Idle),
        (1, Readiness::Connecting),
        (2, Readiness::Failed),
    ] {
        nodes[index].state().set_readiness(readiness);
    }
    let taken = counts(&*setup.selector, &nodes, &hints, 1_000);
    assert_eq!(taken[..3], [0; 3], "{taken:?}");
    assert!(taken[3..].iter().all(|count| *count > 0), "{taken:?}");
    // A single ready one among many takes all.
    let nodes = ready(100);
    for entry in nodes.iter().skip(1) {
        entry.state().set_readiness(Readiness::Connecting);
    }
    let taken = counts(&*setup.selector, &nodes, &hints, 200);
    assert_eq!(taken[0], 200);
}

async fn failed_nodes_are_the_last_resort(setup: Backend) {
    let hints = Hints::new(7);
    let nodes = ready(4);
    for entry in nodes.iter() {
        entry.state().set_readiness(Readiness::Failed);
    }
    nodes[1].state().set_readiness(Readiness::Connecting);
    let taken = counts(&*setup.selector, &nodes, &hints, 200);
    assert_eq!(taken, [0, 200, 0, 0]);
    nodes[1].state().set_readiness(Readiness::Failed);
    let taken = counts(&*setup.selector, &nodes, &hints, 800);
    assert!(
        taken.iter().all(|count| *count > 0),
        "trying is better than failing: {taken:?}"
    );
}

async fn an_ejected_node_is_avoided_and_returns(setup: Backend) {
    let mut hints = Hints::new(8);
    let nodes = ready(3);
    nodes[1].state().eject(hints.now, Duration::from_secs(5));
    let taken = counts(&*setup.selector, &nodes, &hints, 600);
    assert_eq!(taken[1], 0, "{taken:?}");
    // A node that waits for its connection is better than one that fails calls.
    nodes[0].state().set_readiness(Readiness::Connecting);
    nodes[2].state().set_readiness(Readiness::Connecting);
    let taken = counts(&*setup.selector, &nodes, &hints, 600);
    assert_eq!(taken[1], 0, "{taken:?}");
    nodes[0].state().set_readiness(Readiness::Ready);
    nodes[2].state().set_readiness(Readiness::Ready);
    hints.now += Duration::from_secs(6);
    let taken = counts(&*setup.selector, &nodes, &hints, 600);
    assert!(taken[1] > 0, "{taken:?}");
    nodes[1].state().eject(hints.now, Duration::from_secs(3600));
    nodes[1].state().reinstate();
    let taken = counts(&*setup.selector, &nodes, &hints, 600);
    assert!(taken[1] > 0, "{taken:?}");
}

async fn if_all_are_ejected_they_are_tried_all_the_same(setup: Backend) {
    let hints = Hints::new(9);
    let nodes = ready(4);
    for entry in nodes.iter() {
        entry.state().eject(hints.now, Duration::from_secs(5));
    }
    let taken = counts(&*setup.selector, &nodes, &hints, 800);
    assert!(taken.iter().all(|count| *count > 0), "{taken:?}");
}

async fn after_its_ejection_a_node_takes_one_call_at_a_time(setup: Backend) {
    let mut hints = Hints::new(19);
    let nodes = ready(3);
    let second = Duration::from_secs(1);
    nodes[1].state().eject(hints.now, 5 * second);
    hints.now += 6 * second;
    let mut picks: Vec<Pick> = (0..300)
        .map(|_| setup.selector.pick(&nodes, &hints.next()).unwrap())
        .collect();
    assert_eq!(nodes[1].state().in_flight(), 1, "one says how it is");
    // It fails: the client ejects it again.
    let probe = picks.iter().position(|pick| pick.index() == 1).unwrap();
    let probe = picks.swap_remove(probe);
    probe.finish(Outcome::Failure(second), hints.now);
    nodes[1].state().eject(hints.now, 5 * second);
    let taken = counts(&*setup.selector, &nodes, &hints, 300);
    assert_eq!(taken[1], 0, "{taken:?}");
    hints.now += 6 * second;
    while nodes[1].state().in_flight() == 0 {
        picks.push(setup.selector.pick(&nodes, &hints.next()).unwrap());
    }
    picks
        .pop()
        .unwrap()
        .finish(Outcome::Success(second / 100), hints.now);
    assert!(!nodes[1].state().is_on_probation(hints.now));
    let latency = nodes[1].state().latency(hints.now).unwrap();
    assert!(latency < second, "what its failures cost is forgotten");
    drop(picks);
    let held: Vec<Pick> = (0..300)
        .map(|_| setup.selector.pick(&nodes, &hints.next()).unwrap())
        .collect();
    assert!(nodes[1].state().in_flight() > 1, "it is one of all again");
    drop(held);
}

async fn in_its_slow_start_a_node_takes_less(setup: Backend) {
    let mut hints = Hints::new(20);
    let nodes = ready(4);
    let whole = Duration::from_secs(10);
    let start = hints.now;
    nodes[2].state().slow_start(start, whole);
    let mut before = 0;
    // A quarter of 4,000 is a fair share.
    for (after, least, most) in [(0, 50, 180), (5, 350, 650), (10, 800, 1_200)] {
        hints.now = start + Duration::from_secs(after);
        let taken = counts(&*setup.selector, &nodes, &hints, 4_000);
        let count = taken[2];
        assert!((least..=most).contains(&count), "{after} s: {taken:?}");
        assert!(count > before, "{after} s: {taken:?}");
        before = count;
    }
}

async fn nodes_that_all_start_slowly_share_evenly(setup: Backend) {
    let hints = Hints::new(21);
    let nodes = ready(4);
    for entry in nodes.iter() {
        entry.state().slow_start(hints.now, Duration::from_secs(10));
    }
    let taken = counts(&*setup.selector, &nodes, &hints, 4_000);
    assert!(taken.iter().all(|n| (700..=1_300).contains(n)), "{taken:?}");
}

async fn the_first_part_of_a_set_is_a_set_of_its_own(setup: Backend) {
    let hints = Hints::new(22);
    let nodes = ready(100);
    let few = nodes.first(3);
    let taken = counts(&*setup.selector, &few, &hints, 900);
    assert!(taken.iter().all(|n| *n > 100), "{taken:?}");
    // Also if none of it can take a call, and others could.
    for entry in few.iter() {
        entry.state().set_readiness(Readiness::Failed);
    }
    let taken = counts(&*setup.selector, &few, &hints, 100);
    assert_eq!(taken.iter().sum::<usize>(), 100);
    let none = setup.selector.pick(&nodes.first(0), &hints.next());
    assert!(none.is_none());
}

async fn the_largest_and_the_smallest_weight_do_no_harm(setup: Backend) {
    let hints = Hints::new(23);
    let weights = [u32::MAX, 0, 1, u32::MAX];
    let nodes: Nodes = (0..4)
        .map(|id| entry(id).with_weight(weights[id]))
        .collect();
    let taken = counts(&*setup.selector, &nodes, &hints, 1_000);
    assert_eq!(taken[1], 0, "{taken:?}");
    assert!(taken[0] > 200 && taken[3] > 200, "{taken:?}");
    let hint = hints.next();
    let last = setup.selector.pick(&nodes, &hint.with_tried(&[0, 2, 3]));
    assert_eq!(last.unwrap().index(), 1, "rather than one that was tried");
}

fn in_flight(nodes: &Nodes) -> u32 {
    nodes.iter().map(|entry| entry.state().in_flight()).sum()
}

async fn a_pick_is_in_flight_until_it_is_told_the_outcome(setup: Backend) {
    let hints = Hints::new(10);
    let nodes = ready(5);
    let picks: Vec<Pick> = (0..100)
        .map(|_| setup.selector.pick(&nodes, &hints.next()).unwrap())
        .collect();
    assert_eq!(in_flight(&nodes), 100);
    for pick in &picks {
        let state: *const NodeState = pick.state();
        let node = Arc::as_ptr(nodes[pick.index()].state());
        assert!(
            std::ptr::eq(state, node),
            "the index is that of another node"
        );
    }
    let later = hints.now + Duration::from_millis(7);
    for (n, pick) in picks.into_iter().enumerate() {
        let took = Duration::from_millis(7);
        pick.finish(
            if n % 2 == 0 {
                Outcome::Success(took)
            } else {
                Outcome::Failure(took)
            },
            later,
        );
    }
    assert_eq!(in_flight(&nodes), 0);
    let picks: u64 = nodes.iter().map(|entry| entry.state().picks()).sum();
    assert_eq!(picks, 100);
    let known = |entry: &Entry| entry.state().latency(later).is_some();
    assert!(
        nodes
            .iter()
            .all(|entry| known(entry) || entry.state().picks() == 0)
    );
}

async fn a_pick_that_is_dropped_says_nothing_of_its_node(setup: Backend) {
    let hints = Hints::new(11);
    let nodes = ready(3);
    for _ in 0..100 {
        drop(setup.selector.pick(&nodes, &hints.next()));
    }
    assert_eq!(in_flight(&nodes), 0);
    for entry in nodes.iter() {
        assert_eq!(entry.state().failures(), 0);
        assert_eq!(entry.state().latency(hints.now), None);
    }
}

async fn threads_pick_at_the_same_time(setup: Backend) {
    const PICKS: usize = 2_000;
    let nodes = ready(5);
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let (nodes, setup) = (nodes.clone(), Arc::clone(&setup));
            std::thread::spawn(move || {
                let hints = Hints::new(100 + thread);
                for _ in 0..PICKS {
                    let pick = setup.selector.pick(&nodes, &hints.next()).unwrap();
                    let took = Duration::from_micros(500);
                    pick.finish(Outcome::Success(took), hints.now);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no thread fails");
    }
    assert_eq!(in_flight(&nodes), 0);
    let picks: Vec<u64> = nodes.iter().map(|entry| entry.state().picks()).collect();
    assert_eq!(picks.iter().sum::<u64>(), 8 * PICKS as u64);
    assert!(picks.iter().all(|n| *n > 500), "{picks:?}");
}

async fn ten_thousand_nodes_are_a_set_too(setup: Backend) {
    let hints = Hints::new(12);
    let nodes = ready(10_000);
    let mut taken = std::collections::BTreeSet::new();
    let picks: Vec<Pick> = (0..500)
        .map(|_| setup.selector.pick(&nodes, &hints.next()).unwrap())
        .collect();
    for pick in &picks {
        taken.insert(pick.index());
    }
    assert!(
        taken.len() > 450,
        "only {} nodes take 500 calls",
        taken.len()
    );
    // The last of so many is found too.
    let last = |entry: &Entry| entry.node().id == "node-9999";
    let hint = hints.next().with_filter(Some(&last));
    assert_eq!(setup.selector.pick(&nodes, &hint).unwrap().index(), 9_999);
}

async fn what_is_known_survives_changes_of_the_set(setup: Backend) {
    let hints = Hints::new(13);
    let before = ready(3);
    let under_way: Vec<Pick> = (0..30)
        .map(|_| setup.selector.pick(&before, &hints.next()).unwrap())
        .collect();
    // The first node leaves, one joins, and the order changes: states go along by node.
    let joined = entry(7);
    let after: Nodes = [joined]
        .into_iter()
        .chain(
            before
                .iter()
                .rev()
                .filter(|entry| entry.node().id != "node-0")
                .cloned(),
        )
        .collect();
    for (old, new) in [(1, 2), (2, 1)] {
        assert_eq!(before[old].node().id, after[new].node().id);
        let in_flight = before[old].state().in_flight();
        assert_eq!(after[new].state().in_flight(), in_flight);
    }
    let taken = counts(&*setup.selector, &after, &hints, 600);
    assert!(taken.iter().all(|count| *count > 0), "{taken:?}");
    // Calls on a node that left end as they should.
    for pick in under_way {
        pick.finish(Outcome::Success(Duration::from_millis(1)), hints.now);
    }
    assert_eq!((in_flight(&before), in_flight(&after)), (0, 0));
}

async fn services_share_a_selector_undisturbed(setup: Backend) {
    let hints = Hints::new(14);
    let (one, two) = (ready(2), ready(4));
    let (mut ones, mut twos) = (vec![0; 2], vec![0; 4]);
    for _ in 0..1_000 {
        // In step: a rotation that they shared would show.
        let pick = setup.selector.pick(&one, &hints.next()).unwrap();
        ones[pick.index()] += 1;
        drop(pick);
        let pick = setup.selector.pick(&two, &hints.next()).unwrap();
        twos[pick.index()] += 1;
    }
    assert!(
        ones.iter().all(|n: &usize| (350..=650).contains(n)),
        "{ones:?}"
    );
    assert!(
        twos.iter().all(|n: &usize| (150..=350).contains(n)),
        "{twos:?}"
    );
}

async fn heavier_nodes_take_more(setup: Backend) {
    let hints = Hints::new(15);
    let weights = [100, 300];
    let nodes: Nodes = (0..2)
        .map(|id| entry(id).with_weight(weights[id]))
        .collect();
    // All stay in flight: what counts is how a load is shared.
    let picks: Vec<Pick> = (0..800)
        .map(|_| setup.selector.pick(&nodes, &hints.next()).unwrap())
        .collect();
    let light = picks.iter().filter(|pick| pick.index() == 0).count();
    assert!(
        (140..=260).contains(&light),
        "{light} of 800, 200 would be the weight's share"
    );
}

async fn nodes_without_weight_take_nothing_while_others_are_left(setup: Backend) {
    let hints = Hints::new(16);
    let weights = [0, 100, 0, 1];
    let nodes: Nodes = (0..4)
        .map(|id| entry(id).with_weight(weights[id]))
        .collect();
    let taken = counts(&*setup.selector, &nodes, &hints, 500);
    assert_eq!((taken[0], taken[2]), (0, 0), "{taken:?}");
    let only: Nodes = (0..3).map(|id| entry(id).with_weight(0)).collect();
    let taken = counts(&*setup.selector, &only, &hints, 600);
    assert!(taken.iter().all(|count| *count > 0), "{taken:?}");
}

async fn the_same_hints_give_the_same_picks(setup: Backend) {
    let run = |selector: &dyn Selector, now: Instant| {
        let hints = Hints {
            now,
            ..Hints::new(17)
        };
        let nodes = ready(7);
        let mut held = Vec::new();
        let mut taken = Vec::new();
        for n in 0..300 {
            let pick = selector.pick(&nodes, &hints.next()).unwrap();
            taken.push(pick.index());
            match n % 3 {
                0 => held.push(pick),
                1 => pick.finish(Outcome::Success(Duration::from_millis(n % 9 + 1)), now),
                _ => drop(pick),
            }
        }
        taken
    };
    let now = now();
    assert_eq!(run(&*setup.selector, now), run(&*setup.other, now));
}

async fn a_pick_does_not_allocate(setup: Backend) {
    let Some(allocations) = setup.allocations else {
        return;
    };
    let hints = Hints::new(18);
    let filter = |entry: &Entry| entry.node().id != "node-1";
    let weights = [100, 1, 7, 100, 0];
    let uneven: Nodes = (0..5)
        .map(|id| entry(id).with_weight(weights[id]))
        .collect();
    let few: Nodes = ready(50);
    for entry in few.iter().skip(1) {
        entry.state().set_readiness(Readiness::Connecting);
    }
    let troubled = ready(20);
    for (index, entry) in troubled.iter().enumerate() {
        let state = entry.state();
        match index % 4 {
            0 => state.eject(hints.now, Duration::from_secs(5)),
            1 => state.eject(hints.now, Duration::ZERO),
            2 => state.slow_start(hints.now, Duration::from_secs(10)),
            _ => {}
        }
    }
    for nodes in [ready(1), ready(10), ready(300), uneven, few, troubled] {
        let before = allocations();
        for n in 0..100_u32 {
            let hint = hints.next().with_tried(&[0]);
            let hint = if n % 2 == 0 {
                hint.with_filter(Some(&filter))
            } else {
                hint
            };
            if let Some(pick) = setup.selector.pick(&nodes, &hint) {
                pick.finish(Outcome::Success(Duration::from_millis(1)), hints.now);
            }
        }
        let made = allocations() - before;
        assert_eq!(made, 0, "100 picks over {} nodes", nodes.len());
    }
    let before = allocations();
    drop(std::hint::black_box(Box::new(1)));
    assert!(allocations() > before, "the binary does not count");
}
