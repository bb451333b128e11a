//! What the end-to-end tests share.

pub mod guests;
pub mod history;
pub mod members;
pub mod node_process;
pub mod proxy;
pub mod site;
pub mod wall_clock;
pub mod web_server;
