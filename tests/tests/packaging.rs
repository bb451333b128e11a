//! What a release archive holds, tried out as far as a machine without systemd as its first
//! process allows: the install script in a scratch folder, the unit file by systemd's own checks
//! where they are installed.

use anyhow::{Context, Result};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use weir_tests::node_process::{weir, weir_binary};

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging")
}

/// The archive's folder: the program and the files of `packaging/`, side by side.
fn unpacked(dir: &Path) -> Result<PathBuf> {
    let archive = dir.join("weir");
    std::fs::create_dir(&archive)?;
    for entry in std::fs::read_dir(packaging())? {
        let entry = entry?;
        std::fs::copy(entry.path(), archive.join(entry.file_name()))?;
    }
    // A hard link where it can be: the test build is large.
    let program = archive.join("weir");
    if std::fs::hard_link(weir_binary(), &program).is_err() {
        std::fs::copy(weir_binary(), &program)?;
    }
    Ok(archive)
}

fn install(archive: &Path, arguments: &[&str]) -> Result<Output> {
    Ok(Command::new("sh").arg(archive.join("install.sh")).args(arguments).output()?)
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// Goal: the example configuration is what this version of the program documents.
#[test]
fn the_example_configuration_is_this_versions() -> Result<()> {
    let printed = weir(&["node", "--print-config=defaults"]).expect(0).stdout;
    let packaged = std::fs::read_to_string(packaging().join("weir.toml"))?;
    assert!(
        packaged == printed,
        "packaging/weir.toml is out of date: cargo run -q -p weir-node -- node \
         --print-config=defaults > packaging/weir.toml"
    );
    Ok(())
}

/// Goal: a fresh install puts everything in place; an upgrade keeps a changed configuration and
/// puts the example beside it; removal leaves configuration and data.
#[test]
fn install_upgrade_remove() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let archive = unpacked(dir.path())?;
    let root = dir.path().join("root");
    let into_root = ["--root", root.to_str().context("a path")?];
    let installed = install(&archive, &into_root)?;
    assert!(installed.status.success(), "{}", text(&installed));
    let mode = |file: &str| -> Result<u32> {
        Ok(std::fs::metadata(root.join(file))?.permissions().mode() & 0o777)
    };
    assert_eq!(mode("usr/local/bin/weir")?, 0o755);
    for file in [
        "etc/weir/weir.toml",
        "etc/systemd/system/weir.service",
        "etc/sysusers.d/weir.conf",
        "etc/sysctl.d/60-weir.conf",
    ] {
        assert_eq!(mode(file)?, 0o644, "{file}");
    }
    let completions = root.join("usr/local/share/bash-completion/completions/weir");
    assert!(std::fs::read_to_string(completions)?.contains("_weir"));
    let version = Command::new(root.join("usr/local/bin/weir")).arg("--version").output()?;
    assert_eq!(version.stdout, weir(&["--version"]).stdout.into_bytes());

    let config = root.join("etc/weir/weir.toml");
    std::fs::write(&config, "name = 'mine'\n")?;
    let upgraded = install(&archive, &into_root)?;
    assert!(upgraded.status.success(), "{}", text(&upgraded));
    assert_eq!(std::fs::read_to_string(&config)?, "name = 'mine'\n");
    let example = std::fs::read_to_string(root.join("etc/weir/weir.toml.new"))?;
    assert_eq!(example, std::fs::read_to_string(packaging().join("weir.toml"))?);

    let removed = install(&archive, &["--remove", into_root[0], into_root[1]])?;
    assert!(removed.status.success(), "{}", text(&removed));
    assert!(!root.join("usr/local/bin/weir").exists());
    assert!(!root.join("etc/systemd/system/weir.service").exists());
    assert!(config.exists());
    Ok(())
}

/// Goal: an incomplete or damaged archive, and a configuration that the new version refuses, are
/// found before they do harm.
#[test]
fn damaged_archives_are_refused() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let archive = unpacked(dir.path())?;
    let root = dir.path().join("root");
    let into_root = ["--root", root.to_str().context("a path")?];
    let sums = Command::new("sh")
        .arg("-c")
        .arg("sha256sum weir.service weir.toml > SHA256SUMS")
        .current_dir(&archive)
        .output()?;
    if sums.status.success() {
        let unit = archive.join("weir.service");
        let good = std::fs::read(&unit)?;
        std::fs::write(&unit, b"[Service]\n")?;
        let refused = install(&archive, &into_root)?;
        assert!(!refused.status.success());
        assert!(text(&refused).contains("SHA256SUMS"), "{}", text(&refused));
        assert!(!root.join("usr/local/bin/weir").exists());
        std::fs::write(&unit, good)?;
    }
    std::fs::create_dir_all(root.join("etc/weir"))?;
    std::fs::write(root.join("etc/weir/weir.toml"), "no_such_setting = 1\n")?;
    let refused = install(&archive, &into_root)?;
    assert!(!refused.status.success());
    assert!(text(&refused).contains("no_such_setting"), "{}", text(&refused));

    std::fs::remove_file(archive.join("weir.service"))?;
    let refused = install(&archive, &into_root)?;
    assert!(!refused.status.success());
    assert!(text(&refused).contains("weir.service is missing"), "{}", text(&refused));
    Ok(())
}

/// Goal: systemd finds nothing wrong with the unit, and counts it as well confined.
#[test]
fn the_unit_file() -> Result<()> {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("SKIPPED: systemd-analyze is not installed, so the unit is not checked");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let unit = std::fs::read_to_string(packaging().join("weir.service"))?;
    assert!(unit.contains("ExecStart=/usr/local/bin/weir node"));
    // The check wants the program to exist.
    let path = dir.path().join("weir.service");
    let here = weir_binary().to_str().context("a path")?;
    std::fs::write(&path, unit.replace("/usr/local/bin/weir", here))?;
    let verified = Command::new("systemd-analyze").arg("verify").arg(&path).output()?;
    assert!(verified.status.success(), "{}", text(&verified));
    assert_eq!(text(&verified), "");
    let security = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=20"])
        .arg(&path)
        .output()?;
    if text(&security).contains("unrecognized option") {
        eprintln!("SKIPPED: this systemd-analyze cannot judge a unit file offline");
        return Ok(());
    }
    assert!(security.status.success(), "{}", text(&security));
    Ok(())
}
