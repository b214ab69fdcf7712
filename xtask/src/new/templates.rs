//! The texts that `cargo xtask new` writes, by interface.
//!
//! In them, `{{package}}`, `{{lib}}`, `{{backend}}` and `{{Type}}` stand for the spellings of the name.

/// The files of a backend of one interface.
#[derive(Debug)]
pub(super) struct Template {
    pub(super) interface: &'static str,
    pub(super) files: Files,
}

/// Where the texts come from.
#[derive(Debug)]
pub(super) enum Files {
    /// Path in the crate, and text.
    Texts(&'static [(&'static str, &'static str)]),
    /// The in-process backend of the house, under another name: for an interface whose smallest
    /// honest backend is too long to be kept twice.
    Like(&'static str),
}

/// Lists the files of a template: each is read from the folder of its interface.
macro_rules! template {
    ($interface:literal: $($file:literal),* $(,)?) => {
        Template {
            interface: $interface,
            files: Files::Texts(&[$((
                $file,
                include_str!(concat!("../../templates/", $interface, "/", $file)),
            )),*]),
        }
    };
}

pub(super) const TEMPLATES: &[Template] = &[
    template!("codec": "Cargo.toml", "README.md", "src/lib.rs", "src/codec.rs", "tests/conformance.rs"),
    template!("registry": "Cargo.toml", "README.md", "src/lib.rs", "src/config.rs", "src/registry.rs", "tests/conformance.rs"),
    template!("selector": "Cargo.toml", "README.md", "src/lib.rs", "src/config.rs", "src/selector.rs", "tests/conformance.rs"),
    Template {
        interface: "transport",
        files: Files::Like("memory"),
    },
];
