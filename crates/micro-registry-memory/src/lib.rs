//! A micro registry within one process
