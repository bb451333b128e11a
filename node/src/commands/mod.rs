//! One module for each command of the command line.

pub mod bench;
pub mod cert;
pub mod cluster;
pub mod collect;
pub mod completions;
pub mod consume;
pub mod consumer;
pub mod dead_letter;
pub mod demo;
pub mod deployment;
pub mod figures;
pub mod group;
pub mod module;
pub mod node;
pub mod on_produce;
pub mod produce;
pub mod repair;
pub mod restore;
pub mod sdk;
pub mod status;
pub mod topic;
pub mod transform;
