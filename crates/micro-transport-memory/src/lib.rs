//! A micro transport within one process
