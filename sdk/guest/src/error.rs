//! Errors with `?`.

use std::fmt;

/// What went wrong with a record, or with a deployment's parameters. Made from any error by `?`,
/// and from text by [`Error::msg`], [`bail!`](crate::bail) and [`ensure!`](crate::ensure).
pub struct Error(String);

/// A result whose error is a message.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error that says `message`.
    pub fn msg(message: impl fmt::Display) -> Error {
        Error(message.to_string())
    }

    /// The same, with what was being done in front.
    #[must_use]
    pub fn context(self, doing: impl fmt::Display) -> Error {
        Error(format!("{doing}: {}", self.0))
    }

    pub(crate) fn into_message(self) -> String {
        self.0
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// `Error` itself is no `std::error::Error`, so that this does not collide with `From<T> for T`.
impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Error {
        Error(error.to_string())
    }
}

/// Returns early with an error: `bail!("no position in {text}")`.
#[macro_export]
macro_rules! bail {
    ($($message:tt)*) => { return Err($crate::Error::msg(format_args!($($message)*))) };
}

/// Returns early with an error unless a condition holds: `ensure!(x < 90.0, "{x} is too far")`.
#[macro_export]
macro_rules! ensure {
    ($holds:expr, $($message:tt)*) => { if !$holds { $crate::bail!($($message)*) } };
}
