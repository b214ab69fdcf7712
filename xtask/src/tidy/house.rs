//! The house as the rules see it: packages, their manifests and their sources.

use std::fs;
use std::path::Path;

use crate::failure::{OrFail as _, Result};
use crate::toml::{self, Table, Value};
use crate::workspace;

/// Everything the rules look at.
#[derive(Debug, Default)]
pub(super) struct House {
    /// The manifest of the workspace.
    pub(super) root: Table,
    /// `crates/*`.
    pub(super) crates: Vec<Package>,
    /// Members below `examples/`.
    pub(super) examples: Vec<Package>,
    /// Crates outside the workspace, which stand for strangers.
    pub(super) outside: Vec<Package>,
    /// `xtask` and what lies below it.
    pub(super) tools: Vec<Package>,
}

/// A crate.
#[derive(Clone, Debug)]
pub(super) struct Package {
    /// Its folder, as seen from the top of the checkout.
    pub(super) path: String,
    pub(super) manifest: Table,
    pub(super) files: Vec<Source>,
}

/// A text file of a crate; its path begins in the crate's folder.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) path: String,
    pub(super) text: String,
}

/// What a crate is, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Facade,
    /// `micro-core`, or `micro-<interface>-core`.
    Core,
    /// `micro-<interface>-<backend>`.
    Backend,
    /// Client, server, macros, glue: whatever has a name of its own.
    Other,
}

/// The interfaces, as crate names spell them.
const INTERFACES: &[&str] = &[
    "auth",
    "broker",
    "codec",
    "config",
    "registry",
    "selector",
    "store",
    "sync",
    "transport",
];

/// Named like backends; they wrap any backend of their interface and no URL opens them.
const WRAPPERS: &[&str] = &[
    "micro-broker-delivery",
    "micro-registry-cache",
    "micro-store-cache",
];

/// One entry of a dependency table.
#[derive(Debug)]
pub(super) struct Dependency<'a> {
    pub(super) name: &'a str,
    pub(super) value: &'a Value,
    pub(super) section: Section,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Normal,
    Build,
    Dev,
}

impl House {
    /// Reads the checkout.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let read_all = |parent: &str| -> Result<Vec<Package>> {
            workspace::packages_below(&root.join(parent))?
                .iter()
                .map(|folder| Package::read(root, folder))
                .collect()
        };
        let (outside, examples) = read_all("examples")?
            .into_iter()
            .partition(|package| package.manifest.contains_key("workspace"));
        let mut tools = vec![Package::read(root, &root.join("xtask"))?];
        tools.extend(read_all("xtask")?);
        Ok(Self {
            root: toml::read(&root.join("Cargo.toml"))?,
            crates: read_all("crates")?,
            examples,
            outside,
            tools,
        })
    }

    /// Every package, whatever it is for.
    pub(super) fn all(&self) -> impl Iterator<Item = &Package> {
        self.crates
            .iter()
            .chain(&self.examples)
            .chain(&self.outside)
            .chain(&self.tools)
    }

    /// Every package of the workspace.
    pub(super) fn members(&self) -> impl Iterator<Item = &Package> {
        self.crates.iter().chain(&self.examples).chain(&self.tools)
    }
}

impl Package {
    fn read(root: &Path, folder: &Path) -> Result<Self> {
        let mut files = Vec::new();
        read_files(folder, folder, &mut files)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let path = folder.strip_prefix(root).unwrap_or(folder);
        Ok(Self {
            path: path.display().to_string(),
            manifest: toml::read(&folder.join("Cargo.toml"))?,
            files,
        })
    }

    /// The package's name, or nothing that is one.
    pub(super) fn name(&self) -> &str {
        toml::find(&self.manifest, &["package", "name"])
            .and_then(Value::text)
            .unwrap_or_default()
    }

    /// The last part of its folder.
    pub(super) fn folder(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    pub(super) fn file(&self, path: &str) -> Option<&Source> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Its Rust files that people wrote.
    pub(super) fn rust_files(&self) -> impl Iterator<Item = &Source> {
        self.files
            .iter()
            .filter(|file| file.path.ends_with(".rs") && !file.path.starts_with("src/generated/"))
    }

    /// How a message names a file of this package.
    pub(super) fn at(&self, file: &str) -> String {
        format!("{}/{file}", self.path)
    }

    pub(super) fn kind(&self) -> Kind {
        kind(self.name())
    }

    /// All dependencies, those for single targets included.
    pub(super) fn dependencies(&self) -> Vec<Dependency<'_>> {
        const SECTIONS: [(&str, Section); 3] = [
            ("dependencies", Section::Normal),
            ("build-dependencies", Section::Build),
            ("dev-dependencies", Section::Dev),
        ];
        let targets = self
            .manifest
            .get("target")
            .and_then(Value::table)
            .into_iter()
            .flat_map(Table::values)
            .filter_map(Value::table);
        let mut found = Vec::new();
        for table in std::iter::once(&self.manifest).chain(targets) {
            for (key, section) in SECTIONS {
                let Some(entries) = table.get(key).and_then(Value::table) else {
                    continue;
                };
                found.extend(entries.iter().map(|(name, value)| Dependency {
                    name,
                    value,
                    section,
                }));
            }
        }
        found
    }

    /// The features, by name.
    pub(super) fn features(&self) -> Vec<(&str, Vec<&str>)> {
        self.manifest
            .get("features")
            .and_then(Value::table)
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.as_str(), value.texts()))
            .collect()
    }
}

impl Dependency<'_> {
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.value.table()?.get(key)
    }

    pub(super) fn inherited(&self) -> bool {
        self.get("workspace").and_then(Value::flag) == Some(true)
    }

    pub(super) fn optional(&self) -> bool {
        self.get("optional").and_then(Value::flag) == Some(true)
    }

    /// Whether it is a crate of the house.
    pub(super) fn ours(&self) -> bool {
        is_ours(self.name)
    }
}

/// Whether a name is one that only our crates have.
pub(super) fn is_ours(name: &str) -> bool {
    name == "micro" || name.starts_with("micro-")
}

/// What a crate of this name is.
pub(super) fn kind(name: &str) -> Kind {
    if name == "micro" {
        return Kind::Facade;
    }
    if name == "micro-core" {
        return Kind::Core;
    }
    if WRAPPERS.contains(&name) {
        return Kind::Other;
    }
    let parts = name
        .strip_prefix("micro-")
        .and_then(|rest| rest.split_once('-'));
    match parts {
        Some((interface, "core")) if INTERFACES.contains(&interface) => Kind::Core,
        Some((interface, _)) if INTERFACES.contains(&interface) => Kind::Backend,
        _ => Kind::Other,
    }
}

fn read_files(base: &Path, folder: &Path, into: &mut Vec<Source>) -> Result<()> {
    for entry in fs::read_dir(folder).or_fail(folder.display())? {
        let path = entry.or_fail(folder.display())?.path();
        let name = workspace::folder_name(&path);
        if path.is_dir() {
            // A package inside a package is read for itself; templates are not code yet.
            let skip = name == "target" || name == "templates" || name.starts_with('.');
            if !skip && !path.join("Cargo.toml").is_file() {
                read_files(base, &path, into)?;
            }
        } else if name.ends_with(".rs") || name.ends_with(".md") || name.ends_with(".toml") {
            let shown = path.strip_prefix(base).unwrap_or(&path);
            into.push(Source {
                path: shown.display().to_string(),
                text: fs::read_to_string(&path).or_fail(path.display())?,
            });
        }
    }
    Ok(())
}

/// A small house in order, for tests of the rules: they break one thing in it and look.
#[cfg(test)]
pub(super) fn example() -> House {
    let head = |name: &str| {
        format!(
            "[package]\nname = \"{name}\"\ndescription = \"x\"\nversion.workspace = true\n\
             edition.workspace = true\nrust-version.workspace = true\nlicense.workspace = true\n\
             [lints]\nworkspace = true\n"
        )
    };
    let docs = "//! What it is.\n//!\n//! ```\n//! let x = 1;\n//! ```\n";
    let member = |parent: &str, name: &str, more: &str, files: &[(&str, &str)]| {
        let mut package = Package {
            path: format!("{parent}/{name}"),
            manifest: toml::parse(&format!("{}{more}", head(name))).expect("it parses"),
            files: vec![],
        };
        package.put("README.md", "# x\n");
        package.put("src/lib.rs", docs);
        for (path, text) in files {
            package.put(path, text);
        }
        package
    };
    let backend = |name: &str| {
        member(
            "crates",
            name,
            "[dependencies]\nmicro-registry-core.workspace = true\n\
             [dev-dependencies]\nmicro-conformance = { path = \"../micro-conformance\" }\n\
             [[test]]\nname = \"conformance\"\nharness = false\n",
            &[
                (
                    "src/lib.rs",
                    &format!("{docs}pub const SCHEME: &str = \"x\";\n"),
                ),
                ("tests/conformance.rs", "//! Runs the suite.\n"),
            ],
        )
    };
    let core = "[dependencies]\nmicro-core.workspace = true\nasync-trait.workspace = true\n";
    House {
        root: toml::parse(
            "[workspace]\n[workspace.dependencies]\n\
             micro = { path = \"crates/micro\", version = \"0.1.0\", default-features = false }\n\
             micro-core = { path = \"crates/micro-core\", version = \"0.1.0\", default-features = false }\n\
             micro-registry-core = { path = \"crates/micro-registry-core\", version = \"0.1.0\", default-features = false }\n\
             micro-registry-memory = { path = \"crates/micro-registry-memory\", version = \"0.1.0\", default-features = false }\n",
        )
        .expect("it parses"),
        crates: vec![
            member(
                "crates",
                "micro",
                "[features]\nregistry-memory = [\"dep:micro-registry-memory\"]\n\
                 [dependencies]\nmicro-registry-memory = { workspace = true, optional = true }\n",
                &[],
            ),
            member("crates", "micro-core", "", &[]),
            member("crates", "micro-registry-core", core, &[]),
            backend("micro-registry-memory"),
        ],
        examples: vec![{
            let mut hello = member(
                "examples",
                "hello",
                "[dependencies]\nmicro.workspace = true\ntokio.workspace = true\n",
                &[("src/main.rs", "//! Says hello.\n")],
            );
            hello.set(&["package", "publish"], "false");
            hello
        }],
        outside: vec![],
        tools: vec![],
    }
}

#[cfg(test)]
impl House {
    /// The crate of a name, to break something in it.
    pub(super) fn package(&mut self, name: &str) -> &mut Package {
        self.crates
            .iter_mut()
            .chain(&mut self.examples)
            .find(|package| package.name() == name)
            .expect("the example house has this crate")
    }
}

#[cfg(test)]
impl Package {
    /// Writes a file.
    pub(super) fn put(&mut self, path: &str, text: &str) {
        self.drop_file(path);
        self.files.push(Source {
            path: path.to_owned(),
            text: text.to_owned(),
        });
    }

    pub(super) fn drop_file(&mut self, path: &str) {
        self.files.retain(|file| file.path != path);
    }

    /// Sets a key of the manifest to a value written as TOML.
    pub(super) fn set(&mut self, path: &[&str], value: &str) {
        let parsed = toml::parse(&format!("x = {value}\n")).expect("it parses");
        let (last, parents) = path.split_last().expect("a path");
        let mut table = &mut self.manifest;
        for part in parents {
            let inner = table
                .entry((*part).to_owned())
                .or_insert_with(|| Value::Table(Table::new()));
            let Value::Table(inner) = inner else {
                panic!("{part} is a table");
            };
            table = inner;
        }
        table.insert((*last).to_owned(), parsed["x"].clone());
    }

    /// Takes a key out of a table of the manifest.
    pub(super) fn unset(&mut self, table: &str, key: &str) {
        if let Some(Value::Table(table)) = self.manifest.get_mut(table) {
            table.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_a_crate_is() {
        assert_eq!(kind("micro"), Kind::Facade);
        assert_eq!(kind("micro-core"), Kind::Core);
        assert_eq!(kind("micro-registry-core"), Kind::Core);
        assert_eq!(kind("micro-registry-mdns"), Kind::Backend);
        assert_eq!(kind("micro-registry-cache"), Kind::Other);
        assert_eq!(kind("micro-client"), Kind::Other);
        assert_eq!(kind("micro-tls"), Kind::Other);
    }
}
