//! What a controller is told at its start.

use std::collections::BTreeMap;
use std::time::Duration;
use weir_core::cluster::members::Member;
use weir_core::ids::{DiskId, NodeId};
use weir_core::limits;

/// What a controller is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// All nodes of the site, this one among them, as it is founded: each is a voter. The same on
    /// every node then; later the list in the log counts.
    pub members: BTreeMap<NodeId, Member>,
    /// This node's data folder.
    pub disk: DiskId,
    /// Where this node stands.
    pub rack: Option<String>,
    /// Whether it only votes: it holds no topics, and does not register.
    pub witness: bool,
    /// How soon silence is noticed.
    pub timing: Timing,
}

/// How soon silence is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The leading controller makes itself heard this often, or up to half as late again.
    pub heartbeat: Duration,
    /// Others elect one that has been silent for about this long: 0.9 to 1.2 times, and up to one
    /// and a half heartbeats more. At least five heartbeats.
    pub election: Duration,
    /// A node that did not answer for this long is fenced. At least four and a half heartbeats.
    pub session: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            heartbeat: limits::CONTROLLER_HEARTBEAT,
            election: limits::CONTROLLER_ELECTION,
            session: limits::SESSION_TIMEOUT,
        }
    }
}

/// Why a configuration cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// This node is not among the members.
    #[error("node {0} is not among the members of its own site: add it to the list of nodes")]
    NotAMember(NodeId),
    /// No members, or too many.
    #[error("a site of {0} nodes: list 1 to {max}", max = limits::CONTROLLERS_MAX)]
    Members(usize),
    /// Silence would be noticed where there is none.
    #[error(
        "the session timeout and the election timeout must be at least five heartbeats of \
         {heartbeat_ms} ms, which must be at least 10 ms: raise them, or lower the heartbeat"
    )]
    Timing {
        /// The heartbeat.
        heartbeat_ms: u128,
    },
}

impl Config {
    /// Checks what needs no disk.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn check(&self) -> Result<(), ConfigError> {
        if !(1..=limits::CONTROLLERS_MAX).contains(&self.members.len()) {
            return Err(ConfigError::Members(self.members.len()));
        }
        if !self.members.contains_key(&self.node) {
            return Err(ConfigError::NotAMember(self.node));
        }
        let Timing { heartbeat, election, session } = self.timing;
        let least = heartbeat * 9 / 2;
        if heartbeat.as_millis() < 10 || session < least || election < heartbeat * 5 {
            return Err(ConfigError::Timing { heartbeat_ms: heartbeat.as_millis() });
        }
        Ok(())
    }
}
