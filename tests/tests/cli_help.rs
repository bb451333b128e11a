//! Every command of the program: it has help with examples and exit codes, and prints JSON if it
//! prints data. The list of commands is the program's own, so a new one cannot be forgotten.

use anyhow::{Context, Result};
use std::collections::BTreeSet;
use weir_tests::guests::example;
use weir_tests::node_process::{NodeProcess, Ran, weir};

/// What a command is told to show that `--json` gives JSON.
enum Shown {
    /// These arguments, with a node.
    By(&'static [&'static str]),
    /// Not here: measuring takes minutes; a demo and deployments have tests of their own.
    Elsewhere,
    /// It prints no data: what it prints is for a shell.
    Script,
}

/// Every command that does something.
const COMMANDS: &[(&str, Shown)] = &[
    ("node", Shown::By(&["--print-config"])),
    ("topic create", Shown::By(&["made"])),
    ("topic list", Shown::By(&[])),
    ("topic describe", Shown::By(&["readings"])),
    ("topic alter", Shown::By(&["readings", "--retention=1d"])),
    ("topic reassign", Shown::Elsewhere),
    ("topic delete", Shown::By(&["doomed", "--yes"])),
    ("topic trim", Shown::By(&["readings", "--before=1", "--partition=0"])),
    ("cluster status", Shown::Elsewhere),
    ("cluster drain", Shown::Elsewhere),
    ("cluster rebalance", Shown::Elsewhere),
    ("cluster add", Shown::Elsewhere),
    ("cluster remove", Shown::Elsewhere),
    ("cluster token", Shown::Elsewhere),
    ("produce", Shown::By(&["readings", "LINES"])),
    ("consume", Shown::By(&["readings", "--from=earliest", "--until-end"])),
    ("collect host", Shown::By(&["--for=1s", "--every=1s"])),
    ("collect nmea", Shown::By(&["NMEA"])),
    ("collect lines", Shown::By(&["LINES", "--topic=log"])),
    ("collect csv", Shown::By(&["CSV", "--topic=rows"])),
    ("group list", Shown::By(&[])),
    ("group describe", Shown::By(&["dashboard"])),
    ("group reset", Shown::By(&["dashboard", "--to=earliest"])),
    ("group delete", Shown::By(&["doomed"])),
    ("module new", Shown::By(&["filter", "kept", "--dir=PROJECT"])),
    ("module build", Shown::Elsewhere),
    ("module test", Shown::By(&["MODULE", "--input=LINES", "--param=text=o"])),
    ("module inspect", Shown::By(&["MODULE"])),
    ("module push", Shown::By(&["MODULE", "--name=kept", "--version=1.0.0"])),
    ("module replay", Shown::Elsewhere),
    ("module list", Shown::By(&[])),
    ("module delete", Shown::By(&["kept@1.0.0"])),
    ("transform create", Shown::Elsewhere),
    ("transform list", Shown::By(&[])),
    ("transform describe", Shown::Elsewhere),
    ("transform pause", Shown::Elsewhere),
    ("transform resume", Shown::Elsewhere),
    ("transform replace", Shown::Elsewhere),
    ("transform rollback", Shown::Elsewhere),
    ("transform delete", Shown::Elsewhere),
    ("transform logs", Shown::Elsewhere),
    ("consumer create", Shown::Elsewhere),
    ("consumer list", Shown::By(&[])),
    ("consumer describe", Shown::Elsewhere),
    ("consumer pause", Shown::Elsewhere),
    ("consumer resume", Shown::Elsewhere),
    ("consumer replace", Shown::Elsewhere),
    ("consumer rollback", Shown::Elsewhere),
    ("consumer delete", Shown::Elsewhere),
    ("consumer logs", Shown::Elsewhere),
    ("dead-letter list", Shown::By(&[])),
    ("dead-letter show", Shown::Elsewhere),
    ("dead-letter replay", Shown::Elsewhere),
    ("status", Shown::By(&[])),
    ("demo", Shown::Elsewhere),
    ("bench produce", Shown::Elsewhere),
    ("bench consume", Shown::Elsewhere),
    ("bench e2e", Shown::Elsewhere),
    ("bench disk", Shown::Elsewhere),
    ("bench sweep", Shown::Elsewhere),
    ("bench steady", Shown::Elsewhere),
    ("bench wear", Shown::Elsewhere),
    ("bench idle", Shown::Elsewhere),
    ("bench replicas", Shown::Elsewhere),
    ("bench all", Shown::Elsewhere),
    ("cert client", Shown::By(&["gateway", "--out=OUT"])),
    ("cert node", Shown::By(&["edge-2", "--out=OUT"])),
    ("cert show", Shown::By(&["OUT/gateway.pem"])),
    ("cert ca", Shown::By(&[])),
    ("repair", Shown::Elsewhere),
    ("completions", Shown::Script),
];

/// All commands that have no commands of their own, as `--help` lists them.
fn leaves(path: &str) -> Vec<(String, String)> {
    let words: Vec<&str> = path.split_whitespace().chain(["--help"]).collect();
    let help = weir(&words).expect(0).stdout;
    let Some((_, listed)) = help.split_once("\nCommands:\n") else {
        return vec![(path.to_owned(), help)];
    };
    let names = listed.lines().take_while(|line| !line.is_empty());
    let names = names.filter_map(|line| line.split_whitespace().next());
    let paths = names.filter(|name| *name != "help").map(|name| format!("{path} {name}"));
    paths.flat_map(|path| leaves(path.trim())).collect()
}

/// Goal: every command's help has examples, its exit codes and `--json`, and every command is in
/// the table above.
#[test]
fn help() {
    let leaves = leaves("");
    let named: BTreeSet<&str> = leaves.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(named, COMMANDS.iter().map(|(path, _)| *path).collect(), "commands and the table");
    for (path, help) in &leaves {
        for part in ["\nExamples:\n", "\nExit codes:\n", "  --json\n"] {
            assert!(help.contains(part), "`weir {path} --help` lacks {part:?}:\n{help}");
        }
    }
}

/// Goal: whatever prints data prints JSON when asked, one value or one a line, and nothing else.
#[test]
fn json() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let node = NodeProcess::start(dir.path())?;
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    std::fs::write(path("lines"), "one\ntwo\nthree\n")?;
    std::fs::write(path("rows.csv"), "time,a\n2024-02-29T12:00:00Z,1\n")?;
    let rmc = "$GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W*6A\r\n";
    std::fs::write(path("drive.nmea"), rmc)?;
    for topic in ["readings", "doomed"] {
        node.weir(&["topic", "create", topic]).expect(0);
    }
    node.weir(&["produce", "readings", &path("lines")]).expect(0);
    for group in ["dashboard", "doomed"] {
        node.weir(&["group", "reset", group, "--topic=readings", "--to=latest"]).expect(0);
    }
    let files = [
        ("LINES", path("lines")),
        ("NMEA", path("drive.nmea")),
        ("CSV", path("rows.csv")),
        ("OUT", path("certificates")),
        ("MODULE", example("text_filter")),
        ("PROJECT", path("project")),
    ];
    let mut shown = 0;
    for (command, how) in COMMANDS {
        let Shown::By(arguments) = how else { continue };
        let filled = arguments.iter().map(|argument| {
            files.iter().fold((*argument).to_owned(), |text, (name, path)| text.replace(name, path))
        });
        let words = command.split_whitespace().map(str::to_owned);
        let all: Vec<String> = words.chain(filled).chain(["--json".to_owned()]).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        check(&node.weir(&all).expect(0)).with_context(|| (*command).to_owned())?;
        shown += 1;
    }
    assert!(shown > 20, "{shown}");
    Ok(())
}

fn check(ran: &Ran) -> Result<()> {
    anyhow::ensure!(!ran.stdout.trim().is_empty(), "{}: it prints nothing", ran.line);
    for line in ran.stdout.lines() {
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(line);
        parsed.with_context(|| format!("{}: {line}", ran.line))?;
    }
    Ok(())
}
