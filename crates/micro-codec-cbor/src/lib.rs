//! The CBOR codec of micro
