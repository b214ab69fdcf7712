//! A small HTTP client for backends that speak to an HTTP API: TLS, credentials, deadlines, bounded bodies, streamed lines. No trait of ours is in it.
