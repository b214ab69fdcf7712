//! Configuration from command line arguments.
