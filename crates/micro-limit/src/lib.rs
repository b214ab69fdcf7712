#![doc = include_str!("../README.md")]

mod breaker;
mod bucket;
mod concurrency;
mod gate;
mod gradient;
mod held;
mod policy;
mod rate;
mod shed;
mod table;

pub use self::breaker::{Breaker, Circuit, CircuitBreaker};
pub use self::concurrency::{Concurrency, ConcurrencyLimit, Limit};
pub use self::gradient::Gradient;
pub use self::policy::PolicyLimits;
pub use self::rate::{Key, Rate, RateLimit};
pub use self::shed::{LoadShed, Shedding};
pub use micro_core::{Context, Error, ErrorKind, Live, Result};
pub use micro_transport_core::{Middleware, Next, Request, Response};

/// Whether calls of this path pass whatever the load: those that tell operators and orchestrators
/// how a service is (health, reflection, debug).
///
/// ```
/// assert!(micro_limit::passes_first("/grpc.health.v1.Health/Check"));
/// assert!(!micro_limit::passes_first("/greeter.Greeter/Hello"));
/// ```
#[must_use]
pub fn passes_first(path: &str) -> bool {
    // Most paths differ in their first letters.
    if let Some(rest) = path.strip_prefix("/grpc.") {
        rest.starts_with("health.v1.Health/") || rest.starts_with("reflection.v1")
    } else {
        path.starts_with("/micro.debug.v1.")
    }
}

#[cfg(test)]
mod tests {
    use super::passes_first;

    #[test]
    fn health_reflection_and_debug_pass_first() {
        for (path, first) in [
            ("/grpc.health.v1.Health/Check", true),
            ("/grpc.health.v1.Health/Watch", true),
            (
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                true,
            ),
            (
                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                true,
            ),
            ("/micro.debug.v1.Debug/Stats", true),
            ("/micro.debug.v2.Debug/Stats", false),
            ("/grpc.health.v1.Healthy/Check", false),
            ("/grpc.testing.TestService/EmptyCall", false),
            ("/greeter.Greeter/Hello", false),
            ("grpc.health.v1.Health/Check", false),
            ("", false),
        ] {
            assert_eq!(passes_first(path), first, "{path}");
        }
    }
}
