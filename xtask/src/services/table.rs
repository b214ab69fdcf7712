//! The servers that `cargo xtask services` knows: each entry was started, asked and stopped for real.
//!
//! In texts, `{dir}` is the server's own folder and `{sock}` a short path for its socket.
//! Ports are ours (2xxxx), so that a server of the machine's own is never in the way.

/// A server: how to install, start, ask and stop it.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) name: &'static str,
    /// Debian packages.
    pub(super) packages: &'static [&'static str],
    /// Programs that must be there; if one is not, the packages are installed.
    pub(super) programs: &'static [&'static str],
    /// What `MICRO_TEST_<NAME>_URL` is set to.
    pub(super) url: &'static str,
    /// Whether it must keep our user; the others run as `nobody` when we are root.
    pub(super) keeps_user: bool,
    /// Files written before it starts: name in its folder, and text.
    pub(super) files: &'static [(&'static str, &'static str)],
    /// Commands that prepare its folder and end.
    pub(super) prepare: &'static [&'static [&'static str]],
    /// Programs that keep running, in the order in which they start.
    pub(super) processes: &'static [Process],
    pub(super) ready: Ready,
}

/// A program that keeps running.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) command: &'static [&'static str],
    pub(super) env: &'static [(&'static str, &'static str)],
    /// The next one starts when this path exists.
    pub(super) makes: Option<&'static str>,
    /// The signal that ends it in good order.
    pub(super) stop: &'static str,
}

/// How a server says that it is ready.
#[derive(Debug)]
pub(super) enum Ready {
    /// Sent to a port of loopback, the bytes are answered with something that contains `answer`.
    Talk {
        port: u16,
        say: &'static str,
        answer: &'static str,
    },
    /// A command ends well.
    Command(&'static [&'static str]),
    /// Its log contains a text.
    Log(&'static str),
}

const fn process(command: &'static [&'static str]) -> Process {
    Process {
        command,
        env: &[],
        makes: None,
        stop: "TERM",
    }
}

pub(super) const SERVERS: &[Server] = &[
    // Multicast DNS as the rest of the world speaks it. It has a message bus of its own, on loopback only.
    Server {
        name: "avahi",
        packages: &["avahi-daemon", "avahi-utils", "dbus"],
        programs: &[
            "avahi-daemon",
            "avahi-browse",
            "avahi-publish",
            "dbus-daemon",
        ],
        url: "unix:path={sock}",
        // It insists on its run folder below /run.
        keeps_user: true,
        files: &[("dbus.conf", DBUS_CONF), ("avahi.conf", AVAHI_CONF)],
        prepare: &[],
        processes: &[
            Process {
                makes: Some("{sock}"),
                ..process(&[
                    "dbus-daemon",
                    "--config-file={dir}/dbus.conf",
                    "--nofork",
                    "--nopidfile",
                ])
            },
            Process {
                env: &[("DBUS_SYSTEM_BUS_ADDRESS", "unix:path={sock}")],
                ..process(&[
                    "avahi-daemon",
                    "--file={dir}/avahi.conf",
                    "--no-drop-root",
                    "--no-chroot",
                    "--no-rlimits",
                    "--no-proc-title",
                ])
            },
        ],
        ready: Ready::Log("Server startup complete"),
    },
    Server {
        name: "etcd",
        packages: &["etcd-server"],
        programs: &["etcd"],
        url: "etcd://127.0.0.1:22379",
        keeps_user: false,
        files: &[],
        prepare: &[],
        processes: &[process(&[
            "etcd",
            "--data-dir={dir}/data",
            "--listen-client-urls=http://127.0.0.1:22379",
            "--advertise-client-urls=http://127.0.0.1:22379",
            "--listen-peer-urls=http://127.0.0.1:22380",
            "--initial-advertise-peer-urls=http://127.0.0.1:22380",
            "--initial-cluster=default=http://127.0.0.1:22380",
            "--unsafe-no-fsync",
        ])],
        ready: Ready::Talk {
            port: 22379,
            say: "GET /health HTTP/1.0\r\n\r\n",
            answer: "true",
        },
    },
    Server {
        name: "nats",
        packages: &["nats-server"],
        programs: &["nats-server"],
        url: "nats://127.0.0.1:24222",
        keeps_user: false,
        files: &[],
        prepare: &[],
        processes: &[process(&[
            "nats-server",
            "-a",
            "127.0.0.1",
            "-p",
            "24222",
            "-m",
            "28222",
            "-js",
            "-sd",
            "{dir}/data",
        ])],
        ready: Ready::Talk {
            port: 28222,
            say: "GET /healthz HTTP/1.0\r\n\r\n",
            answer: "ok",
        },
    },
    Server {
        name: "postgres",
        packages: &["postgresql"],
        programs: &["initdb", "postgres", "pg_isready"],
        url: "postgres://micro@127.0.0.1:25432/postgres",
        keeps_user: false,
        files: &[],
        prepare: &[&[
            "initdb",
            "-D",
            "{dir}/data",
            "-U",
            "micro",
            "-A",
            "trust",
            "--no-sync",
            "-E",
            "UTF8",
        ]],
        processes: &[Process {
            // TERM would wait for clients that tests left behind.
            stop: "INT",
            ..process(&[
                "postgres",
                "-D",
                "{dir}/data",
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "port=25432",
                "-c",
                "unix_socket_directories=",
                "-c",
                "fsync=off",
            ])
        }],
        ready: Ready::Command(&["pg_isready", "-h", "127.0.0.1", "-p", "25432"]),
    },
    Server {
        name: "redis",
        packages: &["redis-server"],
        programs: &["redis-server"],
        url: "redis://127.0.0.1:26379",
        keeps_user: false,
        files: &[],
        prepare: &[],
        processes: &[process(&[
            "redis-server",
            "--bind",
            "127.0.0.1",
            "--port",
            "26379",
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            "{dir}",
        ])],
        ready: Ready::Talk {
            port: 26379,
            say: "PING\r\n",
            answer: "+PONG",
        },
    },
];

const DBUS_CONF: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={sock}</listen>
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

const AVAHI_CONF: &str = "\
[server]
allow-interfaces=lo
use-ipv4=yes
use-ipv6=no
disallow-other-stacks=no
ratelimit-interval-usec=1000000
ratelimit-burst=1000

[publish]
publish-workstation=no
publish-hinfo=no

[wide-area]
enable-wide-area=no
";
