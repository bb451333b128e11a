//! Who belongs to the site, as far as is known here, and what becomes of those who do not.
//!
//! The list is in the replicated log. Before there is one the configuration's counts, and a node
//! that was away may know an old one: then a member that it never heard of leads, and sends it
//! entries that it would refuse. It tells its version of the list instead
//! ([`PeerError::Stranger`]), and the other one *introduces* itself with the newer list. Both show
//! certificates of the site's nodes. Whoever is told that the newer list is without it was removed.

use crate::controller::Inner;
use crate::raft::number;
use crate::transport::CallError;
use crate::wire::{self, Answer, PeerError, Request};
use std::sync::Arc;
use weir_core::cluster::members::{Member, Members};
use weir_core::ids::NodeId;

/// Why there is no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It did not come.
    #[error(transparent)]
    Call(#[from] CallError),
    /// It says that nothing was done.
    #[error("node {to}: {error}")]
    Peer {
        /// Who was asked.
        to: NodeId,
        /// What it says.
        error: PeerError,
    },
}

impl Inner {
    /// The newest list of members that is known here.
    pub fn members(&self) -> Arc<Members> {
        self.members.borrow().clone()
    }

    /// All other members.
    pub fn others(&self) -> Vec<NodeId> {
        let members = self.members();
        members.rows.keys().copied().filter(|&id| id != self.config.node).collect()
    }

    /// Nodes for messages to people: `1 (depot-1:9092), 2 (depot-2:9092)`.
    pub fn name(&self, ids: impl IntoIterator<Item = NodeId>) -> String {
        let members = self.members();
        let one = |id: NodeId| match members.rows.get(&id).map(|row| row.address.as_str()) {
            None | Some("") => format!("{id}"),
            Some(address) => format!("{id} ({address})"),
        };
        ids.into_iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// Takes a list over if it is newer than the one that is known.
    pub fn learn(&self, members: &Members) {
        self.members.send_if_modified(|known| {
            let newer = members.version > known.version;
            if newer {
                *known = Arc::new(members.without_tokens());
            }
            newer
        });
    }

    /// Whether this one is told anything: it is a member, or on its way out and still votes.
    pub fn is_known(&self, from: NodeId) -> bool {
        let votes = || {
            self.metrics().is_some_and(|metrics| {
                let membership = metrics.membership_config.membership();
                membership.get_node(&number(from)).is_some()
            })
        };
        self.members().rows.contains_key(&from) || votes()
    }

    /// Asks another controller, and introduces this one where it is not known.
    ///
    /// # Cancel safety
    /// Dropping it drops the answer; the question may arrive.
    pub async fn call(&self, to: NodeId, request: &Request) -> Result<Answer, Failure> {
        match self.ask(to, request).await {
            Err(Failure::Peer { error: PeerError::Stranger { version }, .. }) => {
                let members = self.members();
                if version >= members.version {
                    self.note_removed(to);
                    return Err(Failure::Peer { to, error: PeerError::Stranger { version } });
                }
                let members = Members::clone(&members);
                self.ask(to, &Request::Introduce { members }).await?;
                self.ask(to, request).await
            }
            other => other,
        }
    }

    async fn ask(&self, to: NodeId, request: &Request) -> Result<Answer, Failure> {
        let answer = self.transport.call(to, wire::encode(request)).await?;
        match wire::decode(&answer) {
            Ok(Answer::Error(error)) | Err(error) => Err(Failure::Peer { to, error }),
            Ok(answer) => Ok(answer),
        }
    }

    /// Another node's newer list is without this node.
    fn note_removed(&self, by: NodeId) {
        // A node that never was in waits until somebody adds it.
        if *self.joined.borrow() {
            self.leave(format!(
                "node {by} says that node {} is not a member of the cluster: it was removed. Its \
                 data folder is of no use any more; to let this machine in again, start it with an \
                 empty one and a new token (`weir cluster token`)",
                self.config.node
            ));
        }
    }

    fn leave(&self, why: String) {
        self.outside.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                tracing::error!("{why}");
                *known = Some(why);
            }
            first
        });
    }
}

/// Follows the list in the log.
pub async fn follow(inner: Arc<Inner>) {
    let mut states = inner.state.clone();
    let mut compared = false;
    loop {
        let members = states.borrow_and_update().cluster().members().clone();
        if members.version > 0 {
            if !compared {
                compared = true;
                compare(&inner, &members);
            }
            inner.learn(&members);
        }
        if states.changed().await.is_err() {
            return;
        }
    }
}

/// What the configuration says besides is only where to look for the others at first.
fn compare(inner: &Inner, members: &Members) {
    let me = inner.config.node;
    let configured = inner.config.members.get(&me).map(|row| row.name.as_str());
    let listed = members.rows.get(&me).map(|row| row.name.as_str());
    if let (Some(configured), Some(listed)) = (configured, listed)
        && configured != listed
    {
        inner.leave(format!(
            "node {me} of the cluster is called {listed}, not {configured}: is this another node's \
             data folder?"
        ));
    }
    let place = |(id, row): (&NodeId, &Member)| (*id, row.name.clone(), row.address.clone());
    let same = members.rows.iter().map(place).eq(inner.config.members.iter().map(place));
    if !same && !members.rows.is_empty() {
        let all = inner.name(members.rows.keys().copied());
        tracing::info!("the cluster has changed since it was configured; its nodes are {all}");
    }
}
