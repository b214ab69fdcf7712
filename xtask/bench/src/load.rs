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
            "run callers={} size={} ns={}",
            self.cell.callers,
            self.cell.size,
            self.time.as_nanos()
        )
    }

    pub(crate) fn parse(line: &str) -> Result<Self> {
        Ok(Self {
            cell: Cell {
                size: wire::field(line, "size")?,
                callers: wire::field(line, "callers")?,
            },
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
        for _ in 0..self.cell.callers {
            let caller = Caller {
                client: client.clone(),
                payload: payload.clone(),
                latencies: Arc::clone(&latencies),
            };
            callers.spawn(caller.run(start + self.time));
        }
        let mut calls = 0;
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

/// One closed loop.
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
