//! What is generated, against what is committed.
//!
//! `MICRO_BUILD_GOLDEN=write cargo test -p micro-build --test golden` writes it anew.

use std::fs;
use std::path::Path;

use micro_build::Builder;

const PROTOS: &[&str] = &["everything/v1/everything.proto"];

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn what_is_generated_is_what_is_committed() {
    let protos = here().join("tests/proto");
    let out = Builder::new()
        .include_file("all.rs")
        .generate(PROTOS, &[protos])
        .unwrap();
    let names: Vec<_> = out.keys().map(String::as_str).collect();
    assert_eq!(names, ["all.rs", "common.v1.rs", "everything.v1.rs"]);
    for (name, code) in &out {
        // Not `.rs`: nobody formats them, and they have no module docs.
        let golden = here().join("tests/golden").join(format!("{name}.golden"));
        if std::env::var_os("MICRO_BUILD_GOLDEN").is_some() {
            fs::write(&golden, code).unwrap();
        }
        let committed = fs::read_to_string(&golden).unwrap();
        assert!(
            &committed == code,
            "{name} differs from {}; MICRO_BUILD_GOLDEN=write writes it anew",
            golden.display()
        );
    }
}

#[test]
fn a_build_script_finds_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let set = folder.path().join("all.bin");
    let root = here().join("tests/proto");
    let builder = Builder::new()
        .crate_path("::facade")
        .out_dir(folder.path())
        .file_descriptor_set_path(&set);
    builder.compile(PROTOS, &[&root]).unwrap();
    let code = fs::read_to_string(folder.path().join("everything.v1.rs")).unwrap();
    assert!(
        code.contains(r#"#[::facade::service(package = "everything.v1", crate = "::facade")]"#)
    );
    assert!(!code.contains("::micro::"));
    assert!(!fs::read(&set).unwrap().is_empty());
    // What has not changed is not written: cargo would build it again.
    let written = |name: &str| fs::metadata(folder.path().join(name)).unwrap().modified();
    let before = written("everything.v1.rs").unwrap();
    builder.compile(PROTOS, &[&root]).unwrap();
    assert_eq!(written("everything.v1.rs").unwrap(), before);
}

#[test]
fn messages_alone_need_no_services_and_no_json() {
    let out = Builder::new()
        .messages_only(true)
        .json(false)
        .generate(PROTOS, &[here().join("tests/proto")])
        .unwrap();
    let code = &out["everything.v1.rs"];
    assert!(!code.contains("service(") && !code.contains("serde"));
    assert!(code.contains("prost_message!"));
}

#[test]
fn a_message_may_come_from_elsewhere() {
    let out = Builder::new()
        .extern_path(".common.v1", "::shared::common")
        .generate(PROTOS, &[here().join("tests/proto")])
        .unwrap();
    assert_eq!(out.keys().collect::<Vec<_>>(), ["everything.v1.rs"]);
    let code = &out["everything.v1.rs"];
    assert!(code.contains("Option<::shared::common::Place>"));
    assert!(code.contains("Result<::shared::common::Place>"));
}

#[test]
fn messages_need_a_package_for_json_only() {
    let folder = tempfile::tempdir().unwrap();
    let text = "syntax = \"proto3\"; message M { message N {} N n = 1; }";
    fs::write(folder.path().join("a.proto"), text).unwrap();
    let generate = |json| {
        Builder::new()
            .json(json)
            .generate(&["a.proto"], &[folder.path()])
    };
    let err = generate(true).unwrap_err().to_string();
    assert!(err.starts_with("a.proto has no package"), "{err}");
    let code = &generate(false).unwrap()["_.rs"];
    assert!(
        code.contains("prost_message!(m::N, FILE_DESCRIPTOR_SET, \"M.N\")"),
        "{code}"
    );
}

/// The error that a file with this text gives.
fn problem(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("bad.proto"), text).unwrap();
    let err = Builder::new()
        .generate(&["bad.proto"], &[folder.path()])
        .unwrap_err();
    assert_eq!(format!("{err:?}"), err.to_string());
    err.to_string()
}

#[test]
fn an_error_says_where_it_is() {
    for (text, wanted) in [
        (
            "syntax = \"proto3\";\npackage a;\nmessage M {\n  strin name = 1;\n}\n",
            "bad.proto:4:3: ",
        ),
        (
            "syntax = \"proto3\";\npackage a;\nmessage M {\n  string name = 1\n}\n",
            "bad.proto:5:1: ",
        ),
        (
            "syntax = \"proto3\";\nimport \"missing.proto\";\n",
            "bad.proto:2:1: import 'missing.proto' not found",
        ),
        (
            "syntax = \"proto3\";\nmessage M {}\nservice S { rpc A(M) returns (M); }\n",
            "bad.proto has no package",
        ),
    ] {
        let problem = problem(text);
        assert!(problem.contains(wanted), "{problem}");
    }
    let err = Builder::new()
        .generate(&["nowhere.proto"], &["."])
        .unwrap_err();
    assert!(err.to_string().contains("nowhere.proto"), "{err}");
}
