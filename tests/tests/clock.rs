//! Real node processes whose wall clock is wrong, or steps while they run, and certificates that
//! one side does not accept: what was stored stays, and both sides say what is wrong.

use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::Instant;
use weir_tests::node_process::{NodeProcess, PATIENCE, Ran, weir_command};
use weir_tests::wall_clock::WallClock;

const HOUR: i64 = 3_600;
const YEAR: i64 = 365 * 24 * HOUR;

/// What every node here runs with: retention looks around often, so that waiting for it is short.
const OFTEN: [&str; 2] = ["--set", "storage.retention_interval=1s"];

struct Site {
    dir: tempfile::TempDir,
    clock: WallClock,
    node: NodeProcess,
}

impl Site {
    /// A node whose clock is set by `set` before its first start.
    fn start(arguments: &[&str], set: impl FnOnce(&WallClock) -> Result<()>) -> Result<Site> {
        let dir = tempfile::tempdir()?;
        let clock = WallClock::new(dir.path())?;
        set(&clock)?;
        let arguments = [&OFTEN, arguments].concat();
        let node = NodeProcess::start_in(dir.path(), &arguments, clock.environment())?;
        Ok(Site { dir, clock, node })
    }

    /// `weir produce`, from `from` to `to`, one number a line.
    fn produce(&self, topic: &str, from: u32, to: u32) -> Result<()> {
        let lines: String = (from..to).map(|n| format!("{n}\n")).collect();
        let file = self.dir.path().join("lines");
        std::fs::write(&file, lines)?;
        let file = file.to_str().context("a path in UTF-8")?;
        self.node.weir(&["produce", topic, file]).expect(0);
        Ok(())
    }

    fn consumed(&self, topic: &str) -> Vec<u32> {
        let all = ["consume", topic, "--from=earliest", "--until-end", "--format=raw"];
        let read = self.node.weir(&all).expect(0).stdout;
        read.lines().map(|line| line.parse().unwrap()).collect()
    }

    fn log_start(&self, topic: &str) -> i64 {
        let described = self.node.weir(&["topic", "describe", topic, "--json"]).expect(0).json();
        described[0]["partitions"][0]["log_start"].as_i64().unwrap()
    }

    fn warnings(&self) -> String {
        self.node.weir(&["status", "--json"]).expect(0).json()["warnings"].to_string()
    }

    /// Waits until `holds`, by looking again and again within a bound.
    fn wait_until(&self, what: &str, holds: impl Fn(&Site) -> bool) -> Result<()> {
        let begun = Instant::now();
        while !holds(self) {
            ensure!(begun.elapsed() < PATIENCE, "not seen: {what}\n{}", self.node.log());
        }
        Ok(())
    }
}

fn numbers(to: u32) -> Vec<u32> {
    (0..to).collect()
}

/// Goal: a machine that boots in 1970 makes its authority, serves, says that the clock is wrong and
/// drops nothing; nor does it when the clock is set right, soon after the start, until somebody
/// says that it is right; and certificates made in 1970 are good afterwards.
/// Method: the ordinary program with another wall clock; retention of one hour, which the step of
/// half a century exceeds, so that everything goes once the step is confirmed.
#[test]
fn a_boot_in_1970() -> Result<()> {
    let anonymous = ["--set", "access.anonymous="];
    let site = Site::start(&anonymous, |clock| clock.set_seconds_since_1970(60))?;
    assert!(site.node.log().contains("1970-01-01T00:01"), "its clock:\n{}", site.node.log());
    assert!(site.node.log().contains("certificate authority"), "{}", site.node.log());
    assert!(site.warnings().contains("clock is behind"), "{}", site.warnings());
    site.node.weir(&["topic", "create", "readings", "--retention=1h"]).expect(0);
    site.produce("readings", 0, 100)?;
    assert_eq!(site.consumed("readings"), numbers(100));
    // Issued by an authority of 1970, whose clock this command shares.
    let out = site.dir.path().to_str().context("a path in UTF-8")?;
    let issue = ["cert", "client", "gateway", "--out", out, "--data-dir"];
    let data = site.node.data_dir().to_str().context("a path in UTF-8")?;
    let issued = run(&site.clock, &[&issue[..], &[data]].concat())?;
    issued.expect(0);

    site.clock.set_ahead(0)?;
    site.wait_until("the step", |site| site.warnings().contains("drops nothing by age"))?;
    assert!(!site.warnings().contains("clock is behind"), "{}", site.warnings());
    assert_eq!(site.consumed("readings"), numbers(100));
    let shown = site.node.weir(&["cert", "show", &format!("{out}/gateway.pem"), "--json"]);
    assert_eq!(shown.expect(0).json()["expired"], false);
    let hello = remote(&site, "gateway", &["topic", "list"])?.expect(0);
    assert_eq!(hello.stdout.lines().filter(|line| line.contains("readings")).count(), 0);

    site.node.weir(&["status", "--confirm-time"]).expect(0);
    site.wait_until("expiry", |site| site.log_start("readings") == 100)?;
    site.produce("readings", 100, 200)?;
    assert_eq!(site.consumed("readings"), (100..200).collect::<Vec<_>>());
    Ok(())
}

/// Goal: a clock that is set right while the node is down drops nothing either, at any number of
/// starts, until somebody says that it is right.
#[test]
fn a_clock_set_right_between_two_starts() -> Result<()> {
    let mut site = Site::start(&[], |clock| clock.set_seconds_since_1970(60))?;
    site.node.weir(&["topic", "create", "readings", "--retention=1h"]).expect(0);
    site.produce("readings", 0, 100)?;
    site.node.stop()?;
    site.clock.set_ahead(0)?;
    for start in 1..=2 {
        site.node.start_again()?;
        let suspended = |site: &Site| site.warnings().contains("drops nothing by age");
        site.wait_until(&format!("start {start}"), suspended)?;
        assert_eq!(site.consumed("readings"), numbers(100));
        site.node.kill()?;
    }
    site.node.start_again()?;
    site.node.weir(&["status", "--confirm-time"]).expect(0);
    site.wait_until("expiry", |site| site.log_start("readings") == 100)?;
    site.produce("readings", 100, 150)?;
    site.node.stop()?;
    site.node.start_again()?;
    assert_eq!(site.consumed("readings"), (100..150).collect::<Vec<_>>());
    Ok(())
}

/// Goal: whatever is wrong with a certificate, the client's error and the node's log say it in
/// words, the exit code says "refused", and the node goes on serving others.
#[test]
fn certificates_that_are_refused() -> Result<()> {
    let rules = "[access]\nanonymous = []\n\
                 [[access.rule]]\nprincipal = 'admin'\nroles = ['admin']\n\
                 [[access.rule]]\nprincipal = 'gateway'\nroles = ['produce']\ntopics = ['gps.']\n";
    let config = tempfile::tempdir()?;
    let file = config.path().join("weir.toml");
    std::fs::write(&file, rules)?;
    let arguments = ["--config", file.to_str().context("a path in UTF-8")?];
    let site = Site::start(&arguments, |clock| clock.set_ahead(0))?;
    let other = Site::start(&[], |clock| clock.set_ahead(0))?;
    site.node.weir(&["topic", "create", "gps.raw"]).expect(0);
    for (site, name) in [(&site, "gateway"), (&site, "nobody"), (&other, "stranger")] {
        let out = site.dir.path().to_str().context("a path in UTF-8")?;
        site.node.weir(&["cert", "client", name, "--valid=1d", "--out", out]).expect(0);
    }
    let offsets = ["topic", "list", "--json"];
    assert_eq!(remote(&site, "gateway", &offsets)?.expect(0).json()[0]["name"], "gps.raw");

    // No rights at all, and not this one.
    let refused = remote(&site, "nobody", &["status"])?.expect(4);
    both_say(&site, &refused, "the right", "refused: no right")?;
    let refused = remote(&site, "gateway", &["topic", "delete", "gps.raw", "--yes"])?.expect(4);
    both_say(&site, &refused, "gateway does not have the right `admin`", "right=\"admin\"")?;

    // Of another authority.
    for end in ["pem", "key"] {
        let name = format!("stranger.{end}");
        std::fs::copy(other.dir.path().join(&name), site.dir.path().join(&name))?;
    }
    let refused = remote(&site, "stranger", &offsets)?.expect(4);
    both_say(
        &site,
        &refused,
        "authority",
        "not issued by a certificate authority that is trusted",
    )?;

    // Expired by the node's clock, and good again by one that is right.
    site.clock.set_ahead(48 * HOUR)?;
    let refused = remote(&site, "gateway", &offsets)?.expect(4);
    both_say(&site, &refused, "our certificate has expired", "it expired on")?;
    site.clock.set_ahead(0)?;
    remote(&site, "gateway", &offsets)?.expect(0);

    // The node's certificate, expired by the client's clock.
    let ahead = WallClock::new(config.path())?;
    ahead.set_ahead(40 * YEAR)?;
    let refused = run(&ahead, &with_files(&site, "gateway", &offsets)?)?.expect(4);
    both_say(&site, &refused, "it expired on", "expired")?;
    remote(&site, "gateway", &offsets)?.expect(0);
    Ok(())
}

/// The command's error and what the node logs contain these words.
fn both_say(site: &Site, refused: &Ran, client: &str, node: &str) -> Result<()> {
    assert!(refused.stderr.contains(client), "{}: {}", refused.line, refused.stderr);
    site.wait_until(node, |site| site.node.log().contains(node))
}

/// The command as on another machine, with the authority's certificate and those of `who`.
fn with_files(site: &Site, who: &str, arguments: &[&str]) -> Result<Vec<String>> {
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path in UTF-8");
    let mut all: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    all.extend(["--server".to_owned(), site.node.address().to_string()]);
    let file = |name: String| text(&site.dir.path().join(name));
    for (flag, value) in [
        ("--ca", text(&site.node.ca())?),
        ("--cert", file(format!("{who}.pem"))?),
        ("--key", file(format!("{who}.key"))?),
    ] {
        all.extend([flag.to_owned(), value]);
    }
    Ok(all)
}

fn remote(site: &Site, who: &str, arguments: &[&str]) -> Result<Ran> {
    let all = with_files(site, who, arguments)?;
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    Ok(weir_tests::node_process::weir(&all))
}

/// Runs `weir` by another clock.
fn run(clock: &WallClock, arguments: &[impl AsRef<str>]) -> Result<Ran> {
    let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
    let output = weir_command().args(&arguments).envs(clock.environment()).output()?;
    Ok(Ran::new(&arguments, &output))
}
