//! The example module in JavaScript: built where npm can fetch its tool, skipped loudly elsewhere.

use crate::{process, workspace};
use anyhow::Result;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

/// Its folder in `guest-examples/`; the module is called the same, with an underscore.
const NAME: &str = "access-log";

/// Builds the module to `guests`. Whether it is there then: without Node.js, or a network the first
/// time, it is not, and that is said.
///
/// # Errors
/// If its tool is there and does not make a module of it.
pub fn build(target_dir: &Path, guests: &Path) -> Result<bool> {
    let source = workspace::root().join("guest-examples").join(NAME);
    let wit = workspace::root().join("wit");
    let module = guests.join(NAME.replace('-', "_")).with_extension("wasm");
    if newest(&[&source, &wit]) < modified(&module) {
        return Ok(true);
    }
    let tools = target_dir.join("guest-javascript");
    std::fs::create_dir_all(&tools)?;
    std::fs::copy(source.join("package.json"), tools.join("package.json"))?;
    let tool = tools.join("node_modules/.bin/componentize-qjs");
    if !tool.exists() {
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--no-package-lock"])
            .args(["--fetch-retries=1", "--fetch-timeout=60000"])
            .current_dir(&tools);
        if !process::succeeds(&mut npm) {
            println!(
                "SKIPPED: {NAME}, the module in JavaScript: `npm install` does not work here; \
                 its tests are skipped, too"
            );
            return Ok(false);
        }
    }
    let mut componentize = Command::new(tool);
    componentize.arg("--wit").arg(wit).args(["--world", "transform", "--sync", "--stub-wasi"]);
    componentize.arg("--js").arg(source.join(NAME).with_extension("js"));
    process::run(componentize.arg("--output").arg(module))?;
    Ok(true)
}

/// When the newest file of some folders was changed.
fn newest(folders: &[&Path]) -> Option<SystemTime> {
    let files = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok());
    files.flatten().flatten().filter_map(|file| modified(&file.path())).max()
}

fn modified(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file).and_then(|data| data.modified()).ok()
}
