//! Transforms and consumers.

use crate::bindings::transform::weir::module::flow::{Input, Outcome};
use crate::bindings::transform::weir::module::place::{Location, here};
use crate::bindings::types::Failure;
use crate::error::Result;
use crate::outputs::{Output, Outputs};
use crate::params::Params;
use crate::record::{Columns, Record};
use crate::state::{Keys, State, flow_columns};
use crate::timers::{Timer, Timers};

/// Makes records out of records, exactly once: what is sent, state and timers become durable
/// together with the position behind the records, or not at all.
pub trait Transform: Sized + 'static {
    /// What a deployment is told; see [`params!`](crate::params!).
    type Params: Params;
    /// One sentence: what it does.
    const ABOUT: &'static str;
    /// Parts of records that the module looks at, or that only some of its outputs keep.
    const COLUMNS: Columns = Columns::ALL;
    /// Number of the layout of its state; 0 if it keeps none.
    const STATE_SCHEMA: u32 = 0;
    /// Whether it uses timers.
    const TIMERS: bool = false;

    /// Makes the transform. Called once in each instance.
    ///
    /// # Errors
    /// Refuses the deployment, with what is wrong with its parameters.
    fn start(params: Self::Params) -> Result<Self>;

    /// Names the keys of state that a record will need. They are fetched for all records of a batch
    /// together, which makes [`State::get`] some ten times faster.
    fn state_keys(&self, _record: &Record<'_>, _keys: &mut Keys) {}

    /// Processes a record.
    ///
    /// # Errors
    /// The record failed: what it sent and changed is undone, and the deployment's policy decides
    /// what becomes of it.
    fn process(&mut self, record: &Record<'_>, cx: &mut Context<'_>) -> Result<()>;

    /// A timer is due. Outputs need a key, value, timestamp and headers of their own if the timer
    /// may fire without records.
    ///
    /// # Errors
    /// As [`Transform::process`], for the record behind which it fired.
    fn timer(&mut self, _timer: &Timer, _cx: &mut Context<'_>) -> Result<()> {
        Ok(())
    }
}

/// Reads records and does something with them. As [`Transform`], under a position of its own, and
/// with requests over [`Http`](crate::Http) to hosts that the deployment was granted.
pub trait Consumer: Sized + 'static {
    /// What a deployment is told; see [`params!`](crate::params!).
    type Params: Params;
    /// One sentence: what it does.
    const ABOUT: &'static str;
    /// Parts of records that the module looks at, or that only some of its outputs keep.
    const COLUMNS: Columns = Columns::ALL;
    /// Number of the layout of its state; 0 if it keeps none.
    const STATE_SCHEMA: u32 = 0;
    /// Whether it uses timers.
    const TIMERS: bool = false;

    /// Makes the consumer. Called once in each instance.
    ///
    /// # Errors
    /// Refuses the deployment, with what is wrong with its parameters.
    fn start(params: Self::Params) -> Result<Self>;

    /// As [`Transform::state_keys`].
    fn state_keys(&self, _record: &Record<'_>, _keys: &mut Keys) {}

    /// Takes a record.
    ///
    /// # Errors
    /// As [`Transform::process`].
    fn consume(&mut self, record: &Record<'_>, cx: &mut Context<'_>) -> Result<()>;

    /// As [`Transform::timer`].
    ///
    /// # Errors
    /// As [`Transform::timer`].
    fn timer(&mut self, _timer: &Timer, _cx: &mut Context<'_>) -> Result<()> {
        Ok(())
    }
}

/// Where records, state and timers go while a record is processed.
pub struct Context<'c> {
    call: &'c mut Call,
}

struct Call {
    outputs: Outputs,
    state: State,
    timers: Timers,
    topic: u32,
    watermark: i64,
    /// Asked for when it is needed.
    here: Option<Location>,
}

impl Call {
    fn here(&mut self) -> &Location {
        self.here.get_or_insert_with(here)
    }
}

impl Context<'_> {
    /// Sends a record with this value; key, headers and event time are those of the record that is
    /// processed.
    pub fn send(&mut self, value: impl AsRef<[u8]>) {
        self.output().value(value).send();
    }

    /// Sends the record on as it is.
    pub fn forward(&mut self) {
        self.output().send();
    }

    /// Makes a record.
    pub fn output(&mut self) -> Output<'_> {
        self.call.outputs.output()
    }

    /// Keyed state.
    pub fn state(&mut self) -> &mut State {
        &mut self.call.state
    }

    /// Sets the timer of this key, in place of an earlier one. In milliseconds since the Unix
    /// epoch.
    pub fn set_timer(&mut self, key: impl AsRef<[u8]>, time: i64) {
        self.call.timers.change(key.as_ref(), Some(time));
    }

    /// Removes the timer of this key.
    pub fn clear_timer(&mut self, key: impl AsRef<[u8]>) {
        self.call.timers.change(key.as_ref(), None);
    }

    /// Which of the deployment's input topics the record is of.
    #[must_use]
    pub fn input_topic(&self) -> u32 {
        self.call.topic
    }

    /// The name of the record's topic. Empty where there is none: in `weir module test`.
    #[must_use]
    pub fn topic(&mut self) -> &str {
        let topic = self.call.topic as usize;
        self.call.here().topics.get(topic).map_or("", String::as_str)
    }

    /// The partition that is worked on.
    #[must_use]
    pub fn partition(&mut self) -> u32 {
        self.call.here().partition
    }

    /// `TOPIC/PARTITION/OFFSET`: names the record for ever. What is done outside of the node is
    /// done at least once; give it this, and whoever gets it twice can tell.
    #[must_use]
    pub fn record_id(&mut self, record: &Record<'_>) -> String {
        let (partition, offset) = (self.partition(), record.offset());
        format!("{}/{partition}/{offset}", self.topic())
    }

    /// How far event time has come, in milliseconds since the Unix epoch. Only for modules with
    /// timers is it that behind this very record; else it is that behind the batch.
    #[must_use]
    pub fn watermark(&self) -> i64 {
        self.call.watermark
    }
}

/// What transforms and consumers have in common. For the macros.
pub trait Flow {
    /// Parts of records that are looked at.
    const COLUMNS: Columns;
    /// Whether timers are used.
    const TIMERS: bool;
    /// Names keys of state.
    fn keys(&self, record: &Record<'_>, keys: &mut Keys);
    /// Takes a record.
    ///
    /// # Errors
    /// The record failed.
    fn record(&mut self, record: &Record<'_>, cx: &mut Context<'_>) -> Result<()>;
    /// Takes a timer.
    ///
    /// # Errors
    /// The record behind which it fired failed.
    fn timer(&mut self, timer: &Timer, cx: &mut Context<'_>) -> Result<()>;
}

/// Runs a transform or consumer over a batch.
///
/// # Errors
/// The whole call fails: state cannot be written, or a timer without a record failed.
pub fn process<F: Flow>(flow: &mut F, input: Input) -> Result<Outcome, String> {
    let batch = input.batch;
    let watermark = input.watermark;
    let timers = Timers::of(input.due);
    let (outputs, state) = (Outputs::default(), State::default());
    let mut call = Call { outputs, state, timers, topic: input.topic, watermark, here: None };
    let mut keys = Keys::default();
    Record::all(&batch).for_each(|record| flow.keys(&record, &mut keys));
    if !keys.0.ends.is_empty() {
        call.state.fetch(keys.0);
    }
    let mut failures = Vec::new();
    for record in Record::all(&batch) {
        let index = record.index() as u32;
        let mark = call.outputs.begin(index);
        call.watermark = record.watermark().unwrap_or(watermark);
        let mut done = flow.record(&record, &mut Context { call: &mut call });
        if F::TIMERS && done.is_ok() {
            done = fire(flow, &mut call);
        }
        match done {
            Ok(()) => {
                call.state.keep();
                call.timers.keep();
            }
            Err(error) => {
                call.outputs.rewind(mark);
                call.state.rewind();
                call.timers.rewind();
                failures.push(Failure { index, message: error.into_message() });
            }
        }
    }
    if batch.count == 0 {
        fire(flow, &mut call).map_err(|error| error.into_message())?;
    }
    call.state.flush().map_err(|error| error.into_message())?;
    let asked = flow_columns(F::COLUMNS, F::TIMERS);
    let outputs = call.outputs.into_wire(asked, |index| Record::new(&batch, index as usize));
    let outputs = outputs.map_err(|error| error.into_message())?;
    let (set, cleared) = call.timers.into_wire();
    Ok(Outcome { outputs, failures, set, cleared })
}

fn fire<F: Flow>(flow: &mut F, call: &mut Call) -> Result<()> {
    while let Some(timer) = call.timers.next(call.watermark) {
        flow.timer(&timer, &mut Context { call: &mut *call })?;
    }
    Ok(())
}

/// Exports a [`Transform`] as the module of this crate.
#[macro_export]
macro_rules! export_transform {
    ($transform:ty) => {
        $crate::__flow!(
            $transform,
            Transform,
            process,
            transform,
            transform,
            transforming,
            export_transform
        );
    };
}

/// Exports a [`Consumer`] as the module of this crate.
#[macro_export]
macro_rules! export_consumer {
    ($consumer:ty) => {
        $crate::__flow!(
            $consumer,
            Consumer,
            consume,
            consume,
            consumer,
            consuming,
            export_consumer
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __flow {
    (
        $module:ty, $trait:ident, $method:ident, $function:ident, $world:ident, $interface:ident,
        $export:ident
    ) => {
        $crate::__module!($module, $world, $export, {
            const COLUMNS: $crate::Columns = $crate::glue::flow_columns(
                <$module as $crate::$trait>::COLUMNS,
                <$module as $crate::$trait>::TIMERS,
            );
            const STATE_SCHEMA: u32 = <$module as $crate::$trait>::STATE_SCHEMA;
            type Params = <$module as $crate::$trait>::Params;
            const ABOUT: &str = <$module as $crate::$trait>::ABOUT;
            fn start(params: Params) -> $crate::Result<$module> {
                <$module as $crate::$trait>::start(params)
            }
            impl $crate::glue::Flow for $module {
                const COLUMNS: $crate::Columns = <$module as $crate::$trait>::COLUMNS;
                const TIMERS: bool = <$module as $crate::$trait>::TIMERS;
                fn keys(&self, record: &$crate::Record<'_>, keys: &mut $crate::Keys) {
                    $crate::$trait::state_keys(self, record, keys);
                }
                fn record(
                    &mut self,
                    record: &$crate::Record<'_>,
                    cx: &mut $crate::Context<'_>,
                ) -> $crate::Result<()> {
                    $crate::$trait::$method(self, record, cx)
                }
                fn timer(
                    &mut self,
                    timer: &$crate::Timer,
                    cx: &mut $crate::Context<'_>,
                ) -> $crate::Result<()> {
                    $crate::$trait::timer(self, timer, cx)
                }
            }
            impl $crate::bindings::$world::exports::weir::module::$interface::Guest for Module {
                fn $function(
                    input: $crate::bindings::transform::weir::module::flow::Input,
                ) -> Result<$crate::bindings::transform::weir::module::flow::Outcome, String>
                {
                    with(|module| $crate::glue::process(module, input))
                }
            }
        });
    };
}
