//! The modules that `cargo xtask guests` built.

use std::path::{Path, PathBuf};

/// The path of a module.
///
/// # Panics
/// If it was not built.
#[must_use]
pub fn guest(name: &str) -> String {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let path = target.unwrap_or_else(default).join("guests").join(format!("{name}.wasm"));
    assert!(path.exists(), "{} is missing: run `cargo xtask guests`", path.display());
    path.to_string_lossy().into_owned()
}
