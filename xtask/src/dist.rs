//! `cargo xtask dist`: a self-contained binary in a reproducible tarball, and a try-out of it.
//!
//! The binary is static: musl's target where that and a C compiler for it are installed (`rustup
//! target add x86_64-unknown-linux-musl`, and musl-tools of Debian or musl-gcc elsewhere), else
//! glibc linked statically (`+crt-static`). Names are then looked up with what glibc has built in,
//! files and DNS; a machine that resolves names by another service (`nsswitch.conf`: sssd, mDNS)
//! needs addresses instead. A node never looks names up itself.

use crate::archive::{Entry, tar_gz};
use crate::process::{self, cargo};
use crate::{sha256, workspace};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folder of what is packed besides the binary.
const PACKAGING: &str = "packaging";
/// What every tarball must hold, beneath its one folder.
const REQUIRED: &[&str] = &[
    "weir",
    "LICENSE",
    "README.md",
    "SHA256SUMS",
    "install.sh",
    "weir.service",
    "weir.sysctl",
    "weir.sysusers",
    "weir.toml",
];

/// `cargo xtask dist`.
///
/// # Errors
/// If something does not build, is not static, or does not install and start.
pub fn run(args: &[String]) -> Result<()> {
    for arg in args {
        ensure!(arg == "--check" || arg == "--debug", "dist takes --check and --debug");
    }
    let debug = args.iter().any(|arg| arg == "--debug");
    let binary = if debug { build_debug()? } else { build_static()? };
    let tarball = pack(&binary, debug)?;
    if args.iter().any(|arg| arg == "--check") {
        try_out(&tarball)?;
    }
    Ok(())
}

/// The binary that the tests use, built with the same selection of targets: another one may unify
/// features of dependencies in another way, and build them all again.
fn build_debug() -> Result<PathBuf> {
    process::run(crate::test::build().args(["build", "--quiet"]).args(crate::test::TARGETS))?;
    Ok(workspace::target_dir()?.join("debug/weir"))
}

fn build_static() -> Result<PathBuf> {
    let target = choose_target(&host()?);
    // A target is named even where it is the host's, so that build scripts and macros, which must
    // load libraries, are built without these flags.
    let mut command = cargo();
    command.args([
        "build",
        "--profile",
        "dist",
        "--locked",
        "-p",
        "weir-node",
        "--target",
        &target,
    ]);
    command.env("CARGO_ENCODED_RUSTFLAGS", rustflags().join("\u{1f}"));
    process::run(&mut command)?;
    let binary = workspace::target_dir()?.join(&target).join("dist/weir");
    check_static(&binary)?;
    Ok(binary)
}

/// The target to build for, and says so, with the reason where it is not musl's.
fn choose_target(host: &str) -> String {
    let arch = host.split('-').next().unwrap_or_default();
    let musl = format!("{arch}-unknown-linux-musl");
    let reason = if !is_installed(&musl) {
        format!("{musl} is not installed: `rustup target add {musl}` would")
    } else if !compiles_c(arch, &musl) {
        format!("there is no C compiler for {musl}: {arch}-linux-musl-gcc (musl-tools) would be")
    } else {
        println!("building for {musl}");
        return musl;
    };
    println!("building for {host}, with glibc linked statically: {reason}");
    host.to_owned()
}

/// Whether the C parts of dependencies can be built for musl: by what the environment names, or by
/// the compiler that the build scripts look for.
fn compiles_c(arch: &str, musl: &str) -> bool {
    let named =
        [format!("CC_{musl}"), format!("CC_{}", musl.replace('-', "_")), "TARGET_CC".into()]
            .iter()
            .any(|name| std::env::var_os(name).is_some());
    let usual = format!("{arch}-linux-musl-gcc");
    named || process::output(Command::new(usual).arg("--version")).is_ok()
}

/// Static, and without paths of this machine in messages of panics.
fn rustflags() -> Vec<String> {
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned(), "-Cstrip=symbols".to_owned()];
    let root = workspace::root();
    flags.push(format!("--remap-path-prefix={}=weir", root.display()));
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    if let Some(home) = std::env::var_os("CARGO_HOME").map(PathBuf::from).or(home) {
        flags.push(format!("--remap-path-prefix={}=cargo", home.display()));
    }
    flags
}

fn host() -> Result<String> {
    let version = process::output(Command::new("rustc").arg("-vV").current_dir(workspace::root()))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc names no host")?.to_owned())
}

/// Whether the standard library of `target` is there.
fn is_installed(target: &str) -> bool {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "target-libdir", "--target", target]).current_dir(workspace::root());
    let folder = process::output(&mut rustc).map(|folder| PathBuf::from(folder.trim()));
    folder.is_ok_and(|folder| folder.join("../lib").is_dir() && has_std(&folder))
}

fn has_std(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
}

/// A static ELF file asks for no interpreter.
fn check_static(binary: &Path) -> Result<()> {
    let bytes = std::fs::read(binary).with_context(|| binary.display().to_string())?;
    ensure!(!asks_for_interpreter(&bytes)?, "{} is not static", binary.display());
    println!("static: {}, {:.1} MB", binary.display(), bytes.len() as f64 / 1e6);
    Ok(())
}

/// Whether an ELF file of 64 bits, little-endian, has a program header `PT_INTERP`.
fn asks_for_interpreter(elf: &[u8]) -> Result<bool> {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, len: usize| -> Result<u64> {
        let bytes = elf.get(at..at + len).context("the ELF file is cut short")?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    ensure!(elf.starts_with(b"\x7fELF\x02\x01"), "not an ELF file of 64 bits, little-endian");
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for n in 0..count {
        let at = usize::try_from(table + n * size)?;
        if number(at, 4)? == u64::from(PT_INTERP) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Packs `binary` and all that belongs to it; returns the tarball.
fn pack(binary: &Path, debug: bool) -> Result<PathBuf> {
    let root = workspace::root();
    let arch = std::env::consts::ARCH;
    let kind = if debug { "-debug" } else { "" };
    let name = format!("weir-{}-{arch}{kind}", workspace::version()?);
    let bytes = std::fs::read(binary).with_context(|| binary.display().to_string())?;
    let mut entries = vec![Entry { path: "weir".to_owned(), bytes, executable: true }];
    // Its README is for those who make packages; the project's goes into the tarball.
    let packaging = workspace::files()?
        .into_iter()
        .filter(|path| path.starts_with(PACKAGING) && path != "packaging/README.md");
    let files = ["LICENSE", "README.md", "CHANGELOG.md"].map(str::to_owned);
    for file in files.into_iter().chain(packaging) {
        let Ok(bytes) = std::fs::read(root.join(&file)) else { continue };
        let path = file.strip_prefix("packaging/").unwrap_or(&file).to_owned();
        let executable = bytes.starts_with(b"#!");
        entries.push(Entry { path, bytes, executable });
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    entries.push(sums(&entries));
    for required in REQUIRED {
        let there = entries.iter().any(|entry| entry.path == *required);
        ensure!(there, "{required} is missing from the tarball");
    }
    for entry in &mut entries {
        entry.path = format!("{name}/{}", entry.path);
    }
    let folder = workspace::target_dir()?.join("dist");
    std::fs::create_dir_all(&folder)?;
    let tarball = folder.join(format!("{name}.tar.gz"));
    let bytes = tar_gz(entries)?;
    std::fs::write(&tarball, &bytes)?;
    let sums = format!("{}  {name}.tar.gz\n", sha256::hex(&bytes));
    std::fs::write(folder.join(format!("{name}.SHA256SUMS")), sums)?;
    println!("{}: {:.1} MB", tarball.display(), bytes.len() as f64 / 1e6);
    Ok(tarball)
}

/// `SHA256SUMS` of all that is packed, which install.sh checks.
fn sums(entries: &[Entry]) -> Entry {
    let line = |entry: &Entry| format!("{}  {}\n", sha256::hex(&entry.bytes), entry.path);
    let text: String = entries.iter().map(line).collect();
    Entry { path: "SHA256SUMS".to_owned(), bytes: text.into_bytes(), executable: false }
}

/// Unpacks and installs as an operator would, and starts the binary with an empty environment.
fn try_out(tarball: &Path) -> Result<()> {
    let folder = workspace::target_dir()?.join("dist/try-out");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let sums = tarball.to_string_lossy().replace(".tar.gz", ".SHA256SUMS");
    let beside = tarball.parent().context("a tarball in a folder")?;
    process::run(
        Command::new("sha256sum").args(["--check", "--quiet", &sums]).current_dir(beside),
    )?;
    process::run(Command::new("tar").arg("-xzf").arg(tarball).arg("-C").arg(&folder))?;
    let name = tarball.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let unpacked = folder.join(name.trim_end_matches(".tar.gz"));
    let root = folder.join("root");
    let mut install = Command::new("sh");
    install.arg("install.sh").arg("--root").arg(&root).current_dir(&unpacked);
    process::run(&mut install)?;
    let binary = root.join("usr/local/bin/weir");
    ensure!(binary.is_file(), "install.sh installed no {}", binary.display());
    for file in ["weir.service", "weir.toml"] {
        find(&root, file)?.with_context(|| format!("install.sh installed no {file}"))?;
    }
    let in_nothing = |args: &[&str]| {
        process::output(Command::new(&binary).args(args).env_clear().current_dir(&folder))
    };
    let version = in_nothing(&["--version"])?;
    ensure!(version.contains(&workspace::version()?), "--version says {version:?}");
    let config = in_nothing(&["node", "--print-config"])?;
    if config.parse::<toml::Table>().is_err() {
        bail!("node --print-config prints no TOML:\n{config}");
    }
    // A node, its disk and clients over QUIC, all of it from this one file.
    let demo = in_nothing(&["demo", "--for", "2s", "--json", "--dir", "demo"])?;
    ensure!(demo.contains("host.sensors"), "the demo stored nothing: {demo}");
    println!("installed to {}: {}", root.display(), version.trim());
    Ok(())
}

/// A file of this name beneath `folder`.
fn find(folder: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(found) = find(&path, name)? {
                return Ok(Some(found));
            }
        } else if path.file_name().is_some_and(|found| found == name) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a dynamic binary is told from a static one. Method: this test itself is dynamic; the
    /// same bytes with its interpreter header made another kind are not.
    #[test]
    fn static_binaries_are_told_apart() {
        let mut elf = vec![0; 64 + 2 * 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = 2;
        elf[64] = 1;
        elf[64 + 56] = 3;
        assert!(asks_for_interpreter(&elf).unwrap());
        elf[64 + 56] = 6;
        assert!(!asks_for_interpreter(&elf).unwrap());
        assert!(asks_for_interpreter(&elf[..100]).is_err());
        assert!(asks_for_interpreter(b"#!/bin/sh").is_err());
    }

    /// Goal: an installed file is found wherever it lies.
    #[test]
    fn files_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("usr/local/bin");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("weir"), "x").unwrap();
        assert_eq!(find(dir.path(), "weir").unwrap(), Some(deep.join("weir")));
        assert_eq!(find(dir.path(), "other").unwrap(), None);
    }
}
