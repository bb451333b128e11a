//! Going back to a snapshot of a deployment's state, on the command line.

use crate::exit::{CommandResult, Exit, Failure};
use crate::output::Table;
use std::io::{BufRead, IsTerminal, Write};
use std::str::FromStr;
use weir_core::wire::deployments::{DeploymentInfo, LaneInfo};
use weir_core::{Offset, PartitionIndex};

/// What goes back to a snapshot.
#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    /// Put state and position back to a snapshot that `describe` shows, and read the input again
    /// from there, so outputs behind it are made again: OFFSET of a deployment with one partition,
    /// PARTITION:OFFSET (may be given several times), or `newest` of each partition
    #[arg(long, value_name = "WHERE")]
    restore_state: Vec<Snapshot>,
    /// Do not ask before outputs are made again; needed where nobody can be asked
    #[arg(long, short)]
    yes: bool,
}

/// Which snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snapshot {
    /// That at this offset.
    At(Offset),
    /// That of a partition at this offset.
    Of(PartitionIndex, Offset),
    /// The newest of each partition.
    Newest,
}

impl FromStr for Snapshot {
    type Err = String;

    fn from_str(text: &str) -> Result<Snapshot, String> {
        let wrong = || format!("`{text}` is not OFFSET, PARTITION:OFFSET or newest");
        let offset = |text: &str| text.parse::<u32>().map(i64::from).or_else(|_| text.parse());
        let offset = |text: &str| match offset(text) {
            Ok(offset) if offset >= 0 => Ok(Offset(offset)),
            _ => Err(wrong()),
        };
        match text.split_once(':') {
            None if text == "newest" => Ok(Snapshot::Newest),
            None => Ok(Snapshot::At(offset(text)?)),
            Some((partition, at)) => {
                let partition = partition.parse().map_err(|_| wrong())?;
                Ok(Snapshot::Of(PartitionIndex(partition), offset(at)?))
            }
        }
    }
}

impl RestoreArgs {
    /// Partitions and offsets, none where none was asked for, once a person or `--yes` has agreed
    /// that outputs are made again.
    ///
    /// # Errors
    /// What was asked for makes no sense for this deployment, or nobody agreed.
    pub fn agreed(&self, info: &DeploymentInfo) -> Result<Vec<(PartitionIndex, Offset)>, Failure> {
        if self.restore_state.is_empty() {
            return Ok(Vec::new());
        }
        let chosen = self.chosen(&info.partitions)?;
        if !self.yes {
            if !std::io::stdin().is_terminal() {
                let what = "nothing was restored: nobody can be asked whether outputs may be made \
                            again";
                return Err(Failure::usage(what).next("in a script, say --yes"));
            }
            confirm(&chosen, &info.partitions)?;
        }
        Ok(chosen)
    }

    fn chosen(&self, lanes: &[LaneInfo]) -> Result<Vec<(PartitionIndex, Offset)>, Failure> {
        let mut chosen = Vec::new();
        for wanted in &self.restore_state {
            match *wanted {
                Snapshot::Of(partition, offset) => chosen.push((partition, offset)),
                Snapshot::At(offset) if lanes.len() == 1 => {
                    chosen.push((PartitionIndex(0), offset));
                }
                Snapshot::At(_) => {
                    let what = format!(
                        "the deployment has {} partitions, each with snapshots of its own",
                        lanes.len()
                    );
                    let next = "say PARTITION:OFFSET for each, or newest";
                    return Err(Failure::usage(what).next(next));
                }
                Snapshot::Newest => chosen.extend(
                    lanes
                        .iter()
                        .filter_map(|lane| Some((lane.partition, lane.snapshots.last()?.offset))),
                ),
            }
        }
        match chosen.is_empty() {
            false => Ok(chosen),
            true => Err(Failure::new(Exit::Refused, "the deployment has no snapshots")),
        }
    }
}

fn confirm(chosen: &[(PartitionIndex, Offset)], lanes: &[LaneInfo]) -> CommandResult {
    let mut question = String::new();
    for (partition, offset) in chosen {
        let lane = lanes.iter().find(|lane| lane.partition == *partition);
        let position = lane.and_then(|lane| lane.position).unwrap_or(*offset);
        question += &format!("partition {partition}: from offset {position} back to {offset}\n");
    }
    question += "The input is read again from there, and its outputs are appended again. Go on? \
                 [y/N] ";
    let mut stderr = std::io::stderr();
    stderr.write_all(question.as_bytes())?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::new(Exit::Error, "nothing was restored")),
    }
}

/// The snapshots of all partitions, if there are any.
pub fn snapshots(lanes: &[LaneInfo]) -> Option<Table> {
    let mut table = Table::new(&[">PARTITION", ">SNAPSHOT AT", "LEFT BY", ">LAYOUT", ">KEYS"]);
    let mut any = false;
    for lane in lanes {
        for snapshot in &lane.snapshots {
            any = true;
            table.row([
                lane.partition.to_string(),
                snapshot.offset.to_string(),
                snapshot.module.clone(),
                snapshot.schema.to_string(),
                super::figures::thousands(snapshot.keys),
            ]);
        }
    }
    any.then_some(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_core::wire::deployments::LaneSnapshot;

    fn lane(partition: u32, offsets: &[i64]) -> LaneInfo {
        let snapshot = |offset: &i64| LaneSnapshot {
            offset: Offset(*offset),
            module: "m@1.0.0".into(),
            schema: 1,
            keys: 2,
        };
        let snapshots = offsets.iter().map(snapshot).collect();
        LaneInfo { partition: PartitionIndex(partition), snapshots, ..LaneInfo::default() }
    }

    /// Goal: each way to name a snapshot means what it says, and what is not clear is refused.
    #[test]
    fn which_snapshot() {
        let chosen = |wanted: &[&str], lanes: &[LaneInfo]| {
            let restore_state = wanted.iter().map(|text| text.parse().unwrap()).collect();
            let chosen = RestoreArgs { restore_state, yes: true }.chosen(lanes);
            chosen.map(|all| all.iter().map(|(p, o)| (p.0, o.0)).collect::<Vec<_>>())
        };
        let one = [lane(0, &[5, 9])];
        let two = [lane(0, &[5, 9]), lane(1, &[7])];
        assert_eq!(chosen(&["5"], &one).unwrap(), [(0, 5)]);
        assert_eq!(chosen(&["newest"], &two).unwrap(), [(0, 9), (1, 7)]);
        assert_eq!(chosen(&["1:7", "0:5"], &two).unwrap(), [(1, 7), (0, 5)]);
        assert_eq!(chosen(&["5"], &two).unwrap_err().exit, Exit::Usage);
        assert_eq!(chosen(&["newest"], &[lane(0, &[])]).unwrap_err().exit, Exit::Refused);
        for wrong in ["-1", "x", "1:", ":1", "1:2:3", ""] {
            assert!(wrong.parse::<Snapshot>().is_err(), "{wrong}");
        }
    }
}
