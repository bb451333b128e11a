//! The settings as a documented configuration file.

use super::value::{Value, quote};
use super::{ENTRIES, RULES_DOC, Settings};
use crate::paths;
use std::fmt::Write;
use weir_core::access::Rule;

/// How much a printed configuration says about this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Nothing: the same text everywhere.
    Plain,
    /// What `auto` comes to here.
    Here,
}

/// Prints every setting with its documentation, its default and its value. The text is a valid
/// configuration file that gives the same settings.
pub fn print(settings: &Settings, detail: Detail) -> String {
    let defaults = Settings::default();
    let mut text = String::from(
        "# Configuration of a Weir node. Every setting is here, with its default; delete what you \
         do\n# not change. The environment and flags go over what is written here.\n",
    );
    let mut section = "";
    for entry in ENTRIES {
        let (its_section, name) = entry.parts();
        if its_section != section {
            end_section(&mut text, section, settings);
            section = its_section;
            line(&mut text, &format!("\n[{section}]"));
        } else {
            text.push('\n');
        }
        for doc in entry.doc {
            line(&mut text, &format!("#{doc}"));
        }
        let default = (entry.show)(&defaults);
        line(&mut text, &format!("# Default: {default}. Environment: {}.", entry.variable()));
        if let Some(here) = here(entry.key, settings).filter(|_| detail == Detail::Here) {
            line(&mut text, &format!("# Here: {here}."));
        }
        line(&mut text, &format!("{name} = {}", (entry.show)(settings)));
    }
    end_section(&mut text, section, settings);
    text
}

/// The access rules follow the other settings of their section.
fn end_section(text: &mut String, section: &str, settings: &Settings) {
    if section != "access" {
        return;
    }
    text.push('\n');
    for doc in RULES_DOC {
        line(text, &format!("#{doc}"));
    }
    if settings.rules.is_empty() {
        line(text, "rule = []");
    }
    for Rule { principal, roles, topics } in &settings.rules {
        line(text, "[[access.rule]]");
        line(text, &format!("principal = {}", quote(principal)));
        line(text, &format!("roles = {}", roles.toml()));
        line(text, &format!("topics = {}", topics.toml()));
    }
}

fn here(key: &str, settings: &Settings) -> Option<String> {
    Some(match key {
        "data_dir" if settings.data_dir.0.is_none() => {
            quote(&paths::node_data_dir(settings).ok()?.to_string_lossy())
        }
        "name" if settings.name.0.is_none() => quote(&paths::node_name(settings)),
        "access.anonymous" if settings.anonymous.0.is_none() => settings.anonymous_roles().toml(),
        _ => return None,
    })
}

fn line(text: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}
