//! One instance of a module: for one deployment and partition, one call at a time.
//!
//! An instance that trapped, ran out of time or passed a limit is dead; so is one whose call was
//! abandoned half-way. Making another costs some 50 µs.

use crate::abi::{Description, Input, Kept, Outcome, Setting, Timers, Verdict};
use crate::columns::{Batch, Column, Watermark};
use crate::engine::Engine;
use crate::error::{GuestError, OutOfTime};
use crate::guest::{Guest, LogLine, Surroundings};
use crate::http::HttpUse;
use crate::limits::{self, GuestLimits};
use crate::module::{CheckCall, Describe, Exports, FilterCall, FlowCall, Migrate, Module, Start};
use crate::module::{ModuleError, types};
use crate::output;
use crate::state::StateBuffer;
use crate::upload::World;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use wasmtime::component::{Instance as Linked, InstancePre};
use wasmtime::{Store, StoreContextMut, UpdateDeadline};
use weir_core::TimestampMs;
use weir_core::record::Records;

/// One instance of a module.
pub struct Instance {
    module: Module,
    store: Store<Guest>,
    call: Call,
    /// Given to each call; its memory is used again once the call is over.
    batch: Arc<Batch>,
    alive: bool,
}

#[derive(Clone)]
enum Call {
    Filter(FilterCall),
    Flow(FlowCall),
    Check(CheckCall),
}

/// Which records of a batch a call is about, and what belongs to them.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    /// The whole batch.
    pub records: &'a Records,
    /// The records of the call.
    pub range: Range<usize>,
    /// Index of the input topic.
    pub topic: u32,
}

impl Instance {
    pub(crate) async fn start(
        module: &Module,
        settings: &[Setting],
        limits: &GuestLimits,
        around: Surroundings,
    ) -> Result<Instance, GuestError> {
        let exports = module.exports();
        let guest = Guest::new(module.engine(), *limits, around);
        let (mut store, linked) = instantiate(module.engine(), module.pre(), guest).await?;
        let found = find_call(&mut store, &linked, exports, module.world());
        let call = found.map_err(|error| GuestError::of(&error, store.data()))?;
        let start: Start = linked
            .get_typed_func(&mut store, exports.start)
            .map_err(|error| GuestError::of(&error, store.data()))?;
        let settings = settings.to_vec();
        let started = run(module.engine(), &mut store, limits::START_CPU_MAX, async |store| {
            start.call_async(store, (settings,)).await
        });
        let (started,) = started.await?;
        started.map_err(GuestError::returned)?;
        let module = module.clone();
        Ok(Instance { module, store, call, batch: Arc::default(), alive: true })
    }

    /// What a module says of itself, asked in an instance of its own.
    pub(crate) async fn describe(
        engine: &Engine,
        pre: &InstancePre<Guest>,
        exports: &Exports,
        world: World,
    ) -> Result<Description, ModuleError> {
        let guest = Guest::new(engine, GuestLimits::DEFAULT, Surroundings::default());
        let failed = ModuleError::Describe;
        let (mut store, linked) = instantiate(engine, pre, guest).await.map_err(failed)?;
        // All types are compared here, so that nothing is found out when records flow.
        find_call(&mut store, &linked, exports, world).map_err(types)?;
        let _: Start = linked.get_typed_func(&mut store, exports.start).map_err(types)?;
        if let Some(migrate) = &exports.migrate {
            let _: Migrate = linked.get_typed_func(&mut store, migrate).map_err(types)?;
        }
        let describe: Describe =
            linked.get_typed_func(&mut store, exports.describe).map_err(types)?;
        let described = run(engine, &mut store, limits::START_CPU_MAX, async |store| {
            describe.call_async(store, ()).await
        });
        Ok(described.await.map_err(failed)?.0)
    }

    /// Whether it may be called.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.alive
    }

    /// Bytes of its linear memories.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.store.data().memory_bytes
    }

    /// CPU time of the last call.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        self.store.data().cpu.used()
    }

    /// Takes the lines that were logged since the last time, and how many were dropped.
    pub fn take_log(&mut self) -> (Vec<LogLine>, u32) {
        let guest = self.store.data_mut();
        (std::mem::take(&mut guest.log), std::mem::take(&mut guest.log_dropped))
    }

    /// Takes what it did over HTTP since the last time.
    pub fn take_http(&mut self) -> HttpUse {
        std::mem::take(&mut self.store.data_mut().http.did)
    }

    /// Judges records: calls a module of [`World::Filter`].
    ///
    /// # Errors
    /// If the call fails.
    pub async fn filter(&mut self, part: &Part<'_>) -> Result<Kept, GuestError> {
        let Call::Filter(call) = self.call.clone() else { return Err(other_world()) };
        let batch = self.fill(part, &mut Watermark::START.clone());
        let count = batch.count as usize;
        let (kept,) = self.run(async |store| call.call_async(store, (batch,)).await).await?;
        let kept = kept.map_err(GuestError::returned)?;
        self.accept(|limits| output::check_kept(&kept, count, limits))?;
        Ok(kept)
    }

    /// Judges or rewrites records: calls a module of [`World::ProduceCheck`].
    ///
    /// # Errors
    /// If the call fails.
    pub async fn check(&mut self, part: &Part<'_>) -> Result<Verdict, GuestError> {
        let Call::Check(call) = self.call.clone() else { return Err(other_world()) };
        let batch = self.fill(part, &mut Watermark::START.clone());
        let count = batch.count as usize;
        let (verdict,) = self.run(async |store| call.call_async(store, (batch,)).await).await?;
        let verdict = verdict.map_err(GuestError::returned)?;
        self.accept(|limits| output::check_verdict(&verdict, count, limits))?;
        Ok(verdict)
    }

    /// Processes records: calls a module of [`World::Transform`] or [`World::Consumer`]. Returns
    /// what it made of them and where the watermark stands behind them.
    ///
    /// What the call changed in `state` is open: the caller marks or rewinds it.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn process(
        &mut self,
        part: &Part<'_>,
        topics: usize,
        mut watermark: Watermark,
        state: &mut StateBuffer,
    ) -> Result<(Outcome, Watermark), GuestError> {
        let Call::Flow(call) = self.call.clone() else { return Err(other_world()) };
        let batch = self.fill(part, &mut watermark);
        let count = batch.count as usize;
        let due = due(state, watermark.at);
        let at = watermark.at.0;
        let input = Input { batch, topic: part.topic, due: due.clone(), watermark: at };
        self.store.data_mut().state = Some(std::mem::take(state));
        let called = self.run(async |store| call.call_async(store, (input,)).await).await;
        // It is there: nothing else takes it, and a call that is abandoned does not come here.
        *state = self.store.data_mut().state.take().unwrap_or_default();
        let outcome = called?.0.map_err(GuestError::returned)?;
        self.accept(|limits| output::check_outcome(&outcome, count, topics, limits))?;
        change_timers(state, &due, &outcome);
        Ok((outcome, watermark))
    }

    /// Turns the records of a part into columns, in the memory of the batch before.
    fn fill(&mut self, part: &Part<'_>, watermark: &mut Watermark) -> Arc<Batch> {
        let wanted = self.module.description().columns;
        if Arc::get_mut(&mut self.batch).is_none() {
            self.batch = Arc::default();
        }
        if let Some(batch) = Arc::get_mut(&mut self.batch) {
            batch.fill(part.records, part.range.clone(), wanted, watermark);
        }
        self.batch.clone()
    }

    async fn run<R>(
        &mut self,
        call: impl AsyncFnOnce(&mut Store<Guest>) -> wasmtime::Result<R>,
    ) -> Result<R, GuestError> {
        // Until it is over: a call that is abandoned leaves an instance that nobody knows the state
        // of.
        self.alive = false;
        let cpu_max = self.store.data().limits.cpu_per_call;
        let called = run(self.module.engine(), &mut self.store, cpu_max, call).await?;
        self.alive = true;
        Ok(called)
    }

    /// Checks what a call returned. An instance that returns what it must not is dead.
    fn accept(
        &mut self,
        check: impl FnOnce(&GuestLimits) -> Result<(), GuestError>,
    ) -> Result<(), GuestError> {
        let checked = check(&self.store.data().limits);
        self.alive = checked.is_ok();
        checked
    }
}

fn other_world() -> GuestError {
    GuestError::Broken("nothing: it is a module of another world")
}

/// Makes a store with its limits, and links the module into it. The module's own start functions
/// run, under the deadline of `start`.
pub(crate) async fn instantiate(
    engine: &Engine,
    pre: &InstancePre<Guest>,
    guest: Guest,
) -> Result<(Store<Guest>, Linked), GuestError> {
    let limits = guest.limits;
    let mut store = Store::new(&engine.wasm, guest);
    store.limiter(|guest| guest);
    store.epoch_deadline_callback(|store: StoreContextMut<'_, Guest>| {
        let guest = store.data();
        // Others that wait for this thread run first; then on for another tick.
        match guest.cpu.used_now() > guest.cpu_max {
            true => Err(wasmtime::Error::new(OutOfTime)),
            false => Ok(UpdateDeadline::Yield(1)),
        }
    });
    // Ends of strings come on top of the strings themselves.
    store.set_hostcall_fuel(limits.output_bytes + 16 * limits.output_records);
    let linked = run(engine, &mut store, limits::START_CPU_MAX, async |store| {
        pre.instantiate_async(store).await
    });
    let linked = linked.await?;
    Ok((store, linked))
}

/// Runs guest code under a deadline, on the calling thread, yielding at every tick.
pub(crate) async fn run<R>(
    engine: &Engine,
    store: &mut Store<Guest>,
    cpu_max: Duration,
    call: impl AsyncFnOnce(&mut Store<Guest>) -> wasmtime::Result<R>,
) -> Result<R, GuestError> {
    let _running = engine.ticker.running();
    store.data_mut().begin(cpu_max);
    store.set_epoch_deadline(1);
    let meter = store.data().cpu.clone();
    let called = meter.metered(call(&mut *store)).await;
    called.map_err(|error| GuestError::of(&error, store.data()))
}

fn find_call(
    store: &mut Store<Guest>,
    linked: &Linked,
    exports: &Exports,
    world: World,
) -> wasmtime::Result<Call> {
    Ok(match world {
        World::Filter => Call::Filter(linked.get_typed_func(store, exports.call)?),
        World::Transform | World::Consumer => {
            Call::Flow(linked.get_typed_func(store, exports.call)?)
        }
        World::ProduceCheck => Call::Check(linked.get_typed_func(store, exports.call)?),
    })
}

fn due(state: &StateBuffer, watermark: TimestampMs) -> Timers {
    let mut timers = Timers::default();
    for (key, time) in state.due(watermark) {
        timers.keys.push(&key);
        timers.times.push(time.0);
    }
    timers
}

/// What a call did to timers: those it was handed are gone, then what it removed, then what it set.
fn change_timers(state: &mut StateBuffer, due: &Timers, outcome: &Outcome) {
    let shared = |column: &Column| Bytes::copy_from_slice(&column.bytes);
    let each = |column: &Column, state: &mut StateBuffer, times: Option<&[i64]>| {
        let bytes = shared(column);
        let mut begin = 0;
        for (index, end) in column.ends.iter().enumerate() {
            let key = bytes.slice(begin..*end as usize);
            begin = *end as usize;
            let time = times.and_then(|times| times.get(index));
            state.change_timer(key, time.map(|time| TimestampMs(*time)));
        }
    };
    each(&due.keys, state, None);
    each(&outcome.cleared, state, None);
    each(&outcome.set.keys, state, Some(&outcome.set.times));
}
