//! Configuration from memory.
