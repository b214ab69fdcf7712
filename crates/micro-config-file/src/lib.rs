//! Configuration from files and directories.
