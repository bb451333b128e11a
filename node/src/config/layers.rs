//! Defaults, file, environment and flags, one over the other.

use super::{ConfigError, ENTRIES, Raw, Settings, entry, file, nearest_key};
use crate::output::nearest;
use std::path::{Path, PathBuf};

/// Largest configuration file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Variables that begin with `WEIR_` and are not settings of a node.
const OTHER_VARIABLES: [&str; 7] = [
    "WEIR_CONFIG",
    "WEIR_SERVER",
    "WEIR_CA",
    "WEIR_CERT",
    "WEIR_KEY",
    "WEIR_SERVER_NAME",
    "WEIR_TIMEOUT",
];

/// Where values come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// The environment: names and values.
    pub environment: Vec<(String, String)>,
    /// Flags: the setting, the flag for messages, its value.
    pub flags: Vec<(String, String, String)>,
}

/// Reads all sources.
///
/// Also gives what an operator should be told: variables that look like settings and are none.
/// They are no errors, since container platforms define `WEIR_…` variables of their own accord.
///
/// # Errors
/// [`ConfigError`], naming file and line, variable or flag.
pub fn load(sources: &Sources) -> Result<(Settings, Vec<String>), ConfigError> {
    let mut settings = Settings::default();
    if let Some(path) = &sources.file {
        file::apply(&mut settings, path, &read(path)?)?;
    }
    let mut warnings = Vec::new();
    for (variable, value) in &sources.environment {
        apply_variable(&mut settings, variable, value, &mut warnings)?;
    }
    for (key, flag, value) in &sources.flags {
        let place = flag.clone();
        let Some(entry) = entry(key) else {
            return Err(ConfigError::Unknown {
                place,
                key: key.clone(),
                nearest: nearest_key(key),
            });
        };
        (entry.set)(&mut settings, &Raw::Text(value.clone()))
            .map_err(|reason| ConfigError::Value { place, key: key.clone(), reason })?;
    }
    settings.check()?;
    Ok((settings, warnings))
}

fn apply_variable(
    settings: &mut Settings,
    variable: &str,
    value: &str,
    warnings: &mut Vec<String>,
) -> Result<(), ConfigError> {
    if !variable.starts_with("WEIR_") || OTHER_VARIABLES.contains(&variable) {
        return Ok(());
    }
    let Some(entry) = ENTRIES.iter().find(|entry| entry.variable() == variable) else {
        let names: Vec<String> = ENTRIES.iter().map(super::Entry::variable).collect();
        let like = nearest(variable, names.iter().map(String::as_str));
        let hint = like.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
        warnings.push(format!("the environment variable {variable} is no setting{hint}"));
        return Ok(());
    };
    (entry.set)(settings, &Raw::Text(value.to_owned())).map_err(|reason| ConfigError::Value {
        place: variable.to_owned(),
        key: entry.key.to_owned(),
        reason,
    })
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |error| ConfigError::Read { path: path.to_owned(), error };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        let error = std::io::Error::other("it is larger than 1 MiB");
        return Err(ConfigError::Read { path: path.to_owned(), error });
    }
    std::fs::read_to_string(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::super::{Auto, Detail, Off, parse, print};
    use super::*;
    use crate::units::Size;
    use weir_core::access::Role;

    fn with_file(text: &str) -> Result<Settings, ConfigError> {
        parse(Path::new("weir.toml"), text)
    }

    #[track_caller]
    fn refused(text: &str, message: &str) {
        let error = with_file(text).unwrap_err().to_string();
        assert_eq!(error, message);
    }

    /// Goal: each layer wins over the one before it, and leaves alone what it does not name.
    #[test]
    fn layers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weir.toml");
        let text = "listen = '0.0.0.0:1'\nname = 'file'\nhttp = 'off'\n[storage]\nshards = 3\n";
        std::fs::write(&path, text).unwrap();
        let sources = Sources {
            file: Some(path),
            environment: vec![
                ("WEIR_NAME".into(), "env".into()),
                ("WEIR_LISTEN".into(), "0.0.0.0:2".into()),
                ("WEIR_ACCESS_ANONYMOUS".into(), "produce, consume".into()),
                ("WEIR_STORAGE_FILE_SIZE".into(), "64MiB".into()),
                ("HOME".into(), "/".into()),
                ("WEIR_SERVER".into(), "elsewhere:1".into()),
            ],
            flags: vec![("listen".into(), "--listen".into(), "0.0.0.0:3".into())],
        };
        let (settings, warnings) = load(&sources).unwrap();
        assert_eq!(settings.listen.port(), 3);
        assert_eq!(settings.name, Auto(Some("env".into())));
        assert_eq!(settings.http, Off::Off);
        assert_eq!(settings.shards, Auto(Some(3)));
        assert_eq!(settings.file_size, Size(64 << 20));
        assert_eq!(settings.anonymous, Auto(Some(vec![Role::Produce, Role::Consume])));
        assert_eq!(settings.reserve, Settings::default().reserve);
        assert_eq!(warnings, Vec::<String>::new());
    }

    /// Goal: errors name the place and the nearest name.
    #[test]
    fn unknown_keys() {
        refused(
            "name = 'a'\n\nlisen = '127.0.0.1:1'\n",
            "weir.toml line 3: there is no setting `lisen`; did you mean `listen`?",
        );
        refused(
            "[storage]\nfilesize = '64MiB'\n",
            "weir.toml line 2: there is no setting `storage.filesize`; did you mean \
             `storage.file_size`?",
        );
        refused(
            "shards = 2\n",
            "weir.toml line 1: there is no setting `shards`; did you mean `storage.shards`?",
        );
        refused("[qqq]\na = 1\n", "weir.toml line 1: there is no setting `qqq`");
        refused(
            "[storag]\na = 1\n",
            "weir.toml line 1: there is no setting `storag`; did you mean `storage`?",
        );
        refused(
            "[[access.rule]]\nprincipal = 'x'\nroles = []\ntopic = ['a']\n",
            "weir.toml line 4: there is no setting `access.rule.topic`; did you mean \
             `access.rule.topics`?",
        );
    }

    /// Goal: a name with a slip of the pen is refused, and the name that was meant, or another one
    /// as near, is suggested. Method: every setting, with each letter of its name left out, doubled
    /// and exchanged with the next.
    #[test]
    fn slips_of_the_pen() {
        let mut slips = 0;
        for entry in ENTRIES {
            let (section, name) = entry.parts();
            let letters: Vec<char> = name.chars().collect();
            for at in 0..letters.len() {
                let mut without = letters.clone();
                without.remove(at);
                let mut doubled = letters.clone();
                doubled.insert(at, letters[at]);
                let mut exchanged = letters.clone();
                exchanged.swap(at, (at + 1).min(letters.len() - 1));
                for wrong in [without, doubled, exchanged].map(String::from_iter) {
                    let head =
                        if section.is_empty() { "".into() } else { format!("[{section}]\n") };
                    let key = format!("{head}{wrong} = 1\n");
                    let wrong_key = entry.key.replace(name, &wrong);
                    if wrong.is_empty() || super::entry(&wrong_key).is_some() {
                        continue;
                    }
                    slips += 1;
                    let Err(ConfigError::Unknown { key: found, nearest, .. }) = with_file(&key)
                    else {
                        panic!("{key} is not refused as unknown");
                    };
                    assert_eq!(found, wrong_key);
                    let Some(nearest) = nearest else { panic!("nothing is like {found}") };
                    let distance = |to: &str| strsim::damerau_levenshtein(&found, to);
                    let elsewhere = nearest.ends_with(&format!(".{wrong}"));
                    let as_near = distance(&nearest) <= distance(entry.key);
                    assert!(as_near || elsewhere, "{found}: {nearest}, not {}", entry.key);
                }
            }
        }
        assert!(slips > 500, "{slips}");
    }

    #[test]
    fn wrong_values() {
        refused(
            "listen = 7447\n",
            "weir.toml line 1: listen: 7447 is not an IP address and port such as \
             127.0.0.1:7447, 0.0.0.0:7447 or [::]:7447",
        );
        refused(
            "[storage]\n\nfile_size = '64M'",
            "weir.toml line 3: storage.file_size: `64M` is not a size such as 32MiB",
        );
        refused(
            "[[access.rule]]\nprincipal = 'x'\nroles = ['root']\n",
            "weir.toml line 3: access.rule.roles: `root` is not admin, produce or consume",
        );
        refused(
            "\n[[access.rule]]\nroles = ['admin']\n",
            "weir.toml line 2: access.rule: `principal` is missing",
        );
        refused("storage = 1", "weir.toml line 1: storage: is a section");
        refused(
            "[memory]\nfetch_budget = '1MiB'",
            "the configuration contradicts itself: memory.fetch_budget must be at least 4MiB, one \
             batch",
        );
        assert!(matches!(with_file("a = "), Err(ConfigError::Syntax { .. })));
    }

    #[test]
    fn variables_that_are_no_settings_are_pointed_out() {
        let environment = vec![("WEIR_LISTNE".into(), "x".into())];
        let (settings, warnings) = load(&Sources { environment, ..Sources::default() }).unwrap();
        assert_eq!(settings, Settings::default());
        assert_eq!(
            warnings,
            ["the environment variable WEIR_LISTNE is no setting; did you mean WEIR_LISTEN?"]
        );
        let environment = vec![("WEIR_LISTEN".into(), "x".into())];
        let error = load(&Sources { environment, ..Sources::default() }).unwrap_err();
        assert!(error.to_string().starts_with("WEIR_LISTEN: listen: `x` is not"), "{error}");
    }

    /// Goal: what is printed is valid TOML with every setting and gives the same settings back.
    #[test]
    fn printed_settings_read_back() {
        let odd = with_file(
            "data_dir = '/tmp/\"odd\\'\nname = 'n'\nlisten = '[::1]:9'\nhttp = 'off'\nmtu = 1300\n\
             [tls]\nnames = ['a.example', '10.0.0.1']\n[access]\nanonymous = []\nrule = []\n\
             [storage]\nshards = 2\nfile_size = 33554433\nscrub_period = '1h30m'\n\
             [logging]\nformat = 'json'\nlevel = 'warn,weir_log=debug'\n",
        )
        .unwrap();
        let rules = with_file(
            "[[access.rule]]\nprincipal = 'a*'\nroles = ['produce', 'consume']\ntopics = ['x.']\n\
             [[access.rule]]\nprincipal = 'b'\nroles = ['admin']\n",
        )
        .unwrap();
        assert_eq!(rules.rules.len(), 2);
        for settings in [Settings::default(), odd, rules] {
            for detail in [Detail::Plain, Detail::Here] {
                let text = print(&settings, detail);
                assert_eq!(with_file(&text).unwrap(), settings, "{text}");
                for entry in ENTRIES {
                    let line = format!("\n{} = ", entry.parts().1);
                    assert!(text.contains(&line), "{}\n{text}", entry.key);
                    assert!(text.contains(&entry.variable()), "{}", entry.key);
                }
            }
        }
    }

    /// Goal: every setting is documented, and sections stand together, as TOML needs them.
    #[test]
    fn the_table_is_in_order() {
        let mut seen: Vec<&str> = Vec::new();
        for entry in ENTRIES {
            assert!(!entry.doc.is_empty(), "{} is not documented", entry.key);
            let (section, _) = entry.parts();
            if seen.last() != Some(&section) {
                assert!(!seen.contains(&section), "section {section} is in two places");
                seen.push(section);
            }
        }
        assert_eq!(seen[0], "");
    }
}
