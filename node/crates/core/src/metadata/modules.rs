//! Modules in the metadata state machine.

use super::{Change, Image};
use crate::limits;
use crate::module::name::ModuleRef;
use crate::module::{Module, ModuleError};

impl Image {
    /// The module of this name and version.
    #[must_use]
    pub fn module(&self, id: &ModuleRef) -> Option<&Module> {
        self.modules.get(id)
    }

    /// All modules, by name and version.
    pub fn modules(&self) -> impl Iterator<Item = &Module> {
        self.modules.values()
    }

    pub(super) fn decide_put_module(&self, module: &Module) -> Result<Change, ModuleError> {
        match self.modules.get(&module.id) {
            // The same upload again, perhaps because its answer was lost.
            Some(known) if known.sha256 == module.sha256 => Ok(Change::PutModule(known.clone())),
            Some(_) => Err(ModuleError::Immutable(module.id.clone())),
            None if self.modules.len() >= limits::NODE_MODULES_MAX => Err(ModuleError::Limit),
            None => Ok(Change::PutModule(module.clone())),
        }
    }

    pub(super) fn decide_remove_module(&self, id: &ModuleRef) -> Result<Change, ModuleError> {
        match self.modules.contains_key(id) {
            true => Ok(Change::RemovedModule(id.clone())),
            false => Err(ModuleError::Unknown(id.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Ask, MetadataError};
    use super::*;
    use crate::ids::TimestampMs;
    use crate::module::ModuleKind;

    fn module(reference: &str, sha256: &str) -> Module {
        Module {
            id: reference.parse().unwrap(),
            kind: ModuleKind::Filter,
            sha256: sha256.into(),
            bytes: 1,
            about: String::new(),
            created_at: TimestampMs(0),
        }
    }

    fn run(image: &mut Image, ask: Ask) -> Result<Change, MetadataError> {
        let change = image.decide(TimestampMs(1), &ask)?;
        image.apply(&change);
        Ok(change)
    }

    /// Goal: a version's bytes never change, and the same upload twice is one.
    #[test]
    fn versions_are_immutable() {
        let mut image = Image::default();
        run(&mut image, Ask::PutModule(module("f@1.0.0", "aa"))).unwrap();
        run(&mut image, Ask::PutModule(module("f@1.1.0", "bb"))).unwrap();
        run(&mut image, Ask::PutModule(module("f@1.0.0", "aa"))).unwrap();
        let refused = run(&mut image, Ask::PutModule(module("f@1.0.0", "bb")));
        assert!(matches!(refused, Err(MetadataError::Module(ModuleError::Immutable(_)))));
        assert_eq!(image.modules().count(), 2);
        let id: ModuleRef = "f@1.0.0".parse().unwrap();
        run(&mut image, Ask::RemoveModule(id.clone())).unwrap();
        assert_eq!(image.module(&id), None);
        let refused = run(&mut image, Ask::RemoveModule(id));
        assert!(matches!(refused, Err(MetadataError::Module(ModuleError::Unknown(_)))));
    }

    /// Goal: the number of versions is bounded.
    #[test]
    fn limit() {
        let mut image = Image::default();
        for n in 0..limits::NODE_MODULES_MAX {
            run(&mut image, Ask::PutModule(module(&format!("f@1.0.{n}"), "aa"))).unwrap();
        }
        let refused = run(&mut image, Ask::PutModule(module("g@1.0.0", "aa")));
        assert!(matches!(refused, Err(MetadataError::Module(ModuleError::Limit))));
    }
}
