//! A micro selector that picks a node at random
