//! Adds to JSON objects how many there were with the same key so far, and the total of a field.
//!
//! ```text
//! printf '{"meter":"a","kwh":2}\n{"meter":"b","kwh":1}\n{"meter":"a","kwh":3}\n' > readings
//! weir module test running_total.wasm --input readings --param field=kwh --param by=meter
//! {"meter":"a","kwh":2,"count":1,"total":2.0}
//! {"meter":"b","kwh":1,"count":1,"total":1.0}
//! {"meter":"a","kwh":3,"count":2,"total":5.0}
//! ```
//!
//! The key is the record's, or with `by` the text of a field, which then becomes the record's key:
//! outputs go to the partition that it asks for. State is kept per input partition, so records of
//! one key should come in one partition.
//!
//! Records without the number or the key fail: the deployment's `--on-error` decides.

use serde_json::{Map, Value};
use weir_guest::prelude::*;

weir_guest::params! {
    /// What a deployment is told.
    pub struct Params {
        /// The field to add up.
        field: String,
        /// The field that is the key; the record's key unless given.
        by: Option<String>,
    }
}

struct RunningTotal {
    params: Params,
}

impl Transform for RunningTotal {
    type Params = Params;
    const ABOUT: &'static str = "Adds the count and total so far of a number, by key.";
    const COLUMNS: Columns = Columns::KEYS.and(Columns::VALUES).and(Columns::HEADERS);
    const STATE_SCHEMA: u32 = 1;

    fn start(params: Params) -> Result<Self> {
        Ok(RunningTotal { params })
    }

    fn state_keys(&self, record: &Record<'_>, keys: &mut weir_guest::Keys) {
        // Where a field is the key, the record would have to be parsed twice.
        if let (None, Some(key)) = (&self.params.by, record.key()) {
            keys.add(key);
        }
    }

    fn process(&mut self, record: &Record<'_>, cx: &mut Context<'_>) -> Result<()> {
        let mut object: Map<String, Value> = serde_json::from_slice(record.bytes()?)?;
        let field = &self.params.field;
        let number = object.get(field).and_then(Value::as_f64);
        let Some(number) = number else { weir_guest::bail!("there is no number in {field}") };
        let key = match &self.params.by {
            None => record.key().map(<[u8]>::to_vec),
            Some(by) => object.get(by).and_then(Value::as_str).map(|key| key.as_bytes().to_vec()),
        };
        let Some(key) = key else { weir_guest::bail!("the record has no key") };
        // Count and total, eight bytes each.
        let before = cx.state().get(&key).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
        let before = before.map_or(0, u128::from_le_bytes);
        let count = (before as u64).wrapping_add(1);
        let total = f64::from_bits((before >> 64) as u64) + number;
        let after = (u128::from(total.to_bits()) << 64) | u128::from(count);
        cx.state().put(&key, after.to_le_bytes());
        object.insert("count".into(), count.into());
        object.insert("total".into(), total.into());
        let output = cx.output().write(|to| serde_json::to_writer(to, &object))?;
        match &self.params.by {
            None => output.send(),
            Some(_) => output.key(&key).send(),
        }
        Ok(())
    }
}

weir_guest::export_transform!(RunningTotal);
