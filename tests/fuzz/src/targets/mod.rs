//! The decoders, each with what must hold of whatever it accepts.

mod batch;
mod collect;
mod module;
mod operator;
mod replica;
mod storage;
mod wire;

use crate::Target;

/// All targets.
pub fn all() -> Vec<Target> {
    let groups = [
        batch::TARGETS,
        storage::TARGETS,
        wire::TARGETS,
        replica::TARGETS,
        module::TARGETS,
        collect::TARGETS,
        operator::TARGETS,
    ];
    groups.concat()
}

/// The target of this name.
pub fn named(name: &str) -> Option<Target> {
    all().into_iter().find(|target| target.name == name)
}
