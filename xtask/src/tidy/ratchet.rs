//! What was too long when the rule came, and must only get shorter.

use super::Files;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Where the list is kept.
pub const FILE: &str = "xtask/tidy.toml";

/// Lengths by file, or by `file::function`.
pub type Lengths = BTreeMap<String, usize>;

/// The exceptions: the longest that each may be.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ratchet {
    /// Files, in lines without tests.
    pub files: Lengths,
    /// Functions, in lines.
    pub functions: Lengths,
}

impl Ratchet {
    /// The exceptions in force.
    ///
    /// # Errors
    /// If the list is missing or unreadable.
    pub fn of(files: &Files) -> Result<Ratchet> {
        Ratchet::parse(files.get(FILE).with_context(|| format!("{FILE} is missing"))?)
    }

    fn parse(text: &str) -> Result<Ratchet> {
        let table: toml::Table = text.parse().context(FILE)?;
        let lengths = |name: &str| -> Result<Lengths> {
            let Some(entries) = table.get(name) else { return Ok(Lengths::new()) };
            let entries = entries.as_table().with_context(|| format!("{FILE}: {name}"))?;
            let length = |(name, value): (&String, &toml::Value)| {
                let length = value.as_integer().and_then(|length| usize::try_from(length).ok());
                Ok((name.clone(), length.with_context(|| format!("{FILE}: {name}"))?))
            };
            entries.iter().map(length).collect()
        };
        Ok(Ratchet { files: lengths("files")?, functions: lengths("functions")? })
    }

    /// The same list where nothing is longer than it now is, and what is short enough is gone.
    /// Never adds or raises anything: that is an edit by hand, for a reviewer to see.
    pub fn shrunk(&self, now: &Ratchet) -> Ratchet {
        let shrink = |old: &Lengths, now: &Lengths| {
            let kept = old.iter().filter_map(|(name, max)| Some((name, max, now.get(name)?)));
            kept.map(|(name, max, now)| (name.clone(), *max.min(now))).collect()
        };
        Ratchet {
            files: shrink(&self.files, &now.files),
            functions: shrink(&self.functions, &now.functions),
        }
    }

    /// The list as it is kept.
    pub fn to_text(&self) -> String {
        let mut text = String::from(
            "# What is longer than the style allows, with the length that it must not pass.\n\
             # `cargo xtask tidy --bless` lowers the numbers; only a person raises one.\n",
        );
        for (name, lengths) in [("files", &self.files), ("functions", &self.functions)] {
            let _ = write!(text, "\n[{name}]\n");
            for (what, max) in lengths {
                let _ = writeln!(text, "{what:?} = {max}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: blessing lowers and drops, and never raises or adds.
    #[test]
    fn only_downwards() {
        let lengths = |pairs: &[(&str, usize)]| -> Lengths {
            pairs.iter().map(|(name, length)| ((*name).to_owned(), *length)).collect()
        };
        let old = Ratchet {
            files: lengths(&[("a.rs", 700), ("b.rs", 650), ("gone.rs", 800)]),
            functions: lengths(&[("a.rs::f", 80)]),
        };
        let now = Ratchet {
            files: lengths(&[("a.rs", 680), ("b.rs", 690), ("new.rs", 900)]),
            functions: lengths(&[]),
        };
        let shrunk = old.shrunk(&now);
        assert_eq!(shrunk.files, lengths(&[("a.rs", 680), ("b.rs", 650)]));
        assert!(shrunk.functions.is_empty());
        assert_eq!(Ratchet::parse(&shrunk.to_text()).unwrap(), shrunk);
    }
}
