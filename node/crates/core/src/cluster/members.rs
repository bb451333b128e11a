//! Who belongs to the cluster. The list in a node's configuration founds a cluster; from then on
//! this one counts, which changes by commands like everything else.
//!
//! | what must hold | where |
//! |---|---|
//! | a number is given once, also if its node was removed | `Members::last` |
//! | no two members have one name | `put` |
//! | the last copy of a partition that has everything is not removed | `Cluster::without` |
//! | a token lets one node in, within its time | `join` |
//!
//! Who votes is openraft's affair: the leading controller makes its voters those who are members.
//! Of two lists the one of the higher version counts.

use super::election;
use super::reassign;
use super::{Cluster, ClusterChange, ClusterError};
use crate::ids::{NodeId, TimestampMs};
use crate::limits;
use crate::partition::assignment::Assignment;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A member of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name, which its certificate holds.
    pub name: String,
    /// Where the others reach it: host and port.
    pub address: String,
    /// Whether it votes but holds no records, as far as it has said so.
    #[serde(default, skip_serializing_if = "super::is_false")]
    pub witness: bool,
}

/// The members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Raised with every change of the list; 0 before the cluster has decided on one.
    pub version: u64,
    /// The members.
    pub rows: BTreeMap<NodeId, Member>,
    /// The highest number that was ever given.
    pub last: NodeId,
    /// Who was removed last: they are reached until they vote no longer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub left: BTreeMap<NodeId, Member>,
    /// What lets new nodes in, by the tokens' ids.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tokens: BTreeMap<u64, Token>,
}

/// What is known of a token. Its secret is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// SHA-256 of its secret.
    pub hash: [u8; 32],
    /// When it ends, by the clocks of the nodes that are asked.
    pub expires_at: TimestampMs,
    /// Whether it lets in a witness.
    #[serde(default, skip_serializing_if = "super::is_false")]
    pub witness: bool,
    /// Who used it, and SHA-256 of that node's public key: it may ask again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<(NodeId, [u8; 32])>,
}

/// What is asked about members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MembersAsk {
    /// Begin with these.
    Found {
        /// As the configuration of whoever asks lists them.
        rows: BTreeMap<NodeId, Member>,
    },
    /// Add a member, or change the address or role of the one of this name.
    Put {
        /// Its name.
        name: String,
        /// Where the others reach it.
        address: String,
        /// Whether it is a witness; `None`: as it was, or else not.
        witness: Option<bool>,
    },
    /// Remove a member for good.
    Remove {
        /// Which.
        node: NodeId,
        /// Also if it is not drained, or has copies, as long as others have everything.
        force: bool,
    },
    /// A token may be used from now on.
    Token {
        /// Its id.
        id: u64,
        /// SHA-256 of its secret.
        hash: [u8; 32],
        /// When it was asked, by the clock of the node that was asked.
        now: TimestampMs,
        /// When it ends.
        expires_at: TimestampMs,
        /// Whether it lets in a witness.
        witness: bool,
    },
    /// A new node wants to be let in.
    Join {
        /// The token's id.
        token: u64,
        /// SHA-256 of the secret that came.
        hash: [u8; 32],
        /// SHA-256 of the node's public key.
        key: [u8; 32],
        /// When it was asked, by the clock of the node that was asked.
        now: TimestampMs,
        /// The new node's name.
        name: String,
        /// Where the others reach it.
        address: String,
    },
}

/// Why an ask about members is refused. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MembersError {
    /// The cluster has its members.
    #[error("the cluster was founded already")]
    Founded,
    /// There is no such member.
    #[error("node {0} is not a member of the cluster: it was removed, or never added")]
    Unknown(NodeId),
    /// As many as may be.
    #[error(
        "the cluster has {max} members already, which is the most; remove one first",
        max = limits::CONTROLLERS_MAX
    )]
    Full,
    /// A name or address that cannot be.
    #[error(
        "a member's name has 1 to {max} printable characters without spaces, and its address is \
         HOST:PORT", max = limits::NAME_BYTES_MAX
    )]
    Malformed,
    /// The name is another member's.
    #[error("node {0} has that name: choose another one, or remove that node first")]
    Name(NodeId),
    /// The address is another member's.
    #[error("node {0} has that address")]
    Address(NodeId),
    /// Nobody would be left.
    #[error("node {0} is the last member")]
    Last(NodeId),
    /// It is in use.
    #[error("node {0} is in use: drain it first (`weir cluster drain {0}`)")]
    InUse(NodeId),
    /// It has copies that no other node can take.
    #[error(
        "node {node} still holds {copies} copies: wait until it is drained; if there are too few \
         other nodes for them, --force gives them up, and the next node that is added gets them"
    )]
    Holds {
        /// The node.
        node: NodeId,
        /// How many.
        copies: usize,
    },
    /// What it holds may be nowhere else.
    #[error(
        "node {node} is the last that has all of {partitions} partitions: bring it or its disk \
         back, or delete their topics; nothing was removed"
    )]
    LastCopy {
        /// The node.
        node: NodeId,
        /// How many.
        partitions: usize,
    },
    /// The rest could not decide anything.
    #[error(
        "without node {node}, {needed} of {rest} members must be there to decide anything, and \
         {there} are: start others first"
    )]
    Quorum {
        /// The node to remove.
        node: NodeId,
        /// How many members would be left.
        rest: usize,
        /// How many of them are heard of.
        there: usize,
        /// How many it takes.
        needed: usize,
    },
    /// No such token, or another secret.
    #[error(
        "the token is not one of this cluster, or it has ended: make one (`weir cluster token`)"
    )]
    Token,
    /// Too late.
    #[error("the token has ended: make another one (`weir cluster token`)")]
    TokenExpired,
    /// Another node was let in by it.
    #[error("the token was used by node {0}; each lets in one node: make another one")]
    TokenUsed(NodeId),
    /// Too many.
    #[error(
        "{max} tokens wait to be used, which is the most; they end by themselves",
        max = limits::JOIN_TOKENS_MAX
    )]
    Tokens,
}

impl Members {
    /// A list as a configuration has it.
    #[must_use]
    pub fn configured(rows: BTreeMap<NodeId, Member>) -> Members {
        let last = rows.keys().last().copied().unwrap_or_default();
        Members { version: 0, rows, last, left: BTreeMap::new(), tokens: BTreeMap::new() }
    }

    /// The list as it is told to other nodes.
    #[must_use]
    pub fn without_tokens(&self) -> Members {
        Members { tokens: BTreeMap::new(), ..self.clone() }
    }

    /// Which node has this name, one included that was removed a while ago and may still vote.
    #[must_use]
    pub fn by_name_or_left(&self, name: &str) -> Option<NodeId> {
        let left = || self.left.iter().find(|(_, row)| row.name == name).map(|(&id, _)| id);
        self.by_name(name).or_else(left)
    }

    /// Which member has this name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<NodeId> {
        self.rows.iter().find(|(_, row)| row.name == name).map(|(&id, _)| id)
    }

    /// Whether so many are more than half of the members.
    #[must_use]
    pub fn is_majority(&self, nodes: usize) -> bool {
        nodes * 2 > self.rows.len()
    }

    /// Whether a list from elsewhere can be one.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let rows = self.rows.iter();
        let sound = |(id, row): (&NodeId, &Member)| {
            id.0 > 0 && *id <= self.last && plain(&row.name, &row.address)
        };
        (1..=limits::CONTROLLERS_MAX).contains(&self.rows.len())
            && rows.clone().all(sound)
            && rows.map(|(_, row)| &row.name).collect::<BTreeSet<_>>().len() == self.rows.len()
            && self.left.len() <= limits::CONTROLLERS_MAX
            && self.tokens.len() <= limits::JOIN_TOKENS_MAX
    }

    fn put(
        &mut self,
        name: &str,
        address: &str,
        witness: Option<bool>,
    ) -> Result<NodeId, MembersError> {
        if !plain(name, address) {
            return Err(MembersError::Malformed);
        }
        let known = self.by_name(name);
        let mut others = self.rows.iter().filter(|(id, _)| Some(**id) != known);
        if let Some((&other, _)) = others.find(|(_, row)| row.address == address) {
            return Err(MembersError::Address(other));
        }
        let id = match known {
            Some(id) => id,
            None if self.rows.len() >= limits::CONTROLLERS_MAX => return Err(MembersError::Full),
            None => NodeId(self.last.0.checked_add(1).ok_or(MembersError::Full)?),
        };
        self.last = self.last.max(id);
        let row = self.rows.entry(id).or_default();
        let witness = witness.unwrap_or(row.witness);
        *row = Member { name: name.to_owned(), address: address.to_owned(), witness };
        self.version += 1;
        Ok(id)
    }

    fn add_token(&mut self, id: u64, token: Token, now: TimestampMs) -> Result<(), MembersError> {
        self.tokens.retain(|_, token| token.expires_at > now);
        if self.tokens.len() >= limits::JOIN_TOKENS_MAX {
            return Err(MembersError::Tokens);
        }
        // Two with one id would be two draws of the same 64 bits: the later one is refused.
        match self.tokens.insert(id, token) {
            None => Ok(()),
            Some(_) => Err(MembersError::Token),
        }
    }

    /// The token of this id, if its secret has this hash and its time is not over. It may have been
    /// used.
    ///
    /// # Errors
    /// [`MembersError`].
    pub fn check_token(
        &self,
        id: u64,
        hash: &[u8; 32],
        now: TimestampMs,
    ) -> Result<&Token, MembersError> {
        let token = self.tokens.get(&id).ok_or(MembersError::Token)?;
        if !is_same(&token.hash, hash) {
            return Err(MembersError::Token);
        }
        match token.expires_at <= now {
            true => Err(MembersError::TokenExpired),
            false => Ok(token),
        }
    }

    fn join(
        &mut self,
        (id, hash): (u64, &[u8; 32]),
        key: &[u8; 32],
        now: TimestampMs,
        (name, address): (&str, &str),
    ) -> Result<(), MembersError> {
        let Token { witness, used, .. } = *self.check_token(id, hash, now)?;
        if let Some((node, of)) = used {
            // The same node asks again, since it did not get the answer.
            let again = is_same(&of, key) && self.by_name(name) == Some(node);
            return if again { Ok(()) } else { Err(MembersError::TokenUsed(node)) };
        }
        if let Some(node) = self.by_name(name) {
            return Err(MembersError::Name(node));
        }
        let node = self.put(name, address, Some(witness))?;
        if let Some(token) = self.tokens.get_mut(&id) {
            token.used = Some((node, *key));
        }
        Ok(())
    }
}

/// Compares without telling by its time where the two differ.
fn is_same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let differ = a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b));
    std::hint::black_box(differ) == 0
}

fn plain(name: &str, address: &str) -> bool {
    let part = |text: &str| {
        (1..=limits::NAME_BYTES_MAX).contains(&text.len())
            && text.chars().all(|c| c.is_ascii_graphic())
    };
    let split = address.rsplit_once(':');
    let whole = split.is_some_and(|(host, port)| part(host) && port.parse::<u16>().is_ok());
    part(name) && !name.contains(['@', '=', ',']) && whole && !address.contains(',')
}

impl Cluster {
    /// Decides an ask about members.
    pub(super) fn decide_members(&self, ask: &MembersAsk) -> Result<ClusterChange, ClusterError> {
        let mut members = self.members.clone();
        match ask {
            MembersAsk::Found { rows } => {
                let version = members.version + 1;
                members = Members { version, ..Members::configured(rows.clone()) };
                if self.members.version > 0 {
                    return Err(MembersError::Founded.into());
                }
                if !members.is_sound() {
                    return Err(MembersError::Malformed.into());
                }
            }
            MembersAsk::Put { name, address, witness } => {
                members.put(name, address, *witness)?;
            }
            MembersAsk::Remove { node, force } => return self.remove(*node, *force),
            MembersAsk::Token { id, hash, now, expires_at, witness } => {
                let (hash, expires_at, witness) = (*hash, *expires_at, *witness);
                let token = Token { hash, expires_at, witness, used: None };
                members.add_token(*id, token, *now)?;
            }
            MembersAsk::Join { token, hash, key, now, name, address } => {
                members.join((*token, hash), key, *now, (name, address))?;
            }
        }
        Ok(ClusterChange { members: Some(members), ..ClusterChange::default() })
    }

    fn remove(&self, id: NodeId, force: bool) -> Result<ClusterChange, ClusterError> {
        let mut members = self.members.clone();
        let row = members.rows.remove(&id).ok_or(MembersError::Unknown(id))?;
        members.left.insert(id, row);
        while members.left.len() > limits::CONTROLLERS_MAX {
            members.left.pop_first();
        }
        if members.rows.is_empty() {
            return Err(MembersError::Last(id).into());
        }
        members.version += 1;
        let held = self.partitions.values().filter(|known| known.holders().contains(&id));
        let copies = held.count();
        if !force && self.nodes.get(&id).is_some_and(|node| !node.drained && !node.fenced) {
            return Err(MembersError::InUse(id).into());
        }
        if !force && copies > 0 {
            return Err(MembersError::Holds { node: id, copies }.into());
        }
        let change = self.without(id)?;
        Ok(ClusterChange { members: Some(members), ..change })
    }

    /// What becomes of nodes and partitions without one of the nodes. Its copies are missing
    /// then, and are made anew where there are nodes for them.
    fn without(&self, id: NodeId) -> Result<ClusterChange, ClusterError> {
        let held = self.partitions.iter().filter(|(_, known)| known.holders().contains(&id));
        let last = held.clone().filter(|(_, known)| known.insync.keys().all(|&node| node == id));
        let partitions = last.count();
        if partitions > 0 {
            return Err(MembersError::LastCopy { node: id, partitions }.into());
        }
        let mut nodes = self.nodes.clone();
        nodes.remove(&id);
        let changed = held.map(|(&partition, known)| {
            let mut next = known.clone();
            next.replicas.retain(|&node| node != id);
            next.insync.remove(&id);
            if next.replicas.is_empty() {
                // Only those that the copy was being moved to: they have everything.
                next.replicas = next.insync.keys().copied().collect();
            }
            if let Some(target) = &mut next.target {
                target.retain(|&node| node != id);
            }
            next.target = next.target.filter(|target| !target.is_empty());
            let goal = |known: &Assignment| known.target.as_ref().unwrap_or(&known.replicas).len();
            next.missing += goal(known).saturating_sub(goal(&next)) as u32;
            next.partition_epoch.0 += 1;
            if next.leader.is_some_and(|leader| leader.node == id) {
                next = election::replace(&nodes, &next, id);
            }
            (partition, Some(reassign::finish(&nodes, next)))
        });
        let partitions = changed.collect();
        Ok(ClusterChange { partitions, removed: [id].into(), ..ClusterChange::default() })
    }
}

#[cfg(test)]
#[path = "members_tests.rs"]
mod tests;
