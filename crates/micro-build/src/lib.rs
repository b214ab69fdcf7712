//! Generates micro contracts from .proto files, without a protoc binary
