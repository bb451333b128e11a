//! Values of settings: read from TOML, the environment or a flag, and written as TOML.

use crate::logging::LogFormat;
use crate::units::{Size, Span};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use weir_core::access::Role;

/// A value as it was found, before anybody asked what it is for.
#[derive(Clone, Debug, PartialEq)]
pub enum Raw {
    /// A TOML string, or anything from the environment or a flag.
    Text(String),
    /// A TOML integer.
    Integer(i64),
    /// A TOML array.
    List(Vec<Raw>),
    /// Something that no setting takes; what it is.
    Other(&'static str),
}

/// A kind of value.
pub trait Value: Sized {
    /// Takes a value.
    ///
    /// # Errors
    /// What would be right, in words.
    fn parse(raw: &Raw) -> Result<Self, String>;

    /// The value as TOML, such that [`Value::parse`] gives it back.
    fn toml(&self) -> String;
}

/// A setting that may be left to the program: `auto`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auto<T>(pub Option<T>);

impl<T> Auto<T> {
    /// Left to the program.
    pub const AUTO: Auto<T> = Auto(None);
}

impl<T: Value> Value for Auto<T> {
    fn parse(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Text(text) if text == "auto" => Ok(Auto(None)),
            raw => T::parse(raw).map(|value| Auto(Some(value))),
        }
    }

    fn toml(&self) -> String {
        self.0.as_ref().map_or_else(|| quote("auto"), Value::toml)
    }
}

/// A setting that may be switched off: `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Off<T> {
    /// Off.
    Off,
    /// On, with this value.
    On(T),
}

impl<T: Value> Value for Off<T> {
    fn parse(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Text(text) if text == "off" => Ok(Off::Off),
            raw => T::parse(raw).map(Off::On),
        }
    }

    fn toml(&self) -> String {
        match self {
            Off::Off => quote("off"),
            Off::On(value) => value.toml(),
        }
    }
}

impl Value for String {
    fn parse(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Text(text) if !text.is_empty() => Ok(text.clone()),
            raw => Err(expected("a text that is not empty", raw)),
        }
    }

    fn toml(&self) -> String {
        quote(self)
    }
}

impl Value for PathBuf {
    fn parse(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Text(text) if !text.is_empty() => Ok(PathBuf::from(text)),
            raw => Err(expected("a path", raw)),
        }
    }

    fn toml(&self) -> String {
        quote(&self.to_string_lossy())
    }
}

impl Value for SocketAddr {
    fn parse(raw: &Raw) -> Result<Self, String> {
        let wanted = "an IP address and port such as 127.0.0.1:7447, 0.0.0.0:7447 or [::]:7447";
        from_text(raw, wanted)
    }

    fn toml(&self) -> String {
        quote(&self.to_string())
    }
}

impl Value for Size {
    fn parse(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Integer(bytes) => {
                u64::try_from(*bytes).map(Size).map_err(|_| expected("a size such as 32MiB", raw))
            }
            raw => from_text(raw, "a size such as 32MiB"),
        }
    }

    fn toml(&self) -> String {
        quote(&self.to_string())
    }
}

impl Value for Span {
    fn parse(raw: &Raw) -> Result<Self, String> {
        from_text(raw, "a duration such as 500ms, 30s or 7d")
    }

    fn toml(&self) -> String {
        quote(&self.to_string())
    }
}

macro_rules! integers {
    ($($kind:ty),*) => { $(
        impl Value for $kind {
            fn parse(raw: &Raw) -> Result<Self, String> {
                let wanted = concat!("a whole number that fits ", stringify!($kind));
                match raw {
                    Raw::Integer(n) => Self::try_from(*n).map_err(|_| expected(wanted, raw)),
                    raw => from_text(raw, wanted),
                }
            }

            fn toml(&self) -> String {
                self.to_string()
            }
        }
    )* };
}
integers!(u8, u16, u32);

impl Value for LogFormat {
    fn parse(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Text(text) if text == "text" => Ok(LogFormat::Text),
            Raw::Text(text) if text == "json" => Ok(LogFormat::Json),
            raw => Err(expected("text or json", raw)),
        }
    }

    fn toml(&self) -> String {
        quote(self.name())
    }
}

impl Value for Role {
    fn parse(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Text(text) if text == "admin" => Ok(Role::Admin),
            Raw::Text(text) if text == "produce" => Ok(Role::Produce),
            Raw::Text(text) if text == "consume" => Ok(Role::Consume),
            raw => Err(expected("admin, produce or consume", raw)),
        }
    }

    fn toml(&self) -> String {
        quote(match self {
            Role::Admin => "admin",
            Role::Produce => "produce",
            Role::Consume => "consume",
        })
    }
}

/// A list; one text is a list separated by commas, so that the environment can give one.
impl<T: Value> Value for Vec<T> {
    fn parse(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::List(items) => items.iter().map(T::parse).collect(),
            Raw::Text(text) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                items.map(|item| T::parse(&Raw::Text(item.to_owned()))).collect()
            }
            raw => Err(expected("a list", raw)),
        }
    }

    fn toml(&self) -> String {
        let items: Vec<String> = self.iter().map(Value::toml).collect();
        format!("[{}]", items.join(", "))
    }
}

fn from_text<T: FromStr>(raw: &Raw, wanted: &str) -> Result<T, String> {
    match raw {
        Raw::Text(text) => text.trim().parse().map_err(|_| expected(wanted, raw)),
        raw => Err(expected(wanted, raw)),
    }
}

/// What was found, and what it should have been.
pub fn expected(wanted: &str, raw: &Raw) -> String {
    match raw {
        Raw::Text(text) => format!("`{text}` is not {wanted}"),
        Raw::Integer(number) => format!("{number} is not {wanted}"),
        Raw::List(_) => format!("a list is not {wanted}"),
        Raw::Other(what) => format!("{what} is not {wanted}"),
    }
}

/// A TOML string.
pub fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
