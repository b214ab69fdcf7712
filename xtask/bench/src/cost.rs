//! What a process has spent so far, and the core it runs on.

use std::ops::Sub;

use crate::{Result, alloc};

/// CPU time (user and system, all threads) and allocations of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) cpu_ns: u64,
    pub(crate) allocations: u64,
}

impl Cost {
    /// Of this process since it began.
    pub(crate) fn so_far() -> Self {
        // This clock counts what the scheduler counts, in ns; getrusage and /proc/<pid>/stat may
        // round to clock ticks.
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let cpu_ns = u64::try_from(cpu.tv_sec).unwrap_or(0) * 1_000_000_000
            + u64::try_from(cpu.tv_nsec).unwrap_or(0);
        Self {
            cpu_ns,
            allocations: alloc::allocations(),
        }
    }
}

impl Sub for Cost {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns - earlier.cpu_ns,
            allocations: self.allocations - earlier.allocations,
        }
    }
}

/// Which end of a connection a process is. Each has its own core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Server,
    Client,
}

/// Keeps this process (and the threads it starts later) on the core of its side. Does nothing where
/// there are not two cores to share out.
#[cfg(target_os = "linux")]
pub(crate) fn pin(side: Side) -> Result<()> {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    // The cores that we may use, which in a container are not always the first ones.
    let allowed = sched_getaffinity(None)?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core));
    let (Some(first), Some(second)) = (cores.next(), cores.next()) else {
        return Ok(());
    };
    let mut own = CpuSet::new();
    own.set(if side == Side::Server { first } else { second });
    Ok(sched_setaffinity(None, &own)?)
}

/// Cores are shared out on Linux only.
#[cfg(not(target_os = "linux"))]
pub(crate) fn pin(_side: Side) -> Result<()> {
    Ok(())
}
