//! Two hosts of our own, with a cable between them.

use std::process::{Command, Stdio};

/// Two network namespaces. Dropping it removes them.
#[derive(Debug)]
pub(super) struct Net {
    hosts: [String; 2],
}

impl Net {
    /// `None` where that is not possible.
    pub(super) fn new() -> Option<Self> {
        let id = std::process::id();
        let net = Self {
            hosts: [format!("mb{id}-a"), format!("mb{id}-b")],
        };
        let [a, b] = &net.hosts;
        // From here on the drop cleans up, whatever fails.
        let mut good = ip(&["netns", "add", a]) && ip(&["netns", "add", b]);
        good = good
            && ip(&[
                "-n", a, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", b,
            ]);
        for (at, host) in net.hosts.iter().enumerate() {
            let address = format!("{}/24", Self::address(at));
            good = good
                && ip(&["-n", host, "addr", "add", &address, "dev", "eth0"])
                && ip(&["-n", host, "link", "set", "eth0", "up"])
                && ip(&["-n", host, "link", "set", "lo", "up"]);
        }
        good.then_some(net)
    }

    /// The address of a host, which is 0 or 1.
    pub(super) fn address(host: usize) -> String {
        format!("10.78.0.{}", host + 1)
    }

    /// A command on a host.
    pub(super) fn command(&self, host: usize, program: &std::path::Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.hosts[host]])
            .arg(program);
        command
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in &self.hosts {
            ip(&["netns", "del", host]);
        }
    }
}

fn ip(args: &[&str]) -> bool {
    let status = Command::new("ip")
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}
