//! Users' modules on this node: uploaded, checked, compiled once, run beside the network thread.
//!
//! What exists is metadata ([`crate::registry`]); the bytes are files under their hash
//! ([`files`]); compiled code is cached by the engine's crate. The engine itself is made when the
//! first module is needed, so that a node without modules does not pay for it.

pub mod check;
pub mod files;
pub mod filter;
pub mod meter;

use crate::cluster::{ClusterNode, supply};
use crate::registry::Registry;
use files::{FilesError, ModuleFiles};
use meter::Meters;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use tokio::sync::OnceCell;
use weir_core::TimestampMs;
use weir_core::module::name::ModuleRef;
use weir_core::module::{Module, ModuleKind};
use weir_core::wire::{ErrorCode, WireError};
use weir_wasm::{Cache, Compiler, Deployment, Engine, GuestThreads, Runner, Upload, World};

pub use check::Check;
pub use filter::Filter;

/// The modules of a node.
pub struct Modules {
    dir: PathBuf,
    files: ModuleFiles,
    compiler: Compiler,
    machinery: OnceCell<Arc<Machinery>>,
    /// Compiled modules in use, by hash. One cell each, so that a module is compiled once however
    /// many ask for it at the same time.
    loaded: Mutex<HashMap<String, Arc<OnceCell<weir_wasm::Module>>>>,
    meters: Meters,
    /// Where to get modules that are not here, if there are other nodes.
    source: OnceLock<(Arc<ClusterNode>, Arc<Registry>)>,
    /// One at a time is fetched.
    fetching: tokio::sync::Mutex<()>,
}

/// What it takes to run modules.
struct Machinery {
    engine: Engine,
    cache: Cache,
    guests: GuestThreads,
}

impl std::fmt::Debug for Modules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Modules").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Modules {
    /// Opens the module folder in `data_dir`, creating it if there is none.
    ///
    /// # Errors
    /// [`FilesError`].
    pub fn open(data_dir: &Path, compiler: Compiler) -> Result<Modules, FilesError> {
        let dir = data_dir.join("modules");
        Ok(Modules {
            files: ModuleFiles::open(&dir)?,
            dir,
            compiler,
            machinery: OnceCell::new(),
            loaded: Mutex::default(),
            meters: Meters::default(),
            source: OnceLock::new(),
            fetching: tokio::sync::Mutex::new(()),
        })
    }

    /// Modules that are not here are to be had from the other nodes. To be called once.
    pub fn use_source(&self, cluster: Arc<ClusterNode>, registry: Arc<Registry>) {
        // A second one would change nothing.
        let _ = self.source.set((cluster, registry));
    }

    /// Held by whoever fetches a module.
    #[must_use]
    pub fn fetching(&self) -> &tokio::sync::Mutex<()> {
        &self.fetching
    }

    /// Has the bytes of a module here.
    async fn supply(self: &Arc<Modules>, sha256: &str) -> Result<(), WireError> {
        let Some((cluster, registry)) = self.source.get() else { return Ok(()) };
        if self.files.path(sha256).is_ok() {
            return Ok(());
        }
        match registry.modules().into_iter().find(|module| module.sha256 == sha256) {
            Some(module) => supply::fetch(cluster, self, &module, None).await,
            None => Ok(()),
        }
    }

    /// The uploaded bytes.
    #[must_use]
    pub fn files(&self) -> &ModuleFiles {
        &self.files
    }

    /// What modules did.
    #[must_use]
    pub fn meters(&self) -> &Meters {
        &self.meters
    }

    /// Runs a module for one partition of one user, on a thread for guests, until the runner is
    /// dropped.
    ///
    /// # Errors
    /// Modules cannot run on this machine, or the node is shutting down.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn run(&self, deployment: Deployment) -> Result<Runner, WireError> {
        let machinery = self.machinery().await?;
        let runner = machinery.guests.run(deployment);
        runner.map_err(|stopped| WireError::new(ErrorCode::ShuttingDown, stopped.to_string()))
    }

    /// Checks an upload that is complete, compiles it, and says what it is.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidModule`], with what is wrong and what to do about it.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing but the cache changes.
    pub async fn check(
        self: &Arc<Modules>,
        id: ModuleRef,
        sha256: &str,
        now: TimestampMs,
    ) -> Result<Module, WireError> {
        let prepared = self.prepare(sha256).await?;
        let kind = match prepared.world() {
            World::Filter => ModuleKind::Filter,
            World::Transform => ModuleKind::Transform,
            World::Consumer => ModuleKind::Consumer,
            World::ProduceCheck => ModuleKind::ProduceCheck,
        };
        Ok(Module {
            id,
            kind,
            sha256: sha256.to_owned(),
            bytes: self.files.size(sha256).map_err(|e| files_error(&e))?,
            about: prepared.description().about.clone(),
            created_at: now,
        })
    }

    /// The compiled module of this hash, from memory, from the cache, or compiled now.
    ///
    /// # Errors
    /// As [`Modules::check`].
    ///
    /// # Cancel safety
    /// Cancel safe: who waits next goes on.
    pub async fn prepare(
        self: &Arc<Modules>,
        sha256: &str,
    ) -> Result<weir_wasm::Module, WireError> {
        let cell = self.loaded().entry(sha256.to_owned()).or_default().clone();
        let prepared = cell.get_or_try_init(|| self.prepare_now(sha256)).await.cloned();
        if prepared.is_err() {
            // The next one to ask tries again.
            self.loaded().remove(sha256);
        }
        prepared
    }

    async fn prepare_now(
        self: &Arc<Modules>,
        sha256: &str,
    ) -> Result<weir_wasm::Module, WireError> {
        let machinery = self.machinery().await?;
        self.supply(sha256).await?;
        let path = self.files.path(sha256).map_err(|e| files_error(&e))?;
        let compiler = self.compiler.clone();
        let (running, wanted) = (machinery.clone(), sha256.to_owned());
        let handle = tokio::runtime::Handle::current();
        // Compiling blocks, for up to a minute.
        let prepared = tokio::task::spawn_blocking(move || {
            let bytes = std::fs::read(&path).map_err(|error| invalid(error.to_string()))?;
            let upload = Upload::of_component(bytes.into()).map_err(|e| invalid(e.to_string()))?;
            if upload.hash.to_string() != wanted {
                return Err(invalid(format!(
                    "the stored module {} is damaged: its SHA-256 is {}; push it again",
                    wanted, upload.hash
                )));
            }
            let Machinery { engine, cache, .. } = &*running;
            let prepared = weir_wasm::Module::prepare(engine, &upload, Some(cache), &compiler);
            handle.block_on(prepared).map_err(|error| invalid(error.to_string()))
        });
        prepared
            .await
            .unwrap_or_else(|panic| Err(WireError::new(ErrorCode::Internal, panic.to_string())))
    }

    /// Forgets a module version that is gone, and its code if no other version has it.
    pub fn forget_version(&self, module: &Module, registry: &Registry) {
        self.meters.forget(&module.id.to_string());
        self.forget(&module.sha256, registry);
    }

    /// Forgets a compiled module that no version has any more.
    pub fn forget(&self, sha256: &str, registry: &Registry) {
        if registry.modules().iter().any(|module| module.sha256 == sha256) {
            return;
        }
        self.loaded().remove(sha256);
        self.files.remove(sha256);
    }

    async fn machinery(&self) -> Result<Arc<Machinery>, WireError> {
        let made = self.machinery.get_or_try_init(|| async {
            let dir = self.dir.clone();
            let made = tokio::task::spawn_blocking(move || {
                let internal = |error: &dyn std::fmt::Display| {
                    WireError::new(ErrorCode::Internal, format!("modules cannot run: {error}"))
                };
                let engine = Engine::new().map_err(|e| internal(&e))?;
                let cache = Cache::open(&dir.join("compiled"), &dir.join("cache-secret"))
                    .map_err(|e| internal(&e))?;
                // Half of the cores at most: the others are for the log and the network.
                let cores = std::thread::available_parallelism().map_or(1, usize::from);
                let guests = GuestThreads::start(cores / 2).map_err(|e| internal(&e))?;
                Ok(Arc::new(Machinery { engine, cache, guests }))
            });
            made.await.unwrap_or_else(|p| Err(WireError::new(ErrorCode::Internal, p.to_string())))
        });
        made.await.cloned()
    }

    fn loaded(
        &self,
    ) -> std::sync::MutexGuard<'_, HashMap<String, Arc<OnceCell<weir_wasm::Module>>>> {
        self.loaded.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// A module that is not acceptable, as a client is told.
fn invalid(message: impl Into<String>) -> WireError {
    WireError::new(ErrorCode::InvalidModule, message)
}

/// A failure of the module folder, as a client is told.
#[must_use]
pub fn files_error(error: &FilesError) -> WireError {
    let code = match error {
        FilesError::Io { .. } => {
            tracing::error!(%error, "the module folder failed");
            ErrorCode::Internal
        }
        FilesError::Busy => ErrorCode::Busy,
        _ => ErrorCode::InvalidModule,
    };
    WireError::new(code, error.to_string())
}
