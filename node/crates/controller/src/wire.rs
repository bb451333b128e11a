//! Messages between controllers: CBOR, one request and one answer. Whatever arrives is checked here
//! before openraft sees it, since it takes order and continuity for granted.

use crate::raft::{Entry, LogId, SnapshotMeta, Types, Vote, node};
use bytes::Bytes;
use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use weir_core::cluster::members::Members;
use weir_core::controller::{Command, Done, Refused};
use weir_core::ids::{Incarnation, NodeId};
use weir_core::limits;

/// What one controller asks of another.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Entries, or none of them: the leading controller is there.
    Append(AppendEntriesRequest<Types>),
    /// A vote.
    Vote(VoteRequest<u64>),
    /// A part of a snapshot, in order.
    Snapshot(SnapshotPart),
    /// A command to decide, at the leading controller.
    Submit(Command),
    /// What the other holds. Changes nothing.
    Probe {},
    /// The sender is a member by this list, which is newer than the one that the other has.
    Introduce {
        /// The list, without tokens.
        members: Members,
    },
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Request::Append`].
    Append {
        /// What became of the entries.
        answer: AppendEntriesResponse<u64>,
        /// The life of the node that answers, if it has registered: this is its heartbeat.
        life: Option<Incarnation>,
    },
    /// To [`Request::Vote`].
    Vote(VoteResponse<u64>),
    /// To [`Request::Snapshot`].
    Snapshot {
        /// The newest vote that it knows.
        vote: Vote,
        /// Where the next part must begin; the whole length once it is installed.
        next: u64,
    },
    /// To [`Request::Submit`].
    Submit(Submitted),
    /// To [`Request::Probe`].
    Probe(Holds),
    /// To [`Request::Introduce`].
    Introduced {
        /// The version of the list that it knows now.
        version: u64,
    },
    /// It was not done, and had no effect.
    Error(PeerError),
}

/// What became of a command at the leading controller.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Submitted {
    /// It was decided, by the entry at this index; 0 if it was refused before it became one.
    Decided {
        /// How.
        result: Result<Done, Refused>,
        /// Where.
        index: u64,
    },
    /// Another leads, or nobody; nothing was done.
    NotLeader,
    /// Nothing was done.
    Unavailable {
        /// Why.
        reason: String,
    },
    /// It may have been done.
    Unknown {
        /// Why that is not known.
        reason: String,
    },
}

/// What a controller holds on its disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holds {
    /// Whether its disk may speak for the node.
    pub joined: bool,
    /// The newest vote that it knows.
    pub vote: Vote,
    /// Its newest entry.
    pub last: Option<LogId>,
    /// The nodes of the site, as it was told.
    pub members: Vec<NodeId>,
}

/// A part of a snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SnapshotPart {
    /// The vote of who sends it.
    pub vote: Vote,
    /// What it is of.
    pub meta: SnapshotMeta,
    /// Where this part begins, in bytes.
    pub at: u64,
    /// Whether it is the last.
    pub done: bool,
    /// Its bytes.
    pub data: Bytes,
}

/// Why a request had no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerError {
    /// It is not a member by this list.
    #[error(
        "its list of members, version {version}, is without this node: it was never added (`weir \
         cluster add`), or removed"
    )]
    Stranger {
        /// The version of the list; 0: as configured.
        version: u64,
    },
    /// Too long.
    #[error("a message of {bytes} bytes; the most is {max}")]
    TooLarge {
        /// How long.
        bytes: usize,
        /// The most.
        max: usize,
    },
    /// Not a message that this version knows, or one that contradicts itself.
    #[error("not a message that this version of weir takes: {0}")]
    Malformed(String),
    /// A disk that may have forgotten votes does not give any.
    #[error("its disk was empty, and what the others hold does not yet say that it may vote")]
    Withheld,
    /// Too much is under way.
    #[error("too many commands wait to be decided")]
    Busy,
    /// It is about to stop, or its engine did.
    #[error("its controller is stopped")]
    Stopped,
}

/// A message as bytes.
pub fn encode<T: Serialize>(message: &T) -> Bytes {
    crate::store::encode(message).into()
}

/// A message of bytes that anybody may have sent.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, PeerError> {
    let max = limits::CONTROLLER_MESSAGE_BYTES_MAX;
    if bytes.len() > max {
        return Err(PeerError::TooLarge { bytes: bytes.len(), max });
    }
    let malformed = |error: String| PeerError::Malformed(error);
    let mut rest = bytes;
    let message =
        ciborium::from_reader(&mut rest).map_err(|error| malformed(format!("{error}")))?;
    match rest.is_empty() {
        true => Ok(message),
        false => Err(malformed("something follows the message".to_owned())),
    }
}

/// Checks entries that `from` sends as the leading controller: that the vote is its own and was
/// won, that entries follow each other and what is before them, and that voters can be nodes.
pub fn check_append(from: NodeId, request: &AppendEntriesRequest<Types>) -> Result<(), PeerError> {
    check_leader(from, &request.vote)?;
    let mut before = request.prev_log_id;
    let ids = before.iter().chain(&request.leader_commit);
    if ids.into_iter().any(|id| id.leader_id > request.vote.leader_id) {
        return malformed("entries of a later vote than the sender's");
    }
    for entry in &request.entries {
        let follows = match before {
            Some(before) => {
                Some(entry.log_id.index) == before.index.checked_add(1)
                    && entry.log_id.leader_id >= before.leader_id
            }
            None => entry.log_id.index == 0,
        };
        if !follows || entry.log_id.leader_id > request.vote.leader_id {
            return malformed("entries that do not follow each other");
        }
        check_entry(entry)?;
        before = Some(entry.log_id);
    }
    Ok(())
}

/// Checks that no entry takes the place of one that is committed: nobody can have elected a
/// controller that holds another one there.
pub fn check_committed(
    committed: Option<LogId>,
    request: &AppendEntriesRequest<Types>,
) -> Result<(), PeerError> {
    let Some(committed) = committed else { return Ok(()) };
    let sent = request.entries.iter().map(|entry| entry.log_id).chain(request.prev_log_id);
    match sent.into_iter().all(|id| id.index > committed.index || id <= committed) {
        true => Ok(()),
        false => malformed("other entries than those that are committed"),
    }
}

fn check_entry(entry: &Entry) -> Result<(), PeerError> {
    match &entry.payload {
        EntryPayload::Membership(membership) => check_membership(membership),
        _ => Ok(()),
    }
}

/// Checks that there are voters, not too many, and that they can be nodes.
pub fn check_membership(
    membership: &openraft::Membership<u64, openraft::EmptyNode>,
) -> Result<(), PeerError> {
    let configs = membership.get_joint_config();
    let can_be = |id: &u64| node(*id).is_some_and(|id| id.0 > 0);
    let few = |config: &BTreeSet<u64>| (1..=limits::CONTROLLERS_MAX).contains(&config.len());
    let sound = configs.iter().all(|config| few(config) && config.iter().all(can_be));
    match sound && (1..=2).contains(&configs.len()) {
        true => Ok(()),
        false => malformed("voters that no site can have"),
    }
}

/// Checks that a vote is `from`'s own and was won.
pub fn check_leader(from: NodeId, vote: &Vote) -> Result<(), PeerError> {
    match vote.committed && node(vote.leader_id.node_id) == Some(from) {
        true => Ok(()),
        false => malformed("it does not lead by the vote that it shows"),
    }
}

/// Checks that `from` asks for a vote for itself.
pub fn check_vote(from: NodeId, request: &VoteRequest<u64>) -> Result<(), PeerError> {
    let vote = &request.vote;
    match !vote.committed && vote.leader_id.term > 0 && node(vote.leader_id.node_id) == Some(from) {
        true => Ok(()),
        false => malformed("it asks for a vote that is not for itself"),
    }
}

fn malformed<T>(what: &str) -> Result<T, PeerError> {
    Err(PeerError::Malformed(what.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::{EmptyNode, LeaderId, Membership};
    use std::collections::BTreeMap;

    const FROM: NodeId = NodeId(1);

    fn id(term: u64, index: u64) -> LogId {
        LogId::new(LeaderId::new(term, 1), index)
    }

    fn blank(term: u64, index: u64) -> Entry {
        Entry { log_id: id(term, index), payload: EntryPayload::Blank }
    }

    fn voters(index: u64, ids: &[u64]) -> Entry {
        let nodes: BTreeMap<u64, EmptyNode> = ids.iter().map(|&id| (id, EmptyNode {})).collect();
        let configs = vec![ids.iter().copied().collect::<BTreeSet<_>>()];
        let payload = EntryPayload::Membership(Membership::new(configs, nodes));
        Entry { log_id: id(5, index), payload }
    }

    fn append(prev: Option<LogId>, entries: Vec<Entry>) -> AppendEntriesRequest<Types> {
        let vote = Vote::new_committed(5, 1);
        AppendEntriesRequest { vote, prev_log_id: prev, entries, leader_commit: None }
    }

    /// Goal: what openraft takes for granted of entries is checked: who sends them, their order,
    /// and whom they make voters.
    #[test]
    fn entries_are_checked() {
        let check = |request| check_append(FROM, &request).is_ok();
        assert!(check(append(None, vec![])));
        assert!(check(append(None, vec![blank(1, 0), blank(5, 1)])));
        assert!(check(append(Some(id(4, 7)), vec![blank(4, 8), voters(9, &[1, 2])])));
        for wrong in [
            append(None, vec![blank(5, 1)]),
            append(Some(id(4, 7)), vec![blank(4, 9)]),
            append(Some(id(4, 7)), vec![blank(4, 8), blank(4, 8)]),
            append(Some(id(4, 7)), vec![blank(3, 8)]),
            append(Some(id(4, 7)), vec![blank(6, 8)]),
            append(Some(id(4, u64::MAX)), vec![blank(4, 0)]),
            append(Some(id(4, 7)), vec![voters(8, &[1, 2, 3, 4, 5, 6])]),
            append(Some(id(4, 7)), vec![voters(8, &[0, 1])]),
            append(Some(id(4, 7)), vec![voters(8, &[1, u64::MAX])]),
            append(Some(id(4, 7)), vec![voters(8, &[])]),
        ] {
            assert!(!check(wrong));
        }
        let other =
            AppendEntriesRequest { vote: Vote::new_committed(5, 2), ..append(None, vec![]) };
        assert!(!check(other), "another leads by this vote");
        let asked = AppendEntriesRequest { vote: Vote::new(5, 1), ..append(None, vec![]) };
        assert!(!check(asked), "it was not won");
    }

    /// Goal: a node asks for votes for itself alone, and shows none that it has won.
    #[test]
    fn votes_are_checked() {
        let check = |vote| check_vote(FROM, &VoteRequest::new(vote, None)).is_ok();
        assert!(check(Vote::new(1, 1)));
        for wrong in [Vote::new(1, 2), Vote::new_committed(1, 1), Vote::new(0, 1)] {
            assert!(!check(wrong), "{wrong}");
        }
        assert!(!check(Vote::new(1, u64::from(u32::MAX) + 2)), "no node has such a number");
    }

    /// Goal: a message is one whole CBOR item of a known kind.
    #[test]
    fn decoding() {
        let probe = encode(&Request::Probe {});
        assert!(matches!(decode::<Request>(&probe), Ok(Request::Probe {})));
        let mut longer = probe.to_vec();
        longer.push(0);
        assert!(matches!(decode::<Request>(&longer), Err(PeerError::Malformed(_))));
        let unknown = b"\xa1\x65dance\xa0";
        assert!(matches!(decode::<Request>(unknown), Err(PeerError::Malformed(_))));
        let deep = vec![0x81; 4_096];
        assert!(matches!(decode::<Request>(&deep), Err(PeerError::Malformed(_))));
    }
}
