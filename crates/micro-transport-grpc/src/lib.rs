//! gRPC over HTTP/2, and JSON over HTTP/1.1 on the same port, as a micro transport
