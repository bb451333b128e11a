//! A compiled module, ready to make instances.

use crate::abi::{Description, Entries, Input, LogLevel, Outcome, Page, Setting, StateError};
use crate::abi::{Kept, PACKAGE, PACKAGE_VERSION, Verdict};
use crate::cache::Cache;
use crate::columns::{Batch, Column, NullableColumn};
use crate::compile::{CompileError, Compiler};
use crate::engine::{Engine, EngineError};
use crate::error::GuestError;
use crate::guest::{Guest, Surroundings};
use crate::http::{self, HttpRequest};
use crate::instance::Instance;
use crate::limits::GuestLimits;
use crate::params::{self, DescriptionError};
use crate::upload::{ModuleHash, Upload, World, interface_of};
use std::sync::Arc;
use thiserror::Error;
use wasmtime::StoreContextMut;
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker, TypedFunc};

/// Why a checked upload cannot be used as a module.
#[derive(Debug, Error)]
pub enum ModuleError {
    /// It does not compile.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The engine does not load what was compiled.
    #[error("the compiled module cannot be loaded: {0}")]
    Load(#[from] EngineError),
    /// Its functions are not those of its world.
    #[error(
        "the module's functions do not fit {PACKAGE} {}.{}.{}: {reason}",
        PACKAGE_VERSION.0, PACKAGE_VERSION.1, PACKAGE_VERSION.2
    )]
    Types {
        /// Which function, and how it differs.
        reason: String,
    },
    /// It fails before it has seen a record.
    #[error("the module cannot describe itself: {0}")]
    Describe(GuestError),
    /// It describes itself in a way that makes no sense.
    #[error("the module describes itself wrongly: {0}")]
    Description(#[from] DescriptionError),
}

/// A compiled module. Cheap to clone; instances share its code.
#[derive(Clone)]
pub struct Module {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    pre: InstancePre<Guest>,
    hash: ModuleHash,
    world: World,
    exports: Exports,
    description: Description,
}

/// Where the functions of a module are.
#[derive(Clone)]
pub(crate) struct Exports {
    pub(crate) describe: ComponentExportIndex,
    pub(crate) start: ComponentExportIndex,
    pub(crate) call: ComponentExportIndex,
    pub(crate) migrate: Option<ComponentExportIndex>,
}

pub(crate) type Describe = TypedFunc<(), (Description,)>;
pub(crate) type Start = TypedFunc<(Vec<Setting>,), (Result<(), String>,)>;
pub(crate) type FilterCall = TypedFunc<(Arc<Batch>,), (Result<Kept, String>,)>;
pub(crate) type FlowCall = TypedFunc<(Input,), (Result<Outcome, String>,)>;
pub(crate) type CheckCall = TypedFunc<(Arc<Batch>,), (Result<Verdict, String>,)>;
pub(crate) type Migrate = TypedFunc<(u32, Column, Column), (Result<Entries, String>,)>;

impl Module {
    /// Makes a module of a checked upload: takes it from the cache, or compiles it and puts it
    /// there; then links it, and asks it to describe itself. Blocks while it compiles.
    ///
    /// # Errors
    /// If it does not compile within the limits, or is not what its world asks for.
    pub async fn prepare(
        engine: &Engine,
        upload: &Upload,
        cache: Option<&Cache>,
        compiler: &Compiler,
    ) -> Result<Module, ModuleError> {
        let compatibility = engine.compatibility();
        let cached = cache.and_then(|cache| cache.load(upload.hash, compatibility));
        let component = match cached.map(|sealed| sealed.load(engine)) {
            Some(Ok(component)) => component,
            _ => {
                let sealed = compiler.compile(engine, &upload.component)?;
                if let Some(cache) = cache
                    && let Err(error) = cache.store(upload.hash, compatibility, &sealed)
                {
                    // The next start compiles again; nothing else is lost.
                    tracing::warn!(%error, "compiled module is not kept");
                }
                sealed.load(engine)?
            }
        };
        let exports = Exports::of(&component, upload)?;
        let linker = linker(engine, upload.world).map_err(types)?;
        let pre = linker.instantiate_pre(&component).map_err(types)?;
        let description = Instance::describe(engine, &pre, &exports, upload.world).await?;
        params::check(&description, upload.world)?;
        let (engine, hash, world) = (engine.clone(), upload.hash, upload.world);
        let inner = Inner { engine, pre, hash, world, exports, description };
        Ok(Module { inner: Arc::new(inner) })
    }

    /// Its identity.
    #[must_use]
    pub fn hash(&self) -> ModuleHash {
        self.inner.hash
    }

    /// What it is for.
    #[must_use]
    pub fn world(&self) -> World {
        self.inner.world
    }

    /// Whether it can take over state of another layout.
    #[must_use]
    pub fn migrates(&self) -> bool {
        self.inner.exports.migrate.is_some()
    }

    /// What it says of itself.
    #[must_use]
    pub fn description(&self) -> &Description {
        &self.inner.description
    }

    /// Makes an instance and starts it with `settings`, which [`Description::settings`] made.
    /// `around` is what it finds there.
    ///
    /// # Errors
    /// If the module refuses the settings or fails.
    pub async fn start(
        &self,
        settings: &[Setting],
        limits: &GuestLimits,
        around: Surroundings,
    ) -> Result<Instance, GuestError> {
        Instance::start(self, settings, limits, around).await
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    pub(crate) fn pre(&self) -> &InstancePre<Guest> {
        &self.inner.pre
    }

    pub(crate) fn exports(&self) -> &Exports {
        &self.inner.exports
    }
}

pub(crate) fn types(error: wasmtime::Error) -> ModuleError {
    ModuleError::Types { reason: format!("{error:#}") }
}

impl Exports {
    fn of(component: &Component, upload: &Upload) -> Result<Exports, ModuleError> {
        let find = |interface: &str, function: &str| {
            let name = upload.exports.iter().find(|name| interface_of(name) == Some(interface))?;
            let instance = component.get_export_index(None, name)?;
            component.get_export_index(Some(&instance), function)
        };
        let must = |interface: &str, function: &str| {
            find(interface, function).ok_or_else(|| ModuleError::Types {
                reason: format!("{interface} has no function {function}"),
            })
        };
        let function = match upload.world {
            World::Filter => "filter",
            World::Transform => "transform",
            World::Consumer => "consume",
            World::ProduceCheck => "check",
        };
        Ok(Exports {
            describe: must("lifecycle", "describe")?,
            start: must("lifecycle", "start")?,
            call: must(upload.world.interface(), function)?,
            migrate: find("migrating", "migrate"),
        })
    }
}

/// What a module of `world` is given.
fn linker(engine: &Engine, world: World) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(&engine.wasm);
    let (major, minor, patch) = PACKAGE_VERSION;
    let name = |interface| format!("{PACKAGE}/{interface}@{major}.{minor}.{patch}");
    linker.instance(&name("log"))?.func_wrap(
        "write",
        |mut store: StoreContextMut<'_, Guest>, (level, message): (LogLevel, String)| {
            store.data_mut().log(level, message);
            Ok(())
        },
    )?;
    if world.imports().contains(&"state") {
        link_state(&mut linker, &name("state"))?;
    }
    if world.imports().contains(&"place") {
        linker
            .instance(&name("place"))?
            .func_wrap("here", |store: StoreContextMut<'_, Guest>, (): ()| {
                Ok((store.data().place.clone(),))
            })?;
    }
    if world.imports().contains(&"http") {
        linker.instance(&name("http"))?.func_wrap_async(
            "send",
            |mut store: StoreContextMut<'_, Guest>, (requests,): (Vec<HttpRequest>,)| {
                Box::new(async move { Ok((http::send_all(store.data_mut(), requests).await,)) })
            },
        )?;
    }
    Ok(linker)
}

/// State is only there during calls with records; before, a module has none.
fn link_state(linker: &mut Linker<Guest>, name: &str) -> wasmtime::Result<()> {
    type Host<'a> = StoreContextMut<'a, Guest>;
    type Changed = wasmtime::Result<(Result<(), StateError>,)>;
    let mut state = linker.instance(name)?;
    state.func_wrap("get-many", |store: Host<'_>, (keys,): (Column,)| {
        checked("keys", &keys)?;
        let state = store.data().state.as_ref().ok_or_else(no_state)?;
        let values: NullableColumn = state.get_many(&keys);
        Ok((values,))
    })?;
    state.func_wrap(
        "put-many",
        |mut store: Host<'_>, (keys, values): (Column, Column)| -> Changed {
            checked("keys", &keys)?;
            checked("values", &values)?;
            let state = store.data_mut().state.as_mut().ok_or_else(no_state)?;
            Ok((state.put_many(keys, values),))
        },
    )?;
    state.func_wrap("delete-many", |mut store: Host<'_>, (keys,): (Column,)| -> Changed {
        checked("keys", &keys)?;
        let state = store.data_mut().state.as_mut().ok_or_else(no_state)?;
        Ok((state.delete_many(keys),))
    })?;
    state.func_wrap(
        "scan",
        |store: Host<'_>, (prefix, after, limit): (Vec<u8>, Option<Vec<u8>>, u32)| {
            let state = store.data().state.as_ref().ok_or_else(no_state)?;
            let page: Page = state.scan(&prefix, after.as_deref(), limit as usize);
            Ok((page,))
        },
    )
}

/// A column of any length that a module passes to the host.
fn checked(what: &'static str, column: &Column) -> wasmtime::Result<()> {
    let checked = column.check(column.len());
    checked.map_err(|error| wasmtime::Error::new(GuestError::Malformed { what, error }))
}

fn no_state() -> wasmtime::Error {
    wasmtime::Error::msg("state is used outside of a call with records")
}
