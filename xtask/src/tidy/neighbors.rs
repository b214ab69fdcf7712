//! Who may know whom.

use crate::tidy::Violations;
use crate::tidy::house::{House, Kind, Package, Section, kind};
use crate::toml::{self, Value};

/// What any core may use without it counting.
const FOUNDATION: &[&str] = &[
    "async-trait",  // the traits are dyn-compatible and async
    "bytes",        // the currency of message bodies, without copies
    "futures-core", // `Stream` and `BoxFuture`, and nothing that runs them
    "serde",        // models have go-micro's JSON names; contents are serde types
    "url",          // backends are opened by URL
];

/// What a core may use besides, at most [`SMALL_AT_MOST`] of them: each is small and none has a runtime.
const SMALL: &[&str] = &[
    "arc-swap",         // snapshots that are read on every call
    "erased-serde",     // a codec is dyn, serde is not
    "fastrand",         // jitter and picks, seedable
    "futures-util",     // combinators, without its executor
    "http",             // header names as transports have them
    "percent-encoding", // messages in headers
    "serde_json",       // error details and models as go-micro writes them
    "thiserror",        // private errors
    "tokio-stream",     // adapters over `Stream`; its default features, and so the runtime, are off
    "tower-layer",      // two traits, so that tower's middleware plugs in
    "tower-service",    // the other of the two
    "tracing",          // the facade, not a subscriber
    "uuid",             // node ids
];

const SMALL_AT_MOST: usize = 4;

/// Cores of other interfaces that a core may know, besides `micro-core`.
const CORE_KNOWS: &[(&str, &str)] = &[
    // It picks among the registry's nodes.
    ("micro-selector-core", "micro-registry-core"),
    // Its typed publishers and handlers choose a codec by content type.
    ("micro-broker-core", "micro-codec-core"),
];

/// Crates of the house that a backend may know though they are no cores: what several backends of one engine share.
const GLUE: &[&str] = &[
    "micro-broker-delivery",
    "micro-consul",
    "micro-embedded",
    "micro-etcd",
    "micro-http",
    "micro-lease",
    "micro-nats",
    "micro-postgres",
    "micro-redis",
    "micro-registry-cache",
    "micro-tls",
];

/// What client and server know besides cores: the one resolver, TLS.
/// `micro-codec-proto`: health and reflection are protobuf whatever else a server speaks.
const ASSEMBLY_KNOWS: &[&str] = &["micro-codec-proto", "micro-registry-cache", "micro-tls"];

/// What a whole system in one process is made of, besides cores.
const TESTING_KNOWS: &[&str] = &[
    "micro-client",
    "micro-codec-json",
    "micro-codec-proto",
    "micro-registry-cache",
    "micro-registry-memory",
    "micro-selector-p2c",
    "micro-server",
    "micro-transport-memory",
];

const ASSEMBLY: &[&str] = &["micro-client", "micro-server"];

/// What an example may name besides `micro`: what a user's program would.
const EXAMPLE_KNOWS: &[&str] = &["micro", "bytes", "futures-util", "serde", "tokio"];

/// A core knows `micro-core` and a few small crates, and no runtime.
pub(super) fn cores(house: &House, out: &mut Violations) {
    for package in &house.crates {
        if package.kind() != Kind::Core {
            continue;
        }
        let at = package.at("Cargo.toml");
        let mut small = Vec::new();
        for name in normal(package) {
            if kind(name) != Kind::Other || name.starts_with("micro-") {
                let allowed = package.name() != "micro-core"
                    && (name == "micro-core" || CORE_KNOWS.contains(&(package.name(), name)));
                if !allowed {
                    out.push(format!("{at}: a core may not know `{name}`"));
                }
            } else if SMALL.contains(&name) {
                small.push(name);
            } else if !FOUNDATION.contains(&name) {
                out.push(format!(
                    "{at}: `{name}` is not on the list of what a core may use (xtask/src/tidy/neighbors.rs)"
                ));
            }
        }
        if small.len() > SMALL_AT_MOST {
            out.push(format!(
                "{at}: a core uses at most {SMALL_AT_MOST} small crates, this one {}",
                small.join(", ")
            ));
        }
    }
}

/// A backend knows cores and glue; client and server know cores and the resolver; only the facade knows backends.
pub(super) fn neighbors(house: &House, out: &mut Violations) {
    for package in &house.crates {
        let extra: &[&str] = match package.kind() {
            Kind::Backend => GLUE,
            Kind::Other if ASSEMBLY.contains(&package.name()) => ASSEMBLY_KNOWS,
            Kind::Other if package.name() == "micro-testing" => TESTING_KNOWS,
            // Wrappers, glue, macros, build, suites: what they may know is what any of them may.
            Kind::Other => &[
                "micro-tls",
                // Consul's API is HTTP.
                "micro-http",
                "micro-macros",
                "micro-build",
                "micro-client",
                "micro-server",
            ],
            Kind::Facade | Kind::Core => continue,
        };
        for name in normal(package) {
            let ours = name == "micro" || name.starts_with("micro-");
            if ours && kind(name) != Kind::Core && !extra.contains(&name) {
                out.push(format!(
                    "{}: `{}` may not know `{name}`",
                    package.at("Cargo.toml"),
                    package.name()
                ));
            }
        }
    }
}

/// An example is what a user would write: `micro` and what a program needs anyway.
pub(super) fn examples(house: &House, out: &mut Violations) {
    for package in &house.examples {
        let at = package.at("Cargo.toml");
        let publish = toml::find(&package.manifest, &["package", "publish"]);
        if publish.and_then(Value::flag) != Some(false) {
            out.push(format!("{at}: `publish = false` is missing"));
        }
        // `just-the-…` shows single crates without the facade.
        let single = package.name().starts_with("just-the-");
        for dependency in package.dependencies() {
            let name = dependency.name;
            let allowed = EXAMPLE_KNOWS.contains(&name)
                || (dependency.section == Section::Build && name == "micro-build")
                || (single && dependency.ours());
            if !allowed {
                out.push(format!("{at}: an example may not depend on `{name}`"));
            }
        }
    }
}

/// The names of the dependencies that a user of the crate gets.
fn normal(package: &Package) -> Vec<&str> {
    package
        .dependencies()
        .into_iter()
        .filter(|dependency| dependency.section == Section::Normal)
        .map(|dependency| dependency.name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::house::example;

    const WORKSPACE: &str = "{ workspace = true }";

    fn found(rule: fn(&House, &mut Violations), house: &House) -> String {
        let mut out = Violations::new();
        rule(house, &mut out);
        out.join("\n")
    }

    #[test]
    fn a_core_has_no_runtime_and_few_crates() {
        let mut house = example();
        let core = house.package("micro-registry-core");
        core.set(&["dependencies", "tokio"], WORKSPACE);
        for name in ["arc-swap", "fastrand", "tracing", "uuid", "thiserror"] {
            core.set(&["dependencies", name], WORKSPACE);
        }
        let found = found(cores, &house);
        assert!(found.contains("`tokio` is not on the list"), "{found}");
        assert!(found.contains("at most 4"), "{found}");
    }

    #[test]
    fn a_core_knows_no_other_core() {
        let mut house = example();
        house
            .package("micro-core")
            .set(&["dependencies", "micro-registry-core"], WORKSPACE);
        house
            .package("micro-registry-core")
            .set(&["dependencies", "micro-store-core"], WORKSPACE);
        let found = found(cores, &house);
        assert_eq!(found.lines().count(), 2, "{found}");
    }

    #[test]
    fn a_backend_knows_no_backend_and_not_the_facade() {
        let mut house = example();
        let memory = house.package("micro-registry-memory");
        memory.set(&["dependencies", "micro-registry-mdns"], WORKSPACE);
        memory.set(&["dependencies", "micro"], WORKSPACE);
        memory.set(&["dependencies", "micro-store-core"], WORKSPACE);
        memory.set(&["dependencies", "micro-tls"], WORKSPACE);
        let found = found(neighbors, &house);
        assert_eq!(found.lines().count(), 2, "{found}");
        assert!(
            found.contains("`micro-registry-mdns`") && found.contains("`micro`"),
            "{found}"
        );
    }

    #[test]
    fn dev_dependencies_are_free() {
        let mut house = example();
        house.package("micro-registry-memory").set(
            &["dev-dependencies", "micro-registry-mdns"],
            "{ path = \"../micro-registry-mdns\" }",
        );
        assert_eq!(found(neighbors, &house), "");
    }

    #[test]
    fn an_example_depends_on_micro_only() {
        let mut house = example();
        let hello = house.package("hello");
        hello.set(&["dependencies", "tonic"], WORKSPACE);
        hello.set(&["dependencies", "micro-build"], WORKSPACE);
        hello.set(&["build-dependencies", "micro-build"], WORKSPACE);
        hello.set(&["package", "publish"], "true");
        let found = found(examples, &house);
        assert_eq!(found.lines().count(), 3, "{found}");
    }
}
