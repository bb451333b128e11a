//! Every decoder under a bounded number of mutated inputs, the same ones in every run; and every
//! input that ever failed. `cargo xtask fuzz` goes on from here with other inputs.

use weir_fuzz::driver::{self, Plan};
use weir_fuzz::{Target, hex, targets};

const SEED: u64 = 1;

fn run_bounded(targets: &[Target], iterations: u64) {
    for target in targets {
        let plan = Plan { seed: SEED, first: 0, iterations, time: None };
        let report = driver::run(target, &plan).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(report.iterations, iterations);
        // A target that accepts nothing tests one error path; seeds or repair are wrong then.
        assert!(report.accepted * 200 > iterations, "{}: {report:?}", target.name);
        println!("{}: {report:?}", target.name);
    }
}

fn chosen(collect: bool) -> Vec<Target> {
    let text = ["nmea", "csv", "lines", "syslog", "time"];
    targets::all().into_iter().filter(|target| text.contains(&target.name) == collect).collect()
}

/// Goal: no input breaks a decoder of the wire or of the disk.
#[test]
fn formats() {
    run_bounded(&chosen(false), 15_000);
}

/// Goal: no input breaks a parser of text from devices and logs.
#[test]
fn text() {
    let targets = chosen(true);
    assert_eq!(targets.len(), weir_collect::fuzz_targets::TARGETS.len(), "one is not fuzzed");
    run_bounded(&targets, 6_000);
}

/// Goal: every seed is taken by its decoder as it is, so that mutation begins at valid input.
#[test]
fn seeds_are_valid() {
    for target in targets::all() {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} has no seed", target.name);
        for (n, seed) in seeds.iter().enumerate() {
            let (verdict, _) = driver::check(&target, seed)
                .unwrap_or_else(|reason| panic!("{} seed {n}: {reason}", target.name));
            let empty = seed.is_empty();
            assert!(empty || verdict == weir_fuzz::Verdict::Accepted, "{} {n}", target.name);
        }
    }
}

/// Goal: what failed once does not fail again. Method: `regressions/TARGET/NAME.hex`.
#[test]
fn regressions() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let mut inputs = 0;
    for target_folder in std::fs::read_dir(folder).unwrap() {
        let target_folder = target_folder.unwrap().path();
        let name = target_folder.file_name().unwrap().to_str().unwrap().to_owned();
        let target = targets::named(&name).unwrap_or_else(|| panic!("no target {name:?}"));
        for file in std::fs::read_dir(&target_folder).unwrap() {
            let file = file.unwrap().path();
            let input = hex::decode(&std::fs::read_to_string(&file).unwrap()).unwrap();
            if let Err(reason) = driver::check(&target, &input) {
                panic!("{}: {reason}", file.display());
            }
            inputs += 1;
        }
    }
    assert!(inputs >= 4, "{inputs} regressions: some were lost");
}
