//! Rounds: write, break, open, compare, count.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use tokio::time::Instant;

use super::ledger::{Ledger, WRITERS};
use crate::report::Report;
use crate::{Error, Result};

/// Nothing that goes well takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// What all rounds have come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) rounds: u64,
    /// Steps that were acknowledged.
    pub(super) acked: u64,
    /// Steps under way that happened all the same.
    pub(super) kept: u64,
    /// Writers of whose acknowledged steps something is gone.
    pub(super) lost: u64,
    /// Writers with something that nobody wrote, or a part of a batch.
    pub(super) phantom: u64,
    pub(super) wrong: u64,
    /// Whose records cannot be read any more.
    pub(super) corrupt: u64,
    pub(super) unopenable: u64,
    pub(super) panics: u64,
    pub(super) hangs: u64,
}

impl Tally {
    /// Counts what a round's writers were told.
    pub(super) fn add(&mut self, told: &Told) {
        self.rounds += 1;
        self.acked += told.acks;
        self.wrong += told.repeated;
        self.panics += u64::from(told.crashed);
    }

    fn all(&mut self) -> [(&'static str, &mut u64); 10] {
        [
            ("rounds", &mut self.rounds),
            ("acked", &mut self.acked),
            ("kept", &mut self.kept),
            ("lost", &mut self.lost),
            ("phantom", &mut self.phantom),
            ("wrong", &mut self.wrong),
            ("corrupt", &mut self.corrupt),
            ("unopenable", &mut self.unopenable),
            ("panics", &mut self.panics),
            ("hangs", &mut self.hangs),
        ]
    }

    /// For a parent process: one line.
    pub(super) fn line(mut self) -> String {
        self.all()
            .map(|(name, count)| format!("{name}={count}"))
            .join(" ")
    }

    pub(super) fn parse(line: &str) -> Result<Self> {
        let mut tally = Self::default();
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for part in line.split_whitespace() {
            let (name, count) = part.split_once('=').ok_or("no tally")?;
            counts.insert(name, count.parse()?);
        }
        for (name, count) in tally.all() {
            *count = *counts.get(name).ok_or("a count is missing")?;
        }
        Ok(tally)
    }

    /// Prints it; only the first three may be more than nothing.
    pub(super) fn report(mut self, report: &mut Report, campaign: &str) {
        for (nth, (name, count)) in self.all().into_iter().enumerate() {
            let figure = format!("{campaign}_{name}");
            if nth < 3 {
                report.figure(
                    figure,
                    *count as f64,
                    if nth == 0 { "rounds" } else { "steps" },
                );
            } else {
                report.at_most(figure, *count as f64, "found", 0.0);
            }
        }
    }
}

/// What the writers of a round were told.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// How many steps were acknowledged.
    pub(super) acks: u64,
    /// The steps that have failed, and how.
    pub(super) failed: BTreeMap<usize, String>,
    /// What was said afterwards.
    pub(super) after: Option<String>,
    /// Versions that did not grow.
    pub(super) repeated: u64,
    /// The child ended by itself, in disorder.
    pub(super) crashed: bool,
}

/// The directory of a store, and what it should hold.
#[derive(Debug)]
pub(super) struct History {
    pub(super) engine: &'static str,
    pub(super) ledger: Ledger,
    pub(super) acked: Vec<u64>,
    /// The highest version that anybody was told.
    version: u64,
}

impl History {
    pub(super) fn new(engine: &'static str, ledger: Ledger) -> Self {
        Self {
            engine,
            ledger,
            acked: vec![0; WRITERS],
            version: 0,
        }
    }

    /// Starts the writers; `wrapper` is a program that runs them.
    pub(super) fn write(&self, directory: &Path, wrapper: &[String]) -> Result<Writers> {
        let this = std::env::current_exe()?;
        let mut command = match wrapper {
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(this);
                command
            }
            [] => Command::new(this),
        };
        let child = command
            .args(["role", "store", "write", self.engine])
            .arg(directory)
            .args([self.ledger.to_string(), commas(&self.acked)])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        Writers::new(child)
    }

    /// Opens the directory and compares. False if something is wrong: then nothing more can be said
    /// about this directory.
    pub(super) fn check(
        &mut self,
        directory: &Path,
        mode: &str,
        tally: &mut Tally,
    ) -> Result<bool> {
        let Some(lines) = self.look(directory, mode, tally)? else {
            return Ok(false);
        };
        let mut good = true;
        for line in &lines {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["is", writer, steps] => {
                    let (writer, steps): (usize, u64) = (writer.parse()?, steps.parse()?);
                    let known = self.acked.get_mut(writer).ok_or("no such writer")?;
                    tally.kept += steps - *known;
                    *known = steps;
                }
                ["opened"] => {}
                [what, ..] => {
                    eprintln!("  {}: {line}", self.engine);
                    good = false;
                    count(what, tally)?;
                }
                [] => {}
            }
        }
        Ok(good)
    }

    /// What the checker says; nothing if it hangs or ends in disorder, which is counted.
    pub(super) fn look(
        &self,
        directory: &Path,
        mode: &str,
        tally: &mut Tally,
    ) -> Result<Option<Vec<String>>> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["role", "store", "check", self.engine])
            .arg(directory)
            .args([
                self.ledger.to_string(),
                commas(&self.acked),
                mode.to_owned(),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let lines = lines(child.stdout.take().ok_or("its output is piped")?);
        let mut errors = child.stderr.take().ok_or("its errors are piped")?;
        // It could say more than a pipe holds.
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            errors.read_to_end(&mut text).map(|_| text)
        });
        let until = Instant::now() + PATIENCE;
        let mut said = Vec::new();
        loop {
            match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => said.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    eprintln!(
                        "  {}: opening and reading takes over {PATIENCE:?}",
                        self.engine
                    );
                    tally.hangs += 1;
                    child.kill()?;
                    child.wait()?;
                    return Ok(None);
                }
            }
        }
        let status = child.wait()?;
        let errors = errors.join().map_err(|_| "a thread has panicked")??;
        if status.success() {
            return Ok(Some(said));
        }
        let errors = String::from_utf8_lossy(&errors);
        eprintln!("  {}: {status}: {errors}", self.engine);
        if disorder(status) {
            tally.panics += 1;
        } else {
            // It opens and cannot be used.
            tally.unopenable += 1;
        }
        Ok(None)
    }

    /// Takes over what was acknowledged.
    fn note(&mut self, writer: usize, step: u64, version: u64) -> bool {
        let good = version == 0 || version > self.version;
        if let Some(known) = self.acked.get_mut(writer) {
            *known = (*known).max(step + 1);
        }
        good
    }
}

/// Whether a child has ended by a signal or a panic: an error is said with 1.
fn disorder(status: ExitStatus) -> bool {
    !matches!(status.code(), Some(0 | 1))
}

fn count(what: &str, tally: &mut Tally) -> Result<()> {
    for (known, count) in tally.all() {
        if known == what {
            *count += 1;
            return Ok(());
        }
    }
    Err(format!("the checker said '{what}'").into())
}

/// The child that writes.
#[derive(Debug)]
pub(super) struct Writers {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Writers {
    fn new(mut child: Child) -> Result<Self> {
        let lines = lines(child.stdout.take().ok_or("its output is piped")?);
        Ok(Self {
            child,
            lines,
            said: Vec::new(),
        })
    }

    /// Waits for so many acknowledgements. False if the child has ended before.
    pub(super) fn wait_for(&mut self, acks: usize) -> Result<bool> {
        let until = Instant::now() + PATIENCE;
        let mut seen = 0;
        while seen < acks {
            match self
                .lines
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(line) => {
                    seen += usize::from(line.starts_with("ack "));
                    self.said.push(line);
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(false),
                Err(RecvTimeoutError::Timeout) => return Err("the writers write nothing".into()),
            }
        }
        Ok(true)
    }

    /// As `kill -9`; what it said until then is taken in.
    pub(super) fn kill(mut self, history: &mut History) -> Result<Told> {
        self.child.kill()?;
        self.child.wait()?;
        self.told(history)
    }

    /// Waits until all have failed and the child has ended; nothing if it does not.
    pub(super) fn end(mut self, history: &mut History) -> Result<Option<Told>> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self
                .lines
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    self.child.kill()?;
                    self.child.wait()?;
                    return Ok(None);
                }
            }
        }
        let status = self.child.wait()?;
        let mut told = self.told(history)?;
        told.crashed = disorder(status);
        Ok(Some(told))
    }

    fn told(&mut self, history: &mut History) -> Result<Told> {
        // The child is gone: what is still in the pipe comes, then the end.
        self.said.extend(self.lines.iter());
        let mut told = Told::default();
        let mut highest = history.version;
        for line in &self.said {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["ack", writer, step, version] => {
                    let version: u64 = version.parse()?;
                    let good = history.note(writer.parse()?, step.parse()?, version);
                    told.acks += 1;
                    told.repeated += u64::from(!good);
                    highest = highest.max(version);
                }
                ["err", writer, _, kind] => {
                    told.failed.insert(writer.parse()?, (*kind).to_owned());
                }
                ["after", what] => told.after = Some((*what).to_owned()),
                _ => {}
            }
        }
        history.version = highest;
        Ok(told)
    }
}

/// The whole lines of an output, until its end.
fn lines(out: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (tell, told) = channel();
    // It ends with the child.
    std::thread::spawn(move || {
        let mut out = BufReader::new(out);
        let mut line = String::new();
        while let Ok(1..) = out.read_line(&mut line) {
            // A child that was killed may leave a part of a line.
            if !line.ends_with('\n') || tell.send(line.trim_end().to_owned()).is_err() {
                return;
            }
            line.clear();
        }
    });
    told
}

fn commas(numbers: &[u64]) -> String {
    let texts: Vec<String> = numbers.iter().map(u64::to_string).collect();
    texts.join(",")
}

pub(super) fn numbers(text: &str) -> Result<Vec<u64>> {
    text.split(',')
        .map(|number| number.parse().map_err(Error::from))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_comes_through_a_line() {
        let tally = Tally {
            rounds: 50,
            acked: 12_345,
            lost: 1,
            hangs: 2,
            ..Tally::default()
        };
        assert_eq!(Tally::parse(&tally.clone().line()).unwrap(), tally);
        assert!(Tally::parse("rounds=1").is_err());
    }
}
