//! Multicast DNS between two hosts: Avahi and we see each other, one is killed, and the network
//! between them is cut and healed.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use micro::registry::mdns::{MdnsConfig, MdnsRegistry};
use micro::registry::{Env, Node, RegisterOptions, Registry as _, Service};
use micro_registry_cache::{Resolver, ResolverOptions};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::time::{Instant, sleep, timeout};

use super::net::Net;
use crate::report::Report;
use crate::{Options, Result};

/// How long a node is believed that falls silent.
const TTL: Duration = Duration::from_secs(6);
/// How long anything may take before the campaign gives up.
const PATIENCE: Duration = Duration::from_secs(90);

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let Some(net) = Net::of(2) else {
        report.skip("mdns", "no network namespaces; run as root with iproute2");
        return Ok(());
    };
    super::runtime()?.block_on(async {
        nodes(options, &net, report).await?;
        avahi(&net, report).await
    })
}

async fn nodes(options: &Options, net: &Net, report: &mut Report) -> Result<()> {
    let mut one = Program::start(net, 0, "one", "10.77.0.1:80")?;
    let mut two = Program::start(net, 1, "two", "10.77.0.2:80")?;
    let found = one.sees(&["one", "two"]).await?;
    let found = found.max(two.sees(&["one", "two"]).await?);
    report.figure("mdns_found", found.as_secs_f64(), "s");

    // kill -9: by its TTL, and half of it for a last question.
    two.child.kill().await?;
    let gone = one.sees(&["one"]).await?;
    let most = TTL.as_secs_f64() * 1.5;
    report.at_most("mdns_killed_gone", gone.as_secs_f64(), "s", most);
    let mut two = Program::start(net, 1, "two", "10.77.0.2:80")?;
    one.sees(&["one", "two"]).await?;
    two.sees(&["one", "two"]).await?;

    let rounds: &[u64] = if options.quick {
        &[12]
    } else {
        &[12, 60, 12, 3]
    };
    let mut longest = 0.0_f64;
    for secs in rounds {
        net.cut(1)?;
        let cut = Instant::now();
        if Duration::from_secs(*secs) > TTL * 3 / 2 {
            // Longer than anybody is believed: each side is alone, and goes on.
            one.sees(&["one"]).await?;
            two.sees(&["two"]).await?;
        }
        sleep(Duration::from_secs(*secs).saturating_sub(cut.elapsed())).await;
        net.heal(1)?;
        let healed = Instant::now();
        one.sees(&["one", "two"]).await?;
        two.sees(&["one", "two"]).await?;
        let took = healed.elapsed();
        eprintln!("  cut for {secs} s: converged after {took:.2?}");
        longest = longest.max(took.as_secs_f64());
    }
    // Each counts from its start on.
    let failed = one.failed + two.failed;
    report.at_most("mdns_heal_converges", longest, "s", 5.0);
    report.at_most("mdns_failed_lookups", failed as f64, "lookups", 0.0);
    Ok(())
}

/// Avahi on one host, we on the other.
async fn avahi(net: &Net, report: &mut Report) -> Result<()> {
    let tools = [
        "avahi-daemon",
        "avahi-browse",
        "avahi-publish",
        "dbus-daemon",
    ];
    let there = |tool: &&&str| {
        let places = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        let mut places = places.iter();
        places.any(|place| Path::new(place).join(tool).exists())
    };
    if let Some(missing) = tools.iter().find(|tool| !there(tool)) {
        report.skip(
            "mdns_avahi",
            format!("{missing} is not installed; apt-get install avahi-daemon avahi-utils dbus"),
        );
        return Ok(());
    }
    let folder = std::env::temp_dir().join(format!("micro-faults-avahi-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let outcome = with_avahi(net, report, &folder).await;
    let _ = std::fs::remove_dir_all(&folder);
    outcome
}

async fn with_avahi(net: &Net, report: &mut Report, folder: &Path) -> Result<()> {
    let socket = folder.join("bus");
    let bus = format!("unix:path={}", socket.display());
    let config = folder.join("bus.conf");
    std::fs::write(
        &config,
        BUS.replace("SOCKET", &socket.display().to_string()),
    )?;
    let _dbus = net
        .command(1, "dbus-daemon")
        .args(["--nofork", "--nopidfile"])
        .arg(format!("--config-file={}", config.display()))
        .spawn()?;
    let start = Instant::now();
    while !socket.exists() {
        if start.elapsed() > PATIENCE {
            return Err("dbus-daemon does not start".into());
        }
        sleep(Duration::from_millis(50)).await;
    }
    let config = folder.join("avahi.conf");
    std::fs::write(&config, AVAHI)?;
    // `ip netns exec` gives it mounts of its own, and so a run folder of its own.
    let script = format!(
        "mkdir -p /run/avahi-daemon && mount -t tmpfs tmpfs /run/avahi-daemon && exec avahi-daemon -f {} --no-drop-root --no-chroot --no-rlimits --no-proc-title",
        config.display()
    );
    let _avahi = net
        .command(1, "sh")
        .args(["-c", &script])
        .env("DBUS_SYSTEM_BUS_ADDRESS", &bus)
        .spawn()?;

    let mut ours = Program::start(net, 0, "ours", "10.77.0.1:80")?;
    ours.sees(&["ours"]).await?;
    let start = Instant::now();
    loop {
        let browse = net
            .command(1, "avahi-browse")
            .args(["-rtp", "_micro._tcp"])
            .env("DBUS_SYSTEM_BUS_ADDRESS", &bus)
            .output();
        let lines = timeout(PATIENCE, browse).await??.stdout;
        let lines = String::from_utf8_lossy(&lines);
        if lines.lines().any(|line| line.contains(";10.77.0.1;80;")) {
            break;
        }
        if start.elapsed() > PATIENCE {
            return Err(format!("Avahi shows '{lines}'").into());
        }
    }
    report.figure("mdns_avahi_sees_us", start.elapsed().as_secs_f64(), "s");
    let theirs = net
        .command(1, "avahi-publish")
        .args([
            "-s",
            "Frank's greeter",
            "_micro._tcp",
            "4242",
            "service=greeter",
        ])
        .env("DBUS_SYSTEM_BUS_ADDRESS", &bus)
        .spawn()?;
    let seen = ours.sees(&["Frank's greeter", "ours"]).await?;
    report.figure("mdns_we_see_avahi", seen.as_secs_f64(), "s");
    let start = Instant::now();
    drop(theirs);
    ours.sees(&["ours"]).await?;
    let gone = start.elapsed().as_secs_f64();
    report.at_most("mdns_avahi_goodbye_seen", gone, "s", 2.0);
    Ok(())
}

const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=SOCKET</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
    <allow send_type="method_call"/>
  </policy>
</busconfig>
"#;

const AVAHI: &str = "[server]
host-name=avahi-host
use-ipv4=yes
use-ipv6=no
allow-interfaces=eth0
disallow-other-stacks=no
[wide-area]
enable-wide-area=no
[publish]
publish-hinfo=no
publish-workstation=no
[reflector]
[rlimits]
";

/// A program on a host: this one, in another role.
struct Program {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// What it said last.
    seen: BTreeSet<String>,
    failed: u64,
}

impl Program {
    fn start(net: &Net, host: usize, id: &str, address: &str) -> Result<Self> {
        let exe = std::env::current_exe()?;
        let exe = exe.to_str().ok_or("this program's path is no text")?;
        let mut child = net
            .command(host, exe)
            .args(["role", "discovery", "mdns", id, address])
            .spawn()?;
        let stdout = child.stdout.take().ok_or("a child without output")?;
        Ok(Self {
            child,
            lines: BufReader::new(stdout).lines(),
            seen: BTreeSet::new(),
            failed: 0,
        })
    }

    /// Waits until it sees exactly these nodes, and tells how long that took.
    async fn sees(&mut self, ids: &[&str]) -> Result<Duration> {
        let start = Instant::now();
        let wanted: BTreeSet<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        let until = async {
            loop {
                // What was said meanwhile comes first.
                let more = if self.seen == wanted {
                    match timeout(Duration::from_millis(100), self.lines.next_line()).await {
                        Ok(line) => line?,
                        Err(_) => return Ok(()),
                    }
                } else {
                    self.lines.next_line().await?
                };
                let line = more.ok_or("a child ended too soon")?;
                if let Some(seen) = line.strip_prefix("SEES\t") {
                    self.seen = seen.split('\t').map(str::to_owned).collect();
                } else if line == "FAILED" {
                    self.failed += 1;
                }
            }
        };
        match timeout(PATIENCE, until).await {
            Ok(Ok(())) => Ok(start.elapsed()),
            Ok(Err::<(), crate::Error>(err)) => Err(err),
            Err(_) => Err(format!("{:?} is seen, and not {ids:?}", self.seen).into()),
        }
    }
}

/// Announces a node, and says which ones it sees whenever that changes.
pub(super) fn play(arguments: &[&str]) -> Result<()> {
    let [id, address] = arguments else {
        return Err("role mdns <id> <address>".into());
    };
    super::runtime()?.block_on(async {
        let config = MdnsConfig::default().with_ttl(TTL);
        let registry = MdnsRegistry::open(config, &Env::new())?;
        let service = Service::new("greeter", "v1").with_node(Node::new(*id, *address));
        let opts = RegisterOptions::default().with_ttl(TTL);
        registry.register(&service, opts.clone()).await?;
        let options = ResolverOptions::default();
        let resolver = Resolver::new(std::sync::Arc::new(registry.clone()), options);
        let resolved = resolver.service("greeter")?;
        resolved.known(None).await?;
        let mut said = String::new();
        let mut renewed = Instant::now();
        let look = async {
            loop {
                let snapshot = resolved.snapshot_arc();
                if snapshot.is_empty() {
                    println!("FAILED");
                }
                let ids: BTreeSet<&str> = snapshot.nodes().map(|(_, node)| &*node.id).collect();
                let ids: Vec<&str> = ids.into_iter().collect();
                let seen = ids.join("\t");
                if seen != said {
                    println!("SEES\t{seen}");
                    said = seen;
                }
                if renewed.elapsed() > TTL / 3 {
                    renewed = Instant::now();
                    registry.register(&service, opts.clone()).await?;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        let mut stdin = BufReader::new(tokio::io::stdin()).lines();
        tokio::select! {
            outcome = look => outcome,
            // Whoever started it is gone.
            _ = stdin.next_line() => Ok(()),
        }
    })
}
