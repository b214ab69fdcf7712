//! Runs other programs: shown before they start, streamed while they run, bounded in time.

use std::io::{BufRead as _, BufReader, PipeReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{OrFail, Result};

/// How often a running child is looked at.
const POLL: Duration = Duration::from_millis(50);

/// A grandchild that outlives its parent may hold the pipe open; we stop listening after this.
const LINGER: Duration = Duration::from_secs(2);

/// How a program ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    /// The exit status; nothing if a signal ended it.
    pub(crate) code: Option<i32>,
    /// Whether we ended it because its time was over.
    pub(crate) timed_out: bool,
}

impl Ended {
    pub(crate) fn success(self) -> bool {
        self.code == Some(0) && !self.timed_out
    }

    /// A few words for a message.
    pub(crate) fn describe(self) -> String {
        match self.code {
            _ if self.timed_out => "ran out of time".to_owned(),
            Some(code) => format!("exit status {code}"),
            None => "was ended by a signal".to_owned(),
        }
    }

    /// The exit status to hand on as our own.
    pub(crate) fn status(self) -> u8 {
        match self.code {
            _ if self.timed_out => 1,
            Some(code) => u8::try_from(code).unwrap_or(1),
            None => 1,
        }
    }
}

/// The command as one would type it.
pub(crate) fn show(command: &Command) -> String {
    let mut words = Vec::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            words.push(format!(
                "{}={}",
                name.display(),
                quoted(&value.display().to_string())
            ));
        }
    }
    let program = std::path::Path::new(command.get_program());
    words.push(
        program
            .file_name()
            .unwrap_or(program.as_os_str())
            .display()
            .to_string(),
    );
    words.extend(
        command
            .get_args()
            .map(|arg| quoted(&arg.display().to_string())),
    );
    words.join(" ")
}

fn quoted(word: &str) -> String {
    if word.is_empty() || word.contains([' ', '\'', '"', '$', '*']) {
        format!("'{}'", word.replace('\'', r"'\''"))
    } else {
        word.to_owned()
    }
}

/// Runs a program that shares our terminal.
pub(crate) fn run(command: &mut Command) -> Result<Ended> {
    println!("$ {}", show(command));
    let status = command.status().or_fail(show(command))?;
    Ok(Ended {
        code: status.code(),
        timed_out: false,
    })
}

/// Runs a program that shares our terminal, and ends it and its children after `limit`.
pub(crate) fn run_within(command: &mut Command, limit: Duration) -> Result<Ended> {
    println!("$ {}", show(command));
    own_group(command);
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .or_fail(show(command))?;
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().or_fail(show(command))? {
            return Ok(Ended {
                code: status.code(),
                timed_out: false,
            });
        }
        if Instant::now() >= deadline {
            return end_group(&mut child, command);
        }
        thread::sleep(POLL);
    }
}

/// Runs a program and hands every line of its two outputs, in order, to `on_line`.
///
/// Both outputs are one pipe, which is what keeps them in order.
pub(crate) fn stream(
    command: &mut Command,
    limit: Option<Duration>,
    mut on_line: impl FnMut(&str),
) -> Result<Ended> {
    println!("$ {}", show(command));
    if limit.is_some() {
        own_group(command);
    }
    let (reader, writer) = std::io::pipe().or_fail("making a pipe")?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().or_fail("sharing a pipe")?)
        .stderr(writer);
    let mut child = command.spawn().or_fail(show(command))?;
    // The command keeps our copies of the writing end: without this the pipe would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let lines = read_lines(reader);
    let deadline = limit.map(|limit| Instant::now() + limit);
    let mut quiet_until = None;
    loop {
        match lines.recv_timeout(POLL) {
            Ok(line) => {
                on_line(&line);
                quiet_until = quiet_until.map(|_| Instant::now() + LINGER);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let gone = child.try_wait().or_fail(show(command))?.is_some();
                if gone && Instant::now() >= *quiet_until.get_or_insert(Instant::now() + LINGER) {
                    break;
                }
            }
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return end_group(&mut child, command);
        }
    }
    let status = child.wait().or_fail(show(command))?;
    Ok(Ended {
        code: status.code(),
        timed_out: false,
    })
}

/// Runs a program quietly; its standard output if it succeeded.
pub(crate) fn output_of(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn read_lines(reader: PipeReader) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|read| read > 0)
        {
            let text = String::from_utf8_lossy(&line);
            if sender
                .send(text.trim_end_matches(['\r', '\n']).to_owned())
                .is_err()
            {
                break;
            }
            line.clear();
        }
    });
    receiver
}

/// Gives the child a process group of its own, so that its children can be ended with it.
fn own_group(command: &mut Command) {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    #[cfg(not(unix))]
    let _ = command;
}

fn end_group(child: &mut Child, command: &Command) -> Result<Ended> {
    if cfg!(unix) {
        // `kill` is a program here because the system call would need `unsafe` or a dependency.
        let group = format!("-{}", child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
    }
    let _ = child.kill();
    let status = child.wait().or_fail(show(command))?;
    Ok(Ended {
        code: status.code(),
        timed_out: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn both_outputs_arrive_in_order() {
        let mut lines = Vec::new();
        let ended = stream(
            &mut shell("echo one; echo two >&2; printf three; exit 4"),
            None,
            |line| lines.push(line.to_owned()),
        )
        .expect("sh runs");
        assert_eq!(lines, ["one", "two", "three"]);
        assert_eq!(ended.code, Some(4));
    }

    #[test]
    fn a_child_past_its_time_is_ended_with_its_children() {
        let started = Instant::now();
        let ended =
            run_within(&mut shell("sleep 30 & wait"), Duration::from_millis(200)).expect("sh runs");
        assert!(ended.timed_out && !ended.success());
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_grandchild_that_keeps_the_pipe_does_not_hold_us() {
        let started = Instant::now();
        let ended = stream(&mut shell("sleep 20 & echo done"), None, |_| {}).expect("sh runs");
        assert!(ended.success());
        assert!(started.elapsed() < Duration::from_secs(15));
    }

    #[test]
    fn commands_are_shown_as_typed() {
        let mut command = Command::new("/usr/bin/cargo");
        command.args(["test", "a b"]).env("X", "1");
        assert_eq!(show(&command), "X=1 cargo test 'a b'");
    }
}
