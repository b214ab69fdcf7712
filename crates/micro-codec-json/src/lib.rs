//! The JSON codec of micro
