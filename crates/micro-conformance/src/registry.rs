//! Behavior that every backend of this interface shares.
