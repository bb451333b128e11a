//! Users' modules: checked, compiled, run within limits, and kept from harming anybody.
//!
//! The only crate that names Wasmtime. It knows nothing of topics, storage or network: batches come
//! in as [`weir_core::record::Records`], what a module asks for over HTTP goes to an
//! [`http::HttpClient`], and what it makes of the records goes out as columns that were checked
//! ([`output`]); the caller makes both durable. `wit/` has the contract with modules.
//!
//! - [`upload`]: is this file a module, and of which world?
//! - [`compile`], [`cache`]: to machine code, once for each node.
//! - [`Module`], [`Instance`]: one module, one instance of it for a deployment and partition.
//! - [`Worker`], [`Runner`]: batches through an instance, bad records looked for; on threads of
//!   their own.
//!
//! Pure, and tested without an engine: [`bisect`], [`columns`], [`output`], [`state`],
//! [`params`].

pub mod abi;
pub mod bisect;
pub mod cache;
pub mod columns;
pub mod compile;
mod engine;
mod error;
mod guest;
pub mod http;
mod instance;
pub mod limits;
mod load;
mod migrate;
mod module;
pub mod output;
pub mod params;
mod rewrite;
pub mod state;
mod threads;
pub mod upload;
mod worker;

pub use cache::{Cache, CacheError};
pub use compile::{CompileError, Compiler};
pub use engine::{Engine, EngineError};
pub use error::{Denied, GuestError};
pub use guest::{LogLine, Surroundings};
pub use instance::{Instance, Part};
pub use limits::GuestLimits;
pub use migrate::Entries;
pub use module::{Module, ModuleError};
pub use rewrite::{RewriteError, rewrite};
pub use threads::{GuestThreads, Runner, Stopped};
pub use upload::{ModuleHash, Upload, UploadError, World};
pub use worker::{Checked, Deployment, Filtered, Report, Transformed, Work, Worker};
