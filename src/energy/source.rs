//! What a source of joules is: devices with a counter or a power reading, and gauges where there are any.

use crate::error::{Error, Result};

/// Which part of the machine a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Part {
    /// A GPU: counts into `gpu_energy_joules`.
    Gpu = 1,
    /// A processor package: `cpu_energy_joules`.
    Cpu = 2,
    /// Memory: `dram_energy_joules`.
    Dram = 3,
    /// Anything else: counts into `energy_joules` only.
    Other = 4,
}

impl Part {
    /// The part with this number, if there is one.
    pub fn from_number(number: u32) -> Option<Part> {
        [Part::Gpu, Part::Cpu, Part::Dram, Part::Other].into_iter().find(|part| *part as u32 == number)
    }
}

/// A device whose energy can be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// Of which kind its source is: `nvml`, `rapl`, `hwmon`, `custom`.
    pub kind: &'static str,
    /// Which one it is, told apart from others of its kind.
    pub name: String,
    /// Whose counter it is, as the reference names it: `nvidia`, `amd`, `cpu_rapl` …
    pub vendor: String,
    /// How it is measured, as the reference names it: `hw_counter`, `polling`, `rapl` …
    pub method: String,
    /// Which part of the machine it is.
    pub part: Part,
    /// How often its counter moves, seconds; 0: at every read.
    pub update_period: f64,
    /// Joules in one [`Energy::Count`].
    pub joules_per_count: f64,
    /// The largest [`Energy::Count`], behind which it begins at 0 again; `None` if it never does.
    pub wraps_at: Option<u64>,
}

impl Device {
    /// The joules after which the counter begins at 0 again.
    pub fn wrap_joules(&self) -> Option<f64> {
        self.wraps_at.map(|count| count as f64 * self.joules_per_count)
    }
}

/// What a device says of its energy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Energy {
    /// A counter in the device's own unit.
    Count(u64),
    /// A counter in joules.
    Joules(f64),
    /// The power at this moment, to be integrated.
    Watts(f64),
}

/// One reading of a device. `NAN`: not read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// Its energy.
    pub energy: Energy,
    /// How busy it is, 0 to 100.
    pub utilization_pct: f64,
    /// Memory in use, GB of 2^30 bytes.
    pub memory_gb: f64,
    /// °C.
    pub temperature_c: f64,
}

impl From<Energy> for Reading {
    fn from(energy: Energy) -> Reading {
        Reading { energy, utilization_pct: f64::NAN, memory_gb: f64::NAN, temperature_c: f64::NAN }
    }
}

/// Devices that are read together.
pub trait Source: Send {
    /// Its devices, always the same.
    fn devices(&self) -> &[Device];

    /// Reads each device and hands the result to `each`, with the device's number, at once: that is when it was read.
    /// `None`: the read failed. Gauges take longer to read than energy, and are read only if asked for.
    fn read(&mut self, with_gauges: bool, each: &mut dyn FnMut(usize, Option<Reading>));
}

/// What could be a source and is none, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// `nvml`, `rapl`, `hwmon`.
    pub kind: &'static str,
    /// The device; "" for the whole kind.
    pub name: String,
    /// For people: what is wrong, and what to do.
    pub reason: String,
}

/// What was found when the sources were looked for.
#[derive(Default)]
pub struct Found {
    /// Those that can be read: each device was.
    pub sources: Vec<Box<dyn Source>>,
    /// Those that cannot.
    pub missing: Vec<Missing>,
}

impl Found {
    pub(super) fn miss(&mut self, kind: &'static str, name: impl Into<String>, reason: impl Into<String>) {
        self.missing.push(Missing { kind, name: name.into(), reason: reason.into() });
    }
}

/// Which kinds of sources to use: a set of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kinds(u32);

impl Kinds {
    /// NVIDIA's driver library.
    pub const NVML: Kinds = Kinds(1);
    /// The processors' counters, by powercap.
    pub const RAPL: Kinds = Kinds(2);
    /// GPUs of AMD and Intel, by sysfs.
    pub const HWMON: Kinds = Kinds(4);
    /// What the program registered.
    pub const CUSTOM: Kinds = Kinds(8);
    /// All of them.
    pub const ALL: Kinds = Kinds(15);

    /// The kinds in `mask`; 0 means all.
    pub fn from_mask(field: &str, mask: u32) -> Result<Kinds> {
        match mask {
            0 => Ok(Kinds::ALL),
            mask if mask & !Kinds::ALL.0 == 0 => Ok(Kinds(mask)),
            mask => Err(Error::invalid(field, format!("is {mask}; it has a bit that is no kind of source"))),
        }
    }

    /// Whether `kind` is among them.
    pub fn has(self, kind: Kinds) -> bool {
        self.0 & kind.0 != 0
    }
}

impl std::ops::BitOr for Kinds {
    type Output = Kinds;

    fn bitor(self, other: Kinds) -> Kinds {
        Kinds(self.0 | other.0)
    }
}
