//! One run of the sampler: its thread, its clock, its sources. It reads, and hands what it read to the session.
//!
//! Locks, in the order in which they are taken: `sources` (held while devices are read and records are kept), `session`
//! (for moments); and `desk`, which is taken alone, for moments, and is the only one that calls wait for. Subscribers are
//! told with no lock held.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Nanos;
use super::custom::{Custom, Registered};
use super::figures::{CallEnergy, Measured};
use super::session::{Event, Finish, Session, Told};
use super::source::{Found, Kinds, Missing, Reading, Source};
use super::{Options, Waiting};
use crate::bus::Late;
use crate::error::{Error, ErrorKind, Result};
use crate::os::{Process, block_signals, thread_cpu, wall_clock};
use crate::sync::lock;

/// Between two readings while a call is in flight, unless it is said or the counters are slower.
const INTERVAL: Duration = Duration::from_millis(100);
/// The longest interval that is chosen; and between two readings while nothing is in flight.
const LONGEST: Duration = Duration::from_secs(1);
/// Between two readings of the gauges, which cost more than those of energy.
const GAUGES: Nanos = 500_000_000;
/// How long whoever waits for a call's energy is kept waiting for a counter that stands or cannot be read.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

type Waiter = Box<dyn Waiting>;

thread_local! {
    /// This thread is reading the sources: it may be in a callback of the host's.
    static IS_READING: Cell<bool> = const { Cell::new(false) };
}

/// An error inside of a source's callback, where waiting for the reading would be for ever.
pub(super) fn check_outside(what: &str) -> Result<()> {
    if IS_READING.try_with(Cell::get).unwrap_or(false) {
        return Err(Error::new(
            ErrorKind::Busy,
            format!("{what} cannot be done from inside of a source's callback"),
        ));
    }
    Ok(())
}

/// One run: from a start to a stop, and what is known of it after that.
pub(super) struct Running {
    process: Process,
    options: Options,
    epoch: Instant,
    /// Unix seconds.
    pub(super) started: f64,
    pub(super) missing: Vec<Missing>,
    desk: Mutex<Desk>,
    /// Something is wished for.
    wished: Condvar,
    sources: Mutex<Sources>,
    session: Mutex<Session<Waiter>>,
    devices: AtomicUsize,
    /// Calls that have ended and are not kept yet.
    owed: AtomicUsize,
    latest: AtomicU64,
    interval: AtomicU64,
    is_over: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
    pub(super) cost: Cost,
}

/// What calls leave for the sampler.
struct Desk {
    events: Vec<Event<Waiter>>,
    wish: Wish,
    /// Nobody looks at the desk any more.
    is_closed: bool,
    in_flight: usize,
}

impl Desk {
    fn wish_for_a_reading(&mut self, wished: &Condvar) {
        if self.wish == Wish::Nothing {
            self.wish = Wish::Read;
            wished.notify_one();
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    Nothing,
    Read,
    Stop,
}

struct Sources {
    all: Vec<Opened>,
    gauges_due: Nanos,
    /// Kept for its room.
    readings: Vec<(usize, Nanos, Option<Reading>)>,
}

struct Opened {
    source: Box<dyn Source>,
    devices: std::ops::Range<usize>,
    /// The number under which the host registered it; 0: it did not.
    registered: u64,
}

/// What sampling costs.
#[derive(Default)]
pub(super) struct Cost {
    /// Times that all devices were read.
    pub(super) reads: AtomicU64,
    /// Nanoseconds of processor time.
    pub(super) cpu: AtomicU64,
}

impl Running {
    /// A run that is to be launched.
    pub(super) fn new(
        options: &Options,
        found: Found,
        registered: Vec<(u64, Arc<dyn Custom>)>,
    ) -> Arc<Running> {
        let running = Arc::new(Running {
            process: Process::current(),
            options: options.clone(),
            epoch: Instant::now(),
            started: wall_clock(),
            missing: found.missing,
            desk: Mutex::new(Desk {
                events: Vec::new(),
                wish: Wish::Nothing,
                is_closed: false,
                in_flight: 0,
            }),
            wished: Condvar::new(),
            sources: Mutex::new(Sources { all: Vec::new(), gauges_due: 0, readings: Vec::new() }),
            session: Mutex::new(Session::new(options.weight, options.leaves_idle_out)),
            devices: AtomicUsize::new(0),
            owed: AtomicUsize::new(0),
            latest: AtomicU64::new(0),
            interval: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            thread: Mutex::new(None),
            cost: Cost::default(),
        });
        found.sources.into_iter().for_each(|source| running.add(source, 0));
        registered.into_iter().for_each(|(number, custom)| running.add(Box::new(Registered(custom)), number));
        running
    }

    /// Reads the devices once and starts the thread. If that fails the run is over.
    pub(super) fn launch(self: &Arc<Self>) -> Result<()> {
        self.read(true, Finish::Settled);
        let its = Arc::clone(self);
        let run = move || {
            block_signals();
            its.run();
        };
        match std::thread::Builder::new().name("tokenjoule-energy".to_owned()).spawn(run) {
            Ok(thread) => {
                *lock(&self.thread) = Some(thread);
                Ok(())
            }
            Err(error) => {
                self.stop();
                Err(Error::new(ErrorKind::Io, format!("cannot start a thread: {error}")))
            }
        }
    }

    /// Adds a source.
    pub(super) fn add(&self, source: Box<dyn Source>, registered: u64) {
        let mut sources = lock(&self.sources);
        let mut session = lock(&self.session);
        let at = self.now();
        let first = session.devices().count();
        for device in source.devices() {
            session.open(device, at);
        }
        let devices = first..first + source.devices().len();
        self.devices.fetch_add(devices.len(), Ordering::Relaxed);
        sources.all.push(Opened { source, devices, registered });
    }

    /// Takes out a source that the host registered.
    pub(super) fn remove(&self, registered: u64) {
        let mut sources = lock(&self.sources);
        let Some(at) = sources.all.iter().position(|it| it.registered == registered) else { return };
        let Opened { devices, source, .. } = sources.all.remove(at);
        self.devices.fetch_sub(devices.len(), Ordering::Relaxed);
        devices.for_each(|device| lock(&self.session).close(device));
        drop(sources);
        drop(source);
    }

    /// Adds a source of the host's, and reads it, so that calls count on it.
    pub(super) fn add_custom(&self, custom: Arc<dyn Custom>, registered: u64) {
        if self.options.kinds.has(Kinds::CUSTOM) {
            self.add(Box::new(Registered(custom)), registered);
            self.read(false, Finish::Settled);
            lock(&self.desk).wish_for_a_reading(&self.wished); // it may be asleep, having had nothing to read
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    fn now(&self) -> Nanos {
        self.epoch.elapsed().as_nanos() as Nanos
    }

    // ---- Calls ----

    /// A call begins; `None` if there is nothing to measure.
    pub(super) fn begin(self: &Arc<Self>, call: u64) -> Option<Ticket> {
        if self.devices.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let told = Arc::new(Told::default());
        let mut desk = lock(&self.desk);
        if desk.is_closed {
            return None;
        }
        let begun = self.now(); // with the desk in hand: a reading of later finds the event here
        desk.events.push(Event::Begin { call, at: begun, told: told.clone() });
        desk.in_flight += 1;
        // After a pause the sampler is slow: what was drawn before the call must not be spread over it.
        let is_stale =
            begun.saturating_sub(self.latest.load(Ordering::Relaxed)) > self.interval.load(Ordering::Relaxed);
        if desk.in_flight == 1 && is_stale {
            desk.wish_for_a_reading(&self.wished);
        }
        drop(desk);
        Some(Ticket { running: Arc::clone(self), call, begun, told, is_ended: false })
    }

    fn end(&self, call: u64, waiting: Waiter) {
        let mut desk = lock(&self.desk);
        let end = Event::End { call, at: self.now(), waiting };
        if !desk.is_closed {
            desk.events.push(end);
            desk.in_flight -= 1;
            self.owed.fetch_add(1, Ordering::AcqRel);
            return;
        }
        drop(desk);
        // The sampler has stopped during the call: there will be no more readings.
        let done = {
            let mut session = lock(&self.session);
            session.apply([end]);
            session.finish(self.now(), false, Finish::ALL)
        };
        for (mut waiting, energy) in done {
            waiting.keep(energy);
            waiting.tell();
        }
    }

    // ---- Reading ----

    /// Reads all devices, and finishes calls.
    fn read(&self, with_gauges: bool, finish: Finish) {
        let cpu = thread_cpu();
        let mut sources = lock(&self.sources);
        let begun = self.now();
        let with_gauges = with_gauges || begun >= sources.gauges_due;
        if with_gauges {
            sources.gauges_due = begun + GAUGES;
        }
        let Sources { all, readings, .. } = &mut *sources;
        readings.clear();
        let _ = IS_READING.try_with(|is_reading| is_reading.set(true));
        for Opened { source, devices, .. } in all {
            let mut each = |device, reading| readings.push((devices.start + device, self.now(), reading));
            // A source that panics has read nothing.
            let _ = catch_unwind(AssertUnwindSafe(|| source.read(with_gauges, &mut each)));
        }
        let _ = IS_READING.try_with(|is_reading| is_reading.set(false));

        let events = std::mem::take(&mut lock(&self.desk).events);
        let done = {
            let mut session = lock(&self.session);
            session.apply(events);
            readings.iter().for_each(|(device, at, reading)| session.read(*device, *at, *reading));
            session.finish(self.now(), with_gauges, finish)
        };
        self.latest.store(self.now(), Ordering::Relaxed);
        self.cost.reads.fetch_add(1, Ordering::Relaxed);
        self.cost.cpu.fetch_add(thread_cpu().saturating_sub(cpu), Ordering::Relaxed);

        let mut told = Vec::with_capacity(done.len());
        for (mut waiting, energy) in done {
            let _ = catch_unwind(AssertUnwindSafe(|| waiting.keep(energy))); // the others' records are none the worse
            self.owed.fetch_sub(1, Ordering::AcqRel);
            told.push(waiting);
        }
        drop(sources); // whoever waits for those records finds them kept
        told.into_iter().for_each(|waiting| waiting.tell());
    }

    fn run(&self) {
        loop {
            let pace = self.pace();
            let desk = lock(&self.desk);
            let waited = self.wished.wait_timeout_while(desk, pace, |desk| desk.wish == Wish::Nothing);
            let mut desk = waited.unwrap_or_else(PoisonError::into_inner).0;
            if desk.wish == Wish::Stop {
                return;
            }
            desk.wish = Wish::Nothing;
            drop(desk);
            let _ = catch_unwind(AssertUnwindSafe(|| self.read(false, Finish::Settled)));
        }
    }

    /// How long until the next reading.
    fn pace(&self) -> Duration {
        if self.devices.load(Ordering::Relaxed) == 0 {
            return Duration::from_secs(3600);
        }
        let session = lock(&self.session);
        let quickest = Duration::try_from_secs_f64(session.quickest_period() / 2.0).unwrap_or_default();
        let interval = match self.options.interval {
            Some(interval) => interval,
            None => quickest.clamp(INTERVAL, LONGEST),
        };
        // Twice in the time of a wrap at least, at twice the power that was seen.
        let wrap = Duration::try_from_secs_f64(session.quickest_wrap() / 4.0).unwrap_or(Duration::MAX);
        let interval = interval.min(wrap);
        self.interval.store(interval.as_nanos() as u64, Ordering::Relaxed);
        let is_busy = session.is_busy() || lock(&self.desk).in_flight > 0;
        if is_busy || self.options.interval.is_some() { interval } else { LONGEST.max(interval).min(wrap) }
    }

    /// The present interval, seconds.
    pub(super) fn interval(&self) -> f64 {
        self.interval.load(Ordering::Relaxed) as f64 / 1e9
    }

    /// Seconds since the start.
    pub(super) fn seconds(&self) -> f64 {
        self.latest.load(Ordering::Relaxed) as f64 / 1e9
    }

    pub(super) fn with_session<T>(&self, look: impl FnOnce(&Session<Waiter>) -> T) -> T {
        look(&lock(&self.session))
    }

    // ---- Windows ----

    /// Begins a window with a reading.
    pub(super) fn begin_window(&self, window: u64) {
        self.read(true, Finish::Settled);
        let at = self.latest.load(Ordering::Relaxed);
        lock(&self.session).begin_window(window, at);
    }

    /// Ends a window with a reading.
    pub(super) fn end_window(&self, window: u64) -> Option<Measured> {
        self.read(true, Finish::Settled);
        let at = self.latest.load(Ordering::Relaxed);
        lock(&self.session).end_window(window, at)
    }

    // ---- The end ----

    /// Ends the run: a last reading, and all calls that have ended are kept. Those in flight keep what they have.
    pub(super) fn stop(&self) {
        lock(&self.desk).wish = Wish::Stop;
        self.wished.notify_one();
        if let Some(thread) = lock(&self.thread).take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
        self.wait_for_calls();
        self.is_over.store(true, Ordering::Release);
        lock(&self.desk).is_closed = true;
        self.read(true, Finish::ALL); // what ended in between
        let sources = std::mem::take(&mut lock(&self.sources).all);
        drop(sources);
    }

    /// Returns when all calls that have ended are kept.
    fn wait_for_calls(&self) {
        let by = self.now();
        let deadline = Instant::now() + LONGEST_WAIT;
        self.read(false, Finish::Settled);
        while self.owes(by) {
            if Instant::now() >= deadline {
                return self.read(false, Finish::EndedBy(by));
            }
            std::thread::sleep(Duration::from_millis(5));
            self.read(false, Finish::Settled);
        }
    }

    /// Whether a call that ended by then is not kept yet. Whoever is just keeping one has the sources in hand.
    fn owes(&self, by: Nanos) -> bool {
        let _sources = lock(&self.sources);
        self.owed.load(Ordering::Acquire) > 0 && lock(&self.session).waits(by)
    }
}

impl Late for Running {
    fn hurry(&self, waits: bool) {
        let is_ours = self.process.check("energy").is_ok() && check_outside("this").is_ok();
        if !is_ours || self.owed.load(Ordering::Acquire) == 0 {
            return;
        }
        if waits { self.wait_for_calls() } else { self.read(false, Finish::Settled) }
    }
}

/// A call in flight whose energy is measured.
pub(crate) struct Ticket {
    running: Arc<Running>,
    call: u64,
    begun: Nanos,
    told: Arc<Told>,
    is_ended: bool,
}

impl Ticket {
    /// `count` more output tokens exist, so many nanoseconds after the begin.
    pub(crate) fn tokens(&self, after: u64, count: u32) {
        // One thread writes; a reading may see one without the other.
        if self.told.first.load(Ordering::Relaxed) == Nanos::MAX {
            self.told.first.store(self.begun + after, Ordering::Relaxed);
        }
        self.told.tokens.fetch_add(count.into(), Ordering::Relaxed);
    }

    /// Whoever can be asked to hurry.
    pub(crate) fn late(&self) -> Arc<dyn Late> {
        self.running.clone()
    }

    /// The call has ended. Returns at once; `waiting` gets the energy in the background.
    pub(crate) fn end(mut self, waiting: Box<dyn Waiting>) {
        self.is_ended = true;
        self.running.end(self.call, waiting);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        struct Nobody;
        impl Waiting for Nobody {
            fn keep(&mut self, _energy: CallEnergy) {}
            fn tell(self: Box<Self>) {}
        }
        if !self.is_ended && self.running.process.check("energy").is_ok() {
            self.running.end(self.call, Box::new(Nobody));
        }
    }
}
