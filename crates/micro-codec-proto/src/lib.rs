//! The protobuf codec of micro, and what derived messages are made of
