//! Configuration from etcd.
