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
    // No package of Debian's: it is built from its Go modules, once, in some minutes.
    Server {
        name: "consul",
        packages: &["golang-go"],
        programs: &["go", "sh"],
        url: "consul://127.0.0.1:28500",
        // Go keeps modules and what it builds in our home.
        keeps_user: true,
        files: &[
            ("go.mod", CONSUL_MODULE),
            ("build.sh", CONSUL_BUILD),
            ("run.sh", CONSUL_RUN),
        ],
        prepare: &[&["sh", "{dir}/build.sh"]],
        processes: &[process(&["sh", "{dir}/run.sh"])],
        ready: Ready::Talk {
            port: 28500,
            say: "GET /v1/status/leader HTTP/1.0\r\n\r\n",
            answer: "127.0.0.1:28300",
        },
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
    // The same over TLS, with a certificate of the client's, a password, and rights to one prefix.
    Server {
        name: "etcd_tls",
        packages: &["etcd-server", "openssl", "curl"],
        programs: &["etcd", "openssl", "curl", "sh"],
        url: "etcd://micro:hunter2@127.0.0.1:22381?ca={dir}/ca.crt&cert={dir}/client.crt&key={dir}/client.key",
        keeps_user: false,
        files: &[
            ("openssl.conf", ETCD_CERTIFICATES),
            ("prepare.sh", ETCD_PREPARE),
        ],
        prepare: &[&["sh", "-eu", "{dir}/prepare.sh", "{dir}"]],
        processes: &[process(&[
            "etcd",
            "--data-dir={dir}/data",
            "--listen-client-urls=https://127.0.0.1:22381",
            "--advertise-client-urls=https://127.0.0.1:22381",
            "--listen-peer-urls=http://127.0.0.1:22382",
            "--initial-advertise-peer-urls=http://127.0.0.1:22382",
            "--initial-cluster=default=http://127.0.0.1:22382",
            "--listen-metrics-urls=http://127.0.0.1:22383",
            "--client-cert-auth",
            "--trusted-ca-file={dir}/ca.crt",
            "--cert-file={dir}/server.crt",
            "--key-file={dir}/server.key",
            "--unsafe-no-fsync",
        ])],
        ready: Ready::Talk {
            port: 22383,
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
    // The same over TLS, with a certificate of the client's and a password: what a careful fleet runs.
    Server {
        name: "nats_tls",
        packages: &["nats-server", "openssl"],
        programs: &["nats-server", "openssl", "chmod"],
        url: "nats://micro:hunter2@127.0.0.1:24223?ca={dir}/ca.crt&cert={dir}/client.crt&key={dir}/client.key",
        keeps_user: false,
        files: &[
            ("nats.conf", NATS_TLS_CONF),
            ("openssl.conf", NATS_TLS_CERTIFICATES),
        ],
        prepare: &[
            &[
                "openssl",
                "req",
                "-config",
                "{dir}/openssl.conf",
                "-x509",
                "-extensions",
                "authority",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "30",
                "-subj",
                "/CN=micro test authority",
                "-keyout",
                "{dir}/ca.key",
                "-out",
                "{dir}/ca.crt",
            ],
            &[
                "openssl",
                "req",
                "-config",
                "{dir}/openssl.conf",
                "-x509",
                "-CA",
                "{dir}/ca.crt",
                "-CAkey",
                "{dir}/ca.key",
                "-extensions",
                "leaf",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "30",
                "-subj",
                "/CN=server",
                "-keyout",
                "{dir}/server.key",
                "-out",
                "{dir}/server.crt",
            ],
            &[
                "openssl",
                "req",
                "-config",
                "{dir}/openssl.conf",
                "-x509",
                "-CA",
                "{dir}/ca.crt",
                "-CAkey",
                "{dir}/ca.key",
                "-extensions",
                "leaf",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "30",
                "-subj",
                "/CN=client",
                "-keyout",
                "{dir}/client.key",
                "-out",
                "{dir}/client.crt",
            ],
            // Tests read them as whoever they run as.
            &["chmod", "0644", "{dir}/client.key"],
        ],
        processes: &[process(&["nats-server", "-c", "{dir}/nats.conf"])],
        ready: Ready::Talk {
            port: 28223,
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
    // The same over TLS, with a password that does not go over the wire (SCRAM), and with fsync.
    Server {
        name: "postgres_tls",
        packages: &["postgresql", "openssl"],
        programs: &["initdb", "postgres", "pg_isready", "openssl", "sh"],
        url: "postgres://micro:hunter2@127.0.0.1:25433/postgres?sslmode=verify-full&ca={dir}/ca.crt",
        keeps_user: false,
        files: &[
            ("openssl.conf", POSTGRES_CERTIFICATES),
            ("prepare.sh", POSTGRES_PREPARE),
        ],
        prepare: &[&["sh", "-eu", "{dir}/prepare.sh", "{dir}"]],
        processes: &[Process {
            stop: "INT",
            ..process(&[
                "postgres",
                "-D",
                "{dir}/data",
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "port=25433",
                "-c",
                "unix_socket_directories=",
                "-c",
                "ssl=on",
                "-c",
                "ssl_cert_file={dir}/server.crt",
                "-c",
                "ssl_key_file={dir}/server.key",
            ])
        }],
        ready: Ready::Command(&["pg_isready", "-h", "127.0.0.1", "-p", "25433"]),
    },
    Server {
        name: "rabbitmq",
        packages: &["rabbitmq-server"],
        programs: &["/usr/lib/rabbitmq/bin/rabbitmq-server", "epmd"],
        url: "rabbitmq://127.0.0.1:25672",
        keeps_user: false,
        files: &[
            ("rabbitmq.conf", RABBITMQ_CONF),
            ("enabled_plugins", "[].\n"),
        ],
        prepare: &[],
        processes: &[
            // It would otherwise start one that outlives it.
            process(&["epmd", "-address", "127.0.0.1", "-port", "24369"]),
            Process {
                env: &[
                    ("RABBITMQ_NODENAME", "micro@localhost"),
                    ("RABBITMQ_DIST_PORT", "25673"),
                    ("ERL_EPMD_ADDRESS", "127.0.0.1"),
                    ("ERL_EPMD_PORT", "24369"),
                    ("RABBITMQ_CONFIG_FILE", "{dir}/rabbitmq.conf"),
                    ("RABBITMQ_ENABLED_PLUGINS_FILE", "{dir}/enabled_plugins"),
                    ("RABBITMQ_LOG_BASE", "{dir}/logs"),
                    ("RABBITMQ_LOGS", "-"),
                    ("RABBITMQ_MNESIA_BASE", "{dir}/mnesia"),
                    ("RABBITMQ_PID_FILE", "{dir}/pid"),
                ],
                ..process(&["/usr/lib/rabbitmq/bin/rabbitmq-server"])
            },
        ],
        ready: Ready::Log("Server startup complete"),
    },
    // The same over TLS, with a certificate of the client's, a password, and rights to our names alone.
    Server {
        name: "rabbitmq_tls",
        packages: &["rabbitmq-server", "openssl"],
        programs: &[
            "/usr/lib/rabbitmq/bin/rabbitmq-server",
            "epmd",
            "openssl",
            "sh",
        ],
        url: "amqps://micro:hunter2@127.0.0.1:25674/shop?ca={dir}/ca.crt&cert={dir}/client.crt&key={dir}/client.key",
        keeps_user: false,
        files: &[
            ("rabbitmq.conf", RABBITMQ_TLS_CONF),
            ("enabled_plugins", "[].\n"),
            ("openssl.conf", RABBITMQ_CERTIFICATES),
            ("prepare.sh", RABBITMQ_PREPARE),
        ],
        prepare: &[&["sh", "-eu", "{dir}/prepare.sh", "{dir}"]],
        processes: &[
            process(&["epmd", "-address", "127.0.0.1", "-port", "24370"]),
            Process {
                env: &[
                    ("RABBITMQ_NODENAME", "microtls@localhost"),
                    ("RABBITMQ_DIST_PORT", "25675"),
                    ("ERL_EPMD_ADDRESS", "127.0.0.1"),
                    ("ERL_EPMD_PORT", "24370"),
                    ("RABBITMQ_CONFIG_FILE", "{dir}/rabbitmq.conf"),
                    ("RABBITMQ_ENABLED_PLUGINS_FILE", "{dir}/enabled_plugins"),
                    ("RABBITMQ_LOG_BASE", "{dir}/logs"),
                    ("RABBITMQ_LOGS", "-"),
                    ("RABBITMQ_MNESIA_BASE", "{dir}/mnesia"),
                    ("RABBITMQ_PID_FILE", "{dir}/pid"),
                ],
                ..process(&["/usr/lib/rabbitmq/bin/rabbitmq-server"])
            },
        ],
        ready: Ready::Log("Server startup complete"),
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
    // The same over TLS, for a user with a password and the rights that the backends need and no more; with
    // a log, so that it promises that records outlive it.
    Server {
        name: "redis_tls",
        packages: &["redis-server", "openssl"],
        programs: &["redis-server", "openssl", "sh"],
        url: "rediss://micro:hunter2@127.0.0.1:26380?ca={dir}/ca.crt",
        keeps_user: false,
        files: &[
            ("openssl.conf", REDIS_CERTIFICATES),
            ("prepare.sh", REDIS_PREPARE),
            ("redis.conf", REDIS_CONF),
        ],
        prepare: &[&["sh", "-eu", "{dir}/prepare.sh", "{dir}"]],
        processes: &[process(&["redis-server", "{dir}/redis.conf"])],
        ready: Ready::Log("Ready to accept connections"),
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

const NATS_TLS_CONF: &str = "\
listen: 127.0.0.1:24223
http: 127.0.0.1:28223
jetstream { store_dir: \"{dir}/data\" }
authorization { user: micro, password: hunter2 }
tls {
  cert_file: \"{dir}/server.crt\"
  key_file: \"{dir}/server.key\"
  ca_file: \"{dir}/ca.crt\"
  verify: true
}
";

const NATS_TLS_CERTIFICATES: &str = "\
[req]
distinguished_name=name
[name]
[authority]
basicConstraints=critical,CA:TRUE
keyUsage=critical,keyCertSign,cRLSign
[leaf]
basicConstraints=critical,CA:FALSE
extendedKeyUsage=serverAuth,clientAuth
subjectAltName=DNS:localhost,IP:127.0.0.1
";

/// Consul's own manifest has replacements that only hold in its repository; these are the modules
/// that stand for them.
const CONSUL_MODULE: &str = "\
module consul

go 1.26

require (
    github.com/hashicorp/consul v1.22.7
    github.com/hashicorp/consul/api v1.34.1
)

exclude (
    github.com/hashicorp/go-msgpack v1.1.5
    github.com/hashicorp/go-msgpack v1.1.6
)
";

// A server's home is its folder, which is not kept: Go's is the user's own.
const CONSUL_BUILD: &str = r#"set -e
HOME="$(getent passwd "$(id -u)" | cut -d: -f6)"
export HOME CGO_ENABLED=0
consul="$(go env GOPATH)/bin/consul"
if "$consul" version 2>/dev/null | grep -q '^Consul v1.22.7$'; then exit 0; fi
cd "$(dirname "$0")"
go build -mod=mod -buildvcs=false -trimpath -ldflags '-s -w' -o "$consul" github.com/hashicorp/consul
"#;

const CONSUL_RUN: &str = r#"HOME="$(getent passwd "$(id -u)" | cut -d: -f6)"
export HOME
exec "$(go env GOPATH)/bin/consul" agent -dev -node=micro -log-level=warn \
    -bind=127.0.0.1 -client=127.0.0.1 -http-port=28500 -dns-port=-1 -grpc-port=-1 \
    -grpc-tls-port=-1 -server-port=28300 -serf-lan-port=28301 -serf-wan-port=-1
"#;

const ETCD_CERTIFICATES: &str = "\
[req]
distinguished_name=name
[name]
[authority]
basicConstraints=critical,CA:TRUE
keyUsage=critical,keyCertSign,cRLSign
[leaf]
basicConstraints=critical,CA:FALSE
extendedKeyUsage=serverAuth,clientAuth
subjectAltName=DNS:localhost,IP:127.0.0.1
";

const POSTGRES_CERTIFICATES: &str = "\
[req]
distinguished_name=name
[name]
[authority]
basicConstraints=critical,CA:TRUE
keyUsage=critical,keyCertSign,cRLSign
[leaf]
basicConstraints=CA:FALSE
keyUsage=digitalSignature
extendedKeyUsage=serverAuth
subjectAltName=DNS:localhost,IP:127.0.0.1
";

/// Nobody gets in but with TLS and the password.
const POSTGRES_PREPARE: &str = r#"
cd "$1"
openssl req -config openssl.conf -x509 -extensions authority -newkey rsa:2048 -nodes -days 30 \
    -subj "/CN=micro test authority" -keyout ca.key -out ca.crt
openssl req -config openssl.conf -x509 -CA ca.crt -CAkey ca.key -extensions leaf -newkey rsa:2048 -nodes \
    -days 30 -subj "/CN=server" -keyout server.key -out server.crt
chmod 0600 server.key
umask 077
printf hunter2 >password
initdb -D data -U micro -A scram-sha-256 --pwfile=password --no-sync -E UTF8
rm password
echo "hostssl all all 127.0.0.1/32 scram-sha-256" >data/pg_hba.conf
"#;

const RABBITMQ_CONF: &str = "\
listeners.tcp.1 = 127.0.0.1:25672
disk_free_limit.absolute = 10MB
";

const RABBITMQ_TLS_CONF: &str = "\
listeners.tcp = none
listeners.ssl.1 = 127.0.0.1:25674
ssl_options.cacertfile = {dir}/ca.crt
ssl_options.certfile = {dir}/server.crt
ssl_options.keyfile = {dir}/server.key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
disk_free_limit.absolute = 10MB
load_definitions = {dir}/definitions.json
";

const RABBITMQ_CERTIFICATES: &str = "\
[req]
distinguished_name=name
[name]
[authority]
basicConstraints=critical,CA:TRUE
keyUsage=critical,keyCertSign,cRLSign
[leaf]
basicConstraints=critical,CA:FALSE
extendedKeyUsage=serverAuth,clientAuth
subjectAltName=DNS:localhost,IP:127.0.0.1
";

/// Certificates, and a user who may touch what begins with `micro`, and nothing else.
const RABBITMQ_PREPARE: &str = r#"cd "$1"
certificate() {
    name=$1 kind=$2
    shift 2
    openssl req -config openssl.conf -x509 -extensions "$kind" -newkey rsa:2048 -nodes -days 30 \
        -subj "/CN=$name" -keyout "$name.key" -out "$name.crt" "$@"
}
certificate ca authority
certificate server leaf -CA ca.crt -CAkey ca.key
certificate client leaf -CA ca.crt -CAkey ca.key
# Tests read it as whoever they run as.
chmod 0644 client.key
cat >definitions.json <<'JSON'
{
  "users": [{"name": "micro", "password": "hunter2", "tags": ""}],
  "vhosts": [{"name": "shop"}],
  "permissions": [{"user": "micro", "vhost": "shop",
    "configure": "^micro", "write": "^(micro|amq[.]default$)", "read": "^micro"}]
}
JSON
"#;

const REDIS_CERTIFICATES: &str = "\
[req]
distinguished_name=name
[name]
[authority]
basicConstraints=critical,CA:TRUE
keyUsage=critical,keyCertSign,cRLSign
[leaf]
basicConstraints=critical,CA:FALSE
extendedKeyUsage=serverAuth
subjectAltName=DNS:localhost,IP:127.0.0.1
";

const REDIS_PREPARE: &str = r#"cd "$1"
certificate() {
    name=$1 kind=$2
    shift 2
    openssl req -config openssl.conf -x509 -extensions "$kind" -newkey rsa:2048 -nodes -days 30 \
        -subj "/CN=$name" -keyout "$name.key" -out "$name.crt" "$@"
}
certificate ca authority
certificate server leaf -CA ca.crt -CAkey ca.key
"#;

/// Nobody may do anything but the user, and the user nothing but what the READMEs of `micro-store-redis`,
/// `micro-broker-redis` and `micro-sync-redis` name.
const REDIS_CONF: &str = "\
bind 127.0.0.1
port 0
tls-port 26380
tls-cert-file {dir}/server.crt
tls-key-file {dir}/server.key
tls-ca-cert-file {dir}/ca.crt
tls-auth-clients no
dir {dir}
save \"\"
appendonly yes
appendfsync no
user default off
user micro on >hunter2 resetkeys ~{*}:* resetchannels &{*}:* -@all +ping +client|setname +info +config|get +get +set +unlink +exists +strlen +getrange +hget +hset +zadd +zrem +zcard +zrangebylex +zrangebyscore +time +eval +evalsha +publish +subscribe +pubsub|numsub +pexpire +persist +xadd +xlen +xtrim +xinfo|groups +xgroup|create +xgroup|destroy +xreadgroup +xpending +xclaim +xack +zscore +zrange +hdel +llen +lpush +blpop +hmget +pttl
";

/// Certificates, then users: authentication can only be turned on in an etcd that runs.
const ETCD_PREPARE: &str = r#"cd "$1"
certificate() {
    name=$1 kind=$2
    shift 2
    openssl req -config openssl.conf -x509 -extensions "$kind" -newkey rsa:2048 -nodes -days 30 \
        -subj "/CN=$name" -keyout "$name.key" -out "$name.crt" "$@"
}
certificate ca authority
certificate server leaf -CA ca.crt -CAkey ca.key
certificate client leaf -CA ca.crt -CAkey ca.key
# Tests read it as whoever they run as.
chmod 0644 client.key

etcd --data-dir=data --unsafe-no-fsync \
    --listen-client-urls=http://127.0.0.1:22381 --advertise-client-urls=http://127.0.0.1:22381 \
    --listen-peer-urls=http://127.0.0.1:22382 \
    --initial-advertise-peer-urls=http://127.0.0.1:22382 \
    --initial-cluster=default=http://127.0.0.1:22382 &
etcd=$!
trap 'kill "$etcd"; wait "$etcd" || true' EXIT
call() {
    curl --silent --show-error --fail --retry 50 --retry-delay 1 --retry-connrefused \
        --data "$2" "http://127.0.0.1:22381/v3/auth/$1"
}
call user/add '{"name":"root","password":"root"}'
call user/grant '{"user":"root","role":"root"}'
call role/add '{"name":"micro"}'
# The prefix "/micro/", from there to "/micro0".
call role/grant '{"name":"micro","perm":{"permType":"READWRITE","key":"L21pY3JvLw==","range_end":"L21pY3JvMA=="}}'
call user/add '{"name":"micro","password":"hunter2"}'
call user/grant '{"user":"micro","role":"micro"}'
call enable '{}'
"#;
