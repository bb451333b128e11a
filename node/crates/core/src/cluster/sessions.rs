//! Which nodes are there, by monotonic time. Known to the leading controller alone, and forgotten
//! with its leadership: a new one gives every node a whole timeout first. Nothing depends on it but
//! how soon a dead node is replaced; what fences are epochs and in-sync sets.

use super::{Cluster, ClusterAsk};
use crate::ids::{Incarnation, NodeId};
use std::collections::BTreeMap;
use std::time::Duration;

/// When each node was last heard of.
#[derive(Clone, Debug)]
pub struct Sessions {
    timeout: Duration,
    heard: BTreeMap<NodeId, Heard>,
}

/// A node in one of its lives.
#[derive(Clone, Copy, Debug)]
struct Heard {
    life: Incarnation,
    /// Of it, or of its registration.
    at: Duration,
}

/// What a heartbeat is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heartbeat {
    /// All is well.
    Alive,
    /// The node was fenced; let this be decided, and it is back.
    Back(ClusterAsk),
    /// This life is over: another registered since, or none ever did. The node must start anew.
    Register,
}

impl Sessions {
    /// The sessions of a controller that began to lead at `now`.
    #[must_use]
    pub fn new(now: Duration, timeout: Duration, cluster: &Cluster) -> Sessions {
        let mut sessions = Sessions { timeout, heard: BTreeMap::new() };
        sessions.observe(now, cluster);
        sessions
    }

    /// Takes note of the lives there are. One that registered since it was last looked has a whole
    /// session before it: how long its node was silent before says nothing of it. To be called
    /// whenever the cluster has changed.
    pub fn observe(&mut self, now: Duration, cluster: &Cluster) {
        self.heard.retain(|node, _| cluster.nodes().contains_key(node));
        for (&node, known) in cluster.nodes() {
            let life = known.incarnation;
            if self.heard.get(&node).is_none_or(|heard| heard.life != life) {
                self.heard.insert(node, Heard { life, at: now });
            }
        }
    }

    /// A node was heard of at this time, perhaps before this controller began to lead: whoever
    /// was elected since the leading one fell silent need not give that a whole timeout again.
    pub fn note_heard(&mut self, node: NodeId, at: Duration) {
        if let Some(heard) = self.heard.get_mut(&node) {
            heard.at = at;
        }
    }

    /// When [`Sessions::poll_expired`] may next have something to say; `None`: not before another
    /// node registers or comes back.
    #[must_use]
    pub fn poll_at(&self, cluster: &Cluster) -> Option<Duration> {
        let there = cluster.nodes().iter().filter(|(_, node)| !node.fenced);
        let heard = there.filter_map(|(id, _)| self.heard.get(id));
        heard.map(|heard| heard.at + self.timeout).min()
    }

    /// A node said that it lives.
    pub fn handle_heartbeat(
        &mut self,
        now: Duration,
        cluster: &Cluster,
        node: NodeId,
        incarnation: Incarnation,
    ) -> Heartbeat {
        match cluster.nodes().get(&node) {
            Some(known) if known.incarnation == incarnation => {
                self.heard.insert(node, Heard { life: incarnation, at: now });
                match known.fenced {
                    true => Heartbeat::Back(ClusterAsk::Unfence { node, incarnation }),
                    false => Heartbeat::Alive,
                }
            }
            _ => Heartbeat::Register,
        }
    }

    /// The nodes to fence, since they were silent for a whole timeout.
    pub fn poll_expired(&self, now: Duration, cluster: &Cluster) -> Vec<ClusterAsk> {
        let silent = cluster.nodes().iter().filter(|(id, node)| {
            let heard = self.heard.get(id).filter(|heard| heard.life == node.incarnation);
            !node.fenced && heard.is_some_and(|heard| now.saturating_sub(heard.at) > self.timeout)
        });
        let fence = silent.map(|(&node, known)| {
            let incarnation = known.incarnation;
            ClusterAsk::Fence { node, incarnation }
        });
        fence.collect()
    }
}

impl Cluster {
    /// Partitions whose lead should go back to the preferred replica; at most `max`, so that not
    /// all clients move at once.
    #[must_use]
    pub fn poll_prefer(&self, max: usize) -> Vec<ClusterAsk> {
        let away = self.partitions().iter().filter(|(_, known)| {
            known.target.is_none() && super::election::prefer(self.nodes(), known).is_some()
        });
        away.map(|(&partition, _)| ClusterAsk::Prefer { partition }).take(max).collect()
    }
}
