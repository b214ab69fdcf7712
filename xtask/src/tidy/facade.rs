//! The facade's table is the list of crates on disk.

use crate::tidy::Violations;
use crate::tidy::house::{House, Kind, kind};

/// Every backend is an optional dependency of the facade and has a feature of its name minus `micro-`.
pub(super) fn facade(house: &House, out: &mut Violations) {
    let Some(facade) = house
        .crates
        .iter()
        .find(|package| package.kind() == Kind::Facade)
    else {
        out.push("crates/micro/Cargo.toml: the file is missing".to_owned());
        return;
    };
    let at = facade.at("Cargo.toml");
    let dependencies = facade.dependencies();
    let features = facade.features();
    let backends = house
        .crates
        .iter()
        .filter(|package| package.kind() == Kind::Backend);
    for backend in backends {
        let name = backend.name();
        let feature = name.trim_start_matches("micro-");
        let optional = dependencies
            .iter()
            .any(|dependency| dependency.name == name && dependency.optional());
        if !optional {
            out.push(format!("{at}: `{name}` is not an optional dependency"));
        }
        match features.iter().find(|(known, _)| *known == feature) {
            None => out.push(format!(
                "{at}: there is no feature `{feature}` for `{name}`"
            )),
            Some((_, on)) if !on.contains(&format!("dep:{name}").as_str()) => {
                out.push(format!(
                    "{at}: feature `{feature}` does not turn on `dep:{name}`"
                ));
            }
            Some(_) => {}
        }
    }
    for (feature, on) in &features {
        for name in on.iter().filter_map(|on| on.strip_prefix("dep:")) {
            if kind(name) == Kind::Backend && !house.crates.iter().any(|known| known.name() == name)
            {
                out.push(format!(
                    "{at}: feature `{feature}` names `{name}`, which is not in crates/"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::house::example;

    fn found(house: &House) -> String {
        let mut out = Violations::new();
        facade(house, &mut out);
        out.join("\n")
    }

    #[test]
    fn a_backend_on_disk_is_in_the_table() {
        let mut house = example();
        house.package("micro").manifest.remove("features");
        house.package("micro").manifest.remove("dependencies");
        let found = found(&house);
        assert_eq!(found.lines().count(), 2, "{found}");
    }

    #[test]
    fn a_feature_turns_on_its_own_crate() {
        let mut house = example();
        let micro = house.package("micro");
        micro.set(
            &["features", "registry-memory"],
            "[\"dep:micro-registry-mdns\"]",
        );
        let found = found(&house);
        assert!(
            found.contains("does not turn on `dep:micro-registry-memory`"),
            "{found}"
        );
        assert!(
            found.contains("`micro-registry-mdns`, which is not in crates/"),
            "{found}"
        );
    }
}
