//! Connecting to NATS: servers, TLS, credentials, retry. No trait of ours is in it.
