//! Generates the committed code of the workspace from `proto/`.
//!
//! `cargo run -p micro-build --example codegen [-- --check]`; with `--check` it writes nothing and
//! fails if anything would change.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::{env, fs};

use micro_build::Builder;

/// Generated files and what is in them.
type Files = BTreeMap<String, String>;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let check = match env::args().nth(1).as_deref() {
        None => false,
        Some("--check") => true,
        Some(other) => return Err(format!("unknown argument {other:?}").into()),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .ok_or("this crate is not in a workspace")?;
    let protos = root.join("proto");
    let mut stale = Vec::new();
    for (folder, files) in [
        ("crates/micro-codec-proto/src/generated", well_known()?),
        ("crates/micro-server/src/generated", server(&protos)?),
        ("crates/micro-etcd/src/generated", etcd(&protos)?),
    ] {
        let folder = root.join(folder);
        for (name, code) in files {
            let path = folder.join(name);
            let code = format(&code)?;
            if fs::read_to_string(&path).is_ok_and(|old| old == code) {
                continue;
            }
            if !check {
                fs::create_dir_all(&folder)?;
                fs::write(&path, code)?;
            }
            stale.push(path);
        }
    }
    for path in &stale {
        let path = path.strip_prefix(root).unwrap_or(path).display();
        writeln!(
            std::io::stderr(),
            "{} {path}",
            if check { "out of date:" } else { "written:" }
        )?;
    }
    Ok(match check && !stale.is_empty() {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

/// Protobuf's well-known types. Their JSON is written by hand, for it is like no other.
fn well_known() -> Result<Files, Box<dyn Error>> {
    let protos = [
        "any",
        "duration",
        "empty",
        "field_mask",
        "struct",
        "timestamp",
        "wrappers",
    ];
    let protos = protos.map(|name| format!("google/protobuf/{name}.proto"));
    // They come with the compiler: there is no folder to look into.
    let nowhere: [&str; 0] = [];
    let builder = Builder::new().crate_path("crate").messages_only(true);
    Ok(builder.json(false).generate(&protos, &nowhere)?)
}

/// What the server answers by itself. It has its own `__v1`, and routes written by hand.
fn server(protos: &Path) -> Result<Files, Box<dyn Error>> {
    let builder = Builder::new().crate_path("crate").messages_only(true);
    // `curl` asks for health in JSON; reflection is a stream, which no `curl` can ask for.
    let mut out = builder.generate(&[protos.join("grpc/health/v1/health.proto")], &[protos])?;
    out.extend(builder.json(false).generate(
        &[
            protos.join("grpc/reflection/v1/reflection.proto"),
            protos.join("grpc/reflection/v1alpha/reflection.proto"),
        ],
        &[protos],
    )?);
    Ok(out)
}

/// The calls of etcd. Bare messages: glue needs neither views nor JSON of them.
fn etcd(protos: &Path) -> Result<Files, Box<dyn Error>> {
    let compiled = protox::compile(["etcd/rpc.proto"], [protos])?;
    let files = compiled.file.into_iter().map(|file| {
        let module = prost_build::Module::from_protobuf_package_name(file.package());
        (module, file)
    });
    let mut config = prost_build::Config::new();
    config.bytes(["."]);
    let code = config.generate(files.collect())?.into_iter();
    Ok(code
        .map(|(module, code)| {
            let name = module.to_file_name_or("etcd");
            let allowed = "dead_code, missing_docs, unreachable_pub, clippy::all, clippy::pedantic";
            let head = "// @generated from proto/etcd by `cargo xtask codegen`: do not edit.";
            (name, format!("{head}\n#![allow({allowed})]\n\n{code}"))
        })
        .collect())
}

/// As `cargo fmt` would have it.
fn format(code: &str) -> Result<String, Box<dyn Error>> {
    let mut rustfmt = Command::new("rustfmt")
        .args(["--edition", "2024"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    rustfmt
        .stdin
        .take()
        .ok_or("rustfmt has no input")?
        .write_all(code.as_bytes())?;
    let output = rustfmt.wait_with_output()?;
    if !output.status.success() {
        return Err("rustfmt failed".into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
