//! `weir module push`, `list` and `delete`: the modules of a node.

use crate::cli::Globals;
use crate::commands::sdk;
use crate::exit::{CommandResult, Exit, Failure};
use crate::output::{self, Table};
use crate::units::human_bytes;
use crate::{connect, timestamp};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::path::PathBuf;
use weir_client::RequestError;
use weir_core::module::Module;
use weir_core::module::name::{ModuleName, ModuleRef, ModuleVersion};
use weir_core::wire::ErrorCode;

/// Arguments of `weir module push`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir module push text_filter.wasm --name text-filter --version 1.0.0
  weir module push gps_geofence.wasm --name gps-geofence --version 1.2.0 --json

The module is checked here and compiled on the node before it is known there. A version is
immutable: the same file again changes nothing, another file under the same version is refused.")]
pub struct PushArgs {
    /// The module: a component, or a core module with embedded WIT
    file: PathBuf,
    /// What it is to be called
    #[arg(long)]
    name: String,
    /// Its version: MAJOR.MINOR.PATCH
    #[arg(long)]
    version: String,
}

/// Arguments of `weir module delete`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir module delete text-filter@1.0.0

Subscriptions that run it go on until they end; new ones are refused.")]
pub struct DeleteArgs {
    /// Which versions: NAME@VERSION
    #[arg(required = true, value_name = "NAME@VERSION")]
    modules: Vec<ModuleRef>,
}

/// Uploads a module.
pub async fn push(args: &PushArgs, globals: &Globals) -> CommandResult {
    let name = ModuleName::try_from(args.name.clone());
    let name = name.map_err(|error| Failure::usage(error.to_string()))?;
    let version: Result<ModuleVersion, _> = args.version.parse();
    let version = version.map_err(|error| Failure::usage(error.to_string()))?;
    let id = ModuleRef { name, version };
    // Found out here, no byte has to cross a poor link for it.
    let upload = super::read(&args.file)?;
    let client = connect::client(globals).await?;
    let bar = bar(globals, upload.component.len() as u64);
    let total = upload.component.len() as u64;
    let admin = client.admin();
    let pushed = admin.push_module(id.clone(), upload.component, |have| {
        bar.set_position(have);
        if have >= total {
            bar.set_message("the node checks and compiles it");
        }
    });
    let pushed = pushed.await;
    bar.finish_and_clear();
    client.close().await;
    let module = pushed.map_err(|error| failure(&format!("pushing {id}"), &error))?;
    if globals.json {
        return output::print_json(&module);
    }
    output::print_line(&format!(
        "{}: {}, {}, sha256 {}",
        module.id,
        module.kind.name(),
        human_bytes(module.bytes),
        module.sha256
    ))
}

/// Shows the modules of a node.
pub async fn list(globals: &Globals) -> CommandResult {
    let client = connect::client(globals).await?;
    let modules = client.admin().modules().await;
    client.close().await;
    let modules = modules.map_err(|error| failure("listing modules", &error))?;
    if globals.json {
        return output::print_json(&modules);
    }
    if modules.is_empty() {
        output::note(
            false,
            "no modules; `weir module push FILE --name NAME --version VERSION` uploads one",
        );
        return Ok(());
    }
    let mut table = Table::new(&["MODULE", "KIND", ">SIZE", "PUSHED", "SHA-256", "ABOUT"]);
    for Module { id, kind, sha256, bytes, about, created_at } in modules {
        let pushed = timestamp::seconds(created_at);
        let hash = sha256.get(..12).unwrap_or(&sha256).to_owned();
        let size = human_bytes(bytes);
        table.row([id.to_string(), kind.name().to_owned(), size, pushed, hash, about]);
    }
    output::print(&table.render())
}

/// Makes a node forget modules.
pub async fn delete(args: &DeleteArgs, globals: &Globals) -> CommandResult {
    let client = connect::client(globals).await?;
    let mut result = Ok(());
    for id in &args.modules {
        let deleted = client.admin().delete_module(id.clone()).await;
        result = deleted.map_err(|error| failure(&format!("deleting {id}"), &error));
        if result.is_err() {
            break;
        }
        output::note(globals.json, &format!("{id}: deleted"));
    }
    client.close().await;
    result?;
    if globals.json { output::print_json(&args.modules) } else { Ok(()) }
}

fn failure(doing: &str, error: &RequestError) -> Failure {
    let failure = sdk::request_failure(doing, error);
    match error.code() {
        Some(ErrorCode::UnknownModule) => Failure { exit: Exit::Refused, ..failure }
            .next("`weir module list` shows what there is."),
        _ => failure,
    }
}

fn bar(globals: &Globals, bytes: u64) -> ProgressBar {
    let target = match globals.json {
        true => ProgressDrawTarget::hidden(),
        // Hidden by itself where stderr is no terminal.
        false => ProgressDrawTarget::stderr(),
    };
    let bar = ProgressBar::with_draw_target(Some(bytes), target);
    let style = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}  {eta}  {msg}");
    // The template is a constant; the default shows as much.
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}
