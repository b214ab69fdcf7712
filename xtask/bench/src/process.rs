//! The two ends of a stack as processes of their own, commanded by lines on their standard input.
//!
//! Separate processes, because in one process both ends would share an allocator and a core, and
//! nobody could say which end spent what. A child ends when its standard input does, so none
//! outlives this program.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use tokio::sync::mpsc as channel;

use crate::cost::{self, Cost, Side};
use crate::{Result, wire};

/// How long a child may take to answer beyond the work it was given.
const PATIENCE: Duration = Duration::from_secs(30);

/// A child that is running.
#[derive(Debug)]
pub(crate) struct Child {
    name: String,
    process: std::process::Child,
    /// None once it has been told to end.
    commands: Option<ChildStdin>,
    answers: mpsc::Receiver<String>,
}

impl Child {
    /// Starts this program again with other arguments, and waits until it says that it is ready.
    /// Also returns the fields it says so with.
    pub(crate) fn start(arguments: &[&str]) -> Result<(Self, String)> {
        Self::run(Command::new(std::env::current_exe()?), arguments)
    }

    /// As [`start`](Self::start), by a command that runs this program, on another host perhaps.
    pub(crate) fn run(mut command: Command, arguments: &[&str]) -> Result<(Self, String)> {
        let mut process = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let commands = process.stdin.take();
        let output = process.stdout.take().ok_or("the child has no output")?;
        let (answered, answers) = mpsc::channel();
        // A thread reads, so that a child which hangs is noticed and not waited for without end.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if answered.send(line).is_err() {
                    break;
                }
            }
        });
        let mut child = Self {
            name: arguments.join(" "),
            process,
            commands,
            answers,
        };
        let fields = child.answer(Duration::ZERO)?;
        Ok((child, fields))
    }

    /// Has a command carried out that takes so long; returns the fields of the answer.
    pub(crate) fn ask(&mut self, command: &str, takes: Duration) -> Result<String> {
        let commands = self.commands.as_mut().ok_or("the child was told to end")?;
        writeln!(commands, "{command}").map_err(|error| format!("{}: {error}", self.name))?;
        self.answer(takes)
    }

    /// What the child has spent so far.
    pub(crate) fn cost(&mut self) -> Result<Cost> {
        parse_cost(&self.ask("cost", Duration::ZERO)?)
    }

    fn answer(&mut self, takes: Duration) -> Result<String> {
        let line = self
            .answers
            .recv_timeout(takes + PATIENCE)
            .map_err(|error| match error {
                mpsc::RecvTimeoutError::Timeout => format!("{}: no answer", self.name),
                mpsc::RecvTimeoutError::Disconnected => format!("{}: it ended", self.name),
            })?;
        wire::answer(&line)
            .map(str::to_owned)
            .map_err(|error| format!("{}: {error}", self.name).into())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.commands.take());
        // Its output ends when it does. It gets a moment for that, since a registered server has to
        // say goodbye.
        let ended = loop {
            match self.answers.recv_timeout(Duration::from_secs(5)) {
                Ok(_) => {}
                Err(error) => break error == mpsc::RecvTimeoutError::Disconnected,
            }
        };
        if !ended {
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
    }
}

/// The fields that carry a cost.
pub(crate) fn cost_fields(cost: Cost) -> String {
    format!("cpu_ns={} allocations={}", cost.cpu_ns, cost.allocations)
}

/// Reads what [`cost_fields`] wrote.
pub(crate) fn parse_cost(fields: &str) -> Result<Cost> {
    Ok(Cost {
        cpu_ns: wire::field(fields, "cpu_ns")?,
        allocations: wire::field(fields, "allocations")?,
    })
}

/// Is a child: pins itself, makes the runtime that all stacks get alike, and runs `life` in it.
pub(crate) fn live(
    side: Side,
    threads: usize,
    life: impl Future<Output = Result<()>>,
) -> Result<()> {
    let runtime = if threads == 1 {
        cost::pin(side)?;
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
    } else {
        // Left to the scheduler: more threads than cores on one core would measure only that.
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()?
    };
    let outcome = runtime.block_on(life);
    // What still serves would be waited for.
    runtime.shutdown_background();
    outcome
}

/// The commands of the parent, read aside so that connections live on while there is none.
pub(crate) fn commands() -> channel::UnboundedReceiver<String> {
    let (read, commands) = channel::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if read.send(line).is_err() {
                break;
            }
        }
    });
    commands
}

/// Answers the parent.
pub(crate) fn tell(outcome: Result<String>) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{}", wire::outcome(outcome))?;
    Ok(output.flush()?)
}
