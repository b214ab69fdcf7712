//! The serving side of micro: routes, handlers, registration, drain, health and reflection
