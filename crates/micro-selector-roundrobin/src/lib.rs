//! A micro selector that takes the nodes in turn
