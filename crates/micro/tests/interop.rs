//! Bootstrap.

mod common;
#[path = "interop/codegen.rs"]
mod codegen;
#[path = "interop/kinds.rs"]
mod kinds;
