//! Generates the contract.

fn main() -> Result<(), micro_build::Error> {
    micro_build::compile(&["proto/greeter.proto"], &["proto"])
}
