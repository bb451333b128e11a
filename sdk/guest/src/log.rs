//! Log lines.

use crate::bindings::base::weir::module::log as host;
use std::fmt::Arguments;

pub use host::Level;

/// Writes a line. For the macros.
#[doc(hidden)]
pub fn write_line(level: Level, message: Arguments<'_>) {
    match message.as_str() {
        Some(text) => host::write(level, text),
        None => host::write(level, &message.to_string()),
    }
}

/// Without it, a panic ends as a trap that says nothing.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| write_line(Level::Error, format_args!("{info}"))));
}

/// Logs an error: a person must look.
#[macro_export]
macro_rules! error {
    ($($message:tt)*) => { $crate::__log!(Error, $($message)*) };
}

/// Logs a warning: odd, but it goes on.
#[macro_export]
macro_rules! warn {
    ($($message:tt)*) => { $crate::__log!(Warn, $($message)*) };
}

/// Logs a change of state.
#[macro_export]
macro_rules! info {
    ($($message:tt)*) => { $crate::__log!(Info, $($message)*) };
}

/// Logs something for whoever works on the module.
#[macro_export]
macro_rules! debug {
    ($($message:tt)*) => { $crate::__log!(Debug, $($message)*) };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log {
    ($level:ident, $($message:tt)*) => {
        $crate::glue::write_line($crate::Level::$level, format_args!($($message)*))
    };
}
