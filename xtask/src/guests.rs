//! `cargo xtask guests`: builds the modules of `guest-examples/` to `target/guests/*.wasm`.
//!
//! They need a compiler for WebAssembly. Rust's own has it as a target that rustup installs
//! (`rustup target add wasm32-unknown-unknown`). Where rustup cannot fetch it, a distribution's
//! compiler with its library sources and LLVM's linker do: Debian's packages rustc-web,
//! rust-web-src and lld-19. The library is then built once, into `target/guest-sysroot-VERSION/`.
//!
//! Cargo knows when nothing changed, so this is quick when nothing did.

use crate::{javascript, process, workspace};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "wasm32-unknown-unknown";
const PACKAGES: [&str; 3] = ["rustc-web", "rust-web-src", "lld-19"];

/// How modules are compiled here.
enum Toolchain {
    /// The Rust that builds everything else.
    Own,
    /// Another compiler, with a library that was built for it.
    Other { rustc: PathBuf, sysroot: PathBuf },
}

/// `cargo xtask guests [--install]`.
///
/// # Errors
/// If there is no compiler for WebAssembly, or a module does not build.
pub fn run(args: &[String]) -> Result<()> {
    let install = match args {
        [] => false,
        [one] if one == "--install" => true,
        _ => bail!("guests takes nothing or --install"),
    };
    if install && !has_target() && !add_target() && !has_packages() {
        install_packages()?;
    }
    build()
}

/// Builds the modules.
///
/// # Errors
/// As [`run`].
pub fn build() -> Result<()> {
    let target_dir = workspace::target_dir()?;
    let toolchain = Toolchain::find(&target_dir)?;
    let built = target_dir.join("guest-build");
    let mut cargo = process::cargo();
    cargo
        .args(["build", "--release", "--target", TARGET, "--workspace"])
        .current_dir(workspace::root().join("guest-examples"))
        .env("CARGO_TARGET_DIR", &built);
    toolchain.apply(&mut cargo);
    process::run(&mut cargo)?;
    let guests = target_dir.join("guests");
    std::fs::create_dir_all(&guests)?;
    let mut count = 0_usize;
    for entry in std::fs::read_dir(built.join(TARGET).join("release"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "wasm") {
            let name = path.file_name().context("a file without a name")?;
            std::fs::copy(&path, guests.join(name))?;
            count += 1;
        }
    }
    ensure!(count > 0, "no module came out of the build");
    count += usize::from(javascript::build(&target_dir, &guests)?);
    println!("{count} modules in {}", guests.display());
    Ok(())
}

impl Toolchain {
    fn find(target_dir: &Path) -> Result<Toolchain> {
        if has_target() {
            return Ok(Toolchain::Own);
        }
        ensure!(
            has_packages(),
            "there is no compiler for {TARGET}.\n  \
             rustup target add {TARGET}\nor, where rustup cannot fetch it,\n  \
             apt-get install {}\nthen again: cargo xtask guests",
            PACKAGES.join(" ")
        );
        let rustc = packaged_rustc()?;
        let version = process::output(Command::new(&rustc).arg("--version"))?;
        // Libraries fit one version of the compiler only, so each has a folder of its own.
        let version: String =
            version.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let sysroot = target_dir.join(format!("guest-sysroot-{}", version.trim_matches('-')));
        if !sysroot.join("complete").exists() {
            build_library(&rustc, &sysroot, &target_dir.join("guest-library"))?;
        }
        Ok(Toolchain::Other { rustc, sysroot })
    }

    fn apply(&self, cargo: &mut Command) {
        let Toolchain::Other { rustc, sysroot } = self else { return };
        let flags = format!("--sysroot={}", sysroot.display());
        cargo
            .env("RUSTC", rustc)
            .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", "wasm-ld-19")
            .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", flags);
    }
}

/// Whether our own Rust has the target.
fn has_target() -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.args(["--print", "target-libdir", "--target", TARGET]).current_dir(workspace::root());
    let folder = process::output(&mut command).unwrap_or_default();
    let mut files = std::fs::read_dir(folder.trim()).into_iter().flatten().flatten();
    files.any(|file| file.file_name().to_string_lossy().starts_with("libstd"))
}

/// Has rustup fetch the target for the Rust in use. Whether it is there then.
fn add_target() -> bool {
    println!("fetching the Rust library for {TARGET}");
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add", TARGET]).current_dir(workspace::root());
    process::succeeds(&mut rustup) && has_target()
}

fn has_packages() -> bool {
    PACKAGES.iter().all(|name| process::succeeds(Command::new("dpkg").args(["-s", name])))
}

/// Debian's compiler, which lies beside another one of the same name.
fn packaged_rustc() -> Result<PathBuf> {
    let files = process::output(Command::new("dpkg").args(["-L", "rustc-web"]))?;
    let rustc = files.lines().find(|line| line.ends_with("bin/rustc"));
    Ok(PathBuf::from(rustc.context("the package rustc-web has no rustc")?))
}

fn install_packages() -> Result<()> {
    println!("installing {}", PACKAGES.join(", "));
    let update = process::run(Command::new("apt-get").arg("update"));
    update.context("no package manager that could install a compiler for WebAssembly")?;
    process::run(
        Command::new("apt-get").args(["install", "-y", "--no-install-recommends"]).args(PACKAGES),
    )
}

/// Builds the standard library for modules. Without optimising across crates, and with bitcode: so
/// that modules link with it whether they do or not.
fn build_library(rustc: &Path, sysroot: &Path, scratch: &Path) -> Result<()> {
    println!("building the standard library for {TARGET}, once");
    let _ = std::fs::remove_dir_all(scratch);
    std::fs::create_dir_all(scratch.join("src"))?;
    std::fs::write(scratch.join("src/lib.rs"), "#![no_std]\n")?;
    std::fs::write(
        scratch.join("Cargo.toml"),
        "[package]\nname = \"stdonly\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\
         [profile.release]\nopt-level = 3\npanic = \"abort\"\nlto = \"off\"\ncodegen-units = 1\n\
         [workspace]\n",
    )?;
    let mut cargo = process::cargo();
    cargo
        .args(["build", "--release", "--target", TARGET, "-Z", "build-std=std,panic_abort"])
        .current_dir(scratch)
        .env("RUSTC", rustc)
        // What is unstable is building the library oneself, not the library.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", scratch.join("target"))
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", "wasm-ld-19")
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", "-C embed-bitcode=yes");
    process::run(&mut cargo)?;
    let libraries = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    std::fs::create_dir_all(&libraries)?;
    for entry in std::fs::read_dir(scratch.join("target").join(TARGET).join("release/deps"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".rlib") && !name.starts_with("libstdonly") {
            std::fs::copy(&path, libraries.join(name))?;
        }
    }
    std::fs::write(sysroot.join("complete"), "")?;
    std::fs::remove_dir_all(scratch)?;
    Ok(())
}
