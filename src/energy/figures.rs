//! What a call or a window is told of its energy.

use super::ledger::Share;
use super::source::{Device, Part, Reading};

/// How far a call's energy can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// The counters moved during the call, and were read before and after.
    Measured,
    /// The call is shorter than the time between two readings, or a part of it was not read.
    Estimated,
    /// Nobody knows.
    Unknown,
}

impl Tier {
    /// As records and exports write it.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Measured => "measured",
            Tier::Estimated => "estimated",
            Tier::Unknown => "unknown",
        }
    }
}

/// Joules by part of the machine; `NAN` for a part that was not measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parts {
    /// The GPUs'.
    pub gpu: f64,
    /// The processors'.
    pub cpu: f64,
    /// The memory's.
    pub dram: f64,
    /// Whatever else's.
    pub other: f64,
}

impl Default for Parts {
    fn default() -> Parts {
        Parts { gpu: f64::NAN, cpu: f64::NAN, dram: f64::NAN, other: f64::NAN }
    }
}

impl Parts {
    /// Adds a device's joules.
    pub fn add(&mut self, part: Part, joules: f64) {
        let sum = match part {
            Part::Gpu => &mut self.gpu,
            Part::Cpu => &mut self.cpu,
            Part::Dram => &mut self.dram,
            Part::Other => &mut self.other,
        };
        *sum = if sum.is_nan() { joules } else { *sum + joules };
    }

    /// All of them; `NAN` if there is none.
    pub fn sum(&self) -> f64 {
        let known = [self.gpu, self.cpu, self.dram, self.other].into_iter().filter(|joules| !joules.is_nan());
        known.reduce(|one, other| one + other).unwrap_or(f64::NAN)
    }
}

/// The GPUs' gauges over some time. `NAN`: not read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gauges {
    utilization: Mean,
    temperature: Mean,
    memory: Mean,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Mean {
    sum: f64,
    count: u32,
    peak: f64,
}

impl Default for Gauges {
    fn default() -> Gauges {
        let none = Mean { sum: 0.0, count: 0, peak: f64::NAN };
        Gauges { utilization: none, temperature: none, memory: none }
    }
}

impl Mean {
    fn add(&mut self, figure: f64) {
        if figure.is_finite() {
            self.sum += figure;
            self.count += 1;
            self.peak = self.peak.max(figure);
        }
    }

    fn mean(&self) -> f64 {
        if self.count == 0 { f64::NAN } else { self.sum / f64::from(self.count) }
    }
}

impl Gauges {
    /// Of one moment: utilisation and temperature are the mean of the GPUs, memory their sum, as in the reference.
    pub fn of<'a>(gpus: impl Iterator<Item = &'a Reading>) -> Gauges {
        let mut mean = Gauges::default();
        for reading in gpus {
            mean.utilization.add(reading.utilization_pct);
            mean.temperature.add(reading.temperature_c);
            mean.memory.add(reading.memory_gb);
        }
        let mut moment = Gauges::default();
        moment.utilization.add(mean.utilization.mean());
        moment.temperature.add(mean.temperature.mean());
        moment.memory.add(if mean.memory.count == 0 { f64::NAN } else { mean.memory.sum });
        moment
    }

    /// Adds a moment.
    pub fn add(&mut self, moment: &Gauges) {
        self.utilization.add(moment.utilization.mean());
        self.temperature.add(moment.temperature.mean());
        self.memory.add(moment.memory.mean());
    }

    /// Whether nothing was read.
    pub fn is_empty(&self) -> bool {
        self.utilization.count == 0 && self.temperature.count == 0 && self.memory.count == 0
    }

    /// 0 to 100: mean and peak.
    pub fn utilization_pct(&self) -> (f64, f64) {
        (self.utilization.mean().clamp(0.0, 100.0), self.utilization.peak.clamp(0.0, 100.0))
    }

    /// °C: mean and peak.
    pub fn temperature_c(&self) -> (f64, f64) {
        (self.temperature.mean(), self.temperature.peak)
    }

    /// GB of 2^30 bytes, all GPUs together: mean and peak.
    pub fn memory_gb(&self) -> (f64, f64) {
        (self.memory.mean(), self.memory.peak)
    }
}

/// What was measured in a window: all that the counters moved, whoever caused it.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Its length.
    pub seconds: f64,
    /// Joules.
    pub parts: Parts,
    /// The highest power between two readings, watts; `NAN` if there were none.
    pub peak_watts: f64,
    /// How often the devices were read in it.
    pub readings: u64,
    /// The GPUs' gauges.
    pub gauges: Gauges,
}

/// What a call is told of its energy. `NAN`: unknown.
#[derive(Debug, Clone, PartialEq)]
pub struct CallEnergy {
    /// Joules, all devices together; unknown if that of any device is.
    pub joules: f64,
    /// By part of the machine; a part is unknown if any of its devices is.
    pub parts: Parts,
    /// Joules before the first token …
    pub prefill_joules: f64,
    /// … and after it.
    pub decode_joules: f64,
    /// The GPUs' mean utilisation, 0 to 100.
    pub utilization_pct: f64,
    /// The most memory that was in use on the GPUs together, GB of 2^30 bytes.
    pub memory_gb: f64,
    /// The GPUs' mean temperature, °C.
    pub temperature_c: f64,
    /// How far it can be trusted.
    pub tier: Tier,
    /// Of the first device in the reference's order: NVIDIA, AMD, Apple, others, the processors.
    pub vendor: String,
    /// Its method.
    pub method: String,
}

impl CallEnergy {
    /// What is known of a call that no device was there for.
    pub fn unknown() -> CallEnergy {
        CallEnergy {
            joules: f64::NAN,
            parts: Parts::default(),
            prefill_joules: f64::NAN,
            decode_joules: f64::NAN,
            utilization_pct: f64::NAN,
            memory_gb: f64::NAN,
            temperature_c: f64::NAN,
            tier: Tier::Unknown,
            vendor: String::new(),
            method: String::new(),
        }
    }

    pub(super) fn of<'a>(
        shares: &[Share],
        gauges: &Gauges,
        device: impl Fn(usize) -> &'a Device,
    ) -> CallEnergy {
        let mut energy = CallEnergy {
            utilization_pct: gauges.utilization_pct().0,
            memory_gb: gauges.memory_gb().1,
            temperature_c: gauges.temperature_c().0,
            ..CallEnergy::unknown()
        };
        for share in shares {
            energy.parts.add(device(share.device).part, share.joules.unwrap_or(f64::INFINITY));
        }
        let parts = &mut energy.parts;
        for part in [&mut parts.gpu, &mut parts.cpu, &mut parts.dram, &mut parts.other] {
            *part = if part.is_infinite() { f64::NAN } else { *part }; // one of its devices is not known
        }
        let known = shares.iter().filter(|share| share.joules.is_some()).map(|share| device(share.device));
        if let Some(first) = known.min_by_key(|device| rank(&device.vendor)) {
            (energy.vendor, energy.method) = (first.vendor.clone(), first.method.clone());
        }
        if !shares.is_empty() && shares.iter().all(|share| share.joules.is_some()) {
            energy.joules = shares.iter().filter_map(|share| share.joules).sum();
            energy.prefill_joules = shares.iter().map(|share| share.prefill).sum();
            energy.decode_joules = (energy.joules - energy.prefill_joules).max(0.0);
            if energy.prefill_joules.is_nan() {
                energy.decode_joules = f64::NAN;
            }
            let is_estimated = shares.iter().any(|share| share.is_estimated);
            energy.tier = if is_estimated { Tier::Estimated } else { Tier::Measured };
        }
        energy
    }
}

fn rank(vendor: &str) -> usize {
    let order = ["nvidia", "amd", "apple"];
    let at = order.iter().position(|known| *known == vendor).unwrap_or(order.len());
    at + usize::from(vendor == "cpu_rapl")
}
