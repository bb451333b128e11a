//! Who may do what: roles per topic prefix.

use serde::{Deserialize, Serialize};

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything: topics, groups, status of all. Includes the other roles.
    Admin,
    /// Append to topics.
    Produce,
    /// Read topics, store group positions.
    Consume,
}

/// One rule: a principal has roles on topics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// A principal's name; a trailing `*` matches any ending.
    pub principal: String,
    /// What it may do.
    pub roles: Vec<Role>,
    /// Topic prefixes that the roles hold for; empty: all topics. `Admin` always holds for all.
    #[serde(default)]
    pub topics: Vec<String>,
}

/// The rules of a node. Nothing is allowed that no rule allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// In any order: a principal's rights are the union of its rules.
    pub rules: Vec<Rule>,
    /// What clients without a certificate may do, on all topics. Only listeners that take such
    /// clients ask.
    pub anonymous: Vec<Role>,
}

impl Access {
    /// Whether `principal` (`None`: anonymous) may act as `role` on `topic` (`None`: on something
    /// that is no topic; then any rule with the role is enough).
    #[must_use]
    pub fn allows(&self, principal: Option<&str>, role: Role, topic: Option<&str>) -> bool {
        let Some(principal) = principal else {
            return self.anonymous.iter().any(|&has| has == role || has == Role::Admin);
        };
        self.rules.iter().filter(|rule| matches(&rule.principal, principal)).any(|rule| {
            rule.roles.contains(&Role::Admin)
                || rule.roles.contains(&role) && covers(&rule.topics, topic)
        })
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    }
}

fn covers(prefixes: &[String], topic: Option<&str>) -> bool {
    match topic {
        Some(topic) => prefixes.is_empty() || prefixes.iter().any(|p| topic.starts_with(p)),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights() {
        let rule = |principal: &str, role, topics: &[&str]| Rule {
            principal: principal.into(),
            roles: vec![role],
            topics: topics.iter().map(|t| (*t).into()).collect(),
        };
        let access = Access {
            rules: vec![
                rule("ops", Role::Admin, &["ignored."]),
                rule("gateway-*", Role::Produce, &["gps.", "can."]),
                rule("app", Role::Consume, &[]),
            ],
            anonymous: vec![Role::Consume],
        };
        let allows = |who, role, topic| access.allows(who, role, topic);
        assert!(allows(Some("ops"), Role::Admin, None));
        assert!(allows(Some("ops"), Role::Produce, Some("x")));
        assert!(allows(Some("gateway-7"), Role::Produce, Some("gps.raw")));
        assert!(!allows(Some("gateway-7"), Role::Produce, Some("logs")));
        assert!(!allows(Some("gateway-7"), Role::Consume, Some("gps.raw")));
        assert!(!allows(Some("gateway"), Role::Produce, Some("gps.raw")));
        assert!(allows(Some("app"), Role::Consume, Some("anything")));
        assert!(!allows(Some("app"), Role::Admin, None));
        assert!(!allows(Some("stranger"), Role::Consume, Some("gps.raw")));
        assert!(allows(None, Role::Consume, Some("gps.raw")));
        assert!(!allows(None, Role::Produce, Some("gps.raw")));
    }
}
