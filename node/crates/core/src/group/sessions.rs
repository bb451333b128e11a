//! Which members are there, by monotonic time. Known to the present coordinator alone: one that
//! takes over gives every member a whole session first.

use super::{Group, GroupAsk, MemberId};
use std::collections::BTreeMap;
use std::time::Duration;

/// When each member was last heard of.
#[derive(Clone, Debug)]
pub struct GroupSessions {
    began_at: Duration,
    heard: BTreeMap<MemberId, Duration>,
}

impl GroupSessions {
    /// The sessions of a coordinator that took over at `now`.
    #[must_use]
    pub fn new(now: Duration) -> GroupSessions {
        GroupSessions { began_at: now, heard: BTreeMap::new() }
    }

    /// A member said something.
    pub fn handle_heard(&mut self, now: Duration, member: MemberId) {
        self.heard.insert(member, now);
    }

    /// When the next member is silent for as long as it may be, if nobody says anything until then;
    /// `None` without members.
    #[must_use]
    pub fn next_expiry(&self, group: &Group) -> Option<Duration> {
        let ends = group.members().iter().map(|(id, member)| {
            let heard = self.heard.get(id).copied().unwrap_or(self.began_at);
            heard + Duration::from_millis(member.session_ms.into())
        });
        ends.min()
    }

    /// The members that were silent for longer than they may, to be let go.
    pub fn poll_expired(&mut self, now: Duration, group: &Group) -> Vec<GroupAsk> {
        self.heard.retain(|id, _| group.members().contains_key(id));
        let silent = group.members().iter().filter(|(id, member)| {
            let heard = self.heard.get(id).copied().unwrap_or(self.began_at);
            now.saturating_sub(heard) > Duration::from_millis(member.session_ms.into())
        });
        silent.map(|(&member, _)| GroupAsk::Leave { member }).collect()
    }
}
