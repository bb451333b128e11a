//! The controllers of a site: a replicated log of commands (`weir_core::controller`), kept by every
//! node with openraft over redb.
//!
//! | file | what it is for |
//! |---|---|
//! | `controller` | [`Controller`]: starting, stopping, and what the node asks of it |
//! | `submit` | a command on its way to the leading controller, and what became of it |
//! | `life` | this node's registration |
//! | `lead` | what the leading controller does besides: sessions, fencing, giving leads back |
//! | `members`, `change` | who belongs to the site, and how voters follow that |
//! | `join` | how a site's log begins, and what a node with an empty disk may do |
//! | `wire`, `serve`, `incoming`, `network` | messages between controllers, and checks of them |
//! | `store`, `log_store`, `compact` | log, vote and snapshots in redb |
//! | `machine` | the state machine |
//!
//! Only this crate names openraft, which knows nodes by plain numbers; at the edges they are
//! [`weir_core::ids::NodeId`]s.

mod change;
mod compact;
mod config;
mod controller;
mod error;
mod incoming;
mod join;
mod lead;
mod life;
mod log_store;
mod machine;
mod members;
mod network;
mod raft;
mod serve;
mod store;
mod submit;
mod transport;
mod wire;

#[cfg(test)]
mod store_tests;

pub use config::{Config, ConfigError, Timing};
pub use controller::Controller;
pub use error::{StartError, SubmitError};
pub use transport::{CallError, Transport};
pub use weir_core::cluster::members::Member;
