//! The `.proto` files that contracts print, and what generators make of them.

use std::path::{Path, PathBuf};
use std::{env, fs};

use micro::Contract as _;
use prost_types::FileDescriptorSet;

use crate::common::{Fleet, ProbeServer, Prober};
use crate::kinds::{KindsServer, Mirror};

/// A contract that was printed to `<name>.proto`, whose package is `package`.
pub(crate) struct Printed {
    pub(crate) name: &'static str,
    package: &'static str,
}

pub(crate) const PRINTED: [Printed; 2] = [
    Printed {
        name: "kinds",
        package: "kinds.v1",
    },
    Printed {
        name: "probe",
        package: "probe",
    },
];

impl Printed {
    pub(crate) fn file(&self) -> String {
        format!("{}.proto", self.name)
    }

    /// What a compiler that is not ours reads in the committed file, and what it imports.
    pub(crate) fn descriptors(&self) -> FileDescriptorSet {
        protox::compile([self.file()], [folder()]).expect("the printed .proto compiles")
    }

    /// The descriptors as tonic's generator turns them into Rust, formatted.
    fn rust(&self) -> String {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!(
            "interop-{}-{}",
            self.name,
            std::process::id()
        ));
        fs::create_dir_all(&out).unwrap();
        tonic_prost_build::configure()
            .out_dir(&out)
            .build_transport(false)
            .emit_rerun_if_changed(false)
            .compile_fds(self.descriptors())
            .expect("tonic generates");
        let code = fs::read_to_string(out.join(format!("{}.rs", self.package))).unwrap();
        fs::remove_dir_all(out).unwrap();
        // Formatted here, for whether the generator does depends on features of other crates.
        let code = prettyplease::unparse(&syn::parse_file(&code).expect("it is Rust"));
        format!(
            "//! Made from `{}` by tonic-prost-build; `MICRO_BLESS=1` makes it anew.\n\n\
             #![allow(warnings, clippy::all, reason = \"nobody wrote this\")]\n\n{code}",
            self.file()
        )
    }
}

/// Where the committed files are.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop")
}

/// Compares with what is committed, or commits it with `MICRO_BLESS=1`.
fn check(file: &Path, text: &str) {
    let committed = fs::read_to_string(file).unwrap_or_default();
    if committed == text {
        return;
    }
    if env::var_os("MICRO_BLESS").is_some_and(|bless| bless == "1") {
        fs::write(file, text).unwrap();
        return;
    }
    panic!(
        "{} is not what is generated now; run this test with MICRO_BLESS=1 and look at the diff",
        file.display()
    );
}

/// One test, for the second half reads what the first one writes when it blesses.
#[tokio::test]
async fn the_printed_protos_and_the_code_made_of_them_are_fresh() {
    let prober = Prober {
        node: String::new(),
        seen: Default::default(),
        client: Fleet::new().client().await,
    };
    let texts = [
        KindsServer::new(Mirror).routes().to_proto("any-name"),
        ProbeServer::new(prober).routes().to_proto("probe"),
    ];
    for (printed, text) in PRINTED.iter().zip(texts) {
        check(&folder().join(printed.file()), &text.unwrap());
        let generated = folder().join(format!("generated/{}.rs", printed.name));
        check(&generated, &printed.rust());
    }
}

#[test]
fn the_printed_proto_says_what_the_contract_says() {
    let files = PRINTED[1].descriptors().file;
    let [file] = files.as_slice() else {
        panic!("{} files", files.len());
    };
    assert_eq!((file.package(), file.syntax()), ("probe", "proto3"));
    let service = &file.service[0];
    assert_eq!(service.name(), "Probe");
    let methods: Vec<_> = service
        .method
        .iter()
        .map(|method| {
            assert_eq!(method.input_type(), ".probe.Ping");
            assert_eq!(method.output_type(), ".probe.Ping");
            let streams = (method.client_streaming(), method.server_streaming());
            (method.name(), streams)
        })
        .collect();
    let (unary, many, each) = (false, true, (true, true));
    assert_eq!(
        methods,
        [
            ("Echo", (unary, unary)),
            ("Safe", (unary, unary)),
            ("Sleep", (unary, unary)),
            ("Fail", (unary, unary)),
            ("Panic", (unary, unary)),
            ("Count", (unary, many)),
            ("Sum", (many, unary)),
            ("Chat", each),
            ("Left", (unary, unary)),
        ]
    );
    let fields: Vec<_> = file.message_type[0]
        .field
        .iter()
        .map(|field| (field.name(), field.number(), field.r#type().as_str_name()))
        .collect();
    assert_eq!(
        fields,
        [("text", 1, "TYPE_STRING"), ("number", 2, "TYPE_UINT64")]
    );
}
