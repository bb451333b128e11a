//! `weir module build`.

use crate::cli::Globals;
use crate::exit::{CommandResult, Exit, Failure};
use crate::output;
use crate::units::human_bytes;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where modules run.
const TARGET: &str = "wasm32-unknown-unknown";

/// Arguments of `weir module build`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir module build
  weir module build alarms --out /tmp

Runs `cargo build --release --target wasm32-unknown-unknown`, makes a component of what comes out,
and checks it as a node would.")]
pub struct Args {
    /// The project's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// The folder that the component is written to
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
}

pub async fn run(args: &Args, globals: &Globals) -> CommandResult {
    let built = cargo_build(&args.dir)?;
    if built.is_empty() {
        return Err(Failure::new(Exit::Error, "the project has no module")
            .next("put crate-type = [\"cdylib\"] under [lib] in its Cargo.toml"));
    }
    let mut all = Vec::new();
    for core in built {
        let upload = super::read(&core)?;
        let module = super::prepare(&core, &upload).await?;
        let name = core.file_name().map_or_else(|| "module.wasm".into(), PathBuf::from);
        let path = args.out.join(name);
        std::fs::write(&path, &upload.component)
            .map_err(|error| Failure::new(Exit::Error, format!("{}: {error}", path.display())))?;
        all.push(json!({
            "file": path, "world": upload.world.to_string(), "sha256": upload.hash.to_string(),
            "size_bytes": upload.component.len(),
        }));
        if !globals.json {
            let size = human_bytes(upload.component.len() as u64);
            let about = &module.description().about;
            output::print_line(&format!("{}: {}, {size}: {about}", path.display(), upload.world))?;
        }
    }
    if globals.json { output::print_json(&all) } else { Ok(()) }
}

/// Builds the project in `dir`. Returns the core modules that came out.
fn cargo_build(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let output = Command::new("cargo")
        .args(["build", "--release", "--target", TARGET])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(dir)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| {
            Failure::new(Exit::Error, format!("cargo cannot be run: {error}"))
                .next("install Rust: https://rustup.rs")
        })?;
    if !output.status.success() {
        return Err(Failure::new(Exit::Error, "the module does not build")
            .next(format!("if it is the target that is missing: `rustup target add {TARGET}`")));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let artifacts = messages.filter(|message| {
        let kinds = message["target"]["crate_types"].as_array();
        message["reason"] == "compiler-artifact"
            && kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind == "cdylib"))
    });
    let files = artifacts.flat_map(|message| {
        let files = message["filenames"].as_array().cloned().unwrap_or_default();
        files.into_iter().filter_map(|file| file.as_str().map(PathBuf::from))
    });
    Ok(files.filter(|file| file.extension().is_some_and(|extension| extension == "wasm")).collect())
}
