//! The configuration file: TOML, every key known, errors with their line.

use super::value::{Raw, Value, expected};
use super::{ConfigError, ENTRIES, Settings, entry, nearest_key};
use crate::output::nearest;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use weir_core::access::{Role, Rule};

/// Applies the file's text to `settings`. `path` is for messages.
///
/// # Errors
/// [`ConfigError`] for the first thing that is wrong, from the top.
pub fn apply(settings: &mut Settings, path: &Path, text: &str) -> Result<(), ConfigError> {
    let document = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        error: error.to_string().trim_end().to_owned(),
    })?;
    File { path, text }.table(settings, "", document.get_ref())
}

struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

type Key<'a> = Spanned<std::borrow::Cow<'a, str>>;

impl File<'_> {
    fn table(
        &self,
        settings: &mut Settings,
        section: &str,
        table: &DeTable<'_>,
    ) -> Result<(), ConfigError> {
        // In the order of the file, so that the first error reported is the topmost.
        let mut pairs: Vec<(&Key<'_>, &Spanned<DeValue<'_>>)> = table.iter().collect();
        pairs.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in pairs {
            let name = match section {
                "" => key.get_ref().to_string(),
                section => format!("{section}.{}", key.get_ref()),
            };
            self.setting(settings, &name, key, value)?;
        }
        Ok(())
    }

    fn setting(
        &self,
        settings: &mut Settings,
        name: &str,
        key: &Key<'_>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(), ConfigError> {
        if name == "access.rule" {
            settings.rules = self.rules(value)?;
            return Ok(());
        }
        if let Some(entry) = entry(name) {
            return (entry.set)(settings, &raw(value.get_ref()))
                .map_err(|reason| self.wrong(value.span().start, name, reason));
        }
        let is_section = ENTRIES.iter().any(|entry| entry.parts().0 == name);
        match value.get_ref() {
            DeValue::Table(table) if is_section => self.table(settings, name, table),
            _ if is_section => Err(self.wrong(key.span().start, name, "is a section".into())),
            DeValue::Table(_) => Err(self.unknown(key, name, nearest_section(name))),
            _ => Err(self.unknown(key, name, nearest_key(name))),
        }
    }

    fn rules(&self, value: &Spanned<DeValue<'_>>) -> Result<Vec<Rule>, ConfigError> {
        let wrong = |value: &Spanned<DeValue<'_>>| {
            let reason = expected("a list of [[access.rule]] tables", &raw(value.get_ref()));
            self.wrong(value.span().start, "access.rule", reason)
        };
        let DeValue::Array(items) = value.get_ref() else { return Err(wrong(value)) };
        let rules = items.iter().map(|item| match item.get_ref() {
            DeValue::Table(table) => self.rule(item.span().start, table),
            _ => Err(wrong(item)),
        });
        rules.collect()
    }

    fn rule(&self, start: usize, table: &DeTable<'_>) -> Result<Rule, ConfigError> {
        const KEYS: [&str; 3] = ["principal", "roles", "topics"];
        let (mut principal, mut roles, mut topics) = (None, None, Vec::new());
        for (key, value) in table.iter() {
            let raw = raw(value.get_ref());
            let name = format!("access.rule.{}", key.get_ref());
            let wrong = |reason| self.wrong(value.span().start, &name, reason);
            match key.get_ref().as_ref() {
                "principal" => principal = Some(String::parse(&raw).map_err(wrong)?),
                "roles" => roles = Some(Vec::<Role>::parse(&raw).map_err(wrong)?),
                "topics" => topics = Vec::<String>::parse(&raw).map_err(wrong)?,
                other => {
                    let like = nearest(other, KEYS).map(|key| format!("access.rule.{key}"));
                    return Err(self.unknown(key, &name, like));
                }
            }
        }
        let missing = |key| self.wrong(start, "access.rule", format!("`{key}` is missing"));
        let principal = principal.ok_or_else(|| missing("principal"))?;
        Ok(Rule { principal, roles: roles.ok_or_else(|| missing("roles"))?, topics })
    }

    fn unknown(&self, key: &Key<'_>, name: &str, nearest: Option<String>) -> ConfigError {
        ConfigError::Unknown { place: self.place(key.span().start), key: name.to_owned(), nearest }
    }

    fn wrong(&self, at: usize, key: &str, reason: String) -> ConfigError {
        ConfigError::Value { place: self.place(at), key: key.to_owned(), reason }
    }

    fn place(&self, at: usize) -> String {
        let before = self.text.as_bytes().get(..at).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        format!("{} line {line}", self.path.display())
    }
}

fn nearest_section(name: &str) -> Option<String> {
    let sections =
        ENTRIES.iter().map(|entry| entry.parts().0).filter(|section| !section.is_empty());
    nearest(name, sections).map(Into::into)
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(digits) => match i64::from_str_radix(digits.as_str(), digits.radix()) {
            Ok(number) => Raw::Integer(number),
            Err(_) => Raw::Other("a number of this size"),
        },
        DeValue::Array(items) => Raw::List(items.iter().map(|i| raw(i.get_ref())).collect()),
        DeValue::Float(_) => Raw::Other("a fraction"),
        DeValue::Boolean(_) => Raw::Other("true or false"),
        DeValue::Datetime(_) => Raw::Other("a date"),
        DeValue::Table(_) => Raw::Other("a table"),
    }
}
