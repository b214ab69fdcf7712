//! How the transport behaves over a real socket: calls, limits, and attacks.

mod attacks;
mod calls;
mod frames;
mod kit;
mod lane;
mod limits;
mod post;
