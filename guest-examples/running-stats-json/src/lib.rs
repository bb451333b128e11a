//! What `running-stats` became: its state is JSON, under keys with a prefix. It takes over the
//! layouts of both versions before it.

use serde_json::{Map, Value, json};
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

fn stored_key(key: &[u8]) -> Vec<u8> {
    [b"stats/", key].concat()
}

fn store(count: u64, total: f64, largest: f64) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(&json!({ "count": count, "total": total, "largest": largest }))?)
}

fn number(object: &Map<String, Value>, field: &str) -> Result<f64> {
    let number = object.get(field).and_then(Value::as_f64);
    number.ok_or_else(|| Error::msg(format_args!("there is no number in {field}")))
}

impl Transform for RunningStats {
    type Params = Params;
    const ABOUT: &'static str = "Adds count, total and largest so far of a number, by key.";
    const COLUMNS: Columns = Columns::KEYS.and(Columns::VALUES).and(Columns::HEADERS);
    const STATE_SCHEMA: u32 = 3;

    fn start(params: Params) -> Result<Self> {
        Ok(RunningStats { field: params.field })
    }

    fn state_keys(&self, record: &Record<'_>, keys: &mut weir_guest::Keys) {
        keys.add(stored_key(record.key().unwrap_or_default()));
    }

    fn process(&mut self, record: &Record<'_>, cx: &mut Context<'_>) -> Result<()> {
        let mut object: Map<String, Value> = serde_json::from_slice(record.bytes()?)?;
        let value = number(&object, &self.field)?;
        let key = stored_key(record.key().unwrap_or_default());
        let before: Option<Map<String, Value>> =
            cx.state().get(&key).map(serde_json::from_slice).transpose()?;
        let (mut count, mut total, mut largest) = (0, 0.0, value);
        if let Some(before) = &before {
            count = before.get("count").and_then(Value::as_u64).unwrap_or(0);
            (total, largest) = (number(before, "total")?, number(before, "largest")?);
        }
        (count, total, largest) = (count + 1, total + value, largest.max(value));
        cx.state().put(&key, store(count, total, largest)?);
        object.insert("count".into(), count.into());
        object.insert("total".into(), total.into());
        object.insert("largest".into(), largest.into());
        cx.output().write(|to| serde_json::to_writer(to, &object))?.send();
        Ok(())
    }
}

impl Migrate for RunningStats {
    fn migrate(from: u32, key: &[u8], value: &[u8], to: &mut Migrated) -> Result<()> {
        weir_guest::ensure!((1..=2).contains(&from), "state of layout {from} is not known here");
        let words = value.chunks_exact(8).map(|word| word.try_into().map(u64::from_le_bytes));
        let words = words.collect::<Result<Vec<u64>, _>>()?;
        let (count, total, largest) = match words[..] {
            // The largest was not kept: the mean is the most that is known.
            [count, total] => (count, f64::from_bits(total), f64::from_bits(total) / count as f64),
            [count, total, largest] => (count, f64::from_bits(total), f64::from_bits(largest)),
            _ => weir_guest::bail!("{} bytes of state", value.len()),
        };
        to.put(stored_key(key), store(count, total, largest)?);
        Ok(())
    }
}

weir_guest::export_transform!(RunningStats);
weir_guest::export_migrate!(RunningStats);
