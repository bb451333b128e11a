//! Drops records that were seen before.
//!
//! A gateway that loses an acknowledgement sends again; two receivers hear the same radio packet.
//! This passes on the first of equal records and drops the others, for as long as `within-s`
//! seconds of event time. Records are equal if their keys and values are, or only one of these, as
//! `by` says.
//!
//! What was seen is kept as state, so it survives restarts; a timer removes it once its time is
//! over, so it does not grow for ever. Late records are compared too, as far as the deployment's
//! allowed lateness goes.
//!
//! ```text
//! weir module test dedup.wasm --input packets --param by=value --param within-s=60
//! ```

use weir_guest::prelude::*;

weir_guest::params! {
    /// What a deployment is told.
    pub struct Params {
        /// What makes records equal: both, key or value.
        by: String = "both".into(),
        /// For how many seconds of event time records are remembered.
        within_s: u32 = 3600,
    }
}

struct Dedup {
    by_key: bool,
    by_value: bool,
    within_ms: i64,
}

impl Dedup {
    /// Sixteen bytes: two records in a billion billion share them by chance.
    fn identity(&self, record: &Record<'_>) -> [u8; 16] {
        let mut hash = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128;
        let mut mix = |byte: u8| {
            // FNV-1a with 128 bits.
            hash =
                (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        };
        for (used, part) in [(self.by_key, record.key()), (self.by_value, record.value())] {
            let part = part.filter(|_| used);
            // The length keeps ("ab", "c") apart from ("a", "bc"), and absent from empty.
            let length = part.map_or(u64::MAX, |part| part.len() as u64);
            length.to_le_bytes().into_iter().for_each(&mut mix);
            part.unwrap_or_default().iter().copied().for_each(&mut mix);
        }
        hash.to_le_bytes()
    }
}

impl Transform for Dedup {
    type Params = Params;
    const ABOUT: &'static str = "Drops records that were seen before, within a time.";
    const COLUMNS: Columns = Columns::TIMESTAMPS.and(Columns::KEYS).and(Columns::VALUES);
    const STATE_SCHEMA: u32 = 1;
    const TIMERS: bool = true;

    fn start(params: Params) -> Result<Self> {
        let (by_key, by_value) = match params.by.as_str() {
            "both" => (true, true),
            "key" => (true, false),
            "value" => (false, true),
            other => weir_guest::bail!("by is both, key or value, not {other:?}"),
        };
        weir_guest::ensure!(params.within_s > 0, "within-s must be above 0");
        Ok(Dedup { by_key, by_value, within_ms: i64::from(params.within_s) * 1000 })
    }

    fn state_keys(&self, record: &Record<'_>, keys: &mut weir_guest::Keys) {
        keys.add(self.identity(record));
    }

    fn process(&mut self, record: &Record<'_>, cx: &mut Context<'_>) -> Result<()> {
        let identity = self.identity(record);
        let first = cx.state().get(identity).and_then(|bytes| bytes.try_into().ok());
        let first = first.map(i64::from_le_bytes);
        // Both ways: a late record may lie in front of the one that was seen first.
        let seen = first.is_some_and(|first| {
            record.timestamp().saturating_sub(first).saturating_abs() < self.within_ms
        });
        if seen {
            return Ok(());
        }
        cx.state().put(identity, record.timestamp().to_le_bytes());
        cx.set_timer(identity, record.timestamp().saturating_add(self.within_ms));
        cx.forward();
        Ok(())
    }

    fn timer(&mut self, timer: &Timer, cx: &mut Context<'_>) -> Result<()> {
        cx.state().delete(&timer.key);
        Ok(())
    }
}

weir_guest::export_transform!(Dedup);
