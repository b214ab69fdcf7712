//! A file system of our own, in a file, whose power can be cut.
//!
//! It is mounted in a mount namespace of its own: another process that copies its namespace meanwhile
//! would keep a file system alive whose power was cut.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::rounds::Tally;
use crate::Result;

/// A file system in a file.
#[derive(Debug)]
pub(super) struct Disk {
    image: PathBuf,
    mounted: PathBuf,
}

/// What a campaign on a disk of its own needs, if this machine lacks it.
pub(super) fn lacks() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root may mount a file system; run it as root");
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("there are no loop devices");
    }
    let there = |program: &str| {
        let mut tried = Command::new(program);
        tried.arg("-V").stdout(Stdio::null()).stderr(Stdio::null());
        tried.status().is_ok()
    };
    let tools = there("mkfs.ext4") && there("mount") && there("unshare");
    (!tools).then_some("mkfs.ext4, mount or unshare is missing; apt-get install e2fsprogs mount")
}

/// Plays a role in a mount namespace of its own; it ends with a tally as its last line.
pub(super) fn apart(role: &[&str]) -> Result<Tally> {
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe()?)
        .args(["role", "store"])
        .args(role)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("the campaign in its namespace has ended: {}", output.status).into());
    }
    let text = String::from_utf8(output.stdout)?;
    Tally::parse(text.lines().last().unwrap_or_default())
}

impl Disk {
    /// Makes a file system of so many MiB in a folder, and mounts it.
    pub(super) fn new(folder: &Path, mib: u64) -> Result<Self> {
        let disk = Self {
            image: folder.join("image"),
            mounted: folder.join("mounted"),
        };
        std::fs::create_dir(&disk.mounted)?;
        File::create(&disk.image)?.set_len(mib << 20)?;
        call(
            Command::new("mkfs.ext4")
                .args(["-q", "-F", "-m", "0"])
                .arg(&disk.image),
        )?;
        disk.mount()?;
        Ok(disk)
    }

    pub(super) fn path(&self) -> &Path {
        &self.mounted
    }

    fn mount(&self) -> Result<()> {
        let mut mount = Command::new("mount");
        call(
            mount
                .args(["-o", "loop"])
                .arg(&self.image)
                .arg(&self.mounted),
        )
    }

    fn unmount(&self) -> Result<()> {
        let mut tries = 0;
        // Whoever was killed a moment ago may still be on its way out.
        while let Err(err) = call(Command::new("umount").arg(&self.mounted)) {
            tries += 1;
            if tries == 50 {
                return Err(err);
            }
            std::thread::park_timeout(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Cuts its power: what was not synced is gone. Then it is mounted again, as at the next start.
    pub(super) fn cut(&self) -> Result<()> {
        shut_down(&File::open(&self.mounted)?)?;
        self.unmount()?;
        self.mount()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // At the latest it goes with the namespace.
        let _ = self.unmount();
    }
}

/// Ends all writing to the file system of this file at once, its journal's included: what xfstests'
/// `godown` does.
fn shut_down(file: &File) -> Result<()> {
    use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

    /// `EXT4_IOC_SHUTDOWN`, as in Linux' fs/ext4/ext4.h.
    const SHUTDOWN: Opcode = opcode::read::<u32>(b'X', 125);
    /// `EXT4_GOING_FLAGS_NOLOGFLUSH`: not even the journal is written out.
    const NO_LOG_FLUSH: u32 = 2;

    #[expect(unsafe_code, reason = "no crate of ours wraps this request")]
    // SAFETY: the request reads a `u32` behind the pointer that it is given, and `Setter` gives it one
    // that lives for the call.
    let done = unsafe { ioctl(file, Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH)) };
    Ok(done?)
}

fn call(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{command:?}: {said}").into())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_request_has_the_kernel_s_number() {
        // As measured: the one that ext4 and XFS answer to.
        assert_eq!(rustix::ioctl::opcode::read::<u32>(b'X', 125), 0x8004_587d);
    }
}
