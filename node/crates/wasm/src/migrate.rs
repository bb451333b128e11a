//! State of a version with another layout, made into that of this one.

use crate::columns::Column;
use crate::error::GuestError;
use crate::guest::{Guest, Surroundings};
use crate::instance::{instantiate, run};
use crate::limits::{self, GuestLimits};
use crate::module::{Migrate, Module};
use bytes::Bytes;
use std::collections::BTreeMap;
use weir_core::limits::{LANE_STATE_BYTES_MAX, MODULE_KEY_BYTES_MAX, STATE_VALUE_BYTES_MAX};

/// What an entry of state counts besides key and value, as where it is stored.
const ENTRY_BYTES: usize = 18;

/// Keyed state, by key.
pub type Entries = BTreeMap<Bytes, Bytes>;

/// What becomes of `entries`, which a version of the layout `from` wrote: the module is called over
/// all of them in key order, some at a time, in an instance of its own that is not started.
///
/// # Errors
/// If a call fails, or what it returns is not acceptable: keys twice, entries that are too large,
/// or more than a lane may keep.
pub(crate) async fn migrate(
    module: &Module,
    guest_limits: &GuestLimits,
    from: u32,
    entries: &Entries,
) -> Result<Entries, GuestError> {
    let export = module.exports().migrate.as_ref();
    let export = export.ok_or(GuestError::Broken("no function that migrates state"))?;
    let guest = Guest::new(module.engine(), *guest_limits, Surroundings::default());
    let (mut store, linked) = instantiate(module.engine(), module.pre(), guest).await?;
    let function: Migrate = linked
        .get_typed_func(&mut store, export)
        .map_err(|error| GuestError::of(&error, store.data()))?;
    let mut made = Made::default();
    let mut all = entries.iter().peekable();
    while all.peek().is_some() {
        let (mut keys, mut values) = (Column::default(), Column::default());
        while keys.bytes.len() + values.bytes.len() < limits::MIGRATE_PART_BYTES
            && keys.len() < limits::SCAN_ENTRIES_MAX
            && let Some((key, value)) = all.next()
        {
            keys.push(key);
            values.push(value);
        }
        let cpu_max = limits::MIGRATE_CPU_MAX;
        let called = run(module.engine(), &mut store, cpu_max, async |store| {
            function.call_async(store, (from, keys, values)).await
        });
        let (returned,) = called.await?;
        let returned = returned.map_err(GuestError::returned)?;
        made.add(&returned.keys, &returned.values)?;
    }
    Ok(made.entries)
}

#[derive(Debug, Default)]
struct Made {
    entries: Entries,
    bytes: usize,
}

impl Made {
    /// Adds what a call returned. Hostile until it was compared with every limit.
    fn add(&mut self, keys: &Column, values: &Column) -> Result<(), GuestError> {
        let malformed = |what| move |error| GuestError::Malformed { what, error };
        keys.check(keys.len()).map_err(malformed("keys of migrated state"))?;
        values.check(keys.len()).map_err(malformed("values of migrated state"))?;
        for (key, value) in keys.iter().zip(values.iter()) {
            for (what, have, limit) in [
                ("bytes in a key of migrated state", key.len(), MODULE_KEY_BYTES_MAX),
                ("bytes in a value of migrated state", value.len(), STATE_VALUE_BYTES_MAX),
            ] {
                if have > limit {
                    return Err(GuestError::TooMuch { what, have, limit });
                }
            }
            self.bytes += ENTRY_BYTES + key.len() + value.len();
            if self.bytes > LANE_STATE_BYTES_MAX {
                let (what, have, limit) =
                    ("bytes of migrated state", self.bytes, LANE_STATE_BYTES_MAX);
                return Err(GuestError::TooMuch { what, have, limit });
            }
            let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            if self.entries.insert(key, value).is_some() {
                return Err(GuestError::Broken("a key of migrated state twice"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(strings: &[&[u8]]) -> Column {
        let mut column = Column::default();
        strings.iter().for_each(|string| column.push(string));
        column
    }

    /// Goal: what a migration returns is taken together over its calls, and each way in which it
    /// can be wrong is an error.
    #[test]
    fn what_is_returned() {
        let mut made = Made::default();
        made.add(&column(&[b"a", b"b"]), &column(&[b"1", b""])).unwrap();
        made.add(&column(&[b"c"]), &column(&[b"3"])).unwrap();
        assert_eq!(made.entries.len(), 3);
        let long = vec![b'x'; MODULE_KEY_BYTES_MAX + 1];
        let large = vec![b'x'; STATE_VALUE_BYTES_MAX + 1];
        let twice = made.add(&column(&[b"a"]), &column(&[b"2"]));
        assert_eq!(twice, Err(GuestError::Broken("a key of migrated state twice")));
        for (keys, values) in [
            (column(&[b"d"]), column(&[])),
            (column(&[&long]), column(&[b""])),
            (column(&[b"d"]), column(&[&large])),
        ] {
            assert!(made.add(&keys, &values).is_err());
        }
        let full = &large[1..];
        let many = (0..).map(|n: u32| made.add(&column(&[&n.to_be_bytes()]), &column(&[full])));
        let refused = many.take(100).find_map(Result::err);
        assert!(matches!(refused, Some(GuestError::TooMuch { .. })), "{refused:?}");
    }
}
