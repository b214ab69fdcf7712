//! Connecting to etcd: endpoints, TLS, credentials, retry. No trait of ours is in it.
