//! Where the workspace is, which files belong to it, and what cargo knows of it.

use crate::process;
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace's root folder.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map_or_else(|| manifest.to_path_buf(), Path::to_path_buf)
}

/// The folder of build results.
///
/// # Errors
/// If cargo cannot be asked.
pub fn target_dir() -> Result<PathBuf> {
    let metadata = metadata()?;
    let dir = metadata["target_directory"].as_str().context("cargo metadata without a target")?;
    Ok(PathBuf::from(dir))
}

/// Paths of all files that git knows or would add, relative to the root, in order.
///
/// # Errors
/// If git cannot be asked.
pub fn files() -> Result<Vec<String>> {
    let listing = process::output(
        Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
            .current_dir(root()),
    )?;
    let mut files: Vec<String> = listing
        .split('\0')
        .filter(|path| !path.is_empty() && root().join(path).is_file())
        .map(str::to_owned)
        .collect();
    files.sort();
    files.dedup();
    Ok(files)
}

/// What `cargo metadata` says of the workspace and of all its dependencies.
///
/// # Errors
/// If cargo fails.
pub fn metadata() -> Result<Value> {
    let json = process::output(process::cargo().args(["metadata", "--format-version", "1"]))?;
    serde_json::from_str(&json).context("cargo metadata is not JSON")
}

/// The version of all the workspace's packages.
///
/// # Errors
/// If the root manifest cannot be read.
pub fn version() -> Result<String> {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml"))?;
    let manifest: toml::Table = manifest.parse()?;
    let version = manifest["workspace"]["package"]["version"].as_str();
    Ok(version.context("no version in Cargo.toml")?.to_owned())
}
