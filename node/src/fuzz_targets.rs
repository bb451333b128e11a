//! One plain function for each reader of what operators write, to be fed arbitrary bytes. None may
//! panic.

use crate::config::{self, ConfigError, Detail, ENTRIES, Raw, Settings};
use std::path::Path;

/// Configuration files to begin from: the printed defaults, and one with what those do not show.
#[must_use]
pub fn config_seeds() -> Vec<Vec<u8>> {
    let odd = "data_dir = '/tmp/\"odd\\'\nname = 'n'\nlisten = '[::1]:9'\nhttp = 'off'\n\
               mtu = 1300\n\
               [tls]\nnames = ['a.example', '10.0.0.1']\n[access]\nanonymous = ['produce']\n\
               [[access.rule]]\nprincipal = 'a*'\nroles = ['consume']\ntopics = ['x.']\n\
               [storage]\nshards = 2\nfile_size = 33_554_433\nscrub_period = '1h30m'\n\
               [logging]\nformat = 'json'\nlevel = 'warn,weir_log=debug'\n";
    vec![config::print(&Settings::default(), Detail::Plain).into_bytes(), odd.into()]
}

/// A configuration file. Says whether it was accepted: then what is printed of it is accepted,
/// too, and gives the same settings. If it was not, the error names the file, and a line in it or
/// a setting; and what it suggests instead of an unknown name is a name.
pub fn config(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    match config::parse(Path::new("a.toml"), text) {
        Ok(settings) => {
            let printed = config::print(&settings, Detail::Plain);
            match config::parse(Path::new("printed"), &printed) {
                Ok(again) => assert_eq!(again, settings),
                Err(error) => panic!("{error}\n{printed}"),
            }
            true
        }
        Err(error) => {
            check_error(&error, text);
            false
        }
    }
}

fn check_error(error: &ConfigError, text: &str) {
    match error {
        ConfigError::Read { .. } => panic!("nothing was read: {error}"),
        ConfigError::Syntax { path, .. } => assert_eq!(path, Path::new("a.toml")),
        ConfigError::Value { place, .. } => check_place(place, text),
        ConfigError::Unknown { place, nearest, .. } => {
            check_place(place, text);
            let Some(nearest) = nearest else { return };
            let known = ENTRIES.iter().any(|e| e.key == nearest || e.parts().0 == nearest);
            assert!(known || nearest.starts_with("access.rule"), "{nearest} is no name");
        }
        ConfigError::Contradiction(reason) => {
            let named = ENTRIES.iter().any(|entry| reason.contains(entry.key));
            assert!(named, "it does not say which: {reason}");
        }
    }
}

fn check_place(place: &str, text: &str) {
    let line = place.strip_prefix("a.toml line ").and_then(|line| line.parse::<usize>().ok());
    let lines = text.split('\n').count();
    assert!(line.is_some_and(|line| (1..=lines).contains(&line)), "{place} of {lines} lines");
}

/// Values of single settings to begin from, as [`setting`] takes them.
#[must_use]
pub fn setting_seeds() -> Vec<Vec<u8>> {
    let defaults = Settings::default();
    let default = |(n, entry): (usize, &config::Entry)| {
        let shown = match entry.key {
            // No member at all is not what one member looks like.
            "cluster.members" => "1=edge-1@10.0.0.1:7447,2=edge-2@[fd00::2]:7447".to_owned(),
            _ => (entry.show)(&defaults),
        };
        [&[n as u8], shown.trim_matches('"').as_bytes()].concat()
    };
    ENTRIES.iter().enumerate().map(default).collect()
}

/// The value of one setting as the environment or a flag gives it: the first byte says which. Says
/// whether it was accepted: then what is shown of it is accepted, too, and means the same.
pub fn setting(data: &[u8]) -> bool {
    let Some((n, text)) = data.split_first() else { return false };
    let Some(entry) = ENTRIES.get(usize::from(*n) % ENTRIES.len()) else { return false };
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let mut settings = Settings::default();
    if (entry.set)(&mut settings, &Raw::Text(text.to_owned())).is_err() {
        return false;
    }
    let shown = (entry.show)(&settings);
    let (section, name) = entry.parts();
    let file = match section {
        "" => format!("{name} = {shown}\n"),
        section => format!("[{section}]\n{name} = {shown}\n"),
    };
    let again = config::parse(Path::new("shown"), &file);
    // Alone a value may be out of bounds, or contradict others.
    if settings.check().is_ok() {
        match again {
            Ok(again) => assert_eq!(again, settings),
            Err(error) => panic!("{error}\n{file}"),
        }
    }
    true
}
