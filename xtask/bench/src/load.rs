//! Closed loops: so many callers, each with one call in flight.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use crate::cost::Cost;
use crate::stacks::Client;
use crate::{Result, clock, process, wire};

/// How long calls in flight may take to come back after a turn. Then the stack has stalled.
const STALLED: Duration = Duration::from_secs(10);

/// With so many calls under way a stack does not keep up with its arrivals.
const FELL_BEHIND: usize = 50_000;

/// Latencies that a caller keeps before it takes the lock of the shared histogram.
const KEPT: usize = 64;

/// What is called, and by how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) size: usize,
    pub(crate) callers: usize,
}

/// One stack's turn in a cell: a command to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) cell: Cell,
    /// Calls per second that begin whatever becomes of those before (Poisson arrivals), instead of
    /// callers that wait for each; 0 for callers.
    pub(crate) rate: u64,
    pub(crate) time: Duration,
}

/// What came of a turn, seen from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) calls: u64,
    pub(crate) elapsed_ns: u64,
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) p999_ns: u64,
    /// Of the client.
    pub(crate) cost: Cost,
}

impl Turn {
    pub(crate) fn line(&self) -> String {
        format!(
            "run callers={} size={} rate={} ns={}",
            self.cell.callers,
            self.cell.size,
            self.rate,
            self.time.as_nanos()
        )
    }

    pub(crate) fn parse(line: &str) -> Result<Self> {
        Ok(Self {
            cell: Cell {
                size: wire::field(line, "size")?,
                callers: wire::field(line, "callers")?,
            },
            rate: wire::field(line, "rate")?,
            time: Duration::from_nanos(wire::field(line, "ns")?),
        })
    }

    /// Calls until the time is over. All calls that began are counted, and waited for.
    pub(crate) async fn run<C: Client>(self, client: &C) -> Result<Outcome> {
        let payload: Bytes = (0..self.cell.size)
            .map(|index| (index % 251) as u8)
            .collect();
        // Three digits, up to a minute, in ns.
        let latencies = Arc::new(Mutex::new(Histogram::<u64>::new_with_bounds(
            1,
            60_000_000_000,
            3,
        )?));
        let mut callers = JoinSet::new();
        let before = Cost::so_far();
        let start = clock::now();
        let caller = || Caller {
            client: client.clone(),
            payload: payload.clone(),
            latencies: Arc::clone(&latencies),
        };
        let mut calls = 0;
        if self.rate > 0 {
            calls = arrivals(self.rate, start, start + self.time, &mut callers, caller).await?;
        } else {
            for _ in 0..self.cell.callers {
                callers.spawn(caller().run(start + self.time));
            }
        }
        let all = async {
            while let Some(called) = callers.join_next().await {
                calls += called??;
            }
            Ok::<(), crate::Error>(())
        };
        tokio::time::timeout(self.time + STALLED, all)
            .await
            .map_err(|_| "calls do not come back")??;
        let elapsed_ns = start.elapsed().as_nanos() as u64;
        let cost = Cost::so_far() - before;
        let latencies = latencies.lock().map_err(|_| "a caller panicked")?;
        Ok(Outcome {
            calls,
            elapsed_ns,
            p50_ns: latencies.value_at_quantile(0.5),
            p99_ns: latencies.value_at_quantile(0.99),
            p999_ns: latencies.value_at_quantile(0.999),
            cost,
        })
    }
}

impl Outcome {
    pub(crate) fn fields(&self) -> String {
        format!(
            "calls={} elapsed_ns={} p50_ns={} p99_ns={} p999_ns={} {}",
            self.calls,
            self.elapsed_ns,
            self.p50_ns,
            self.p99_ns,
            self.p999_ns,
            process::cost_fields(self.cost)
        )
    }

    pub(crate) fn parse(fields: &str) -> Result<Self> {
        Ok(Self {
            calls: wire::field(fields, "calls")?,
            elapsed_ns: wire::field(fields, "elapsed_ns")?,
            p50_ns: wire::field(fields, "p50_ns")?,
            p99_ns: wire::field(fields, "p99_ns")?,
            p999_ns: wire::field(fields, "p999_ns")?,
            cost: process::parse_cost(fields)?,
        })
    }
}

/// Begins calls at random moments; returns how many have ended by then. Each counts from the moment
/// that it was meant to begin, so what holds one up counts for those behind it too.
async fn arrivals<C: Client>(
    rate: u64,
    start: Instant,
    end: Instant,
    callers: &mut JoinSet<Result<u64>>,
    caller: impl Fn() -> Caller<C>,
) -> Result<u64> {
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut next = start;
    let mut ended = 0;
    loop {
        // xorshift64*, and an exponential distribution of what lies between two arrivals.
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        let bits = random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        let unit = (bits as f64 + 1.0) / (1_u64 << 53) as f64;
        next += Duration::from_secs_f64(-unit.ln() / rate as f64);
        if next >= end {
            return Ok(ended);
        }
        // The runtime's timer counts in milliseconds. Whoever else is ready runs in between.
        while clock::now() < next {
            tokio::task::yield_now().await;
        }
        callers.spawn(caller().once(next));
        while let Some(called) = callers.try_join_next() {
            ended += called??;
        }
        if callers.len() > FELL_BEHIND {
            return Err(format!("it does not keep up with {rate} calls per second").into());
        }
    }
}

/// One closed loop, or one call.
struct Caller<C> {
    client: C,
    payload: Bytes,
    latencies: Arc<Mutex<Histogram<u64>>>,
}

impl<C: Client> Caller<C> {
    /// Calls until then, and once at least. Returns the number of calls.
    async fn run(mut self, until: Instant) -> Result<u64> {
        let mut calls = 0;
        let mut kept = Vec::with_capacity(KEPT);
        // One reading of the clock per call: the end of one is the start of the next.
        let mut start = clock::now();
        loop {
            let reply = self.client.call(self.payload.clone()).await?;
            let end = clock::now();
            // An echo that is not one would be a fast wrong answer. Comparing all bytes each time
            // would be part of the figure, so only the first of each caller is compared.
            if reply.len() != self.payload.len() || (calls == 0 && reply != self.payload) {
                return Err(format!(
                    "the echo of {} bytes came back as {}",
                    self.payload.len(),
                    reply.len()
                )
                .into());
            }
            calls += 1;
            kept.push((end - start).as_nanos() as u64);
            start = end;
            if kept.len() == KEPT {
                self.keep(&mut kept)?;
            }
            if end >= until {
                self.keep(&mut kept)?;
                return Ok(calls);
            }
        }
    }

    /// One call, which was meant to begin then.
    async fn once(mut self, meant: Instant) -> Result<u64> {
        let reply = self.client.call(self.payload.clone()).await?;
        let latency = clock::now() - meant;
        if reply.len() != self.payload.len() {
            return Err("the echo is not what was sent".into());
        }
        self.keep(&mut vec![latency.as_nanos() as u64])?;
        Ok(1)
    }

    fn keep(&self, kept: &mut Vec<u64>) -> Result<()> {
        let mut latencies = self.latencies.lock().map_err(|_| "a caller panicked")?;
        for latency in kept.drain(..) {
            latencies.saturating_record(latency);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_and_its_outcome_survive_the_way() {
        let turn = Turn {
            cell: Cell {
                size: 64,
                callers: 16,
            },
            rate: 7,
            time: Duration::from_millis(300),
        };
        assert_eq!(Turn::parse(&turn.line()).expect("it is a turn"), turn);
        let cost = Cost {
            cpu_ns: 6,
            allocations: 7,
        };
        let outcome = Outcome {
            calls: 1,
            elapsed_ns: 2,
            p50_ns: 3,
            p99_ns: 4,
            p999_ns: 5,
            cost,
        };
        assert_eq!(
            Outcome::parse(&outcome.fields()).expect("it is an outcome"),
            outcome
        );
    }
}
