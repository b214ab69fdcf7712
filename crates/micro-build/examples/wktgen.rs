//! temporary
fn main() {
    let p = [
        "any",
        "duration",
        "empty",
        "field_mask",
        "struct",
        "timestamp",
        "wrappers",
    ]
    .map(|n| format!("google/protobuf/{n}.proto"));
    let out = micro_build::Builder::new()
        .crate_path("crate")
        .messages_only(true)
        .json(false)
        .generate(&p, &["."])
        .unwrap();
    for (n, c) in out {
        std::fs::write(format!("/tmp/wkt/src/generated/{n}"), c).unwrap();
    }
}
