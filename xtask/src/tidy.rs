//! `cargo xtask tidy`: the shape of the house, checked.
//!
//! Every rule is a function from the [`House`] to a list of violations, so that each can be shown to fail.
//! All violations are told, not only the first.

mod facade;
mod house;
mod manifests;
mod neighbors;
mod sources;

use crate::failure::{Failure, Result};
use crate::tidy::house::House;
use crate::workspace;

/// What is wrong, each beginning with the file it is about.
type Violations = Vec<String>;

/// Looks at the house and adds what it finds.
type Rule = fn(&House, &mut Violations);

const RULES: &[(&str, Rule)] = &[
    ("names", manifests::names),
    ("manifests", manifests::manifests),
    ("dependencies", manifests::dependencies),
    ("features", manifests::features),
    ("workspace list", manifests::workspace_list),
    ("cores", neighbors::cores),
    ("neighbors", neighbors::neighbors),
    ("examples", neighbors::examples),
    ("backends", sources::backends),
    ("crate docs", sources::crate_docs),
    ("module docs", sources::module_docs),
    ("white space", sources::white_space),
    ("unfinished", sources::unfinished),
    ("unsafe", sources::no_unsafe),
    ("facade", facade::facade),
];

/// `cargo xtask tidy`.
pub(crate) fn command(args: &[String]) -> Result<u8> {
    if !args.is_empty() {
        return Err(Failure::usage("usage: cargo xtask tidy"));
    }
    let house = House::read(&workspace::root())?;
    let violations = check(&house);
    for violation in &violations {
        println!("{violation}");
    }
    println!(
        "tidy: {} crates, {} rules, {} violations",
        house.crates.len(),
        RULES.len(),
        violations.len()
    );
    Ok(u8::from(!violations.is_empty()))
}

fn check(house: &House) -> Violations {
    let mut violations = Violations::new();
    for (name, rule) in RULES {
        let mut found = Violations::new();
        rule(house, &mut found);
        violations.extend(found.into_iter().map(|text| format!("{text} [{name}]")));
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tidy() {
        let house = House::read(&workspace::root()).expect("the checkout is readable");
        let violations = check(&house);
        assert!(
            violations.is_empty(),
            "{} violations:\n{}",
            violations.len(),
            violations.join("\n")
        );
    }

    #[test]
    fn a_house_in_order_has_no_violations() {
        assert_eq!(check(&house::example()), Violations::new());
    }
}
