//! Hosts of our own: network namespaces on one switch, which can be cut off from it.

use std::process::{Command, Stdio};

use crate::Result;

/// Hosts on one network. Dropping it removes everything.
pub(super) struct Net {
    prefix: String,
    hosts: Vec<String>,
}

impl Net {
    /// A network of so many hosts, `10.77.0.1` and so on; `None` where that is not possible.
    pub(super) fn of(hosts: u8) -> Option<Self> {
        let mut net = Self {
            prefix: format!("mf{}", std::process::id()),
            hosts: Vec::new(),
        };
        let switch = net.switch();
        // From here on the drop cleans up, whatever fails.
        let mut good = ip(&["netns", "add", &switch])
            && ip(&[
                "-n",
                &switch,
                "link",
                "add",
                "br0",
                "type",
                "bridge",
                "mcast_snooping",
                "0",
            ])
            && ip(&["-n", &switch, "link", "set", "br0", "up"]);
        for index in 0..hosts {
            let host = format!("{}-h{index}", net.prefix);
            good = good && ip(&["netns", "add", &host]);
            net.hosts.push(host.clone());
            let port = port(index.into());
            let address = format!("10.77.0.{}/24", index + 1);
            good = good
                && ip(&["-n", &host, "link", "set", "lo", "up"])
                && ip(&[
                    "-n", &host, "link", "add", "eth0", "type", "veth", "peer", "name", &port,
                    "netns", &switch,
                ])
                && ip(&["-n", &host, "addr", "add", &address, "dev", "eth0"])
                && ip(&["-n", &host, "link", "set", "eth0", "up"])
                && ip(&["-n", &switch, "link", "set", &port, "master", "br0"])
                && ip(&["-n", &switch, "link", "set", &port, "up"]);
        }
        good.then_some(net)
    }

    fn switch(&self) -> String {
        format!("{}-sw", self.prefix)
    }

    /// Pulls a host's cable out of the switch; the host itself does not see it.
    pub(super) fn cut(&self, host: usize) -> Result<()> {
        self.plug(host, &["nomaster"])
    }

    /// Puts it back.
    pub(super) fn heal(&self, host: usize) -> Result<()> {
        self.plug(host, &["master", "br0"])
    }

    fn plug(&self, host: usize, how: &[&str]) -> Result<()> {
        let (switch, port) = (self.switch(), port(host));
        let mut args = vec!["-n", &switch, "link", "set", &port];
        args.extend(how);
        if ip(&args) {
            Ok(())
        } else {
            Err("the switch does not obey".into())
        }
    }

    /// A command on a host.
    pub(super) fn command(&self, host: usize, program: &str) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("ip");
        command
            .args(["netns", "exec", &self.hosts[host], program])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        command
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in self.hosts.iter().chain([&self.switch()]) {
            ip(&["netns", "del", host]);
        }
    }
}

fn port(host: usize) -> String {
    format!("port{host}")
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
