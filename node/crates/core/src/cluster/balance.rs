//! Plans of moves: away from drained nodes, in place of removed ones, and evenly. Pure functions of
//! the cluster as it is, so whoever leads goes on with what another one began.
//!
//! A partition whose copies are being moved counts as if it were where it is going. A plan only
//! names where copies shall be in the end; [`super::reassign`] sees to it that the new ones hold
//! everything before an old one goes, and that as many remain as there were.
//!
//! | plan | moves | ends because |
//! |---|---|---|
//! | missing | nothing: lost copies are made anew | there are fewer of them |
//! | drain | copies on drained nodes to the least loaded others | no move leads to a drained node |
//! | racks | one of two copies in a rack to another rack | each adds a rack to a partition |
//! | copies | one from the fullest node to the emptiest | the sum of squares falls |
//! | leads | nothing: only which of the copies is preferred | the same |

use super::{Cluster, ClusterAsk};
use crate::ids::{NodeId, PartitionId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// One partition's copies, to be moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The partition.
    pub partition: PartitionId,
    /// Who holds them, the preferred leader first.
    pub from: Vec<NodeId>,
    /// Who shall.
    pub to: Vec<NodeId>,
}

impl Move {
    /// How many copies have to be made.
    #[must_use]
    pub fn copies(&self) -> usize {
        self.to.iter().filter(|node| !self.from.contains(node)).count()
    }

    /// The ask that begins it.
    #[must_use]
    pub fn ask(&self) -> ClusterAsk {
        ClusterAsk::Reassign { partition: self.partition, target: self.to.clone() }
    }
}

impl Cluster {
    /// Moves that take copies away from drained nodes. A copy that no other node can take stays.
    #[must_use]
    pub fn plan_drain(&self) -> Vec<Move> {
        let mut plan = Plan::of(self);
        for id in plan.partitions() {
            for node in plan.goals[&id].clone() {
                if self.nodes.get(&node).is_some_and(|node| node.drained)
                    && let Some(to) = plan.substitute(id, node)
                {
                    plan.put(id, node, to);
                }
            }
        }
        plan.moves(self)
    }

    /// Moves that spread copies over racks, and copies and preferred leads evenly over the nodes
    /// that are there and not drained. No moves if they are.
    #[must_use]
    pub fn plan_rebalance(&self) -> Vec<Move> {
        let mut plan = Plan::of(self);
        plan.spread_racks();
        plan.even_copies();
        plan.even_leads();
        plan.moves(self)
    }

    /// How many partitions are being moved, and can be.
    #[must_use]
    pub fn moving(&self) -> usize {
        let moving = |known: &&_| -> bool {
            let known: &crate::partition::assignment::Assignment = known;
            known.target.is_some() && known.leader.is_some()
        };
        self.partitions.values().filter(moving).count()
    }

    /// Moves that make copies anew which went with removed nodes, where there are nodes for them.
    #[must_use]
    pub fn plan_missing(&self) -> Vec<Move> {
        let mut plan = Plan::of(self);
        let missing = self.partitions.iter().filter(|(_, known)| known.missing > 0);
        for (&id, known) in missing {
            for _ in 0..known.missing {
                plan.add(id);
            }
        }
        plan.moves(self)
    }

    /// Asks that carry on the draining of nodes and make missing copies anew, so that at most `max`
    /// partitions are moved at a time.
    #[must_use]
    pub fn poll_moves(&self, max: usize) -> Vec<ClusterAsk> {
        let drains = self.nodes.values().any(|node| node.drained);
        let lacks = self.partitions.values().any(|known| known.missing > 0);
        if !drains && !lacks {
            return Vec::new();
        }
        let room = max.saturating_sub(self.moving());
        let mut asked = BTreeSet::new();
        let moves = self.plan_missing().into_iter().chain(self.plan_drain());
        let once = moves.filter(|planned| asked.insert(planned.partition));
        let asks = once.map(|planned| planned.ask());
        asks.filter(|ask| self.decide(ask).is_ok()).take(room).collect()
    }

    /// How many copies on a node have nowhere to go, so that draining it leaves them there.
    #[must_use]
    pub fn stuck(&self, node: NodeId) -> usize {
        let plan = Plan::of(self);
        let held = plan.goals.iter().filter(|(_, goal)| goal.contains(&node));
        held.filter(|&(&id, _)| plan.substitute(id, node).is_none()).count()
    }
}

/// A plan as it grows.
struct Plan<'a> {
    cluster: &'a Cluster,
    goals: BTreeMap<PartitionId, Vec<NodeId>>,
    /// Of nodes that can be given something: copies, and preferred leads.
    load: BTreeMap<NodeId, (usize, usize)>,
}

impl Plan<'_> {
    fn of(cluster: &Cluster) -> Plan<'_> {
        let able = cluster.nodes.iter().filter(|(_, node)| !node.fenced && !node.drained);
        let mut load: BTreeMap<NodeId, (usize, usize)> =
            able.map(|(&id, _)| (id, (0, 0))).collect();
        let goal = |known: &crate::partition::assignment::Assignment| {
            known.target.clone().unwrap_or_else(|| known.replicas.clone())
        };
        let goals: BTreeMap<_, _> =
            cluster.partitions.iter().map(|(&id, known)| (id, goal(known))).collect();
        for goal in goals.values() {
            for (at, node) in goal.iter().enumerate() {
                if let Some((held, led)) = load.get_mut(node) {
                    *held += 1;
                    *led += usize::from(at == 0);
                }
            }
        }
        Plan { cluster, goals, load }
    }

    fn partitions(&self) -> Vec<PartitionId> {
        self.goals.keys().copied().collect()
    }

    /// A node without a label is a rack of its own.
    fn rack(&self, node: NodeId) -> (Option<&str>, Option<NodeId>) {
        match self.cluster.nodes.get(&node).and_then(|node| node.rack.as_deref()) {
            Some(rack) => (Some(rack), None),
            None => (None, Some(node)),
        }
    }

    /// How many racks hold a copy of a partition, without one of its nodes and with another.
    fn racks(&self, id: PartitionId, without: NodeId, with: NodeId) -> usize {
        let rest = self.goals[&id].iter().copied().filter(|&node| node != without);
        rest.chain([with]).map(|node| self.rack(node)).collect::<BTreeSet<_>>().len()
    }

    /// The node that best takes the place of one of a partition's: in most racks, least loaded.
    fn substitute(&self, id: PartitionId, node: NodeId) -> Option<NodeId> {
        let free = self.load.iter().filter(|(other, _)| !self.goals[&id].contains(other));
        let best = free.min_by_key(|&(&other, &(held, led))| {
            (std::cmp::Reverse(self.racks(id, node, other)), held, led, other)
        });
        best.map(|(&other, _)| other)
    }

    /// Adds a copy, on the node that best takes one.
    fn add(&mut self, id: PartitionId) {
        // No node has this number: nobody is replaced.
        let Some(to) = self.substitute(id, NodeId(0)) else { return };
        self.goals.entry(id).or_default().push(to);
        if let Some((held, _)) = self.load.get_mut(&to) {
            *held += 1;
        }
    }

    /// Puts one node in the place of another.
    fn put(&mut self, id: PartitionId, from: NodeId, to: NodeId) {
        let Some(goal) = self.goals.get_mut(&id) else { return };
        let Some(at) = goal.iter().position(|&node| node == from) else { return };
        goal[at] = to;
        for (node, sign) in [(from, -1), (to, 1)] {
            if let Some((held, led)) = self.load.get_mut(&node) {
                *held = held.saturating_add_signed(sign);
                *led = led.saturating_add_signed(if at == 0 { sign } else { 0 });
            }
        }
    }

    /// Makes a partition prefer another of its copies.
    fn prefer(&mut self, id: PartitionId, to: NodeId) {
        let Some(goal) = self.goals.get_mut(&id) else { return };
        let Some(at) = goal.iter().position(|&node| node == to) else { return };
        let from = goal[0];
        goal.swap(0, at);
        for (node, sign) in [(from, -1), (to, 1)] {
            if let Some((_, led)) = self.load.get_mut(&node) {
                *led = led.saturating_add_signed(sign);
            }
        }
    }

    /// Moves one of two copies in a rack to a rack that has none, from the fullest node.
    fn spread_racks(&mut self) {
        for id in self.partitions() {
            loop {
                let goal = &self.goals[&id];
                let racks = |node: &NodeId| self.rack(*node);
                let distinct = goal.iter().map(racks).collect::<BTreeSet<_>>().len();
                let able = goal.iter().copied().filter(|node| self.load.contains_key(node));
                let better = able.filter_map(|node| {
                    let to = self.substitute(id, node)?;
                    (self.racks(id, node, to) > distinct).then_some((node, to))
                });
                let Some((from, to)) = better.max_by_key(|(node, _)| self.load[node].0) else {
                    break;
                };
                self.put(id, from, to);
            }
        }
    }

    /// Moves copies from full nodes to empty ones, as long as that evens them out.
    fn even_copies(&mut self) {
        while let Some((id, from, to)) = self.next_copy() {
            self.put(id, from, to);
        }
    }

    /// From the fullest node that can give one to the emptiest that can take it.
    fn next_copy(&self) -> Option<(PartitionId, NodeId, NodeId)> {
        let mut nodes: Vec<(usize, NodeId)> =
            self.load.iter().map(|(&node, &(held, _))| (held, node)).collect();
        nodes.sort();
        for &(most, from) in nodes.iter().rev() {
            for &(least, to) in nodes.iter().take_while(|(least, _)| least + 1 < most) {
                let movable = self
                    .goals
                    .iter()
                    .filter(|(_, goal)| goal.contains(&from) && !goal.contains(&to));
                // None of the partitions is on fewer racks afterwards.
                let sound = movable
                    .filter(|&(&id, _)| self.racks(id, from, to) >= self.racks(id, from, from));
                // Copies that do not lead come first: their move is not noticed.
                if let Some((&id, _)) = sound.min_by_key(|(_, goal)| goal[0] == from) {
                    debug_assert!(least + 1 < most);
                    return Some((id, from, to));
                }
            }
        }
        None
    }

    /// Has others be preferred, as long as that evens leads out; along a chain of partitions where
    /// no single one joins who has many with who has few.
    fn even_leads(&mut self) {
        loop {
            let mut nodes: Vec<(usize, NodeId)> =
                self.load.iter().map(|(&node, &(_, led))| (led, node)).collect();
            nodes.sort_by_key(|&(led, node)| (std::cmp::Reverse(led), node));
            let Some(chain) = nodes.iter().find_map(|&(led, from)| self.chain(from, led)) else {
                return;
            };
            for (id, to) in chain {
                self.prefer(id, to);
            }
        }
    }

    /// The shortest chain of changes by which `from`, which leads `led`, leads one less and a node
    /// that leads two less at least leads one more.
    fn chain(&self, from: NodeId, led: usize) -> Option<Vec<(PartitionId, NodeId)>> {
        let mut came: BTreeMap<NodeId, (PartitionId, NodeId)> = BTreeMap::new();
        let mut open = VecDeque::from([from]);
        while let Some(node) = open.pop_front() {
            if self.load[&node].1 + 1 < led {
                let mut chain = Vec::new();
                let mut at = node;
                while let Some(&(id, before)) = came.get(&at) {
                    chain.push((id, at));
                    at = before;
                }
                return Some(chain);
            }
            for (&id, goal) in self.goals.iter().filter(|(_, goal)| goal[0] == node) {
                for &next in goal.iter().filter(|next| self.load.contains_key(next)) {
                    if next != from && !came.contains_key(&next) {
                        came.insert(next, (id, node));
                        open.push_back(next);
                    }
                }
            }
        }
        None
    }

    fn moves(self, cluster: &Cluster) -> Vec<Move> {
        let changed = self.goals.into_iter().filter_map(|(partition, to)| {
            let known = &cluster.partitions[&partition];
            let from = known.target.as_ref().unwrap_or(&known.replicas);
            let differs = *from != to;
            differs.then(|| Move { partition, from: known.replicas.clone(), to })
        });
        changed.collect()
    }
}

#[cfg(test)]
#[path = "balance_tests.rs"]
mod tests;
