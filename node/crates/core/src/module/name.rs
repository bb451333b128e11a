//! Names and versions of modules.

use super::ModuleError;
use crate::topic::check_name;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A module's name: the rules of topic names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModuleName(String);

impl ModuleName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`ModuleError::Name`].
    pub fn check(name: &str) -> Result<(), ModuleError> {
        check_name(name).map_err(|_| ModuleError::Name(name.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ModuleName {
    type Error = ModuleError;

    fn try_from(name: String) -> Result<ModuleName, ModuleError> {
        ModuleName::check(&name)?;
        Ok(ModuleName(name))
    }
}

impl From<ModuleName> for String {
    fn from(name: ModuleName) -> String {
        name.0
    }
}

/// A module's version: `MAJOR.MINOR.PATCH`, ordered as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModuleVersion {
    /// Changes what it does.
    pub major: u32,
    /// Does more.
    pub minor: u32,
    /// Mends.
    pub patch: u32,
}

impl FromStr for ModuleVersion {
    type Err = ModuleError;

    fn from_str(text: &str) -> Result<ModuleVersion, ModuleError> {
        let wrong = || ModuleError::Version(text.to_owned());
        let mut parts = text.split('.').map(|part| {
            // One way to write each version: no sign, no leading zero.
            let plain = part.bytes().all(|b| b.is_ascii_digit());
            let canonical = part == "0" || !part.starts_with('0');
            if plain && canonical { part.parse::<u32>().map_err(|_| wrong()) } else { Err(wrong()) }
        });
        let mut next = || parts.next().unwrap_or_else(|| Err(wrong()));
        let version = ModuleVersion { major: next()?, minor: next()?, patch: next()? };
        if parts.next().is_some() { Err(wrong()) } else { Ok(version) }
    }
}

impl TryFrom<String> for ModuleVersion {
    type Error = ModuleError;

    fn try_from(text: String) -> Result<ModuleVersion, ModuleError> {
        text.parse()
    }
}

impl From<ModuleVersion> for String {
    fn from(version: ModuleVersion) -> String {
        version.to_string()
    }
}

impl fmt::Display for ModuleVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// One version of a module: `NAME@VERSION`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModuleRef {
    /// The name.
    pub name: ModuleName,
    /// The version.
    pub version: ModuleVersion,
}

impl FromStr for ModuleRef {
    type Err = ModuleError;

    fn from_str(text: &str) -> Result<ModuleRef, ModuleError> {
        let (name, version) =
            text.split_once('@').ok_or_else(|| ModuleError::Reference(text.to_owned()))?;
        Ok(ModuleRef { name: ModuleName::try_from(name.to_owned())?, version: version.parse()? })
    }
}

impl TryFrom<String> for ModuleRef {
    type Error = ModuleError;

    fn try_from(text: String) -> Result<ModuleRef, ModuleError> {
        text.parse()
    }
}

impl From<ModuleRef> for String {
    fn from(reference: ModuleRef) -> String {
        reference.to_string()
    }
}

impl fmt::Display for ModuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name.0, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what is written reads back, and each version has one spelling.
    #[test]
    fn references() {
        let module: ModuleRef = "gps-geofence@1.20.0".parse().unwrap();
        assert_eq!(module.to_string(), "gps-geofence@1.20.0");
        let older: ModuleRef = "gps-geofence@1.9.7".parse().unwrap();
        assert!(older < module);
        for wrong in [
            "x",
            "x@",
            "x@1",
            "x@1.2",
            "x@1.2.3.4",
            "x@01.2.3",
            "x@+1.2.3",
            "a b@1.2.3",
            "@1.2.3",
            "__x@1.2.3",
            "x@1.2.4294967296",
        ] {
            assert!(wrong.parse::<ModuleRef>().is_err(), "{wrong}");
        }
    }
}
