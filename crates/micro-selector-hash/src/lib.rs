//! A micro selector that keeps a key on one node (consistent hashing)
