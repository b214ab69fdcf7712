//! Middleware that refuses work early: rate limit, adaptive concurrency limit, load shedding, circuit breaker.
