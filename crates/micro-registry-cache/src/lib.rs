//! The resolver of micro: a snapshot per service, fed by watch and refreshed by TTL
