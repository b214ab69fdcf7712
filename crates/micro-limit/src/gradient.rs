//! How many calls at once, found out.

use std::time::Duration;

use micro_core::Random;

/// A concurrency limit that follows the latency: how much longer calls take than they do without
/// load says whether more or fewer of them should run at once.
///
/// The algorithm is that of Envoy's adaptive concurrency filter (gradient controller): ten times a
/// second the limit becomes `limit × gradient + √limit`, where the gradient is
/// `(1 + buffer) × unloaded latency ÷ latency`, from 0.5 to 2, both latencies medians. The unloaded
/// latency is measured while no more than `min` calls run. If that does not come about by itself
/// within a period, the limit is lowered to `min` for fifty calls, or a second, to make it so. (An
/// average of the past instead of a measurement, as in Netflix's Gradient2, takes a lasting overload
/// for the usual.)
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Gradient {
    /// The limit after the first measurement. Default 20.
    pub initial: usize,
    /// The least. Default 4.
    pub min: usize,
    /// The most. Default 1,000.
    pub max: usize,
    /// How much longer than unloaded calls may take, as a share. Default 0.25.
    pub buffer: f64,
    /// How old the unloaded latency may become; a random tenth is added or left out. Default 60 s.
    pub period: Duration,
}

impl Default for Gradient {
    fn default() -> Self {
        Self {
            initial: 20,
            min: 4,
            max: 1000,
            buffer: 0.25,
            period: Duration::from_secs(60),
        }
    }
}

impl Gradient {
    /// From `min` to `max` calls at once, beginning with `initial`.
    #[must_use]
    pub fn new(initial: usize, min: usize, max: usize) -> Self {
        Self {
            initial,
            min,
            max,
            ..Self::default()
        }
    }

    /// Sets [`buffer`](Self::buffer).
    #[must_use]
    pub const fn with_buffer(mut self, buffer: f64) -> Self {
        self.buffer = buffer;
        self
    }

    /// Sets [`period`](Self::period).
    #[must_use]
    pub const fn with_period(mut self, period: Duration) -> Self {
        self.period = period;
        self
    }

    fn least(&self) -> usize {
        self.min.max(1)
    }

    pub(crate) fn bounded(&self, limit: usize) -> usize {
        limit.clamp(self.least(), self.max.max(self.least()))
    }
}

/// How often the limit changes, in ns.
const UPDATE: u64 = 100_000_000;
/// The fewest samples that it changes by.
const ENOUGH: usize = 10;
/// How many samples measure the unloaded latency, and how many are kept at most.
const MEASURE: usize = 50;
const MOST: usize = 256;
/// How long a measurement may lower the limit, in ns.
const PATIENCE: u64 = 1_000_000_000;

/// What has been seen of the latency.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Seconds.
    unloaded: Option<f64>,
    /// When it is to be measured again by force, in ns.
    measure_at: u64,
    /// Since when the limit is lowered, and what it was.
    measuring: Option<(u64, usize)>,
    low: Vec<f32>,
    all: Vec<f32>,
    update_at: u64,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            unloaded: None,
            measure_at: 0,
            measuring: None,
            low: Vec::with_capacity(MEASURE),
            all: Vec::with_capacity(MOST),
            update_at: 0,
        }
    }
}

impl Seen {
    /// A call took so long, with so many in flight, itself included: the new limit.
    pub(crate) fn sample(
        &mut self,
        rules: &Gradient,
        took: Duration,
        in_flight: usize,
        limit: usize,
        now: u64,
        random: &dyn Random,
    ) -> usize {
        let took = took.as_secs_f64().max(1e-6) as f32;
        if in_flight <= rules.least() && self.low.len() < MEASURE {
            self.low.push(took);
        }
        if self.all.len() < MOST {
            self.all.push(took);
        }
        let patience_is_over = self
            .measuring
            .is_some_and(|(since, _)| now.saturating_sub(since) >= PATIENCE);
        if self.low.len() >= MEASURE || (patience_is_over && self.low.len() >= ENOUGH) {
            self.unloaded = Some(median(&mut self.low));
        }
        if self.low.len() >= MEASURE || patience_is_over {
            self.low.clear();
            let jitter = 0.9 + (random.next_u64() % 1000) as f64 / 5000.0;
            let period = rules.period.max(Duration::from_secs(1)).as_secs_f64();
            self.measure_at = now.saturating_add((period * jitter * 1e9) as u64);
            if let Some((_, before)) = self.measuring.take() {
                self.all.clear();
                self.update_at = now.saturating_add(UPDATE);
                return rules.bounded(before);
            }
        }
        if self.measuring.is_some() {
            return rules.least();
        }
        if now >= self.measure_at {
            self.measuring = Some((now, limit));
            self.low.clear();
            return rules.least();
        }
        if now < self.update_at || self.all.len() < ENOUGH {
            return rules.bounded(limit);
        }
        self.update_at = now.saturating_add(UPDATE);
        let current = median(&mut self.all);
        self.all.clear();
        let Some(unloaded) = self.unloaded else {
            return rules.bounded(limit);
        };
        // What is not used says nothing about more of it.
        if in_flight * 2 < limit {
            return rules.bounded(limit);
        }
        let allowed = unloaded * (1.0 + rules.buffer.clamp(0.0, 10.0));
        let gradient = (allowed / current).clamp(0.5, 2.0);
        let limit = limit as f64;
        rules.bounded((limit * gradient + limit.sqrt()) as usize)
    }
}

/// The median, of at least one.
fn median(of: &mut [f32]) -> f64 {
    let middle = of.len() / 2;
    let (_, median, _) = of.select_nth_unstable_by(middle, f32::total_cmp);
    f64::from(*median)
}

#[cfg(test)]
mod tests {
    use micro_core::SeededRandom;

    use super::*;

    /// A server of so many workers, kept busy: a call waits for its turn, then takes 10 ms.
    struct Server {
        seen: Seen,
        random: SeededRandom,
        now: u64,
        limit: usize,
    }

    impl Server {
        fn new(limit: usize) -> Self {
            Self {
                seen: Seen::default(),
                random: SeededRandom::new(7),
                now: 0,
                limit,
            }
        }

        fn run(
            &mut self,
            rules: &Gradient,
            workers: usize,
            ms: f64,
            seconds: u64,
        ) -> (usize, usize) {
            let (mut least, mut most) = (usize::MAX, 0);
            let end = self.now + seconds * 1_000_000_000;
            while self.now < end {
                let rounds = (self.limit as f64 / workers as f64).max(1.0);
                let took = ms / 1e3 * rounds;
                self.now += (took * 1e9) as u64 / self.limit as u64;
                let took = Duration::from_secs_f64(took);
                self.limit =
                    self.seen
                        .sample(rules, took, self.limit, self.limit, self.now, &self.random);
                if self.seen.measuring.is_none() {
                    (least, most) = (least.min(self.limit), most.max(self.limit));
                }
            }
            (least, most)
        }
    }

    #[test]
    fn it_settles_near_what_the_server_can_do_and_stays() {
        for workers in [8, 50, 200] {
            let rules = Gradient::default();
            let mut server = Server::new(20);
            server.run(&rules, workers, 10.0, 20);
            let (least, most) = server.run(&rules, workers, 10.0, 200);
            // The buffer, and the square root that looks for more.
            assert!(
                least >= workers && most <= workers * 2 + 8,
                "{least} {most}"
            );
        }
    }

    #[test]
    fn it_comes_down_when_the_service_becomes_slower_and_learns_that_it_has() {
        let rules = Gradient::default();
        let mut server = Server::new(20);
        server.run(&rules, 50, 10.0, 30);
        let before = server.limit;
        let (least, _) = server.run(&rules, 50, 40.0, 2);
        assert!(least < before / 2, "{before} {least}");
        // Few enough calls have run to see that slower is how it is now.
        server.run(&rules, 50, 40.0, 20);
        assert!(server.limit >= 45, "{}", server.limit);
    }

    #[test]
    fn it_does_not_grow_without_use_and_stays_in_its_bounds() {
        let rules = Gradient::new(20, 4, 100);
        let (mut seen, random) = (Seen::default(), SeededRandom::new(7));
        let mut limit = 20;
        for i in 1..5000_u64 {
            limit = seen.sample(
                &rules,
                Duration::from_millis(10),
                1,
                limit,
                i * 10_000_000,
                &random,
            );
            if seen.measuring.is_none() {
                assert_eq!(limit, 20, "{i}");
            }
        }
        for (i, took) in [Duration::ZERO, Duration::MAX, Duration::from_nanos(1)]
            .into_iter()
            .cycle()
            .take(3000)
            .enumerate()
        {
            limit = seen.sample(&rules, took, limit, limit, i as u64 * 50_000_000, &random);
            assert!((4..=100).contains(&limit), "{limit}");
        }
        let odd = Gradient::new(5, 0, 0).with_buffer(f64::NAN);
        assert_eq!(odd.bounded(7), 1);
        let limit = seen.sample(&odd, Duration::from_millis(1), 7, 7, u64::MAX, &random);
        assert_eq!(limit, 1);
    }

    #[test]
    fn a_measurement_without_calls_gives_up() {
        let rules = Gradient::default();
        let (mut seen, random) = (Seen::default(), SeededRandom::new(7));
        let took = Duration::from_millis(10);
        assert_eq!(seen.sample(&rules, took, 20, 20, 1, &random), 4);
        // Streams hold all places, say: few calls end.
        assert_eq!(seen.sample(&rules, took, 30, 4, PATIENCE / 2, &random), 4);
        assert_eq!(seen.sample(&rules, took, 30, 4, PATIENCE + 1, &random), 20);
    }
}
