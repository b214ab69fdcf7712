//! A micro selector that takes the cheaper of two random nodes
