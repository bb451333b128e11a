//! The project's everyday verbs. `cargo xtask help` lists them.
//!
//! Everything here runs on a machine that has Rust and a C compiler: what other tools would do is
//! done in plain code, or left out where a tool is absent, and said so.

mod archive;
mod dist;
mod golden;
mod guests;
mod javascript;
mod policy;
mod process;
mod sha256;
mod test;
mod tidy;
mod verbs;
mod workspace;

use anyhow::{Result, bail};
use std::process::ExitCode;

const HELP: &str = "\
The project's everyday verbs.

Usage: cargo xtask VERB [OPTIONS]

  test [--keep-going] [--list] [STEP..]
                              everything CI runs, or only the steps named; stops at the first
                              failure unless told to keep going
  tidy [--bless [--format-unchanged]]
                              the style and the documents are checked by code; --bless records
                              what may be recorded: shorter files, formats whose document changed
  licences                    licences, bans and sources of all dependencies, against deny.toml
  guests [--install]          build the modules of guest-examples/ to target/guests/; --install
                              fetches a compiler for WebAssembly where there is none
  fuzz [TARGET] [--seconds N] [--seed N] [--iterations N] [--list]
                              mutate inputs of one decoder, or of all of them in turn (60 s)
  endure [--minutes N] [--seed N]
                              real nodes under kills and bad links, round after round (60 min)
  bench [NAME]                micro benches of the codec and the log
  dist [--check] [--debug]    a static binary in a tarball with unit file, configuration and
                              install script; --check also installs it to a scratch folder
  golden frames|data VERSION  write golden files of a new version folder, such as v2
  help                        this text
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nxtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    let Some((verb, rest)) = args.split_first() else {
        print!("{HELP}");
        return Ok(());
    };
    match verb.as_str() {
        "test" => test::run(rest),
        "tidy" => tidy::run(rest),
        "licences" | "licenses" => policy::run(rest),
        "guests" => guests::run(rest),
        "fuzz" => verbs::fuzz(rest),
        "endure" => verbs::endure(rest),
        "bench" => verbs::bench(rest),
        "dist" => dist::run(rest),
        "golden" => golden::run(rest),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        other => bail!("unknown verb {other:?}: `cargo xtask help` lists them"),
    }
}
