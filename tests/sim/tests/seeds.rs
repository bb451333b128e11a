//! The simulator as a test: a fixed number of seeds holds all invariants, a seed gives the same run
//! every time, and each checker sees what it is for.

use weir_sim::checks::Coverage;
use weir_sim::{Mutation, Outcome, checks, run};

/// Runs seeds, and names the first that breaks an invariant. What must occur for the invariants to
/// mean something did occur: acknowledgements, elections, logs that were cut or begun anew; entries
/// of lanes, input read elsewhere, parts delivered, outboxes trimmed, snapshots with keyed state,
/// batches that did not fit what their leader knew.
fn hold(seeds: std::ops::Range<u64>) {
    let mut occurred = [0; 10];
    for seed in seeds {
        let Outcome { violations, acknowledged, elections, cuts, coverage, .. } =
            run(seed, Mutation::None);
        assert!(
            violations.is_empty(),
            "seed {seed}: {violations:#?}\ncargo run -p weir-sim -- --seeds 1 --from {seed}"
        );
        let Coverage { runs, read_away, parts, outbox_trims, snapshots, doubts, .. } = coverage;
        let of_clients = [runs, read_away, parts, outbox_trims, snapshots, doubts];
        let mut more = [acknowledged, elections, cuts.0, cuts.1, 0, 0, 0, 0, 0, 0];
        more[4..].copy_from_slice(&of_clients);
        occurred = std::array::from_fn(|n| occurred[n] + more[n]);
    }
    let least = [15_000, 150, 20, 5, 1_000, 1_000, 1_000, 10, 3, 10];
    assert!((0..10).all(|n| occurred[n] >= least[n]), "{occurred:?}");
}

/// Goal: every invariant holds under every mix of faults; and something happened in those runs.
/// (In three parts, so that they share the machine's cores.)
#[test]
fn invariants_hold() {
    hold(1..31);
}

/// See above.
#[test]
fn invariants_hold_in_other_runs() {
    hold(31..61);
}

/// See above.
#[test]
fn invariants_hold_in_further_runs() {
    hold(61..91);
}

/// Goal: the same seed gives the same run, event for event; another gives another.
#[test]
fn runs_can_be_repeated() {
    for seed in [3, 7, 11] {
        assert_eq!(run(seed, Mutation::None).trace, run(seed, Mutation::None).trace);
    }
    assert_ne!(run(3, Mutation::None).trace, run(4, Mutation::None).trace);
}

/// Breaks the world in one way, and wants one of a few seeds to be seen by `checker`.
fn is_seen(mutation: Mutation, checker: &str) {
    let sees = |seed| run(seed, mutation).violations.iter().any(|v| v.checker == checker);
    assert!((1..81).any(sees), "{checker} is blind to {mutation:?}");
}

/// Goal: a disk that says "synced" too early loses acknowledged records, and that is seen.
#[test]
fn lost_acknowledgements_are_seen() {
    is_seen(Mutation::LyingDisk, checks::acked::NAME);
}

/// Goal: an acknowledgement that a member of the in-sync set does not hold yet is seen.
#[test]
fn members_that_lack_something_are_seen() {
    is_seen(Mutation::EarlyReport, checks::insync::NAME);
}

/// Goal: two leaders in one epoch are seen.
#[test]
fn two_leaders_are_seen() {
    is_seen(Mutation::TwoLeaders, checks::one_leader::NAME);
}

/// Goal: a follower that holds something else than its leader is seen.
#[test]
fn different_logs_are_seen() {
    is_seen(Mutation::Rot, checks::logs_equal::NAME);
}

/// Goal: an (epoch, offset) that names two entries is seen: a node goes on in the epoch of the life
/// before its crash.
#[test]
fn reused_names_are_seen() {
    is_seen(Mutation::SameLife, checks::dense::NAME);
}

/// Goal: a watermark that goes back is seen.
#[test]
fn a_watermark_that_goes_back_is_seen() {
    is_seen(Mutation::EagerWatermark, checks::watermark::NAME);
}

/// Goal: a batch that is stored twice is seen.
#[test]
fn doubled_sequences_are_seen() {
    is_seen(Mutation::ForgetSequences, checks::sequences::NAME);
}

/// Goal: a refusal by a node that leads no longer is seen: the producer begins anew, and what was
/// stored is stored again.
#[test]
fn refusals_of_deposed_leaders_are_seen() {
    is_seen(Mutation::StaleRefusal, checks::sequences::NAME);
}

/// Goal: two owners of a group's partition are seen.
#[test]
fn two_owners_are_seen() {
    is_seen(Mutation::TwoOwners, checks::group_owner::NAME);
}

/// Goal: a position that goes back is seen.
#[test]
fn a_position_that_goes_back_is_seen() {
    is_seen(Mutation::PositionBack, checks::positions::NAME);
}

/// Goal: a lane that computes again what was committed is seen: its node leads once more and still
/// takes for stored what was so when it led before.
#[test]
fn input_that_is_read_twice_is_seen() {
    is_seen(Mutation::StaleState, checks::transforms::NAME);
}

/// Goal: an output that is delivered twice is seen.
#[test]
fn doubled_outputs_are_seen() {
    is_seen(Mutation::ForgetMarks, checks::transforms::NAME);
}

/// Goal: an output that is passed over is seen.
#[test]
fn missing_outputs_are_seen() {
    is_seen(Mutation::Overtaking, checks::transforms::NAME);
}

/// Goal: state that is not that of the input is seen: a replica that begins anew, without what its
/// leader's log said of the past, comes to lead.
#[test]
fn lost_state_is_seen() {
    is_seen(Mutation::NoSnapshot, checks::transforms::NAME);
}

/// Goal: a lane's position that goes back is seen.
#[test]
fn a_lane_that_goes_back_is_seen() {
    is_seen(Mutation::LaneBack, checks::lane_positions::NAME);
}

/// Goal: a cluster that does not recover is seen.
#[test]
fn a_cluster_that_does_not_recover_is_seen() {
    is_seen(Mutation::DeafFollower, checks::converge::NAME);
}
