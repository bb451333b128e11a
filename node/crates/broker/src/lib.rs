//! The broker: topics and partitions served over QUIC.
//!
//! It drives the pure state machines of `weir-core` between two sides: the log (`weir-log`), whose
//! writer thread reports what is durable, and the network (`weir-transport`), which one runtime
//! thread serves. A batch's way: `produce` → [`partition`] → the log → [`driver`] → [`ack`] →
//! `produce`; and out again: [`partition`] → `subscribe`.

pub mod ack;
mod broker;
pub mod cluster;
mod config;
mod deploy;
pub mod driver;
mod gate;
mod groups;
pub mod meter;
mod modules;
mod pace;
pub mod partition;
mod produce;
mod registry;
mod repair;
mod requests;
mod session;
mod status;
mod store;
mod subscribe;
mod validate;

pub use broker::{Broker, Reporter, StartError};
pub use config::{BrokerConfig, SHUTDOWN_GRACE};
pub use deploy::http;
pub use repair::Losses;
pub use status::Health;
pub use weir_wasm::Compiler;
