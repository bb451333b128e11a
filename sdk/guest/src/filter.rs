//! Filters.

use crate::bindings::filter::exports::weir::module::filtering::Kept;
use crate::bindings::types::{Batch, Failure};
use crate::error::Result;
use crate::params::Params;
use crate::record::{Columns, Record};

/// Keeps or drops records on their way to one subscriber. Must depend on nothing but record and
/// parameters: a filter runs wherever the subscriber is.
pub trait Filter: Sized + 'static {
    /// What a deployment is told; see [`params!`](crate::params!).
    type Params: Params;
    /// One sentence: what it does.
    const ABOUT: &'static str;
    /// Parts of records that [`Filter::keep`] looks at.
    const COLUMNS: Columns = Columns::VALUES;

    /// Makes the filter. Called once in each instance.
    ///
    /// # Errors
    /// Refuses the deployment, with what is wrong with its parameters.
    fn start(params: Self::Params) -> Result<Self>;

    /// Whether to keep a record.
    ///
    /// # Errors
    /// The record cannot be judged. What becomes of it is for the subscriber to say.
    fn keep(&mut self, record: &Record<'_>) -> Result<bool>;
}

/// Runs a filter over a batch.
pub fn filter<F: Filter>(filter: &mut F, batch: &Batch) -> Kept {
    let count = batch.count as usize;
    let mut keep = vec![0u8; count.div_ceil(8)];
    let mut failures = Vec::new();
    for record in Record::all(batch) {
        let index = record.index();
        match filter.keep(&record) {
            Ok(kept) => keep[index / 8] |= u8::from(kept) << (index % 8),
            Err(error) => {
                failures.push(Failure { index: index as u32, message: error.into_message() });
            }
        }
    }
    Kept { keep, failures }
}

/// Exports a [`Filter`] as the module of this crate.
#[macro_export]
macro_rules! export_filter {
    ($filter:ty) => {
        $crate::__module!($filter, filter, export_filter, {
            const COLUMNS: $crate::Columns = <$filter as $crate::Filter>::COLUMNS;
            const STATE_SCHEMA: u32 = 0;
            type Params = <$filter as $crate::Filter>::Params;
            const ABOUT: &str = <$filter as $crate::Filter>::ABOUT;
            fn start(params: Params) -> $crate::Result<$filter> {
                <$filter as $crate::Filter>::start(params)
            }
            impl $crate::bindings::filter::exports::weir::module::filtering::Guest for Module {
                fn filter(
                    batch: $crate::bindings::types::Batch,
                ) -> Result<
                    $crate::bindings::filter::exports::weir::module::filtering::Kept,
                    String,
                > {
                    Ok(with(|filter| $crate::glue::filter(filter, &batch)))
                }
            }
        });
    };
}

/// What the exports of all worlds have in common: the one instance, and `lifecycle`.
#[doc(hidden)]
#[macro_export]
macro_rules! __module {
    ($module:ty, $world:ident, $export:ident, { $($items:tt)* }) => {
        const _: () = {
            $($items)*

            struct Module;

            std::thread_local! {
                // A guest has one thread.
                static THE_ONE: std::cell::RefCell<Option<$module>> =
                    const { std::cell::RefCell::new(None) };
            }

            fn with<R>(call: impl FnOnce(&mut $module) -> R) -> R {
                THE_ONE.with_borrow_mut(|module| {
                    call(module.as_mut().expect("the node calls start first"))
                })
            }

            impl $crate::bindings::base::exports::weir::module::lifecycle::Guest for Module {
                fn describe() -> $crate::bindings::types::Description {
                    $crate::glue::describe::<Params>(ABOUT, COLUMNS, STATE_SCHEMA)
                }

                fn start(
                    settings: Vec<$crate::bindings::types::Setting>,
                ) -> Result<(), String> {
                    $crate::glue::install_panic_hook();
                    let started = $crate::glue::read::<Params>(settings).and_then(start);
                    let module = started.map_err(|error| error.to_string())?;
                    THE_ONE.with_borrow_mut(|one| *one = Some(module));
                    Ok(())
                }
            }

            $crate::bindings::base::export_base!(Module with_types_in $crate::bindings::base);
            $crate::bindings::$world::$export!(Module with_types_in $crate::bindings::$world);
        };
    };
}
