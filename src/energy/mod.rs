//! Joules: who drew how many, and for which call.
//!
//! ```text
//! sources (nvml, rapl, hwmon, custom) ─ readings → sampler ─→ session (counter → ledger) ─→ a call's figures
//!                                                     ↑ begin, tokens, end
//!                                                    calls
//! ```
//!
//! One sampler per process, however many calls: [`Energy::start`] starts it. What a call has drawn is known when every
//! device has been read after its end; until then the call's record waits, in the background ([`Waiting`]). This room knows
//! times and the numbers of calls, not records, and not stores.

pub mod counter;
pub mod custom;
pub mod figures;
pub mod hwmon;
pub mod ledger;
pub mod nvml;
pub mod rapl;
mod sampler;
pub mod session;
pub mod source;
mod sysfs;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use once_cell::race::OnceBox;

use crate::error::{Error, ErrorKind, Result};
use crate::os::PerProcess;
use crate::sync::lock;
use custom::Custom;
use figures::{CallEnergy, Measured};
use ledger::{Totals, Weight};
pub(crate) use sampler::Ticket;
use sampler::{Running, check_outside};
use source::{Device, Found, Kinds, Missing};

/// Nanoseconds by the monotonic clock, since the sampler was started.
pub type Nanos = u64;

/// Whoever waits for the energy of a call that has ended.
pub trait Waiting: Send {
    /// Here it is. Called in the background, and must not come back to energy: the devices are not read meanwhile.
    fn keep(&mut self, energy: CallEnergy);

    /// Everybody may know.
    fn tell(self: Box<Self>);
}

/// How to measure.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Between two readings; `None`: as the counters need it, 100 ms at least while a call is in flight.
    pub interval: Option<Duration>,
    /// Which kinds of sources to use.
    pub kinds: Kinds,
    /// By what calls share.
    pub weight: Weight,
    /// What the devices draw without a call is nobody's.
    pub leaves_idle_out: bool,
    /// NVIDIA's library; `None`: the loader finds it.
    pub nvml_path: Option<String>,
    /// Where powercap is; "" for /sys/class/powercap.
    pub powercap_root: String,
    /// Where the cards are; "" for /sys/class/drm.
    pub drm_root: String,
    /// Where the sensors are; "" for /sys/class/hwmon.
    pub hwmon_root: String,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            interval: None,
            kinds: Kinds::ALL,
            weight: Weight::Equal,
            leaves_idle_out: false,
            nvml_path: None,
            powercap_root: String::new(),
            drm_root: String::new(),
            hwmon_root: String::new(),
        }
    }
}

impl Options {
    /// Looks for the sources that they name, but for the program's own.
    pub fn find(&self) -> Found {
        fn or<'a>(root: &'a str, default: &'a str) -> &'a Path {
            Path::new(if root.is_empty() { default } else { root })
        }
        let mut found = Found::default();
        if self.kinds.has(Kinds::NVML) {
            let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
            nvml::find(self.nvml_path.as_deref(), visible.as_deref(), &mut found);
        }
        if self.kinds.has(Kinds::HWMON) {
            let (drm, hwmon) = (or(&self.drm_root, hwmon::DRM_ROOT), or(&self.hwmon_root, hwmon::HWMON_ROOT));
            hwmon::find(drm, hwmon, &mut found);
        }
        if self.kinds.has(Kinds::RAPL) {
            rapl::find(or(&self.powercap_root, rapl::ROOT), &mut found);
        }
        found
    }
}

/// What has become of a device's joules.
#[derive(Debug, Clone, PartialEq)]
pub struct Balance {
    /// The device.
    pub device: Device,
    /// Where they went.
    pub totals: Totals,
    /// Mean power between the latest two readings, watts; `NAN` before there were two.
    pub watts: f64,
    /// What it draws without a call, watts; `NAN` if that is not known yet.
    pub idle_watts: f64,
    /// Reads that failed.
    pub failures: u64,
    /// It is not read any more.
    pub is_gone: bool,
}

/// What has been measured since the start.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The sampler runs.
    pub is_running: bool,
    /// When it was started, Unix seconds.
    pub started: f64,
    /// From then to the latest reading, seconds.
    pub seconds: f64,
    /// Between two readings, seconds.
    pub interval: f64,
    /// Calls in flight, and those that have ended and wait.
    pub calls: usize,
    /// Times that the devices were read.
    pub reads: u64,
    /// Processor time that it took, seconds.
    pub cpu_seconds: f64,
    /// The devices.
    pub devices: Vec<Balance>,
}

/// The process's energy.
pub struct Energy {
    /// The process's number in the line of forked processes.
    generation: u64,
    is_running: AtomicBool,
    starting: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The latest run; it may be over.
    latest: Option<Arc<Running>>,
    registered: Vec<(u64, Arc<dyn Custom>)>,
}

const GENERATION_SHIFT: u32 = 48;

impl Energy {
    /// The process's. A forked child begins with one that does not run, and without registered sources.
    pub fn global() -> &'static Energy {
        static ENERGY: OnceBox<PerProcess<Energy>> = OnceBox::new();
        let make = |generation| Energy {
            generation,
            is_running: AtomicBool::new(false),
            starting: Mutex::default(),
            state: Mutex::default(),
        };
        PerProcess::current(&ENERGY, make)
    }

    /// Starts the sampler. What cannot be read is no error: see [`Energy::sources`]. [`ErrorKind::Busy`] if it runs.
    pub fn start(&self, options: &Options) -> Result<()> {
        check_outside("starting energy")?;
        let _one_at_a_time = lock(&self.starting);
        let is_over = lock(&self.state).latest.as_ref().is_none_or(|latest| latest.is_over());
        if !is_over {
            return Err(Error::new(ErrorKind::Busy, "energy is measured already; stop it first"));
        }
        let found = options.find();
        let running = {
            let mut state = lock(&self.state);
            let has_custom = options.kinds.has(Kinds::CUSTOM);
            let registered = if has_custom { state.registered.clone() } else { Vec::new() };
            let running = Running::new(options, found, registered);
            state.latest = Some(running.clone());
            running
        };
        running.launch()?; // with no lock of ours held: it calls the program's sources
        self.is_running.store(true, Ordering::Release);
        Ok(())
    }

    /// Stops the sampler, after a last reading; calls that have ended are recorded when it returns. Those in flight keep
    /// what they have: it is their energy if it covers most of them, and unknown otherwise. [`ErrorKind::Closed`] if it does
    /// not run.
    pub fn stop(&self) -> Result<()> {
        check_outside("stopping energy")?;
        // Its own turn: two that stop at the same time must not both succeed.
        if !self.is_running.swap(false, Ordering::AcqRel) {
            return Err(not_running());
        }
        let running = lock(&self.state).latest.clone();
        running.ok_or_else(not_running)?.stop();
        Ok(())
    }

    /// A call begins; `None` if nothing is measured.
    pub(crate) fn begin(&self, call: u64) -> Option<Ticket> {
        if !self.is_running.load(Ordering::Acquire) {
            return None;
        }
        let running = lock(&self.state).latest.clone();
        running?.begin(call)
    }

    fn running(&self) -> Result<Arc<Running>> {
        let latest = lock(&self.state).latest.clone();
        latest.filter(|running| !running.is_over()).ok_or_else(not_running)
    }

    /// The devices that can be read and what cannot, and why. `None`: of the sampler that runs, or of a start without
    /// options. Otherwise of a start with these.
    pub fn sources(&self, options: Option<&Options>) -> Result<(Vec<Device>, Vec<Missing>)> {
        check_outside("looking for sources")?;
        if options.is_none()
            && let Ok(running) = self.running()
        {
            let devices = running.with_session(|session| {
                session
                    .devices()
                    .filter(|(meter, _)| !meter.is_closed)
                    .map(|(meter, _)| meter.device.clone())
                    .collect()
            });
            return Ok((devices, running.missing.clone()));
        }
        let default = Options::default();
        let options = options.unwrap_or(&default);
        let found = options.find();
        let mut devices: Vec<Device> =
            found.sources.iter().flat_map(|source| source.devices().iter().cloned()).collect();
        if options.kinds.has(Kinds::CUSTOM) {
            devices.extend(lock(&self.state).registered.iter().map(|(_, custom)| custom.device().clone()));
        }
        Ok((devices, found.missing))
    }

    /// What was measured since the latest start, as of the latest reading; also after a stop.
    pub fn report(&self) -> Result<Report> {
        let latest = lock(&self.state).latest.clone();
        let running = latest.ok_or_else(not_running)?;
        let (devices, calls) = running.with_session(|session| {
            let balance = |(number, (meter, totals)): (usize, (&session::Meter, Totals))| Balance {
                device: meter.device.clone(),
                totals,
                watts: meter.watts,
                idle_watts: session.idle_watts(number),
                failures: meter.failures,
                is_gone: meter.is_closed,
            };
            (session.devices().enumerate().map(balance).collect(), session.calls())
        });
        Ok(Report {
            is_running: !running.is_over(),
            started: running.started,
            seconds: running.seconds(),
            interval: running.interval(),
            calls,
            reads: running.cost.reads.load(Ordering::Relaxed),
            cpu_seconds: running.cost.cpu.load(Ordering::Relaxed) as f64 / 1e9,
            devices,
        })
    }

    /// Begins to measure a stretch: all that the devices draw, whoever causes it. Reads them now. Gives its number, never 0.
    pub fn begin_window(&self) -> Result<u64> {
        check_outside("beginning a window")?;
        let running = self.running()?;
        let window = self.number();
        running.begin_window(window);
        Ok(window)
    }

    /// Ends a stretch, and reads the devices now. [`ErrorKind::NotFound`] if there is none of that number.
    pub fn end_window(&self, window: u64) -> Result<Measured> {
        check_outside("ending a window")?;
        self.check_number(window, "window")?;
        let not_found = || Error::new(ErrorKind::NotFound, "window does not exist, or has ended");
        self.running().ok().and_then(|running| running.end_window(window)).ok_or_else(not_found)
    }

    /// Registers a source of the program's own: for the sampler that runs, unless it was told to do without such, and for
    /// each that is started from now on. Gives its number, never 0.
    pub fn register(&self, custom: Arc<dyn Custom>) -> Result<u64> {
        check_outside("registering a source")?;
        let number = self.number();
        let mut state = lock(&self.state);
        state.registered.push((number, Arc::clone(&custom)));
        let running = state.latest.clone();
        drop(state);
        if let Some(running) = running.filter(|running| !running.is_over()) {
            running.add_custom(custom, number);
        }
        Ok(number)
    }

    /// Ends [`Energy::register`]. When it returns the source is not read and will not be; the last reference to it that is
    /// held here is gone.
    pub fn unregister(&self, number: u64) -> Result<()> {
        check_outside("taking a source out")?;
        self.check_number(number, "source")?;
        let (removed, running) = {
            let mut state = lock(&self.state);
            let at = state.registered.iter().position(|(its, _)| *its == number);
            let not_found = || Error::new(ErrorKind::NotFound, "source does not exist, or was taken out");
            (state.registered.remove(at.ok_or_else(not_found)?), state.latest.clone())
        };
        if let Some(running) = running {
            running.remove(number);
        }
        drop(removed);
        Ok(())
    }

    /// The generation in the upper bits tells a child the parent's numbers from ones that never were.
    fn number(&self) -> u64 {
        static LAST: AtomicU64 = AtomicU64::new(0);
        self.generation << GENERATION_SHIFT | (LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn check_number(&self, number: u64, what: &str) -> Result<()> {
        if number >> GENERATION_SHIFT < self.generation {
            let message = format!("{what} belongs to the process that this one was forked from");
            return Err(Error::new(ErrorKind::Forked, message));
        }
        Ok(())
    }
}

fn not_running() -> Error {
    Error::new(ErrorKind::Closed, "energy is not measured; start it first")
}
