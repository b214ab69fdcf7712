//! `cargo xtask faults`: fault campaigns and their figures.

fn main() {}
