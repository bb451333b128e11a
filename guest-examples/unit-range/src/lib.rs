//! Converts the unit of a field of JSON objects and checks its range.
//!
//! ```text
//! echo '{"room":"cold store","temp":14.5}' > readings
//! weir module test unit_range.wasm --input readings \
//!     --param field=temp --param from=F --param to=C --param max=-5 --param out-of-range=flag
//! {"room":"cold store","temp":-9.722,"temp_ok":true}
//! ```
//!
//! A value out of range fails its record (so the deployment's `--on-error` decides: a dead letter
//! with the reason, by preference), or is dropped, or is flagged, as `out-of-range` says.

use serde_json::{Map, Value};
use weir_guest::prelude::*;

weir_guest::params! {
    /// What a deployment is told.
    pub struct Params {
        /// The field to look at.
        field: String,
        /// Its unit: C, F, K; m/s, km/h, mph, kn; m, km, ft, mi; Pa, hPa, bar, psi.
        from: Option<String>,
        /// The unit that it shall have.
        to: Option<String>,
        /// Lowest good value, in the unit that it shall have.
        min: Option<f64>,
        /// Highest good value, in the unit that it shall have.
        max: Option<f64>,
        /// What becomes of others: fail, drop or flag (adds a field FIELD_ok).
        out_of_range: String = "fail".into(),
        /// Decimals of the converted value.
        decimals: u32 = 3,
    }
}

struct UnitRange {
    params: Params,
    /// `new = old * scale + shift`.
    scale: f64,
    shift: f64,
    policy: Policy,
    flag: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Policy {
    Fail,
    Drop,
    Flag,
}

/// A unit as a number of the base unit of its quantity: `base = value * scale + shift`.
struct Unit {
    quantity: &'static str,
    name: &'static str,
    scale: f64,
    shift: f64,
}

const fn unit(quantity: &'static str, name: &'static str, scale: f64, shift: f64) -> Unit {
    Unit { quantity, name, scale, shift }
}

/// Exact by definition, except psi (7 digits).
const UNITS: &[Unit] = &[
    unit("temperature", "K", 1.0, 0.0),
    unit("temperature", "C", 1.0, 273.15),
    unit("temperature", "F", 5.0 / 9.0, 459.67 * 5.0 / 9.0),
    unit("speed", "m/s", 1.0, 0.0),
    unit("speed", "km/h", 1.0 / 3.6, 0.0),
    unit("speed", "mph", 0.447_04, 0.0),
    unit("speed", "kn", 1852.0 / 3600.0, 0.0),
    unit("length", "m", 1.0, 0.0),
    unit("length", "km", 1000.0, 0.0),
    unit("length", "ft", 0.3048, 0.0),
    unit("length", "mi", 1609.344, 0.0),
    unit("pressure", "Pa", 1.0, 0.0),
    unit("pressure", "hPa", 100.0, 0.0),
    unit("pressure", "bar", 100_000.0, 0.0),
    unit("pressure", "psi", 6894.757, 0.0),
];

fn find(name: &str) -> Result<&'static Unit> {
    let found = UNITS.iter().find(|unit| unit.name == name);
    found.ok_or_else(|| {
        let names: Vec<&str> = UNITS.iter().map(|unit| unit.name).collect();
        Error::msg(format_args!("there is no unit {name:?}, there are {}", names.join(", ")))
    })
}

impl Transform for UnitRange {
    type Params = Params;
    const ABOUT: &'static str = "Converts the unit of a field and checks its range.";
    const COLUMNS: Columns = Columns::VALUES;

    fn start(params: Params) -> Result<Self> {
        let (mut scale, mut shift) = (1.0, 0.0);
        match (&params.from, &params.to) {
            (Some(from), Some(to)) => {
                let (from, to) = (find(from)?, find(to)?);
                weir_guest::ensure!(
                    from.quantity == to.quantity,
                    "{} is a {}, {} is a {}",
                    from.name,
                    from.quantity,
                    to.name,
                    to.quantity
                );
                scale = from.scale / to.scale;
                shift = (from.shift - to.shift) / to.scale;
            }
            (None, None) => {}
            _ => weir_guest::bail!("give both from and to, or neither"),
        }
        let policy = match params.out_of_range.as_str() {
            "fail" => Policy::Fail,
            "drop" => Policy::Drop,
            "flag" => Policy::Flag,
            other => weir_guest::bail!("out-of-range is fail, drop or flag, not {other:?}"),
        };
        let flag = format!("{}_ok", params.field);
        Ok(UnitRange { params, scale, shift, policy, flag })
    }

    fn process(&mut self, record: &Record<'_>, cx: &mut Context<'_>) -> Result<()> {
        let mut object: Map<String, Value> = serde_json::from_slice(record.bytes()?)?;
        let field = &self.params.field;
        let old = match object.get(field) {
            Some(Value::Number(number)) => number.as_f64(),
            // As CSV gives them.
            Some(Value::String(text)) => text.trim().parse().ok(),
            _ => None,
        };
        let Some(old) = old else { weir_guest::bail!("there is no number in {field}") };
        let new = self.round(old * self.scale + self.shift);
        let good = self.params.min.is_none_or(|min| new >= min)
            && self.params.max.is_none_or(|max| new <= max);
        match self.policy {
            Policy::Fail if !good => weir_guest::bail!("{field} is {new}, out of range"),
            Policy::Drop if !good => return Ok(()),
            _ => {}
        }
        object.insert(field.clone(), new.into());
        if self.policy == Policy::Flag {
            object.insert(self.flag.clone(), good.into());
        }
        cx.output().write(|to| serde_json::to_writer(to, &object))?.send();
        Ok(())
    }
}

impl UnitRange {
    fn round(&self, value: f64) -> f64 {
        let factor = 10f64.powi(self.params.decimals.min(15) as i32);
        let rounded = (value * factor).round() / factor;
        // Too large to have decimals.
        if rounded.is_finite() { rounded } else { value }
    }
}

weir_guest::export_transform!(UnitRange);
