//! Voters follow members: whoever leads makes openraft's membership what the list of members in the
//! log says, one step at a time.
//!
//! A new member first takes the log as a learner. It votes once it has caught up and its disk may
//! speak for it (`join.rs`). A removed one loses its vote through a joint membership, as openraft
//! does it. What the next step is follows from the list and from the membership in effect alone, so
//! a new leading controller goes on wherever the one before stopped.

use crate::controller::Inner;
use crate::raft::{Metrics, Raft, node, number};
use crate::wire::{Answer, Request};
use openraft::{ChangeMembers, EmptyNode, ServerState};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::time::timeout;
use weir_core::cluster::ClusterAsk;
use weir_core::cluster::members::{Members, MembersAsk};
use weir_core::controller::Command;

/// A learner that lacks at most so many entries has caught up: it gets them within a moment.
const CAUGHT_UP: u64 = 64;

/// The next change of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// The log has no members yet.
    Found,
    /// A member takes the log.
    Learn(u64),
    /// These vote, and nobody else.
    Vote(BTreeSet<u64>),
    /// These take the log no longer.
    Forget(BTreeSet<u64>),
    /// Members catch up.
    Wait(BTreeSet<u64>),
    /// It is as it should be.
    Done,
}

/// What the membership in effect is.
struct Present {
    /// One set, or two while it changes.
    configs: Vec<BTreeSet<u64>>,
    /// Everybody who takes the log.
    nodes: BTreeSet<u64>,
}

impl Present {
    fn of(metrics: &Metrics) -> Present {
        let membership = metrics.membership_config.membership();
        let nodes = membership.nodes().map(|(&id, _)| id).collect();
        Present { configs: membership.get_joint_config().clone(), nodes }
    }
}

/// What to do next, given who has caught up. Nobody is removed and added in one step.
fn next(members: &Members, present: &Present, ready: &BTreeSet<u64>) -> Step {
    if members.version == 0 {
        return Step::Found;
    }
    let wanted: BTreeSet<u64> = members.rows.keys().map(|&id| number(id)).collect();
    let voters = present.configs.last().cloned().unwrap_or_default();
    let kept: BTreeSet<u64> = voters.intersection(&wanted).copied().collect();
    if present.configs.len() > 1 || (kept != voters && !kept.is_empty()) {
        // Where none of them is to stay, others have to vote before.
        return Step::Vote(if kept.is_empty() { voters } else { kept });
    }
    let extra: BTreeSet<u64> = present.nodes.difference(&wanted).copied().collect();
    if !extra.is_empty() && extra.is_disjoint(&voters) {
        return Step::Forget(extra);
    }
    if let Some(&missing) = wanted.difference(&present.nodes).next() {
        return Step::Learn(missing);
    }
    let learners: BTreeSet<u64> = wanted.difference(&voters).copied().collect();
    match learners.intersection(ready).next() {
        Some(&id) => Step::Vote(voters.into_iter().chain([id]).collect()),
        None if learners.is_empty() => Step::Done,
        None => Step::Wait(learners),
    }
}

/// Does all that whenever this controller leads.
pub async fn run(inner: Arc<Inner>, raft: Raft) {
    let mut metrics = raft.server_metrics();
    let mut states = inner.state.clone();
    loop {
        let leads = metrics.borrow_and_update().state == ServerState::Leader;
        let pending = leads && step(&inner, &raft).await;
        let again = tokio::time::sleep(match pending {
            true => inner.config.timing.heartbeat,
            // Nothing but news makes a difference.
            false => std::time::Duration::from_secs(3_600),
        });
        tokio::select! {
            end = metrics.changed() => if end.is_err() { return },
            end = states.changed() => if end.is_err() { return },
            () = again => {}
        }
    }
}

/// One step; whether more are to follow.
async fn step(inner: &Arc<Inner>, raft: &Raft) -> bool {
    let members = inner.state.borrow().cluster().members().clone();
    let metrics = raft.metrics().borrow().clone();
    let present = Present::of(&metrics);
    let step = match next(&members, &present, &BTreeSet::new()) {
        Step::Wait(learners) => next(&members, &present, &ready(inner, &metrics, learners).await),
        step => step,
    };
    let patience = inner.config.timing.session * 4;
    let done = match step {
        Step::Done => return false,
        Step::Wait(_) => return true,
        Step::Found => {
            let rows = inner.config.members.clone();
            let found = Command::Cluster(ClusterAsk::Members(MembersAsk::Found { rows }));
            let done = timeout(patience, raft.client_write(found)).await;
            done.map(|done| said(done, "the cluster's log lists its members".to_owned()))
        }
        Step::Learn(id) => {
            let done = timeout(patience, raft.add_learner(id, EmptyNode {}, false)).await;
            done.map(|done| said(done, format!("node {id} takes part, and catches up")))
        }
        Step::Vote(voters) => {
            let news = format!("the voters are {voters:?}");
            let change = ChangeMembers::ReplaceAllVoters(voters);
            let done = timeout(patience, raft.change_membership(change, false)).await;
            done.map(|done| said(done, news))
        }
        Step::Forget(nodes) => {
            let news = format!("nodes {nodes:?} take part no longer");
            let change = ChangeMembers::RemoveNodes(nodes);
            let done = timeout(patience, raft.change_membership(change, false)).await;
            done.map(|done| said(done, news))
        }
    };
    match done {
        Ok(Ok(said)) => tracing::info!("{said}"),
        // Another may lead by now; or it is tried again.
        Ok(Err(error)) => tracing::debug!("the membership did not change: {error}"),
        Err(_) => tracing::debug!("no majority has confirmed a change of the membership in time"),
    }
    true
}

/// The news of what was done, or why it was not.
fn said<T>(done: Result<T, impl std::fmt::Display>, news: String) -> Result<String, String> {
    done.map(|_| news).map_err(|error| error.to_string())
}

/// Which of these learners have caught up and may vote.
async fn ready(inner: &Arc<Inner>, metrics: &Metrics, learners: BTreeSet<u64>) -> BTreeSet<u64> {
    let last = metrics.last_log_index.unwrap_or(0);
    let mut ready = BTreeSet::new();
    for id in learners {
        let replicated = metrics.replication.as_ref().and_then(|all| all.get(&id).copied());
        let near = replicated.flatten().is_some_and(|at| at.index + CAUGHT_UP >= last);
        let Some(to) = node(id).filter(|_| near) else { continue };
        let asked = inner.call(to, &Request::Probe {});
        if let Ok(Ok(Answer::Probe(holds))) = timeout(inner.config.timing.session, asked).await
            && holds.joined
        {
            ready.insert(id);
        }
    }
    ready
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_core::cluster::members::Member;
    use weir_core::ids::NodeId;

    fn set(ids: &[u64]) -> BTreeSet<u64> {
        ids.iter().copied().collect()
    }

    fn members(ids: &[u64]) -> Members {
        let row = |&id: &u64| (NodeId(id as u32), Member::default());
        Members { version: 1, ..Members::configured(ids.iter().map(row).collect()) }
    }

    /// Goal: from any membership, whatever stopped it half-way, steps lead to the members and no
    /// others, one at a time, and never to no voters. Method: all pairs of small sets, carried out
    /// as openraft does it, joint memberships included.
    #[test]
    fn steps_lead_to_the_members() {
        let sets: Vec<BTreeSet<u64>> = (1..16_u64)
            .map(|bits| (0..4).filter(|bit| bits >> bit & 1 == 1).map(|bit| bit + 1).collect())
            .collect();
        for voters in &sets {
            for wanted in &sets {
                for joint in [None, Some(set(&[1, 2])), Some(set(&[4]))] {
                    let wanted_ids: Vec<u64> = wanted.iter().copied().collect();
                    let list = members(&wanted_ids);
                    let configs = joint.into_iter().chain([voters.clone()]).collect::<Vec<_>>();
                    let nodes = configs.iter().flatten().copied().collect();
                    let mut present = Present { configs, nodes };
                    carry_out(&list, &mut present);
                    assert_eq!(present.configs, vec![wanted.clone()]);
                    assert_eq!(&present.nodes, wanted);
                }
            }
        }
    }

    fn carry_out(list: &Members, present: &mut Present) {
        for _ in 0..20 {
            let everybody = present.nodes.clone();
            match next(list, present, &everybody) {
                Step::Done => return,
                Step::Learn(id) => drop(present.nodes.insert(id)),
                Step::Forget(gone) => present.nodes.retain(|id| !gone.contains(id)),
                Step::Vote(voters) => {
                    assert!(!voters.is_empty());
                    let before = present.configs.last().unwrap();
                    let (more, fewer) = (voters.difference(before), before.difference(&voters));
                    assert!(
                        more.count() == 0 || fewer.count() == 0,
                        "one kind of change at a time"
                    );
                    let old: BTreeSet<u64> = present.configs.iter().flatten().copied().collect();
                    let gone: BTreeSet<u64> = old.difference(&voters).copied().collect();
                    present.nodes.retain(|id| !gone.contains(id));
                    present.configs = vec![voters];
                }
                other => panic!("{other:?}"),
            }
        }
        panic!("it does not end");
    }

    /// Goal: a cluster without a list in its log gets one before anything else; who has not caught
    /// up does not vote.
    #[test]
    fn first_steps() {
        let present = Present { configs: vec![set(&[1])], nodes: set(&[1, 2]) };
        let configured = Members { version: 0, ..members(&[1, 2]) };
        assert_eq!(next(&configured, &present, &set(&[])), Step::Found);
        assert_eq!(next(&members(&[1, 2]), &present, &set(&[])), Step::Wait(set(&[2])));
        assert_eq!(next(&members(&[1, 2]), &present, &set(&[2])), Step::Vote(set(&[1, 2])));
    }
}
