//! The calling side of micro: name, nodes, pick, connection, call
