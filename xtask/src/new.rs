//! `cargo xtask new`: a backend crate in the house's shape, inside the workspace or outside it.
//!
//! What it writes compiles and passes the suite of its interface as it is, so that a newcomer
//! replaces something that works. The texts are in `xtask/templates/<interface>`.

mod manifest;
mod templates;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use self::templates::{Files, TEMPLATES, Template};
use crate::failure::{Failure, OrFail as _, Result};
use crate::{process, suite, toml, workspace};

const USAGE: &str = "usage: cargo xtask new <interface> <backend> [--out DIR]";

/// `cargo xtask new <interface> <backend> [--out DIR]`.
pub(crate) fn command(args: &[String]) -> Result<u8> {
    let order = Order::read(args)?;
    let root = workspace::root();
    let names = Names::new(order.template.interface, &order.backend)?;
    let outside = order.out.is_some();
    let folder = order
        .out
        .unwrap_or_else(|| root.join("crates").join(&names.package));
    let home = if outside { Home::Outside } else { Home::Inside };
    let written = write(order.template, &names, &root, &folder, home)?;
    for path in &written {
        println!("{}", path.display());
    }
    format(&written);
    println!("\n{}", next_steps(&names, &folder, home));
    Ok(0)
}

/// Writes a backend of every interface outside the checkout and runs its tests there, as a stranger would.
pub(crate) fn smoke() -> Result<bool> {
    let parent = env::temp_dir().join(format!("micro-new-{}", std::process::id()));
    let mut bad = Vec::new();
    for template in TEMPLATES {
        let names = Names::new(template.interface, "sample")?;
        if !passes(template, &names, &parent.join(&names.package))? {
            bad.push(template.interface);
        }
    }
    let _ = fs::remove_dir_all(&parent);
    if !bad.is_empty() {
        println!("templates whose backend fails: {}", bad.join(", "));
    }
    Ok(bad.is_empty())
}

/// Whether a backend as written by its template has no warning and passes its tests.
fn passes(template: &Template, names: &Names, folder: &Path) -> Result<bool> {
    let root = workspace::root();
    format(&write(template, names, &root, folder, Home::Outside)?);
    // The versions that the workspace has: nothing is fetched or compiled twice.
    let lock = folder.join("Cargo.lock");
    fs::copy(root.join("Cargo.lock"), &lock).or_fail(lock.display())?;
    let mut clippy = suite::outside(folder, "clippy");
    clippy.args(["--all-targets", "--", "-D", "warnings"]);
    let clean = process::run(&mut clippy)?.success();
    Ok(process::run(&mut suite::outside(folder, "test"))?.success() && clean)
}

/// The command line.
#[derive(Debug)]
struct Order {
    template: &'static Template,
    backend: String,
    out: Option<PathBuf>,
}

impl Order {
    fn read(args: &[String]) -> Result<Self> {
        let mut words = Vec::new();
        let mut out = None;
        let mut args = args.iter().map(String::as_str);
        while let Some(arg) = args.next() {
            if arg == "--out" {
                out = Some(args.next().ok_or_else(usage)?);
            } else if let Some(dir) = arg.strip_prefix("--out=") {
                out = Some(dir);
            } else {
                words.push(arg);
            }
        }
        let [interface, backend] = words[..] else {
            return Err(usage());
        };
        let template = TEMPLATES
            .iter()
            .find(|template| template.interface == interface)
            .ok_or_else(|| Failure::usage(format!("no template for `{interface}`\n{}", known())))?;
        let out = out.map(std::path::absolute).transpose().or_fail("--out")?;
        Ok(Self {
            template,
            backend: backend.to_owned(),
            out,
        })
    }
}

fn usage() -> Failure {
    Failure::usage(format!("{USAGE}\n{}", known()))
}

fn known() -> String {
    let all: Vec<&str> = TEMPLATES
        .iter()
        .map(|template| template.interface)
        .collect();
    format!("interfaces: {}", all.join(", "))
}

/// Where a crate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    /// A member of the workspace, which inherits from it.
    Inside,
    /// A workspace of its own, as a stranger's crate has.
    Outside,
}

/// The spellings of one name.
#[derive(Debug)]
struct Names {
    interface: &'static str,
    /// `in-house`
    backend: String,
    /// `micro-registry-in-house`
    package: String,
    /// `micro_registry_in_house`
    lib: String,
    /// `InHouse`
    ty: String,
}

impl Names {
    fn new(interface: &'static str, backend: &str) -> Result<Self> {
        // The crate's whole name says the same.
        let prefix = format!("micro-{interface}-");
        let backend = backend.strip_prefix(&prefix).unwrap_or(backend);
        let well_formed = backend.starts_with(|c: char| c.is_ascii_lowercase())
            && backend.split('-').all(|part| {
                !part.is_empty()
                    && part
                        .chars()
                        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
            });
        if !well_formed || backend == "core" {
            return Err(Failure::usage(format!(
                "`{backend}` cannot be the name of a backend: lower-case letters, digits and single hyphens, and not `core`"
            )));
        }
        let package = format!("{prefix}{backend}");
        Ok(Self {
            interface,
            backend: backend.to_owned(),
            lib: package.replace('-', "_"),
            package,
            ty: backend.split('-').map(capitalized).collect(),
        })
    }

    fn fill(&self, text: &str) -> String {
        text.replace("{{package}}", &self.package)
            .replace("{{lib}}", &self.lib)
            .replace("{{backend}}", &self.backend)
            .replace("{{Type}}", &self.ty)
    }
}

/// Every text of a backend, by its path in the crate.
fn texts(template: &Template, names: &Names, root: &Path) -> Result<Vec<(PathBuf, String)>> {
    let model = match template.files {
        Files::Texts(files) => {
            let filled = files
                .iter()
                .map(|(path, text)| (path.into(), names.fill(text)));
            return Ok(filled.collect());
        }
        Files::Like(model) => Names::new(template.interface, model)?,
    };
    let folder = root.join("crates").join(&model.package);
    let mut texts = Vec::new();
    read_crate(&folder, &folder, &mut texts)?;
    texts.sort();
    for (_, text) in &mut texts {
        // The longer names first: they contain the shorter ones.
        *text = text
            .replace(&model.package, &names.package)
            .replace(&model.lib, &names.lib)
            .replace(&model.ty, &names.ty)
            .replace(&model.backend, &names.backend);
    }
    Ok(texts)
}

fn read_crate(base: &Path, folder: &Path, texts: &mut Vec<(PathBuf, String)>) -> Result<()> {
    for entry in fs::read_dir(folder).or_fail(folder.display())? {
        let path = entry.or_fail(folder.display())?.path();
        let name = workspace::folder_name(&path);
        if path.is_dir() && name != "target" {
            read_crate(base, &path, texts)?;
        } else if [".rs", ".md", ".toml"]
            .iter()
            .any(|end| name.ends_with(end))
        {
            let text = fs::read_to_string(&path).or_fail(path.display())?;
            texts.push((path.strip_prefix(base).unwrap_or(&path).to_path_buf(), text));
        }
    }
    Ok(())
}

fn capitalized(word: &str) -> String {
    let mut chars = word.chars();
    chars
        .next()
        .map(|first| first.to_ascii_uppercase())
        .into_iter()
        .chain(chars)
        .collect()
}

/// Writes the crate; the paths that were written.
fn write(
    template: &Template,
    names: &Names,
    root: &Path,
    folder: &Path,
    home: Home,
) -> Result<Vec<PathBuf>> {
    let occupied = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    if occupied {
        return Err(Failure::new(format!(
            "{} is there already and not empty",
            folder.display()
        )));
    }
    let mut written = Vec::new();
    for (path, mut text) in texts(template, names, root)? {
        if path == Path::new("Cargo.toml") && home == Home::Outside {
            text = manifest::standing_alone(
                &text,
                &toml::read(&root.join("Cargo.toml"))?,
                root,
                folder,
            )?;
        }
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).or_fail(parent.display())?;
        }
        fs::write(&path, text).or_fail(path.display())?;
        written.push(path);
    }
    Ok(written)
}

/// Formats what was written: the order of imports depends on the name. Without rustfmt it stays as it is.
fn format(written: &[PathBuf]) {
    let rust = written
        .iter()
        .filter(|path| path.extension().is_some_and(|end| end == "rs"));
    let mut rustfmt = Command::new("rustfmt");
    rustfmt.args(["--edition", "2024"]).args(rust);
    if process::output_of(&mut rustfmt).is_none() {
        println!("(rustfmt did not run: format it by hand)");
    }
}

fn next_steps(names: &Names, folder: &Path, home: Home) -> String {
    let Names {
        interface,
        backend,
        package,
        ..
    } = names;
    match home {
        Home::Outside => format!(
            "next: cargo test --manifest-path {}/Cargo.toml, then make it talk to {backend}",
            folder.display()
        ),
        Home::Inside => format!(
            "next, and `cargo xtask tidy` says what is left of it:\n  \
             Cargo.toml, [workspace.dependencies]:\n    \
             {package} = {{ path = \"crates/{package}\", version = \"0.1.0\", default-features = false }}\n  \
             crates/micro/Cargo.toml, [dependencies]:\n    \
             {package} = {{ workspace = true, optional = true }}\n  \
             crates/micro/Cargo.toml, [features]:\n    \
             {interface}-{backend} = [\"dep:{package}\"]\n  \
             then: cargo test -p {package}, and make it talk to {backend}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toml::Value;

    fn temporary(name: &str) -> PathBuf {
        let dir = env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn a_name_has_its_spellings() {
        let names = Names::new("registry", "in-house2").expect("a name");
        assert_eq!(names.package, "micro-registry-in-house2");
        assert_eq!(names.lib, "micro_registry_in_house2");
        assert_eq!(names.ty, "InHouse2");
        for wrong in ["", "core", "Etcd", "a--b", "-a", "a-", "2x", "a/b", "a b"] {
            assert!(Names::new("registry", wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn every_template_is_written_whole() {
        for template in TEMPLATES {
            for home in [Home::Inside, Home::Outside] {
                let dir = temporary(&format!("new-{}-{home:?}", template.interface));
                let names = Names::new(template.interface, "my-own").expect("a name");
                let written =
                    write(template, &names, &workspace::root(), &dir, home).expect("it writes");
                if let Files::Texts(files) = template.files {
                    assert_eq!(written.len(), files.len());
                }
                for path in &written {
                    let text = fs::read_to_string(path).expect("a text");
                    assert!(!text.contains("{{"), "{}: {text}", path.display());
                }
                for needed in [
                    "Cargo.toml",
                    "README.md",
                    "src/lib.rs",
                    "tests/conformance.rs",
                ] {
                    assert!(dir.join(needed).is_file(), "{needed}");
                }
                let manifest = toml::read(&dir.join("Cargo.toml")).expect("a manifest");
                let name = toml::find(&manifest, &["package", "name"]);
                assert_eq!(name.and_then(Value::text), Some(names.package.as_str()));
                assert_eq!(manifest.contains_key("workspace"), home == Home::Outside);
                let again = write(template, &names, &workspace::root(), &dir, home);
                assert!(again.is_err(), "it never writes over something");
                let _ = fs::remove_dir_all(&dir);
            }
        }
    }

    #[test]
    fn the_command_line_is_read() {
        let order = |args: &[&str]| {
            let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            Order::read(&args)
        };
        assert!(order(&["registry", "x"]).expect("an order").out.is_none());
        for args in [
            &["registry", "x", "--out", "d"][..],
            &["--out", "d", "registry", "x"],
            &["registry", "x", "--out=d"],
            &["--out=d", "registry", "x"],
        ] {
            let out = order(args).expect("an order").out.expect("a folder");
            assert!(out.is_absolute() && out.ends_with("d"), "{args:?}");
        }
        for wrong in [
            &["registry"][..],
            &["registry", "x", "y"],
            &["tea", "x"],
            &["registry", "x", "--out"],
        ] {
            assert_eq!(order(wrong).expect_err("refused").status, 2, "{wrong:?}");
        }
    }
}
