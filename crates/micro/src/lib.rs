//! The standard library for distributed systems: services, discovery, balancing and gRPC by name
