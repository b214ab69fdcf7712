//! The MessagePack codec of micro
