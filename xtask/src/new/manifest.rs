//! Turns the manifest of a member into that of a crate which stands alone.

use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

use crate::failure::{Failure, Result};
use crate::toml::{self, Table, Value};

/// Writes out what a member inherits: package keys, versions, and the paths of our own crates.
pub(super) fn standing_alone(
    text: &str,
    workspace: &Table,
    root: &Path,
    folder: &Path,
) -> Result<String> {
    let mut manifest = toml::parse(text).map_err(Failure::new)?;
    let inherited = |path: &[&str]| {
        let mut full = vec!["workspace"];
        full.extend(path);
        toml::find(workspace, &full)
            .cloned()
            .ok_or_else(|| Failure::new(format!("the workspace has no `{}`", path.join("."))))
    };
    if let Some(Value::Table(package)) = manifest.get_mut("package") {
        for (key, value) in package.iter_mut() {
            if inherits(value) {
                *value = inherited(&["package", key])?;
            }
        }
    }
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let Some(Value::Table(dependencies)) = manifest.get_mut(section) else {
            continue;
        };
        for (name, value) in dependencies.iter_mut() {
            // A path-only dev-dependency names a neighbor in the workspace, where we are not.
            let neighbor = value
                .table()
                .is_some_and(|entry| entry.contains_key("path"));
            if !inherits(value) && !neighbor {
                continue;
            }
            let own = value.table().cloned().unwrap_or_default();
            let mut entry = match inherited(&["dependencies", name])? {
                Value::Table(entry) => entry,
                version => Table::from([("version".to_owned(), version)]),
            };
            if let Some(path) = entry.get("path").and_then(Value::text) {
                let path = relative(folder, &root.join(path));
                entry.insert("path".to_owned(), Value::Text(path.display().to_string()));
            }
            if let Some(Value::List(wanted)) = own.get("features") {
                // As cargo does it: a member's features are added to those of the workspace.
                let all = entry
                    .entry("features".to_owned())
                    .or_insert_with(|| Value::List(Vec::new()));
                if let Value::List(all) = all {
                    all.extend(wanted.iter().cloned());
                }
            }
            *value = Value::Table(entry);
        }
    }
    // Lints of the house are the house's.
    manifest.remove("lints");
    Ok(render(&manifest))
}

fn inherits(value: &Value) -> bool {
    value
        .table()
        .and_then(|table| table.get("workspace"))
        .and_then(Value::flag)
        == Some(true)
}

/// The way from a folder to another; absolute if they share nothing but the root.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let shared = from
        .components()
        .zip(to.components())
        .take_while(|(a, b)| a == b)
        .count();
    if shared < 2 {
        return to.to_path_buf();
    }
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    up.chain(to.components().skip(shared)).collect()
}

/// The order in which people write sections and keys; what is not listed comes last.
const SECTIONS: &[&str] = &[
    "package",
    "features",
    "dependencies",
    "dev-dependencies",
    "build-dependencies",
];
const KEYS: &[&str] = &[
    "name",
    "description",
    "path",
    "version",
    "default-features",
    "features",
];

/// The manifest of a stranger's crate.
fn render(manifest: &Table) -> String {
    let mut text = String::from(
        "# A workspace of its own: this crate does not belong to the one it may stand in.\n[workspace]\n",
    );
    for section in SECTIONS {
        if let Some(table) = manifest.get(*section).and_then(Value::table) {
            let _ = writeln!(text, "\n[{section}]");
            lines(table, &mut text);
        }
    }
    if let Some(Value::List(tests)) = manifest.get("test") {
        for table in tests.iter().filter_map(Value::table) {
            text.push_str("\n[[test]]\n");
            lines(table, &mut text);
        }
    }
    text
}

fn lines(table: &Table, text: &mut String) {
    for (key, value) in in_order(table) {
        let _ = writeln!(text, "{key} = {}", inline(value));
    }
}

fn in_order(table: &Table) -> Vec<(&String, &Value)> {
    let mut pairs: Vec<_> = table.iter().collect();
    pairs.sort_by_key(|(key, _)| {
        KEYS.iter()
            .position(|known| known == key)
            .unwrap_or(KEYS.len())
    });
    pairs
}

fn inline(value: &Value) -> String {
    match value {
        Value::Text(text) => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
        Value::Flag(flag) => flag.to_string(),
        Value::Other(word) => word.clone(),
        Value::List(values) => {
            let values: Vec<String> = values.iter().map(inline).collect();
            format!("[{}]", values.join(", "))
        }
        Value::Table(table) => {
            let pairs: Vec<String> = in_order(table)
                .into_iter()
                .map(|(key, value)| format!("{key} = {}", inline(value)))
                .collect();
            format!("{{ {} }}", pairs.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_inherited_is_written_out() {
        let workspace = toml::parse(
            "[workspace.package]\nedition = \"2024\"\n[workspace.dependencies]\n\
             tokio = { version = \"1.54\", default-features = false, features = [\"rt\"] }\n\
             micro-core = { path = \"crates/micro-core\", version = \"0.1.0\", default-features = false }\n\
             micro-conformance = { path = \"crates/micro-conformance\", version = \"0.1.0\", default-features = false }\n",
        )
        .expect("it parses");
        let text = standing_alone(
            "[package]\nname = \"x\"\nedition.workspace = true\n[dependencies]\nmicro-core.workspace = true\n\
             tokio = { workspace = true, features = [\"sync\"] }\n[dev-dependencies]\n\
             micro-conformance = { path = \"../micro-conformance\", features = [\"registry\"] }\n\
             [[test]]\nname = \"conformance\"\nharness = false\n[lints]\nworkspace = true\n",
            &workspace,
            Path::new("/home/me/micro"),
            Path::new("/home/me/mine/x"),
        )
        .expect("it is complete");
        let manifest = toml::parse(&text).expect("it parses");
        let get = |path: &[&str]| toml::find(&manifest, path).and_then(Value::text);
        assert_eq!(get(&["package", "edition"]), Some("2024"));
        assert_eq!(get(&["dependencies", "tokio", "version"]), Some("1.54"));
        assert_eq!(
            manifest["dependencies"].table().expect("a table")["tokio"]
                .table()
                .expect("a table")["features"]
                .texts(),
            ["rt", "sync"]
        );
        assert_eq!(
            get(&["dependencies", "micro-core", "path"]),
            Some("../../micro/crates/micro-core")
        );
        let suite = get(&["dev-dependencies", "micro-conformance", "path"]);
        assert_eq!(suite, Some("../../micro/crates/micro-conformance"));
        assert!(manifest.contains_key("test") && manifest.contains_key("workspace"));
        assert!(!manifest.contains_key("lints"));
    }

    #[test]
    fn paths_lead_from_one_folder_to_the_other() {
        let way = |from: &str, to: &str| relative(Path::new(from), Path::new(to));
        assert_eq!(way("/a/b/c", "/a/d"), Path::new("../../d"));
        assert_eq!(way("/tmp/x", "/srv/y"), Path::new("/srv/y"));
    }
}
