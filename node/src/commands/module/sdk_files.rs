//! The guest SDK and its WIT, as this program was built with them: a new project gets a copy, so
//! that it builds without a registry and fits this node.

/// The files of the SDK: where they go in a project, and what is in them.
pub const FILES: &[(&str, &str)] = &[
    ("weir-guest/Cargo.toml", include_str!("../../../../sdk/guest/Cargo.toml")),
    ("weir-guest/src/lib.rs", include_str!("../../../../sdk/guest/src/lib.rs")),
    ("weir-guest/src/check.rs", include_str!("../../../../sdk/guest/src/check.rs")),
    ("weir-guest/src/error.rs", include_str!("../../../../sdk/guest/src/error.rs")),
    ("weir-guest/src/filter.rs", include_str!("../../../../sdk/guest/src/filter.rs")),
    ("weir-guest/src/flow.rs", include_str!("../../../../sdk/guest/src/flow.rs")),
    ("weir-guest/src/http.rs", include_str!("../../../../sdk/guest/src/http.rs")),
    ("weir-guest/src/log.rs", include_str!("../../../../sdk/guest/src/log.rs")),
    ("weir-guest/src/migrate.rs", include_str!("../../../../sdk/guest/src/migrate.rs")),
    ("weir-guest/src/outputs.rs", include_str!("../../../../sdk/guest/src/outputs.rs")),
    ("weir-guest/src/params.rs", include_str!("../../../../sdk/guest/src/params.rs")),
    ("weir-guest/src/record.rs", include_str!("../../../../sdk/guest/src/record.rs")),
    ("weir-guest/src/state.rs", include_str!("../../../../sdk/guest/src/state.rs")),
    ("weir-guest/src/timers.rs", include_str!("../../../../sdk/guest/src/timers.rs")),
    ("weir-guest/wit/types.wit", include_str!("../../../../wit/types.wit")),
    ("weir-guest/wit/http.wit", include_str!("../../../../wit/http.wit")),
    ("weir-guest/wit/place.wit", include_str!("../../../../wit/place.wit")),
    ("weir-guest/wit/state.wit", include_str!("../../../../wit/state.wit")),
    ("weir-guest/wit/worlds.wit", include_str!("../../../../wit/worlds.wit")),
];

/// A file of the SDK as it must be in a project: there it is its own root, with the WIT inside.
pub fn standalone(text: &str) -> String {
    text.replace("path: \"../../wit\"", "path: \"wit\"")
        .lines()
        .filter(|line| {
            !line.starts_with("workspace = ") && !line.starts_with("# Modules are built")
        })
        .flat_map(|line| [line, "\n"])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// Goal: the list has every file of the SDK and of the WIT.
    #[test]
    fn no_file_is_forgotten() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let names = |folder: &str, prefix: &str| {
            let entries = std::fs::read_dir(root.join(folder)).unwrap();
            entries
                .map(|entry| format!("{prefix}{}", entry.unwrap().file_name().to_string_lossy()))
                .collect::<BTreeSet<_>>()
        };
        let mut there = names("sdk/guest/src", "weir-guest/src/");
        there.extend(names("wit", "weir-guest/wit/"));
        there.insert("weir-guest/Cargo.toml".into());
        let listed: BTreeSet<String> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(listed, there);
    }

    /// Goal: nothing in a copy points out of the project.
    #[test]
    fn copies_stand_alone() {
        for (name, text) in FILES {
            assert!(!standalone(text).contains("\"../"), "{name}");
        }
    }
}
