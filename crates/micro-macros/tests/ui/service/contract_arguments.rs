//! What the attribute takes.

#[micro_macros::service(packages = "hello.v1")]
trait Unknown {}

#[micro_macros::service(package)]
trait NoValue {}

#[micro_macros::service(package = hello)]
trait NotText {}

#[micro_macros::service(name = "Greeter", name = "Greeter")]
trait Twice {}

#[micro_macros::service(name = "hello.Greeter")]
trait NoName {}

#[micro_macros::service(package = "hello-world")]
trait NoPackage {}

#[micro_macros::service(crate = "not a path")]
trait NoPath {}

#[micro_macros::service(package = "a" name = "B")]
trait NoComma {}

#[micro_macros::service]
trait Größe {}

fn main() {}
