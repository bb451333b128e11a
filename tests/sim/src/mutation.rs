//! Ways to break the simulated world on purpose, each against one invariant: a checker that does
//! not see its own is no checker. The code under test is never changed, only what lies around it.

/// What is broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mutation {
    /// Nothing.
    #[default]
    None,
    /// Disks say "synced" before it is so, and lose that in a crash.
    LyingDisk,
    /// Followers report what is not synced yet.
    EarlyReport,
    /// A deposed leader is told that it leads, in its successor's epoch.
    TwoLeaders,
    /// Followers write something else than what they were sent.
    Rot,
    /// A node registers as the life that it was before a crash, and keeps its epochs.
    SameLife,
    /// Consumers are told the log end as the watermark.
    EagerWatermark,
    /// Leaders do not look at producers' numbers.
    ForgetSequences,
    /// A leader refuses batches for their numbers before it is certain that it leads.
    StaleRefusal,
    /// The coordinator tells members of others' partitions.
    TwoOwners,
    /// What is stored as a position is sometimes lower than what was committed.
    PositionBack,
    /// A node that comes to lead a lane's home keeps what it knew of the state.
    StaleState,
    /// What is stored as a lane's position is sometimes lower than what was read.
    LaneBack,
    /// Destinations of an outbox do not look at marks.
    ForgetMarks,
    /// A replica that begins anew gets no snapshot.
    NoSnapshot,
    /// A distributor does not wait for one part before it sends the next one there.
    Overtaking,
    /// One node never hears of its leader again.
    DeafFollower,
}
