//! What `running-total` became: count, total and the largest value so far, by the record's key. Its
//! state has another layout, so it says how the old one becomes the new one.
//!
//! ```text
//! weir transform replace totals --module running-stats@2.0.0
//! ```

use serde_json::{Map, Value};
use weir_guest::prelude::*;

weir_guest::params! {
    /// What a deployment is told.
    pub struct Params {
        /// The field to add up.
        field: String,
    }
}

struct RunningStats {
    field: String,
}

/// Count, total, largest; eight bytes each, little-endian.
type Stored = [u8; 24];

fn store(count: u64, total: f64, largest: f64) -> Stored {
    let mut stored = Stored::default();
    stored[..8].copy_from_slice(&count.to_le_bytes());
    stored[8..16].copy_from_slice(&total.to_le_bytes());
    stored[16..].copy_from_slice(&largest.to_le_bytes());
    stored
}

fn word(bytes: &[u8], at: usize) -> Result<[u8; 8]> {
    let word = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
    word.ok_or_else(|| Error::msg(format_args!("{} bytes of state are too few", bytes.len())))
}

impl Transform for RunningStats {
    type Params = Params;
    const ABOUT: &'static str = "Adds count, total and largest so far of a number, by key.";
    const COLUMNS: Columns = Columns::KEYS.and(Columns::VALUES).and(Columns::HEADERS);
    const STATE_SCHEMA: u32 = 2;

    fn start(params: Params) -> Result<Self> {
        Ok(RunningStats { field: params.field })
    }

    fn state_keys(&self, record: &Record<'_>, keys: &mut weir_guest::Keys) {
        keys.add(record.key().unwrap_or_default());
    }

    fn process(&mut self, record: &Record<'_>, cx: &mut Context<'_>) -> Result<()> {
        let mut object: Map<String, Value> = serde_json::from_slice(record.bytes()?)?;
        let field = &self.field;
        let number = object.get(field).and_then(Value::as_f64);
        let Some(number) = number else { weir_guest::bail!("there is no number in {field}") };
        let key = record.key().unwrap_or_default().to_vec();
        let before = cx.state().get(&key).map_or(Ok((0, 0.0, number)), read)?;
        let (count, total) = (before.0 + 1, before.1 + number);
        let largest = before.2.max(number);
        cx.state().put(&key, store(count, total, largest));
        object.insert("count".into(), count.into());
        object.insert("total".into(), total.into());
        object.insert("largest".into(), largest.into());
        cx.output().write(|to| serde_json::to_writer(to, &object))?.send();
        Ok(())
    }
}

fn read(stored: &[u8]) -> Result<(u64, f64, f64)> {
    let count = u64::from_le_bytes(word(stored, 0)?);
    let (total, largest) = (word(stored, 8)?, word(stored, 16)?);
    Ok((count, f64::from_le_bytes(total), f64::from_le_bytes(largest)))
}

impl Migrate for RunningStats {
    fn migrate(from: u32, key: &[u8], value: &[u8], to: &mut Migrated) -> Result<()> {
        weir_guest::ensure!(from == 1, "state of layout {from} is not known here, only 1");
        let count = u64::from_le_bytes(word(value, 0)?);
        let total = f64::from_le_bytes(word(value, 8)?);
        // The largest was not kept: the mean is the most that is known.
        to.put(key, store(count, total, total / count as f64));
        Ok(())
    }
}

weir_guest::export_transform!(RunningStats);
weir_guest::export_migrate!(RunningStats);
