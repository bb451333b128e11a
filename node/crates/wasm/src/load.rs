//! The one place of the workspace where unsafe code is allowed: loading machine code.
//!
//! `Component::deserialize` is unsafe since it takes its input's word for everything: bytes that
//! the engine did not write are executed all the same. So nothing comes here but a [`Sealed`], and
//! those are made in two ways only: from what this process's own compiler returned
//! ([`Sealed::compiled_here`]), and from a cache entry whose keyed hash, under a secret of this
//! node, is right ([`crate::cache`]). `docs/adr/0004-module-cache.md` says what that is worth.

use crate::Engine;
use crate::engine::EngineError;
use bytes::Bytes;
use wasmtime::component::Component;

/// Machine code that this node compiled, from a component, with this very engine.
pub(crate) struct Sealed {
    code: Bytes,
}

impl Sealed {
    /// What [`Engine::precompile`] returned, or the process that ran it for us.
    pub(crate) fn compiled_here(code: Vec<u8>) -> Sealed {
        Sealed { code: code.into() }
    }

    /// The body of a cache entry. The caller has compared its keyed hash.
    pub(crate) fn authenticated(code: Bytes) -> Sealed {
        Sealed { code }
    }

    /// The bytes, to be written to the cache.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.code
    }

    /// Makes a component of it.
    ///
    /// # Errors
    /// If it is of another engine: version and settings are part of it.
    #[expect(unsafe_code, reason = "loading compiled code; see the module's documentation")]
    pub(crate) fn load(&self, engine: &Engine) -> Result<Component, EngineError> {
        // SAFETY: `deserialize` wants bytes that `precompile_component` or `serialize` returned,
        // unmodified since. A `Sealed` is made in two places: from the return value of
        // `precompile_component`, and from bytes whose HMAC-SHA-256 under this node's secret was
        // verified after they were read into the memory that is passed here, so that a change of
        // the file under us cannot matter. Bytes of another version or of other settings are
        // refused by the call itself.
        let loaded = unsafe { Component::deserialize(&engine.wasm, &self.code) };
        loaded.map_err(|error| EngineError { reason: format!("{error:#}") })
    }
}
