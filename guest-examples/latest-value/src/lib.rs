//! Keeps the last value of each key, and publishes those that differ from the one before.
//!
//! ```text
//! weir consumer create table --module latest-value@1.0.0 --from readings --to changes
//! ```
//!
//! `changes` then holds a record for each change: the key, the new value, and the old one in the
//! header `before`. A record without a value deletes its key, which is published as such. Records
//! that change nothing are only counted as read. The table is the consumer's state: `weir consumer
//! describe table` shows how many keys it has.
//!
//! State is kept per input partition, so records of one key should come in one partition, as they
//! do where the key chooses it. Records without a key fail: `--on-error` decides.

use weir_guest::prelude::*;

struct LatestValue;

impl Consumer for LatestValue {
    type Params = ();
    const ABOUT: &'static str = "Keeps the last value of each key, and publishes changes.";
    const COLUMNS: Columns = Columns::KEYS.and(Columns::VALUES);
    const STATE_SCHEMA: u32 = 1;

    fn start(_params: ()) -> Result<Self> {
        Ok(LatestValue)
    }

    fn state_keys(&self, record: &Record<'_>, keys: &mut weir_guest::Keys) {
        if let Some(key) = record.key() {
            keys.add(key);
        }
    }

    fn consume(&mut self, record: &Record<'_>, cx: &mut Context<'_>) -> Result<()> {
        let Some(key) = record.key() else { weir_guest::bail!("the record has no key") };
        let before = cx.state().get(key).map(<[u8]>::to_vec);
        if before.as_deref() == record.value() {
            return Ok(());
        }
        match record.value() {
            Some(value) => cx.state().put(key, value),
            None => cx.state().delete(key),
        }
        let change = match record.value() {
            Some(value) => cx.output().value(value),
            None => cx.output().no_value(),
        };
        match before {
            Some(before) => change.no_headers().header("before", before).send(),
            None => change.no_headers().send(),
        }
        Ok(())
    }
}

weir_guest::export_consumer!(LatestValue);
