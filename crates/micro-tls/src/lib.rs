//! Certificates and TLS configuration for micro, by rustls
