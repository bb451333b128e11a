//! Lets only JSON objects into a topic whose field is a number within a range. Others are rejected,
//! and with them the producer's batch; or the number is clamped to the range.
//!
//! ```text
//! echo '{"room":"cold store","temp":99}' > readings
//! weir module test range_guard.wasm --input readings --param field=temp --param max=85 \
//!     --param clamp=true
//! {"room":"cold store","temp":85.0}
//! ```

use serde_json::{Map, Value};
use weir_guest::prelude::*;

weir_guest::params! {
    /// What a topic asks for.
    pub struct Params {
        /// The field to look at.
        field: String,
        /// Lowest good value.
        min: Option<f64>,
        /// Highest good value.
        max: Option<f64>,
        /// Store the nearest good value instead of rejecting the record.
        clamp: bool = false,
    }
}

struct RangeGuard {
    field: String,
    min: f64,
    max: f64,
    clamp: bool,
}

impl ProduceCheck for RangeGuard {
    type Params = Params;
    const ABOUT: &'static str = "Refuses JSON whose field is out of range, or clamps it.";

    fn start(params: Params) -> Result<Self> {
        weir_guest::ensure!(params.min.is_some() || params.max.is_some(), "give min, max or both");
        let min = params.min.unwrap_or(f64::NEG_INFINITY);
        let max = params.max.unwrap_or(f64::INFINITY);
        // Also where one of them is not a number.
        weir_guest::ensure!(min <= max, "min is {min}, above max, which is {max}");
        Ok(RangeGuard { field: params.field, min, max, clamp: params.clamp })
    }

    fn check(&mut self, record: &Record<'_>) -> Result<Ruling> {
        let field = &self.field;
        let mut object: Map<String, Value> = serde_json::from_slice(record.bytes()?)?;
        let Some(value) = object.get(field).and_then(Value::as_f64) else {
            weir_guest::bail!("there is no number in {field}")
        };
        let good = value.clamp(self.min, self.max);
        if good == value {
            return Ok(Ruling::Accept);
        }
        weir_guest::ensure!(
            self.clamp,
            "{field} is {value}, not within {} to {}",
            self.min,
            self.max
        );
        object.insert(field.clone(), good.into());
        Ok(Ruling::Value(serde_json::to_vec(&object)?))
    }
}

weir_guest::export_produce_check!(RangeGuard);
