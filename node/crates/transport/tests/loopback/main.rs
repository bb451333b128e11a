//! Real QUIC over loopback: who gets in, what streams carry, what limits hold.
//!
//! Nothing here waits for time to pass: every step waits for the event that it needs.

mod authority;
mod flow;
mod handshake;
mod limits;
mod movement;
mod streams;
mod support;
