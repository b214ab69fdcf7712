//! Rules about manifests: names, inheritance, features.

use crate::tidy::Violations;
use crate::tidy::house::{House, Package, Section, is_ours};
use crate::toml::{self, Value};

/// A crate is named `micro` or `micro-…`, and its folder has its name.
pub(super) fn names(house: &House, out: &mut Violations) {
    for package in &house.crates {
        let name = package.name();
        if !is_ours(name) {
            out.push(format!(
                "{}: `{name}` is not named `micro` or `micro-…`",
                package.at("Cargo.toml")
            ));
        }
    }
    for package in house.crates.iter().chain(&house.examples) {
        if package.name() != package.folder() {
            out.push(format!(
                "{}: the package is `{}`, its folder `{}`",
                package.at("Cargo.toml"),
                package.name(),
                package.folder()
            ));
        }
    }
}

/// What every manifest inherits or says.
pub(super) fn manifests(house: &House, out: &mut Violations) {
    for package in house.members() {
        let at = package.at("Cargo.toml");
        for key in ["license", "edition", "rust-version"] {
            if !inherits(package, &["package", key, "workspace"]) {
                out.push(format!("{at}: `{key}.workspace = true` is missing"));
            }
        }
        let description = toml::find(&package.manifest, &["package", "description"]);
        let shown_to_nobody = package.path.starts_with("examples/");
        if description.and_then(Value::text).is_none_or(str::is_empty) && !shown_to_nobody {
            out.push(format!("{at}: it has no `description`"));
        }
        if !inherits(package, &["lints", "workspace"]) {
            out.push(format!("{at}: `[lints] workspace = true` is missing"));
        }
    }
}

fn inherits(package: &Package, path: &[&str]) -> bool {
    toml::find(&package.manifest, path).and_then(Value::flag) == Some(true)
}

/// Versions are written once, in the workspace; a crate of ours needed by tests is a path and nothing more.
pub(super) fn dependencies(house: &House, out: &mut Violations) {
    for package in house.members() {
        let at = package.at("Cargo.toml");
        for dependency in package.dependencies() {
            let name = dependency.name;
            if dependency.section == Section::Dev && dependency.ours() {
                let path_only = dependency.get("path").is_some()
                    && dependency.get("version").is_none()
                    && !dependency.inherited();
                if !path_only {
                    out.push(format!(
                        "{at}: dev-dependency `{name}` must be a path only, so that publishing strips it"
                    ));
                }
            } else if !dependency.inherited() {
                out.push(format!(
                    "{at}: dependency `{name}` is not taken from the workspace"
                ));
            }
        }
    }
}

/// An optional dependency is turned on by `dep:` in a named feature, never by a feature of its own name.
pub(super) fn features(house: &House, out: &mut Violations) {
    for package in house.members() {
        let at = package.at("Cargo.toml");
        let features = package.features();
        let used: Vec<&str> = features.iter().flat_map(|(_, on)| on).copied().collect();
        for dependency in package.dependencies() {
            if !dependency.optional() {
                continue;
            }
            let name = dependency.name;
            if !used.contains(&format!("dep:{name}").as_str()) {
                out.push(format!(
                    "{at}: optional `{name}` is turned on by no feature with `dep:{name}`"
                ));
            }
            if used.contains(&name) && !features.iter().any(|(feature, _)| *feature == name) {
                out.push(format!(
                    "{at}: a feature says `{name}` instead of `dep:{name}`"
                ));
            }
        }
    }
}

/// Every crate is in the list of the workspace, with its path, its version and no default features.
pub(super) fn workspace_list(house: &House, out: &mut Violations) {
    let list = toml::find(&house.root, &["workspace", "dependencies"]).and_then(Value::table);
    for package in &house.crates {
        let name = package.name();
        let entry = list.and_then(|list| list.get(name)).and_then(Value::table);
        let Some(entry) = entry else {
            out.push(format!(
                "Cargo.toml: [workspace.dependencies] lacks `{name}`"
            ));
            continue;
        };
        if entry.get("path").and_then(Value::text) != Some(package.path.as_str()) {
            out.push(format!(
                "Cargo.toml: the path of `{name}` is not `{}`",
                package.path
            ));
        }
        if entry.get("version").is_none() {
            out.push(format!(
                "Cargo.toml: `{name}` has no version, so nothing that needs it can be published"
            ));
        }
    }
    for (name, entry) in list.into_iter().flatten() {
        let off = entry
            .table()
            .and_then(|entry| entry.get("default-features"))
            .and_then(Value::flag);
        if off != Some(false) {
            out.push(format!(
                "Cargo.toml: `{name}` leaves default features on; a member could not turn them off"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::house::example;

    fn found(rule: fn(&House, &mut Violations), house: &House) -> String {
        let mut out = Violations::new();
        rule(house, &mut out);
        out.join("\n")
    }

    #[test]
    fn a_folder_has_the_name_of_its_package() {
        let mut house = example();
        house.package("micro-core").path = "crates/core".to_owned();
        house
            .package("hello")
            .set(&["package", "name"], "\"hallo\"");
        let found = found(names, &house);
        assert!(found.contains("crates/core/Cargo.toml"), "{found}");
        assert!(found.contains("`hallo`"), "{found}");
    }

    #[test]
    fn a_foreign_name_is_refused() {
        let mut house = example();
        house
            .package("micro-core")
            .set(&["package", "name"], "\"other\"");
        assert!(found(names, &house).contains("is not named"));
    }

    #[test]
    fn a_manifest_that_inherits_nothing_is_told_so() {
        let mut house = example();
        let core = house.package("micro-core");
        core.unset("package", "license");
        core.set(&["package", "edition"], "\"2024\"");
        core.set(&["package", "description"], "\"\"");
        core.unset("lints", "workspace");
        let found = found(manifests, &house);
        for part in [
            "license.workspace",
            "edition.workspace",
            "description",
            "[lints]",
        ] {
            assert!(found.contains(part), "{found}");
        }
    }

    #[test]
    fn versions_are_not_written_twice() {
        let mut house = example();
        let memory = house.package("micro-registry-memory");
        memory.set(&["dependencies", "bytes"], "\"1\"");
        memory.set(
            &["target", "cfg(unix)", "dependencies", "h2"],
            "{ version = \"1\" }",
        );
        memory.set(
            &["dev-dependencies", "micro-conformance"],
            "{ path = \"../micro-conformance\", version = \"0.1\" }",
        );
        memory.set(&["dev-dependencies", "micro-core"], "{ workspace = true }");
        let found = found(dependencies, &house);
        assert_eq!(found.lines().count(), 4, "{found}");
        assert!(
            found.contains("`bytes`") && found.contains("`h2`"),
            "{found}"
        );
        assert!(
            found.contains("`micro-conformance` must be a path only"),
            "{found}"
        );
        assert!(
            found.contains("`micro-core` must be a path only"),
            "{found}"
        );
    }

    #[test]
    fn an_implicit_feature_is_refused() {
        let mut house = example();
        let memory = house.package("micro-registry-memory");
        memory.set(
            &["dependencies", "url"],
            "{ workspace = true, optional = true }",
        );
        memory.set(&["features", "x"], "[\"url\"]");
        let found = found(features, &house);
        assert_eq!(found.lines().count(), 2, "{found}");
    }

    #[test]
    fn the_workspace_knows_its_crates() {
        let mut house = example();
        house.root = toml::parse(
            "[workspace.dependencies]\nmicro = { path = \"crates/x\", default-features = false }\nbytes = \"1\"\n",
        )
        .expect("it parses");
        let found = found(workspace_list, &house);
        for part in [
            "the path of `micro`",
            "`micro` has no version",
            "lacks `micro-core`",
            "`bytes` leaves default features on",
        ] {
            assert!(found.contains(part), "{found}");
        }
    }
}
