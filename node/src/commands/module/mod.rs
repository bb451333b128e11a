//! `weir module`: what an author needs on a laptop, and the modules of a node.

mod build;
mod inspect;
mod new;
mod push;
mod replay;
mod sdk_files;
mod test;

use crate::cli::Globals;
use crate::exit::{CommandResult, Exit, Failure};
use std::path::Path;
use weir_wasm::{Compiler, Engine, Module, Upload};

/// Arguments of `weir module`.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a project for a new module, in Rust
    New(new::Args),
    /// Build a module's project, and check what comes out
    Build(build::Args),
    /// Run a module over records of a file, in the engine of a node and with its limits
    Test(Box<test::Args>),
    /// Run a deployment's module once more over records that the node has, and compare
    Replay(replay::Args),
    /// Show what a module is: its world, parameters, imports, size, hash
    Inspect(inspect::Args),
    /// Upload a module to the node, under a name and version
    Push(push::PushArgs),
    /// Show the modules of the node, one a line
    #[command(after_help = "Examples:\n  weir module list\n  weir module list --json")]
    List,
    /// Make the node forget module versions
    Delete(push::DeleteArgs),
    /// What a node starts to compile a module in a process of its own
    #[command(hide = true, after_help = "Examples:\n  weir module compile < m.wasm > m.cwasm")]
    Compile,
}

/// Runs the command.
pub async fn run(args: Args, globals: &Globals) -> CommandResult {
    match args.command {
        Command::New(args) => new::run(&args, globals),
        Command::Build(args) => build::run(&args, globals).await,
        Command::Test(args) => test::run(*args, globals).await,
        Command::Replay(args) => replay::run(args, globals).await,
        Command::Inspect(args) => inspect::run(&args, globals).await,
        Command::Push(args) => push::push(&args, globals).await,
        Command::List => push::list(globals).await,
        Command::Delete(args) => push::delete(&args, globals).await,
        Command::Compile => match weir_wasm::compile::child_main() {
            0 => Ok(()),
            // It has said on stderr what there is to say, to whoever started it.
            code => std::process::exit(code),
        },
    }
}

/// A parameter as the command line takes it: `NAME=VALUE`.
pub fn parse_param(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let (name, value) =
        pair.ok_or_else(|| format!("`{text}` is no parameter: write name=value"))?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Reads and checks a module.
fn read(path: &Path) -> Result<Upload, Failure> {
    let failed = |what: &dyn std::fmt::Display| {
        Failure::new(Exit::Refused, format!("{}: {what}", path.display()))
    };
    let bytes = std::fs::read(path)
        .map_err(|error| Failure::new(Exit::Error, format!("{}: {error}", path.display())))?;
    Upload::of_file(bytes.into()).map_err(|error| failed(&error))
}

/// Compiles and links a module.
async fn prepare(path: &Path, upload: &Upload) -> Result<Module, Failure> {
    prepare_named(&path.display().to_string(), upload).await
}

/// The same, with what to call it in messages.
async fn prepare_named(name: &str, upload: &Upload) -> Result<Module, Failure> {
    let failed = |what: String| Failure::new(Exit::Refused, format!("{name}: {what}"));
    let engine = Engine::new().map_err(|error| failed(error.to_string()))?;
    let module = Module::prepare(&engine, upload, None, &Compiler::Here).await;
    module.map_err(|error| failed(error.to_string()))
}
