//! The macros of micro: service contracts and messages
