//! State of versions with another layout.

use crate::bindings::migrate::exports::weir::module::migrating::{Column, Entries};
use crate::error::Result;

/// Takes over state that a version with another [`STATE_SCHEMA`](crate::Transform::STATE_SCHEMA)
/// wrote. Runs once, when a version takes over, over all entries in key order, in an instance that
/// was not started.
pub trait Migrate {
    /// Writes what the entry of layout `from` becomes: nothing, one entry, or several. No two calls
    /// may write the same key.
    ///
    /// # Errors
    /// Stops the takeover: the old state stays. For layouts that this version does not know.
    fn migrate(from: u32, key: &[u8], value: &[u8], to: &mut Migrated) -> Result<()>;
}

/// Entries of the new layout.
#[derive(Debug)]
pub struct Migrated {
    entries: Entries,
}

impl Migrated {
    /// Adds an entry.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        push(&mut self.entries.keys, key.as_ref());
        push(&mut self.entries.values, value.as_ref());
    }
}

fn push(column: &mut Column, string: &[u8]) {
    column.bytes.extend_from_slice(string);
    // The node bounds what a lane keeps far below 4 GiB.
    column.ends.push(column.bytes.len() as u32);
}

fn strings(column: &Column) -> impl Iterator<Item = &[u8]> {
    let mut begin = 0;
    column.ends.iter().map(move |end| {
        let string = &column.bytes[begin..*end as usize];
        begin = *end as usize;
        string
    })
}

/// Runs a migration over some entries. For the macros.
///
/// # Errors
/// As [`Migrate::migrate`].
pub fn migrate<M: Migrate>(from: u32, keys: Column, values: Column) -> Result<Entries, String> {
    let empty = || Column { ends: Vec::new(), bytes: Vec::new() };
    let mut to = Migrated { entries: Entries { keys: empty(), values: empty() } };
    for (key, value) in strings(&keys).zip(strings(&values)) {
        M::migrate(from, key, value, &mut to).map_err(crate::Error::into_message)?;
    }
    Ok(to.entries)
}

/// Exports a [`Migrate`] beside the transform or consumer of this crate.
#[macro_export]
macro_rules! export_migrate {
    ($module:ty) => {
        const _: () = {
            struct Migration;

            impl $crate::bindings::migrate::exports::weir::module::migrating::Guest for Migration {
                fn migrate(
                    from_schema: u32,
                    keys: $crate::bindings::types::Column,
                    values: $crate::bindings::types::Column,
                ) -> Result<
                    $crate::bindings::migrate::exports::weir::module::migrating::Entries,
                    String,
                > {
                    $crate::glue::install_panic_hook();
                    $crate::glue::migrate::<$module>(from_schema, keys, values)
                }
            }

            $crate::bindings::migrate::export_migrate!(
                Migration with_types_in $crate::bindings::migrate
            );
        };
    };
}
