//! What may be uploaded: a component of a known world that imports nothing but what its world is
//! given, within the limits that keep compiling bounded. Pure.
//!
//! Checked before anything is compiled. What this cannot see, the types of functions, is compared
//! when the compiled module is linked ([`crate::Module`]).

use crate::abi::{PACKAGE, PACKAGE_VERSION};
use crate::limits;
use bytes::Bytes;
use ring::digest;
use std::collections::BTreeSet;
use std::fmt;
use thiserror::Error;
use wasmparser::{Parser, Payload, Validator, WasmFeatures};

/// What a module is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum World {
    /// Keeps or drops records of a subscription.
    Filter,
    /// From topics to topics.
    Transform,
    /// Reads a topic under a position of its own.
    Consumer,
    /// Validates or rewrites records before they are appended.
    ProduceCheck,
}

impl World {
    /// All worlds.
    pub const ALL: [World; 4] =
        [World::Filter, World::Transform, World::Consumer, World::ProduceCheck];

    /// The interface that a module of this world exports, besides `lifecycle`.
    #[must_use]
    pub fn interface(self) -> &'static str {
        match self {
            World::Filter => "filtering",
            World::Transform => "transforming",
            World::Consumer => "consuming",
            World::ProduceCheck => "checking",
        }
    }

    /// The interfaces that a module of this world may import. The last two are types alone.
    #[must_use]
    pub fn imports(self) -> &'static [&'static str] {
        match self {
            World::Filter | World::ProduceCheck => &["log", "types"],
            World::Transform => &["log", "state", "place", "types", "flow"],
            World::Consumer => &["log", "state", "place", "http", "types", "flow"],
        }
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            World::Filter => "filter",
            World::Transform => "transform",
            World::Consumer => "consumer",
            World::ProduceCheck => "produce-check",
        })
    }
}

/// Identity of a module: the SHA-256 of its component.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleHash(pub [u8; 32]);

impl ModuleHash {
    /// The hash of `component`.
    #[must_use]
    pub fn of(component: &[u8]) -> ModuleHash {
        let digest = digest::digest(&digest::SHA256, component);
        let mut hash = [0; 32];
        hash.copy_from_slice(digest.as_ref());
        ModuleHash(hash)
    }
}

impl fmt::Display for ModuleHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ModuleHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Why a file is not accepted as a module. Each says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UploadError {
    /// More bytes than a module may have.
    #[error("the module has {bytes} bytes, the limit is {max}: strip its debug information")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Something else than WebAssembly.
    #[error("this is not a WebAssembly module but {found}: {advice}")]
    NotWasm {
        /// What it looks like.
        found: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// A core module that does not say which world it is of.
    #[error(
        "this core module carries no WIT: build it with the guest SDK or wit-bindgen, and do not \
         strip its custom sections (in Cargo: strip = \"debuginfo\", not true)"
    )]
    NoWit,
    /// A core module that cannot be made a component.
    #[error("this core module cannot be made a component: {reason}")]
    Componentize {
        /// Why.
        reason: String,
    },
    /// Not valid WebAssembly, or of a feature that modules may not use.
    #[error("the module is not valid: {reason}")]
    Invalid {
        /// Where and why.
        reason: String,
    },
    /// It asks for something that its world does not have.
    #[error("the module imports {name:?}, which a {world} module is not given: {advice}")]
    Import {
        /// What it imports.
        name: String,
        /// What it is.
        world: World,
        /// What to do.
        advice: &'static str,
    },
    /// None of the worlds' interfaces is exported, or more than one.
    #[error(
        "the module exports {found}; it must export {PACKAGE}/lifecycle and one of filtering, \
         transforming, consuming, checking (see wit/worlds.wit)"
    )]
    World {
        /// What it exports.
        found: String,
    },
    /// Built against another version of the interfaces.
    #[error(
        "the module is built against {name}, this node serves {PACKAGE} {}.{}.{}: {}",
        PACKAGE_VERSION.0, PACKAGE_VERSION.1, PACKAGE_VERSION.2,
        "update the node, or build the module with an older SDK"
    )]
    Version {
        /// The interface with its version.
        name: String,
    },
    /// Compiling it would take too long.
    #[error("the module has {what} of {have}, the limit is {max}: split it")]
    Complexity {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        have: usize,
        /// How much there may be.
        max: usize,
    },
}

/// A component that may be compiled.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The component.
    pub component: Bytes,
    /// Its identity.
    pub hash: ModuleHash,
    /// What it is for.
    pub world: World,
    /// Whether it can take over the state of versions with another schema number.
    pub migrates: bool,
    /// The interfaces that it imports, with their versions.
    pub imports: Vec<String>,
    /// The interfaces that it exports, with their versions.
    pub exports: Vec<String>,
    /// Functions in all its core modules.
    pub functions: usize,
    /// Whether it came as a core module.
    pub was_core_module: bool,
}

impl Upload {
    /// Checks a file as an author has it: a component, or a core module with embedded WIT, which is
    /// made a component.
    ///
    /// For programs on the author's side. A node takes components only ([`Upload::of_component`]):
    /// less of its code meets unchecked bytes.
    ///
    /// # Errors
    /// What is wrong first, and what to do about it.
    pub fn of_file(bytes: Bytes) -> Result<Upload, UploadError> {
        match sniff(&bytes)? {
            Kind::Component => Upload::of_component(bytes),
            Kind::CoreModule => {
                let component = componentize(&bytes)?;
                let upload = Upload::of_component(component.into())?;
                Ok(Upload { was_core_module: true, ..upload })
            }
        }
    }

    /// Checks a component.
    ///
    /// # Errors
    /// What is wrong first, and what to do about it.
    pub fn of_component(component: Bytes) -> Result<Upload, UploadError> {
        if sniff(&component)? == Kind::CoreModule {
            return Err(UploadError::NotWasm {
                found: "a core module",
                advice: "make a component of it: `weir module push` does",
            });
        }
        let outline = Outline::of(&component)?;
        let world = outline.world()?;
        let imports: Vec<String> = outline.imports.into_iter().collect();
        for name in &imports {
            check_import(name, world)?;
        }
        let migrates = outline.exports.iter().any(|name| interface_of(name) == Some("migrating"));
        Ok(Upload {
            hash: ModuleHash::of(&component),
            component,
            world,
            migrates,
            imports,
            exports: outline.exports.into_iter().collect(),
            functions: outline.functions,
            was_core_module: false,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Component,
    CoreModule,
}

/// Tells by the first bytes what a file is.
fn sniff(bytes: &[u8]) -> Result<Kind, UploadError> {
    if bytes.len() > limits::MODULE_BYTES_MAX {
        return Err(UploadError::TooLarge { bytes: bytes.len(), max: limits::MODULE_BYTES_MAX });
    }
    let build = "build with `cargo build --target wasm32-unknown-unknown --release`";
    let (found, advice) = match bytes {
        [b'\0', b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => return Ok(Kind::Component),
        [b'\0', b'a', b's', b'm', 1, 0, 0, 0, ..] => return Ok(Kind::CoreModule),
        [b'\0', b'a', b's', b'm', ..] => ("WebAssembly of another version", build),
        [0x7f, b'E', b'L', b'F', ..] => (
            "a native object or a compiled .cwasm",
            "give the .wasm file, a node compiles it itself",
        ),
        [b'(', ..] => ("WebAssembly text", "translate it with `wat2wasm` or `wasm-tools parse`"),
        [] => ("an empty file", build),
        _ => ("another kind of file", build),
    };
    Err(UploadError::NotWasm { found, advice })
}

fn componentize(module: &[u8]) -> Result<Vec<u8>, UploadError> {
    let invalid = |error: &dyn fmt::Display| UploadError::Invalid { reason: error.to_string() };
    validator().validate_all(module).map_err(|error| invalid(&error))?;
    let mut has_wit = false;
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::CustomSection(section) = payload.map_err(|error| invalid(&error))? {
            has_wit |= section.name().starts_with("component-type");
        }
    }
    if !has_wit {
        return Err(UploadError::NoWit);
    }
    let encoded = wit_component::ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|mut encoder| encoder.encode());
    encoded.map_err(|error| {
        // An import without WIT is what stops most modules: WASI, or a C library's.
        let reason = format!("{error:#}");
        match reason.contains("wasi_snapshot_preview1") {
            true => UploadError::Componentize { reason: format!("it uses WASI; {NO_WASI}") },
            false => UploadError::Componentize { reason },
        }
    })
}

const NO_WASI: &str = "modules have no files, clock, randomness or environment: build for \
                       wasm32-unknown-unknown, or stub WASI out when the component is made";

/// Features that a module may use: what compilers emit, nothing that is not deterministic.
fn validator() -> Validator {
    Validator::new_with_features(features())
}

/// What [`validator`] and the engine agree on.
pub(crate) fn features() -> WasmFeatures {
    let mut features = WasmFeatures::WASM2 | WasmFeatures::LIME1;
    features |= WasmFeatures::COMPONENT_MODEL
        | WasmFeatures::TAIL_CALL
        | WasmFeatures::MULTI_MEMORY
        | WasmFeatures::RELAXED_SIMD;
    // The engine is built without a garbage collector.
    features - WasmFeatures::GC_TYPES
}

/// What a component consists of, as far as an upload is judged by it.
#[derive(Default)]
struct Outline {
    imports: BTreeSet<String>,
    exports: BTreeSet<String>,
    functions: usize,
    nested: usize,
}

impl Outline {
    fn of(component: &[u8]) -> Result<Outline, UploadError> {
        let invalid = |error: wasmparser::BinaryReaderError| UploadError::Invalid {
            reason: error.to_string(),
        };
        let mut outline = Outline::default();
        let mut depth = 0usize;
        for payload in Parser::new(0).parse_all(component) {
            match payload.map_err(invalid)? {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                    depth += 1;
                    outline.nested += 1;
                    let (have, max) = (outline.nested, limits::NESTED_MODULES_MAX);
                    within("nested modules", have, max)?;
                }
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(section) if depth == 0 => {
                    for import in section {
                        outline.imports.insert(import.map_err(invalid)?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(section) if depth == 0 => {
                    for export in section {
                        outline.exports.insert(export.map_err(invalid)?.name.name.to_owned());
                    }
                }
                Payload::CodeSectionEntry(body) => {
                    outline.functions += 1;
                    within("functions", outline.functions, limits::FUNCTIONS_MAX)?;
                    let bytes = body.range().len();
                    within("bytes in one function", bytes, limits::FUNCTION_BYTES_MAX)?;
                    within("locals in one function", locals(&body).map_err(invalid)?, {
                        limits::LOCALS_MAX as usize
                    })?;
                }
                _ => {}
            }
        }
        validator().validate_all(component).map_err(invalid)?;
        Ok(outline)
    }

    fn world(&self) -> Result<World, UploadError> {
        let ours = self.exports.iter().filter(|name| interface_of(name).is_some());
        for name in ours {
            check_version(name)?;
        }
        let exports =
            |interface: &str| self.exports.iter().any(|name| interface_of(name) == Some(interface));
        let mut worlds = World::ALL.into_iter().filter(|world| exports(world.interface()));
        match (worlds.next(), worlds.next(), exports("lifecycle")) {
            (Some(world), None, true) => Ok(world),
            _ => {
                let names: Vec<&str> = self.exports.iter().map(String::as_str).collect();
                let found = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
                Err(UploadError::World { found })
            }
        }
    }
}

fn locals(body: &wasmparser::FunctionBody<'_>) -> wasmparser::Result<usize> {
    let mut all = 0usize;
    for group in body.get_locals_reader()? {
        all = all.saturating_add(group?.0 as usize);
    }
    Ok(all)
}

fn within(what: &'static str, have: usize, max: usize) -> Result<(), UploadError> {
    if have > max { Err(UploadError::Complexity { what, have, max }) } else { Ok(()) }
}

/// `log` of `weir:module/log@1.0.0`; `None` for interfaces of other packages.
pub(crate) fn interface_of(name: &str) -> Option<&str> {
    let rest = name.strip_prefix(PACKAGE)?.strip_prefix('/')?;
    Some(rest.split_once('@').map_or(rest, |(interface, _)| interface))
}

fn check_version(name: &str) -> Result<(), UploadError> {
    let version = name.split_once('@').map_or("", |(_, version)| version);
    let mut numbers = version.split('.').map(str::parse::<u64>);
    let (major, minor, patch) = (numbers.next(), numbers.next(), numbers.next());
    let served = match (major, minor, patch, numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor)), Some(Ok(_)), None) => {
            major == PACKAGE_VERSION.0 && minor <= PACKAGE_VERSION.1
        }
        _ => false,
    };
    if served { Ok(()) } else { Err(UploadError::Version { name: name.to_owned() }) }
}

fn check_import(name: &str, world: World) -> Result<(), UploadError> {
    if let Some(interface) = interface_of(name) {
        check_version(name)?;
        if world.imports().contains(&interface) {
            return Ok(());
        }
    }
    let advice = match name {
        name if name.starts_with("wasi:") => NO_WASI,
        name if interface_of(name).is_some() => "choose another world, or do without it",
        _ => "only interfaces of weir:module can be imported",
    };
    Err(UploadError::Import { name: name.to_owned(), world, advice })
}
