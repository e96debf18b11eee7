//! From a device's readings to what its counter moved: wraps, resets, freezes, and power that must be integrated. Knows no
//! clock: times come in.

use super::Nanos;
use super::source::{Device, Energy};

/// What a reading means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Movement {
    /// The first one: from here on there is something to measure.
    Begins,
    /// So many joules since the last time that there was a movement, failed reads between them included.
    Joules(f64),
    /// The counter stands. That is no news until it has stood for longer than its update period.
    Nothing,
    /// It is another counter: nobody knows what was drawn since the last movement.
    Lost,
}

/// A counter that steps back by less than this, if it wraps, has wrapped; else it was reset. Watts.
const MOST_THAT_ANYTHING_DRAWS: f64 = 10_000.0;
/// Power is taken for known between two readings that are no further apart than this.
const LONGEST_INTEGRATED: Nanos = 5_000_000_000;

/// A device's counter.
#[derive(Debug, Clone)]
pub struct Counter {
    joules_per_count: f64,
    wraps_at: Option<u64>,
    /// A counter that stands for longer than this has nothing to count.
    patience: Nanos,
    latest: Option<Energy>,
    /// When it was last known to have moved, or to stand.
    since: Nanos,
    /// When it last moved: a counter that stood for long may move far at once.
    changed: Nanos,
    /// Whether it has stood since it last moved: only then its period is longer than that of the reads.
    stood: bool,
    /// A mean of the times between movements, seconds; `NAN` while it moves from read to read.
    period: f64,
}

impl Counter {
    /// The counter of that device.
    pub fn new(device: &Device) -> Counter {
        Counter {
            joules_per_count: device.joules_per_count,
            wraps_at: device.wraps_at,
            patience: (device.update_period * 3e9) as Nanos,
            latest: None,
            since: 0,
            changed: 0,
            stood: false,
            period: f64::NAN,
        }
    }

    /// Takes a reading of `at`, which is not before the one before; `None` for one that cannot be.
    pub fn read(&mut self, at: Nanos, energy: Energy) -> Option<Movement> {
        let (Energy::Joules(figure) | Energy::Watts(figure)) = energy else {
            return Some(self.take(at, energy));
        };
        (figure.is_finite() && figure >= 0.0).then(|| self.take(at, energy))
    }

    fn take(&mut self, at: Nanos, energy: Energy) -> Movement {
        let elapsed = at.saturating_sub(self.since);
        let movement = match (self.latest, energy) {
            (None, _) => Movement::Begins,
            (Some(Energy::Watts(before)), Energy::Watts(now)) => match elapsed {
                0 => return Movement::Nothing,
                1..=LONGEST_INTEGRATED => Movement::Joules((before + now) / 2.0 * elapsed as f64 / 1e9),
                _ => Movement::Lost,
            },
            (Some(Energy::Count(before)), Energy::Count(now)) => match now.checked_sub(before) {
                Some(count) => self.moved(count as f64 * self.joules_per_count, elapsed),
                None => self.wrapped(before, now, at.saturating_sub(self.changed)),
            },
            (Some(Energy::Joules(before)), Energy::Joules(now)) if now >= before => {
                self.moved(now - before, elapsed)
            }
            (Some(_), _) => Movement::Lost,
        };
        match movement {
            Movement::Nothing => {
                self.stood = true;
                return movement;
            }
            Movement::Joules(0.0) => self.stood = true,
            Movement::Joules(_) => {
                self.learn_period(at.saturating_sub(self.changed) as f64 / 1e9);
                (self.changed, self.stood) = (at, false);
            }
            Movement::Begins | Movement::Lost => (self.changed, self.stood) = (at, false),
        }
        (self.latest, self.since) = (Some(energy), at);
        movement
    }

    fn moved(&self, joules: f64, elapsed: Nanos) -> Movement {
        let stands = joules == 0.0 && elapsed < self.patience.max(1);
        if stands { Movement::Nothing } else { Movement::Joules(joules) }
    }

    fn wrapped(&self, before: u64, now: u64, elapsed: Nanos) -> Movement {
        let Some(rest) = self.wraps_at.and_then(|end| end.checked_sub(before)) else { return Movement::Lost };
        let joules = (rest + now) as f64 * self.joules_per_count;
        let is_plausible = joules <= MOST_THAT_ANYTHING_DRAWS * elapsed as f64 / 1e9;
        if is_plausible { Movement::Joules(joules) } else { Movement::Lost }
    }

    fn learn_period(&mut self, elapsed: f64) {
        if self.stood && self.period.is_nan() {
            self.period = elapsed;
        } else if self.stood || elapsed < self.period {
            self.period += 0.2 * (elapsed - self.period);
        }
    }

    /// How often it moves, seconds; `NAN` while it moves from read to read.
    pub fn period(&self) -> f64 {
        self.period
    }
}
