//! The books of one run of the sampler: what was read and told comes in with its time, finished calls and windows go out.
//! Pure: no clock, no I/O, no thread.
//!
//! ```text
//! readings → counter (wraps, resets, freezes) → movements ┐
//! begin, tokens, end of calls ────────────────────────────┴→ ledger → shares → a call's figures
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Nanos;
use super::counter::{Counter, Movement};
use super::figures::{CallEnergy, Gauges, Measured, Parts};
use super::ledger::{Ledger, Totals, Weight};
use super::source::{Device, Energy, Part, Reading};

/// What a call in flight tells, without a lock.
#[derive(Debug)]
pub struct Told {
    /// When its first token was; `u64::MAX`: not yet.
    pub first: AtomicU64,
    /// Output tokens so far.
    pub tokens: AtomicU64,
}

impl Default for Told {
    fn default() -> Told {
        Told { first: AtomicU64::new(Nanos::MAX), tokens: AtomicU64::new(0) }
    }
}

/// What happens to calls. `W` is whatever waits for a call's energy.
pub enum Event<W> {
    /// A call begins.
    Begin {
        /// The call.
        call: u64,
        /// When.
        at: Nanos,
        /// What it tells from now on.
        told: Arc<Told>,
    },
    /// A call ends.
    End {
        /// The call.
        call: u64,
        /// When.
        at: Nanos,
        /// What waits for its energy.
        waiting: W,
    },
}

/// Which of the calls that have ended are finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// Those whose energy will not change any more, and those that have waited for [`PATIENCE`].
    Settled,
    /// All that ended by then as well, with what is known.
    EndedBy(Nanos),
}

impl Finish {
    /// All that have ended.
    pub const ALL: Finish = Finish::EndedBy(Nanos::MAX);
}

/// How long a call that has ended waits for a reading of all its devices. A device without a good reading for so long is
/// no part of the calls that begin from then on.
pub const PATIENCE: Nanos = 2_000_000_000;

/// A device and what was read of it.
pub struct Meter {
    /// The device.
    pub device: Device,
    /// The time of the latest good reading.
    pub latest_good: Nanos,
    /// Reads that failed.
    pub failures: u64,
    /// Mean power of the latest stretch, watts; `NAN` before there was one.
    pub watts: f64,
    /// Whether it will not be read again.
    pub is_closed: bool,
    counter: Counter,
    latest: Option<Reading>,
}

struct Flight<W> {
    told: Arc<Told>,
    gauges: Gauges,
    end: Option<(Nanos, W)>,
}

struct Window {
    begin: Nanos,
    moved: Vec<f64>,
    peak_watts: f64,
    readings: u64,
    gauges: Gauges,
}

/// The books of one run of the sampler.
pub struct Session<W> {
    ledger: Ledger,
    meters: Vec<Meter>,
    flights: BTreeMap<u64, Flight<W>>,
    windows: BTreeMap<u64, Window>,
    /// Of the latest time that gauges were read.
    gauge: Gauges,
}

impl<W> Session<W> {
    /// Empty books.
    pub fn new(weight: Weight, leaves_idle_out: bool) -> Session<W> {
        Session {
            ledger: Ledger::new(weight, leaves_idle_out),
            meters: Vec::new(),
            flights: BTreeMap::new(),
            windows: BTreeMap::new(),
            gauge: Gauges::default(),
        }
    }

    /// Adds a device; gives its number.
    pub fn open(&mut self, device: &Device, at: Nanos) -> usize {
        self.meters.push(Meter {
            counter: Counter::new(device),
            device: device.clone(),
            latest_good: at,
            failures: 0,
            watts: f64::NAN,
            is_closed: false,
            latest: None,
        });
        self.ledger.open(at)
    }

    /// There will be no more readings of that device.
    pub fn close(&mut self, device: usize) {
        self.meters[device].is_closed = true;
        self.ledger.close(device);
    }

    /// Takes in what has happened to calls, in order.
    pub fn apply(&mut self, events: impl IntoIterator<Item = Event<W>>) {
        for event in events {
            match event {
                Event::Begin { call, at, told } => {
                    self.ledger.begin(call, at);
                    self.flights.insert(call, Flight { told, gauges: Gauges::default(), end: None });
                }
                Event::End { call, at, waiting } => {
                    self.ledger.end(call, at);
                    if let Some(flight) = self.flights.get_mut(&call) {
                        flight.end = Some((at, waiting));
                    }
                }
            }
        }
        for (call, flight) in &self.flights {
            let first = Some(flight.told.first.load(Ordering::Relaxed)).filter(|first| *first != Nanos::MAX);
            self.ledger.tell(*call, first, flight.told.tokens.load(Ordering::Relaxed));
        }
    }

    /// Takes in a reading of a device, or that it failed. What has happened to calls before `at` was applied before.
    pub fn read(&mut self, device: usize, at: Nanos, reading: Option<Reading>) {
        let meter = &mut self.meters[device];
        let settled = self.ledger.settled(device);
        let movement = reading.and_then(|reading| meter.counter.read(at, reading.energy));
        let Some(movement) = movement else {
            meter.failures += 1;
            if at.saturating_sub(meter.latest_good) > PATIENCE {
                self.ledger.set_up(device, false);
            }
            return;
        };
        (meter.latest_good, meter.latest) = (at, reading.or(meter.latest));
        self.ledger.set_up(device, true);
        match movement {
            Movement::Begins | Movement::Lost => self.ledger.lose(device, at),
            Movement::Nothing => (),
            Movement::Joules(joules) => {
                self.ledger.settle(device, at, joules);
                let seconds = at.saturating_sub(settled) as f64 / 1e9;
                meter.watts = if seconds > 0.0 { joules / seconds } else { meter.watts };
            }
        }
        if let Some(Reading { energy: Energy::Watts(watts), .. }) = reading {
            meter.watts = watts;
        }
    }

    /// All devices were read; `with_gauges`: those as well. Gives the calls that are finished.
    pub fn finish(&mut self, now: Nanos, with_gauges: bool, finish: Finish) -> Vec<(W, CallEnergy)> {
        self.note_gauges(with_gauges);
        let is_finished = |call: u64, flight: &Flight<W>| {
            flight.end.as_ref().is_some_and(|(end, _)| {
                matches!(finish, Finish::EndedBy(by) if *end <= by)
                    || self.ledger.is_settled(call)
                    || now.saturating_sub(*end) > PATIENCE
            })
        };
        let finished: Vec<u64> = self
            .flights
            .iter()
            .filter(|(call, flight)| is_finished(**call, flight))
            .map(|(call, _)| *call)
            .collect();
        let mut done = Vec::with_capacity(finished.len());
        for call in finished {
            let Some(Flight { gauges, end: Some((_, waiting)), .. }) = self.flights.remove(&call) else {
                continue;
            };
            let shares = self.ledger.take(call);
            let gauges = if gauges.is_empty() { self.gauge } else { gauges };
            done.push((waiting, CallEnergy::of(&shares, &gauges, |device| &self.meters[device].device)));
        }
        done
    }

    fn note_gauges(&mut self, with_gauges: bool) {
        let known = self.meters.iter().filter(|meter| !meter.is_closed && meter.watts.is_finite());
        let watts: f64 = known.map(|meter| meter.watts).sum();
        for window in self.windows.values_mut() {
            window.readings += 1;
            window.peak_watts = window.peak_watts.max(watts);
        }
        if !with_gauges {
            return;
        }
        let gpus = self.meters.iter().filter(|meter| !meter.is_closed && meter.device.part == Part::Gpu);
        self.gauge = Gauges::of(gpus.filter_map(|meter| meter.latest.as_ref()));
        self.flights
            .values_mut()
            .filter(|flight| flight.end.is_none())
            .for_each(|it| it.gauges.add(&self.gauge));
        self.windows.values_mut().for_each(|window| window.gauges.add(&self.gauge));
    }

    /// A window begins at a moment of which all devices were just read.
    pub fn begin_window(&mut self, window: u64, at: Nanos) {
        let moved = self.devices().map(|(_, totals)| totals.moved).collect();
        let gauges = Gauges::default();
        self.windows.insert(window, Window { begin: at, moved, peak_watts: f64::NAN, readings: 0, gauges });
    }

    /// A window ends at a moment of which all devices were just read. `None`: there is no such window.
    pub fn end_window(&mut self, window: u64, at: Nanos) -> Option<Measured> {
        let window = self.windows.remove(&window)?;
        let mut parts = Parts::default();
        for (device, meter) in self.meters.iter().enumerate() {
            let before = window.moved.get(device).copied().unwrap_or(0.0);
            if meter.watts.is_finite() || self.ledger.totals(device).moved > before {
                parts.add(meter.device.part, self.ledger.totals(device).moved - before);
            }
        }
        let gauges = if window.gauges.is_empty() { self.gauge } else { window.gauges };
        let seconds = at.saturating_sub(window.begin) as f64 / 1e9;
        Some(Measured { seconds, parts, peak_watts: window.peak_watts, readings: window.readings, gauges })
    }

    /// The devices, in the order of their numbers, and where their joules went.
    pub fn devices(&self) -> impl Iterator<Item = (&Meter, Totals)> {
        self.meters.iter().enumerate().map(|(device, meter)| (meter, self.ledger.totals(device)))
    }

    /// What a device draws without a call, watts; `NAN` if that is not known.
    pub fn idle_watts(&self, device: usize) -> f64 {
        self.ledger.idle_watts(device)
    }

    /// Whether anybody wants to know closely: a call is in flight or waits, or a window is open.
    pub fn is_busy(&self) -> bool {
        !self.flights.is_empty() || !self.windows.is_empty()
    }

    /// Calls in flight, those that have ended and wait included.
    pub fn calls(&self) -> usize {
        self.flights.len()
    }

    /// Whether a call that ended by then waits.
    pub fn waits(&self, by: Nanos) -> bool {
        self.flights.values().any(|flight| flight.end.as_ref().is_some_and(|(end, _)| *end <= by))
    }

    /// How many seconds the quickest of the counters takes to move; `NAN` if one moves from read to read.
    pub fn quickest_period(&self) -> f64 {
        let open = self.meters.iter().filter(|meter| !meter.is_closed);
        let quicker = |one: f64, other: f64| if other.is_nan() { other } else { one.min(other) };
        open.map(|meter| meter.counter.period()).reduce(quicker).unwrap_or(f64::NAN)
    }

    /// The seconds in which a counter could wrap at the power that was seen, or at 500 W.
    pub fn quickest_wrap(&self) -> f64 {
        let seconds = |meter: &Meter| Some(meter.device.wrap_joules()? / meter.watts.max(500.0));
        self.meters.iter().filter(|meter| !meter.is_closed).filter_map(seconds).fold(f64::INFINITY, f64::min)
    }
}
