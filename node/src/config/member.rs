//! Settings of a cluster.

use super::value::{Raw, Value, quote};
use std::fmt;
use std::str::FromStr;
use weir_broker::cluster::{ClusterConfig, Member};
use weir_core::ids::NodeId;

/// What a member's text must look like.
const WANTED: &str = "NUMBER=NAME@HOST:PORT such as 1=edge-1@10.0.0.1:7447";

/// One member of a cluster, as the configuration lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberEntry {
    /// Its number, which it keeps for ever.
    pub id: NodeId,
    /// Its name, and where it is.
    pub member: Member,
}

impl FromStr for MemberEntry {
    type Err = String;

    fn from_str(text: &str) -> Result<MemberEntry, String> {
        let wrong = || format!("`{text}` is not {WANTED}");
        let (id, rest) = text.split_once('=').ok_or_else(wrong)?;
        let (name, address) = rest.split_once('@').ok_or_else(wrong)?;
        let id: u32 = id.trim().parse().map_err(|_| wrong())?;
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        let plain = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_graphic());
        let whole = plain(name) && plain(host) && port.parse::<u16>().is_ok();
        if id == 0 || !whole {
            return Err(wrong());
        }
        let (name, address) = (name.to_owned(), address.to_owned());
        let member = Member { name, address, witness: false };
        Ok(MemberEntry { id: NodeId(id), member })
    }
}

impl fmt::Display for MemberEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}@{}", self.id, self.member.name, self.member.address)
    }
}

impl Value for MemberEntry {
    fn parse(raw: &Raw) -> Result<MemberEntry, String> {
        match raw {
            Raw::Text(text) => text.parse(),
            _ => Err(format!("must be a list of texts, each {WANTED}")),
        }
    }

    fn toml(&self) -> String {
        quote(&self.to_string())
    }
}

/// What a node of a cluster does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterRole {
    /// It holds records, and votes.
    Data,
    /// It only votes.
    Witness,
}

impl Value for ClusterRole {
    fn parse(raw: &Raw) -> Result<ClusterRole, String> {
        match raw {
            Raw::Text(text) if text == "data" => Ok(ClusterRole::Data),
            Raw::Text(text) if text == "witness" => Ok(ClusterRole::Witness),
            _ => Err("must be data or witness".to_owned()),
        }
    }

    fn toml(&self) -> String {
        match self {
            ClusterRole::Data => "\"data\"".to_owned(),
            ClusterRole::Witness => "\"witness\"".to_owned(),
        }
    }
}

/// The part of the node `name` in the cluster of `members`; `None` without members.
///
/// # Errors
/// In words, if the list names a number or name twice, or not this node.
pub fn part(
    name: &str,
    members: &[MemberEntry],
    rack: Option<&str>,
    role: ClusterRole,
) -> Result<Option<ClusterConfig>, String> {
    if members.is_empty() {
        return match role {
            ClusterRole::Data => Ok(None),
            ClusterRole::Witness => {
                Err("cluster.role is witness, but cluster.members is empty".to_owned())
            }
        };
    }
    for (at, entry) in members.iter().enumerate() {
        let earlier = &members[..at];
        if earlier.iter().any(|e| e.id == entry.id || e.member.name == entry.member.name) {
            return Err(format!("cluster.members: {entry} has a number or name of another member"));
        }
    }
    let me = members.iter().find(|entry| entry.member.name == name).ok_or_else(|| {
        let names: Vec<&str> = members.iter().map(|entry| entry.member.name.as_str()).collect();
        format!(
            "cluster.members has no member called {name}, as this node is, but {}: set `name`, or \
             mend the list",
            names.join(", ")
        )
    })?;
    Ok(Some(ClusterConfig {
        me: me.id,
        members: members.iter().map(|entry| (entry.id, entry.member.clone())).collect(),
        rack: rack.map(str::to_owned),
        witness: role == ClusterRole::Witness,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a member is read as it is written, and what is not one is refused with an example.
    #[test]
    fn members() {
        let entry: MemberEntry = "2=edge-2@10.0.0.2:7447".parse().unwrap();
        assert_eq!(entry.id, NodeId(2));
        assert_eq!(entry.member.address, "10.0.0.2:7447");
        assert_eq!(entry.to_string().parse::<MemberEntry>().unwrap(), entry);
        let six: MemberEntry = "3=c@[fd00::3]:7447".parse().unwrap();
        assert_eq!(six.member.address, "[fd00::3]:7447");
        for wrong in [
            "",
            "edge-2@h:1",
            "0=a@h:1",
            "1=@h:1",
            "1=a@h",
            "1=a@:1",
            "1=a@h:x",
            "x=a@h:1",
            "1=a\u{7}@h:1",
        ] {
            assert!(wrong.parse::<MemberEntry>().unwrap_err().contains(WANTED), "{wrong}");
        }
    }

    /// Goal: a node finds itself by name, and lists that contradict themselves are refused.
    #[test]
    fn parts() {
        let members: Vec<MemberEntry> =
            ["1=a@h:1", "2=b@h:2"].map(|text| text.parse().unwrap()).into();
        let found = part("b", &members, Some("r1"), ClusterRole::Witness).unwrap().unwrap();
        assert_eq!((found.me, found.witness, found.members.len()), (NodeId(2), true, 2));
        assert!(part("c", &members, None, ClusterRole::Data).unwrap_err().contains("a, b"));
        assert_eq!(part("c", &[], None, ClusterRole::Data).unwrap(), None);
        part("c", &[], None, ClusterRole::Witness).unwrap_err();
        let twice = [members[0].clone(), "1=c@h:3".parse().unwrap()];
        part("a", &twice, None, ClusterRole::Data).unwrap_err();
    }
}
