//! Write modules for Weir in Rust.
//!
//! A filter is a dozen lines:
//!
//! ```ignore
//! use weir_guest::prelude::*;
//!
//! weir_guest::params! {
//!     /// What this deployment is told.
//!     pub struct Params {
//!         /// Keep records that contain this text.
//!         text: String,
//!     }
//! }
//!
//! struct Contains(String);
//!
//! impl Filter for Contains {
//!     type Params = Params;
//!     const ABOUT: &'static str = "Keeps records that contain a text.";
//!
//!     fn start(params: Params) -> Result<Self> {
//!         Ok(Contains(params.text))
//!     }
//!
//!     fn keep(&mut self, record: &Record<'_>) -> Result<bool> {
//!         Ok(record.text()?.contains(&self.0))
//!     }
//! }
//!
//! weir_guest::export_filter!(Contains);
//! ```
//!
//! Build it with `cargo build --release --target wasm32-unknown-unknown`, try it with
//! `weir module test`. `docs/modules.md` has the whole story, `guest-examples/` has modules to
//! begin from, and `wit/` says what holds for modules of any language.
//!
//! - [`Filter`], [`Transform`], [`Consumer`], [`ProduceCheck`]: one trait for each world, one macro
//!   to export it.
//! - [`Record`]: what comes in. [`Context`]: where records, state and timers go.
//! - [`Http`]: requests of consumers to hosts that their deployments were granted.
//! - [`Migrate`]: state of versions with another layout.
//! - [`params!`]: typed parameters of the deployment.
//! - [`error!`], [`warn!`], [`info!`], [`debug!`]: log lines. Panics are logged too.
//!
//! Memory is not state: an instance may be replaced between any two batches, and a batch that fails
//! runs again, perhaps in parts. What must last goes through [`Context::state`].

mod check;
mod error;
mod filter;
mod flow;
mod http;
mod log;
mod migrate;
mod outputs;
mod params;
mod record;
mod state;
mod timers;

pub use check::{ProduceCheck, Ruling};
pub use error::{Error, Result};
pub use filter::Filter;
pub use flow::{Consumer, Context, Transform};
pub use http::{Http, HttpError, Request, Response};
pub use log::Level;
pub use migrate::{Migrate, Migrated};
pub use outputs::Output;
pub use params::{ParamType, Params, Value};
pub use record::{Columns, Header, Record};
pub use state::{Keys, State};
pub use timers::Timer;

/// What most modules use.
pub mod prelude {
    pub use crate::{
        Columns, Consumer, Context, Error, Filter, Http, Migrate, Migrated, Output, Params,
        ProduceCheck, Record, Result, Ruling, Timer, Transform,
    };
}

/// Bindings of the interfaces in `wit/`. For the macros.
///
/// A part for each interface, not for each world: what all worlds export must be generated once.
/// The tool that makes a component adds up the parts that a module exports, which makes its world.
#[doc(hidden)]
pub mod bindings {
    /// What all worlds have.
    pub mod base {
        wit_bindgen::generate!({
            path: "../../wit",
            inline: "package weir:sdk; world base {
                import weir:module/log@1.0.0;
                export weir:module/lifecycle@1.0.0;
            }",
            world: "weir:sdk/base",
            pub_export_macro: true,
            export_macro_name: "export_base",
            default_bindings_module: "weir_guest::bindings::base",
            generate_all,
        });
    }

    /// Filters.
    pub mod filter {
        wit_bindgen::generate!({
            path: "../../wit",
            inline: "package weir:sdk; world filter { export weir:module/filtering@1.0.0; }",
            world: "weir:sdk/filter",
            pub_export_macro: true,
            export_macro_name: "export_filter",
            default_bindings_module: "weir_guest::bindings::filter",
            with: {
                "weir:module/types@1.0.0": crate::bindings::base::weir::module::types,
            },
            generate_all,
        });
    }

    /// Transforms.
    pub mod transform {
        wit_bindgen::generate!({
            path: "../../wit",
            inline: "package weir:sdk; world transform {
                import weir:module/state@1.0.0;
                import weir:module/place@1.0.0;
                export weir:module/transforming@1.0.0;
            }",
            world: "weir:sdk/transform",
            pub_export_macro: true,
            export_macro_name: "export_transform",
            default_bindings_module: "weir_guest::bindings::transform",
            with: {
                "weir:module/types@1.0.0": crate::bindings::base::weir::module::types,
            },
            generate_all,
        });
    }

    /// Consumers.
    pub mod consumer {
        wit_bindgen::generate!({
            path: "../../wit",
            inline: "package weir:sdk; world consumer {
                import weir:module/state@1.0.0;
                import weir:module/place@1.0.0;
                import weir:module/http@1.0.0;
                export weir:module/consuming@1.0.0;
            }",
            world: "weir:sdk/consumer",
            pub_export_macro: true,
            export_macro_name: "export_consumer",
            default_bindings_module: "weir_guest::bindings::consumer",
            with: {
                "weir:module/types@1.0.0": crate::bindings::base::weir::module::types,
                "weir:module/state@1.0.0": crate::bindings::transform::weir::module::state,
                "weir:module/place@1.0.0": crate::bindings::transform::weir::module::place,
                "weir:module/flow@1.0.0": crate::bindings::transform::weir::module::flow,
            },
            generate_all,
        });
    }

    /// Produce-time checks.
    pub mod check {
        wit_bindgen::generate!({
            path: "../../wit",
            inline: "package weir:sdk; world check { export weir:module/checking@1.0.0; }",
            world: "weir:sdk/check",
            pub_export_macro: true,
            export_macro_name: "export_check",
            default_bindings_module: "weir_guest::bindings::check",
            with: {
                "weir:module/types@1.0.0": crate::bindings::base::weir::module::types,
            },
            generate_all,
        });
    }

    /// Takeover of state.
    pub mod migrate {
        wit_bindgen::generate!({
            path: "../../wit",
            inline: "package weir:sdk; world migrate { export weir:module/migrating@1.0.0; }",
            world: "weir:sdk/migrate",
            pub_export_macro: true,
            export_macro_name: "export_migrate",
            default_bindings_module: "weir_guest::bindings::migrate",
            with: {
                "weir:module/types@1.0.0": crate::bindings::base::weir::module::types,
            },
            generate_all,
        });
    }

    pub use base::weir::module::types;
}

/// For the macros.
#[doc(hidden)]
pub mod glue {
    pub use crate::check::check;
    pub use crate::filter::filter;
    pub use crate::flow::{Flow, process};
    pub use crate::log::{install_panic_hook, write_line};
    pub use crate::migrate::migrate;
    pub use crate::params::{Declared, describe, one, read};
    pub use crate::record::{Columns, FILTER_COLUMNS};
    pub use crate::state::flow_columns;
}
