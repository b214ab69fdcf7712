//! A contract is a trait.

#[micro_macros::service]
struct Greeter {
    name: String,
}

#[micro_macros::service]
/// Docs.
pub fn greet() {}

fn main() {}
