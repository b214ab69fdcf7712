//! Avahi and `micro` on one machine: each sees what the other announces.

mod common;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout};

use common::*;

const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=SOCKET</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"#;

const AVAHI: &str = "[server]
host-name=avahi-test
use-ipv4=yes
use-ipv6=no
allow-interfaces=lo
disallow-other-stacks=no
[wide-area]
enable-wide-area=no
[publish]
publish-hinfo=no
publish-workstation=no
[reflector]
[rlimits]
";

#[tokio::test(flavor = "multi_thread")]
async fn avahi_sees_us_and_we_see_avahi() {
    const TEST: &str = "avahi_sees_us_and_we_see_avahi";
    let missing = |tool: &&&str| {
        let places = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        !places
            .iter()
            .any(|place| Path::new(place).join(tool).exists())
    };
    let tools = [
        "avahi-daemon",
        "avahi-browse",
        "avahi-publish",
        "dbus-daemon",
    ];
    if let Some(tool) = tools.iter().find(missing) {
        skip(
            TEST,
            &format!("{tool} is not installed"),
            "apt-get install avahi-daemon avahi-utils dbus",
        );
        return;
    }
    let Some(host) = Host::new("avahi") else {
        skip(
            TEST,
            "no network namespace can be made",
            "run as root with iproute2",
        );
        return;
    };
    let folder = std::env::temp_dir().join(&host.name);
    std::fs::create_dir_all(&folder).unwrap();
    let _daemons = start_avahi(&host, &folder).await;
    let bus = format!("unix:path={}", folder.join("bus").display());

    // We announce, Avahi sees.
    let mut program = Program::start(Some(&host), "program_tells_what_it_sees", &[]);
    assert_eq!(program.line().await, "own=127.0.0.1:8080");
    let line = until_browsed(&host, &bus, |lines| {
        lines
            .iter()
            .find(|line| line.starts_with("=;lo;IPv4;own-"))
            .cloned()
    })
    .await;
    let fields: Vec<&str> = line.split(';').collect();
    assert_eq!((fields[4], fields[5]), ("_micro._tcp", "local"), "{line}");
    assert_eq!((fields[7], fields[8]), ("127.0.0.1", "8080"), "{line}");
    for text in ["\"service=greeter\"", "\"version=v1\"", "\"n.zone=a\""] {
        assert!(line.contains(text), "{text} is missing: {line}");
    }
    let subtype = browse(&host, &bus, "_greeter._sub._micro._tcp").await;
    assert!(
        subtype
            .iter()
            .any(|line| line.starts_with("=;lo;IPv4;own-")),
        "the subtype shows it, too: {subtype:?}"
    );

    // Avahi announces, we see. What does not know of `micro` is no service of it.
    let foreign = publish(
        &host,
        &bus,
        &["Frank's greeter", "4242", "service=greeter", "n.zone=b"],
    );
    let stranger = publish(&host, &bus, &["Stranger", "4243", "path=/"]);
    let start = Instant::now();
    assert_eq!(
        program.line().await,
        "Frank's greeter=127.0.0.1:4242 own=127.0.0.1:8080"
    );
    figure(&format!(
        "published by Avahi, seen by us: {:?}",
        start.elapsed()
    ));

    // It leaves, we notice.
    let start = Instant::now();
    terminate(foreign).await;
    assert_eq!(program.line().await, "own=127.0.0.1:8080");
    figure(&format!(
        "withdrawn by Avahi, gone for us: {:?}",
        start.elapsed()
    ));
    terminate(stranger).await;

    // We leave, Avahi notices.
    let start = Instant::now();
    program.stop().await;
    until_browsed(&host, &bus, |lines| lines.is_empty().then_some(())).await;
    figure(&format!(
        "goodbye of ours, gone for Avahi: {:?}",
        start.elapsed()
    ));
    assert!(start.elapsed() < Duration::from_secs(4));
    let _ = std::fs::remove_dir_all(&folder);
}

async fn start_avahi(host: &Host, folder: &Path) -> [Child; 2] {
    let bus = folder.join("bus");
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let config = write("bus.conf", &BUS.replace("SOCKET", bus.to_str().unwrap()));
    let dbus = command(Some(host), "dbus-daemon")
        .args(["--nofork", "--nopidfile"])
        .arg(format!("--config-file={config}"))
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !bus.exists() {
        assert!(start.elapsed() < PATIENCE, "dbus-daemon does not start");
        sleep(Duration::from_millis(50)).await;
    }
    let config = write("avahi.conf", AVAHI);
    // Its run folder is its own, too: `ip netns exec` gives it mounts of its own.
    let script = format!(
        "mkdir -p /run/avahi-daemon && mount -t tmpfs tmpfs /run/avahi-daemon && \
         exec avahi-daemon -f {config} --no-drop-root --no-chroot --no-rlimits --no-proc-title"
    );
    let avahi = command(Some(host), "sh")
        .args(["-c", &script])
        .env(
            "DBUS_SYSTEM_BUS_ADDRESS",
            format!("unix:path={}", bus.display()),
        )
        .spawn()
        .unwrap();
    [dbus, avahi]
}

async fn browse(host: &Host, bus: &str, ty: &str) -> Vec<String> {
    let output = command(Some(host), "avahi-browse")
        .args(["-rtp", ty])
        .env("DBUS_SYSTEM_BUS_ADDRESS", bus)
        .output();
    let output = timeout(PATIENCE, output).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(str::to_owned).collect()
}

/// Browses until what is found is as it should be.
async fn until_browsed<T>(host: &Host, bus: &str, good: impl Fn(&[String]) -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        let lines = browse(host, bus, "_micro._tcp").await;
        if let Some(found) = good(&lines) {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "Avahi shows {lines:?}");
        sleep(Duration::from_millis(100)).await;
    }
}

fn publish(host: &Host, bus: &str, what: &[&str]) -> Child {
    command(Some(host), "avahi-publish")
        .args(["-s", what[0], "_micro._tcp"])
        .args(&what[1..])
        .env("DBUS_SYSTEM_BUS_ADDRESS", bus)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// `ip netns exec` becomes the program: its process is the program's.
async fn terminate(mut child: Child) {
    child.kill().await.unwrap();
}

/// Not a test: a program that announces a node, and says which ones it sees whenever that changes.
#[tokio::test(flavor = "multi_thread")]
async fn program_tells_what_it_sees() {
    if !is_program() {
        return;
    }
    let registry = open(Default::default(), "");
    let mut service = greeter("own", "127.0.0.1:8080");
    service.nodes[0] = service.nodes[0].clone().with_metadata("zone", "a");
    register(&registry, &service).await;
    let watch = async {
        let mut said = String::new();
        loop {
            let seen: Vec<String> = nodes(&registry)
                .await
                .into_iter()
                .map(|(id, address)| format!("{id}={address}"))
                .collect();
            let seen = seen.join(" ");
            if seen != said {
                say(&seen);
                said = seen;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = watch => {}
        () = until_told_to_stop() => {}
    }
}
