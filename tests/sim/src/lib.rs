//! A deterministic simulator of a Weir cluster: the pure state machines of `weir-core` (replicas,
//! leaders, followers, metadata, groups) and of the SDK's producer, and transforms, in virtual
//! time, on a modelled network, disks and controllers, all of which fail in every way that a seed
//! can think of.
//!
//! Everything that is not decided by these is in here: when messages arrive, what a crash leaves
//! on a disk, which controller leads. All chance comes from one seeded generator, time is a number,
//! and maps are ordered, so a seed always gives the same run; the trace's hash shows it.
//!
//! [`checks`] has the invariants, one file each; [`mutation`] breaks the world on purpose, once per
//! invariant, to show that its checker sees.
//!
//! ```text
//! cargo run -p weir-sim -- --seeds 1000 --from 1     # those seeds
//! cargo run -p weir-sim -- --minutes 60              # as many as fit
//! ```

pub mod checks;
pub mod consumer;
pub mod controller;
pub mod coordinator;
pub mod ctx;
pub mod deliver;
pub mod disk;
pub mod distributor;
pub mod event;
pub mod faults;
pub mod lane;
pub mod member;
pub mod mutation;
pub mod network;
pub mod node;
pub mod own;
pub mod producer;
pub mod queue;
pub mod serve;
pub mod stream;
pub mod transform;
pub mod world;

pub use mutation::Mutation;
pub use world::{Outcome, World};

/// Runs a seed.
#[must_use]
pub fn run(seed: u64, mutation: Mutation) -> Outcome {
    World::new(seed, mutation, false).run()
}
