//! What the GPS examples share: positions from records, and distances.

use serde_json::Value;
use weir_guest::{Error, Record, Result};

/// A place on the globe, in degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Position {
    /// North of the equator.
    pub lat: f64,
    /// East of Greenwich.
    pub lon: f64,
}

impl Position {
    /// Bytes of [`Position::encode`].
    pub const BYTES: usize = 16;

    /// A position that can be: on the globe, and not the 0/0 that receivers without a fix report.
    #[must_use]
    pub fn new(lat: f64, lon: f64) -> Option<Position> {
        let on_globe = lat.abs() <= 90.0 && lon.abs() <= 180.0;
        let nowhere = lat.abs() < 1e-6 && lon.abs() < 1e-6;
        (on_globe && !nowhere).then_some(Position { lat, lon })
    }

    /// Metres to another position, on a plane that touches the globe between them: right to a
    /// thousandth for the some hundred kilometres that matter here.
    #[must_use]
    pub fn metres_to(self, other: Position) -> f64 {
        const METRES_PER_DEGREE: f64 = 111_194.93;
        let middle = f64::midpoint(self.lat, other.lat).to_radians();
        let mut degrees_east = (other.lon - self.lon).abs();
        if degrees_east > 180.0 {
            degrees_east = 360.0 - degrees_east;
        }
        let (north, east) = (other.lat - self.lat, degrees_east * middle.cos());
        north.hypot(east) * METRES_PER_DEGREE
    }

    /// Latitude and longitude, little-endian.
    #[must_use]
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.lat.to_le_bytes());
        bytes[8..].copy_from_slice(&self.lon.to_le_bytes());
        bytes
    }

    /// Reads what [`Position::encode`] wrote from the front of `bytes`.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Position> {
        let eight = |at: usize| Some(f64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        Some(Position { lat: eight(0)?, lon: eight(8)? })
    }
}

/// A number of a JSON object. Numbers in quotes count, as CSV files become them; an empty text is
/// no number, and no error.
///
/// # Errors
/// If the field holds something else.
pub fn number(object: &Value, field: &str) -> Result<Option<f64>> {
    match &object[field] {
        Value::Null => Ok(None),
        Value::Number(number) => Ok(number.as_f64()),
        Value::String(text) if text.is_empty() => Ok(None),
        Value::String(text) => Ok(Some(text.parse::<f64>()?)),
        _ => Err(Error::msg(format_args!("{field} is not a number"))),
    }
}

/// The position of a JSON object; none where there is no fix, or no sense in it.
///
/// # Errors
/// If a field holds no number.
pub fn position(object: &Value, lat: &str, lon: &str) -> Result<Option<Position>> {
    match (number(object, lat)?, number(object, lon)?) {
        (Some(lat), Some(lon)) => Ok(Position::new(lat, lon)),
        _ => Ok(None),
    }
}

/// The key of a record: the device that it is about.
///
/// # Errors
/// If it has none.
pub fn device<'a>(record: &Record<'a>) -> Result<&'a [u8]> {
    record.key().ok_or_else(|| Error::msg("a position needs a key: the device"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: distances are those of the globe, across the date line too; 0/0 and places off the
    /// globe are none.
    #[test]
    fn places() {
        let paris = Position::new(48.8566, 2.3522).unwrap();
        let london = Position::new(51.5074, -0.1278).unwrap();
        let km = paris.metres_to(london) / 1000.0;
        assert!((km - 343.6).abs() < 1.0, "{km}");
        let (east, west) =
            (Position::new(0.0, 179.9).unwrap(), Position::new(0.0, -179.9).unwrap());
        assert!((east.metres_to(west) - 22_239.0).abs() < 1.0);
        assert_eq!(Position::new(0.0, 0.0), None);
        assert_eq!(Position::new(91.0, 0.0), None);
        assert_eq!(Position::decode(&paris.encode()), Some(paris));
    }
}
