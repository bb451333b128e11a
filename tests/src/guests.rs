//! The modules that `cargo xtask guests` built.

use std::path::{Path, PathBuf};

/// The file of an example module, by the name of its crate with underscores.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn example(name: &str) -> String {
    find(name).unwrap_or_else(|| panic!("{name} is missing: run `cargo xtask guests`"))
}

/// The file of an example module, if it was built.
#[must_use]
pub fn find(name: &str) -> Option<String> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let path = target.unwrap_or_else(default).join("guests").join(format!("{name}.wasm"));
    path.exists().then(|| path.to_string_lossy().into_owned())
}
