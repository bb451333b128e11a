//! Produce-time checks.

use crate::bindings::check::exports::weir::module::checking::{Rewrite, Verdict};
use crate::bindings::types::{Batch, Failure};
use crate::error::Result;
use crate::outputs::column;
use crate::params::Params;
use crate::record::{Columns, Record};

/// Validates or rewrites records before they are appended. Producers wait for it.
pub trait ProduceCheck: Sized + 'static {
    /// What a deployment is told; see [`params!`](crate::params!).
    type Params: Params;
    /// One sentence: what it does.
    const ABOUT: &'static str;
    /// Parts of records that [`ProduceCheck::check`] looks at. A module that rewrites values of
    /// only some records needs [`Columns::VALUES`].
    const COLUMNS: Columns = Columns::VALUES;

    /// Makes the check. Called once in each instance.
    ///
    /// # Errors
    /// Refuses the deployment, with what is wrong with its parameters.
    fn start(params: Self::Params) -> Result<Self>;

    /// Judges a record.
    ///
    /// # Errors
    /// Rejects the record, and with it the batch; the producer sees the message.
    fn check(&mut self, record: &Record<'_>) -> Result<Ruling>;
}

/// What becomes of a record that is not rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It is appended as it is.
    Accept,
    /// It is appended with this value.
    Value(Vec<u8>),
}

/// Runs a check over a batch.
pub fn check<C: ProduceCheck>(check: &mut C, batch: &Batch) -> Verdict {
    let mut rejected = Vec::new();
    let mut values: Vec<(u32, Vec<u8>)> = Vec::new();
    for record in Record::all(batch) {
        let index = record.index() as u32;
        match check.check(&record) {
            Ok(Ruling::Accept) => {}
            Ok(Ruling::Value(value)) => values.push((index, value)),
            Err(error) => rejected.push(Failure { index, message: error.into_message() }),
        }
    }
    if values.is_empty() || !rejected.is_empty() {
        return Verdict { rejected, rewritten: None };
    }
    let mut new = values.iter().peekable();
    let all: Vec<Option<&[u8]>> = Record::all(batch)
        .map(|record| match new.next_if(|(index, _)| *index as usize == record.index()) {
            Some((_, value)) => Some(value.as_slice()),
            None => record.value(),
        })
        .collect();
    let values = Some(column(all.into_iter()));
    Verdict { rejected, rewritten: Some(Rewrite { keys: None, values, headers: None }) }
}

/// Exports a [`ProduceCheck`] as the module of this crate.
#[macro_export]
macro_rules! export_produce_check {
    ($check:ty) => {
        $crate::__module!($check, check, export_check, {
            const COLUMNS: $crate::Columns = <$check as $crate::ProduceCheck>::COLUMNS;
            const STATE_SCHEMA: u32 = 0;
            type Params = <$check as $crate::ProduceCheck>::Params;
            const ABOUT: &str = <$check as $crate::ProduceCheck>::ABOUT;
            fn start(params: Params) -> $crate::Result<$check> {
                <$check as $crate::ProduceCheck>::start(params)
            }
            impl $crate::bindings::check::exports::weir::module::checking::Guest for Module {
                fn check(
                    batch: $crate::bindings::types::Batch,
                ) -> Result<
                    $crate::bindings::check::exports::weir::module::checking::Verdict,
                    String,
                > {
                    Ok(with(|check| $crate::glue::check(check, &batch)))
                }
            }
        });
    };
}
