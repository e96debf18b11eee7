//! Energy.
//!
//! Joules per call. After tj_energy_start one thread reads the counters of the machine, every 100 ms while a call is in
//! flight and every second otherwise, and splits what they moved among the calls in flight: evenly over time between two
//! readings, by weight among the calls that run at the same moment. What no call had is unattributed, and at any moment
//! attributed + unattributed + idle = what the counters moved. A record gets energy_joules (of all devices together), its
//! parts, power_watts, prefill and decode energy (cut at the first tj_call_tokens), tokens_per_joule,
//! energy_per_output_token_joules, throughput_per_watt, the GPUs' utilisation, memory and temperature, and energy_method
//! and energy_vendor of the first device in the order nvidia, amd, apple, others, cpu_rapl. Its metadata says under
//! "tokenjoule.energy_tier" how far to trust it: "measured"; "estimated", for a call that is shorter than the time between
//! two readings of a device, or of which up to a tenth was not read; or "unknown", and then energy_joules is.
//!
//! A call's energy is known when its devices have been read after its end, and tj_call_end does not wait for that. While
//! energy is measured, TJ_EVENT_INFERENCE_END is published before tj_call_end returns, with a record without energy; the
//! record is kept, and TJ_EVENT_TELEMETRY_RECORD published, after the next reading, on the sampler's thread or on that of
//! whoever makes it read. A question to a store makes it read, and sees the calls that have ended, but for those that wait
//! for a counter that moves slowly; tj_store_flush, tj_store_clear and tj_store_close wait for them all, one second at
//! most. A device that cannot be read is waited for two seconds at most. If the process dies meanwhile, the record is in
//! the journal, without its energy.
//!
//! The sources, and how often what they read moves:
//! - nvml: NVIDIA GPUs; the energy counter (Volta and later), every 20 to 100 ms; else the power, integrated.
//! - hwmon: GPUs of AMD and Intel; the energy counter where there is one, every 10 ms or so; else the power, integrated.
//! - rapl: processors and memory; the energy counter of each package, and of DRAM where it has one, every millisecond.
//! - custom: the host program's; what its callback says.
//!
//! What is not there, or may not be read, is no error: tj_energy_sources says why, and what to do. A GPU that shares its
//! package with the processor is counted by both hwmon and rapl: use one of them. A forked child begins without energy.

use std::ffi::{CString, c_char, c_void};
use std::mem::offset_of;
use std::sync::Arc;
use std::time::Duration;

use super::boundary::{
    Owning, Sized_, c_string, entry, initialise, not_null, release, room_out, room_with_owner, string,
    struct_in, struct_out, write_out,
};
use super::bus::{Closure, tj_drop_fn};
use super::error::{tj_error, tj_status};
use crate::energy::custom::Custom;
use crate::energy::figures::Measured;
use crate::energy::ledger::Weight;
use crate::energy::source::{Device, Energy as Figure, Kinds, Missing, Part, Reading};
use crate::energy::{Energy, Options, Report};
use crate::error::{Error, Result};

/// Kinds of sources: bits of tj_energy_options.kinds.
#[repr(C)]
pub enum tj_energy_kind {
    /// NVIDIA GPUs, by the driver's library, which is loaded at run time. CUDA_VISIBLE_DEVICES is respected, its numbers
    /// taken as by CUDA_DEVICE_ORDER=PCI_BUS_ID. An instance of a GPU (MIG) counts as the whole GPU.
    TJ_ENERGY_NVML = 1,
    /// Processor packages, and memory where it has a counter of its own, by Linux's powercap.
    TJ_ENERGY_RAPL = 2,
    /// GPUs of amdgpu, i915 and xe, by sysfs.
    TJ_ENERGY_HWMON = 4,
    /// Those of tj_energy_register_source.
    TJ_ENERGY_CUSTOM = 8,
}

/// Parts of a machine.
#[repr(C)]
pub enum tj_energy_part {
    /// Counts into gpu_energy_joules.
    TJ_ENERGY_PART_GPU = 1,
    /// Counts into cpu_energy_joules.
    TJ_ENERGY_PART_CPU = 2,
    /// Counts into dram_energy_joules.
    TJ_ENERGY_PART_DRAM = 3,
    /// Counts into energy_joules only.
    TJ_ENERGY_PART_OTHER = 4,
}

/// By what calls share that run at the same moment.
#[repr(C)]
pub enum tj_energy_weight {
    /// All the same.
    TJ_ENERGY_WEIGHT_EQUAL = 0,
    /// Each counts as one, and one more for each output token since the reading before.
    TJ_ENERGY_WEIGHT_TOKENS = 1,
}

/// How to measure. Zero in a field is its default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_energy_options {
    /// Set by TJ_ENERGY_OPTIONS_INIT.
    pub struct_size: usize,
    /// Milliseconds between two readings, at most 60000. 0: 100 while a call is in flight, more if all counters move more
    /// slowly, and 1000 otherwise. Always short enough that no counter wraps unseen.
    pub interval_ms: u32,
    /// tj_energy_kind | ... 0: all.
    pub kinds: u32,
    /// A tj_energy_weight.
    pub weight: u32,
    /// 1: what a device draws without a call, once that has been seen for a second, is no call's: it is reported as idle.
    pub leave_idle_out: u32,
    /// NVIDIA's library. NULL or "": libnvidia-ml.so.1, where the loader finds it.
    pub nvml_path: *const c_char,
    /// NULL or "": /sys/class/powercap.
    pub powercap_root: *const c_char,
    /// NULL or "": /sys/class/drm.
    pub drm_root: *const c_char,
    /// NULL or "": /sys/class/hwmon.
    pub hwmon_root: *const c_char,
}

// SAFETY: repr(C), size first, numbers and pointers only.
unsafe impl Sized_ for tj_energy_options {
    const INIT: &'static str = "ENERGY_OPTIONS";
}

/// Does what TJ_ENERGY_OPTIONS_INIT does, for languages without macros. NULL is ignored.
///
/// # Safety
/// `options` is NULL or points to memory for one `tj_energy_options`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_energy_options_init(options: *mut tj_energy_options) {
    // SAFETY: the caller's promise is the same.
    unsafe { initialise(options) }
}

impl tj_energy_options {
    /// # Safety
    /// Every string is NULL or NUL-terminated.
    unsafe fn view(&self) -> Result<Options> {
        let unknown =
            |field: &str, value: u32| Err(Error::invalid(field, format!("is {value}; not a known value")));
        // SAFETY: by this function's contract.
        let text = |text, field| unsafe { string(text, field) }.map(str::to_owned);
        if self.interval_ms > 60_000 {
            let what = format!("is {}; at most 60000 make sense", self.interval_ms);
            return Err(Error::invalid("options.interval_ms", what));
        }
        Ok(Options {
            interval: (self.interval_ms > 0).then(|| Duration::from_millis(self.interval_ms.into())),
            kinds: Kinds::from_mask("options.kinds", self.kinds)?,
            weight: match self.weight {
                0 => Weight::Equal,
                1 => Weight::Tokens,
                other => return unknown("options.weight", other),
            },
            leaves_idle_out: match self.leave_idle_out {
                0 => false,
                1 => true,
                other => return unknown("options.leave_idle_out", other),
            },
            nvml_path: Some(text(self.nvml_path, "options.nvml_path")?).filter(|path| !path.is_empty()),
            powercap_root: text(self.powercap_root, "options.powercap_root")?,
            drm_root: text(self.drm_root, "options.drm_root")?,
            hwmon_root: text(self.hwmon_root, "options.hwmon_root")?,
        })
    }
}

/// # Safety
/// `options` is NULL or valid.
unsafe fn options_in(options: *const tj_energy_options) -> Result<Option<Options>> {
    // SAFETY: by this function's contract.
    unsafe { if options.is_null() { Ok(None) } else { struct_in(options, "options")?.view().map(Some) } }
}

/// Starts measuring; returns when every device has been read once. `options` NULL: all defaults. That there is nothing to
/// measure is no failure.
///
/// TJ_OK; TJ_ERR_INVALID_ARGUMENT: the message names the field; TJ_ERR_BUSY: energy is measured already, or this is inside
/// of a source's callback; TJ_ERR_IO: no thread can be started. On failure all is as it was.
///
/// # Safety
/// `options` is NULL or valid; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_energy_start(
    options: *const tj_energy_options,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises.
    unsafe { entry(error, || Energy::global().start(&options_in(options)?.unwrap_or_default())) }
}

/// Stops measuring, after a last reading: calls that have ended are recorded when it returns. Calls in flight go on; the
/// energy that they have by now is theirs if they end before a tenth of them is unmeasured, and is unattributed otherwise.
/// tj_energy_read goes on answering. Open windows are gone.
///
/// TJ_OK; TJ_ERR_CLOSED: energy is not measured; TJ_ERR_BUSY: this is inside of a source's callback.
///
/// # Safety
/// `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_energy_stop(error: *mut tj_error) -> tj_status {
    // SAFETY: as the caller promises.
    unsafe { entry(error, || Energy::global().stop()) }
}

/// A device that can be read, or something that cannot. Strings are owned by the tj_energy_source_list.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_energy_source {
    /// "nvml", "rapl", "hwmon" or "custom".
    pub kind: *const c_char,
    /// The device; "" where a whole kind is not there.
    pub name: *const c_char,
    /// As in a record: "nvidia", "amd", "intel", "cpu_rapl" ... "" if it cannot be read.
    pub vendor: *const c_char,
    /// As in a record: "hw_counter", "polling", "rapl" ... "" if it cannot be read.
    pub method: *const c_char,
    /// A tj_energy_part; 0 if it cannot be read.
    pub part: u32,
    /// 1: it can be read.
    pub is_available: u32,
    /// How often its counter moves, seconds; 0: at every reading.
    pub update_period_seconds: f64,
    /// Joules at which its counter begins at 0 again; NAN if it does not.
    pub wraps_at_joules: f64,
    /// Why it cannot be read, and what to do; "" if it can.
    pub reason: *const c_char,
    /// Always 0; room for later versions, so that the stride of arrays never changes.
    pub reserved: [u64; 8],
}

/// Sources. Initialise with TJ_ENERGY_SOURCE_LIST_INIT; release with tj_energy_source_list_free.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_energy_source_list {
    /// Set by TJ_ENERGY_SOURCE_LIST_INIT.
    pub struct_size: usize,
    /// Those that can be read first. NULL if there are none.
    pub sources: *const tj_energy_source,
    /// How many.
    pub source_count: usize,
    /// The library's; hands back what the list lives in.
    pub owner: *mut c_void,
}

// SAFETY: repr(C), size first, numbers and pointers only.
unsafe impl Sized_ for tj_energy_source_list {
    const INIT: &'static str = "ENERGY_SOURCE_LIST";
}

// SAFETY: the owner is where this says, and comes from tj_energy_sources.
unsafe impl Owning for tj_energy_source_list {
    type Owner = Sources;
    const OWNER: usize = offset_of!(tj_energy_source_list, owner);

    unsafe fn let_go(at: *mut Self) {
        // SAFETY: by the trait's contract; the list comes before the owner.
        unsafe { ((*at).sources, (*at).source_count) = (std::ptr::null(), 0) }
    }
}

/// Does what TJ_ENERGY_SOURCE_LIST_INIT does, for languages without macros. NULL is ignored.
///
/// # Safety
/// `list` is NULL or points to memory for one `tj_energy_source_list`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_energy_source_list_init(list: *mut tj_energy_source_list) {
    // SAFETY: the caller's promise is the same.
    unsafe { initialise(list) }
}

/// Lists what can be read, and what cannot and why. `options` NULL: what is being measured, or what would be with the
/// default options; otherwise what would be with these, which is found out by reading it.
///
/// TJ_OK: *out_sources is filled; release it with tj_energy_source_list_free, also before it is filled again.
/// TJ_ERR_INVALID_ARGUMENT: the message names the field, or a struct_size without room for the owner; TJ_ERR_BUSY: this is
/// inside of a source's callback. On failure *out_sources is not written.
///
/// # Safety
/// `options` is NULL or valid; `out_sources` is initialised; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_energy_sources(
    options: *const tj_energy_options,
    out_sources: *mut tj_energy_source_list,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked, and `room` is what the caller's struct holds.
    unsafe {
        entry(error, || {
            let options = options_in(options)?;
            let room = room_with_owner(out_sources, "out_sources")?;
            let (devices, missing) = Energy::global().sources(options.as_ref())?;
            let mut out = tj_energy_source_list::initial();
            let owner = Box::new(Sources::of(&devices, &missing));
            if !owner.sources.is_empty() {
                (out.sources, out.source_count) = (owner.sources.as_ptr(), owner.sources.len());
            }
            out.owner = Box::into_raw(owner).cast();
            struct_out(&out, out_sources, room);
            Ok(())
        })
    }
}

/// Releases what a filled tj_energy_source_list owns. NULL, an initialised one that was never filled, and one that was
/// released before are fine.
///
/// # Safety
/// `list` is NULL or initialised.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_energy_source_list_free(list: *mut tj_energy_source_list) {
    // SAFETY: the caller's promise is the same.
    unsafe { release(list) }
}

/// Strings that C may point to as long as this lives.
#[derive(Default)]
struct Texts(Vec<CString>);

impl Texts {
    fn put(&mut self, text: &str) -> *const c_char {
        let text = c_string(text);
        let at = text.as_ptr(); // of the heap: it stays where it is
        self.0.push(text);
        at
    }
}

/// What a list of sources lives in.
pub(super) struct Sources {
    sources: Vec<tj_energy_source>,
    _texts: Texts,
}

impl Sources {
    fn of(devices: &[Device], missing: &[Missing]) -> Sources {
        let mut texts = Texts::default();
        let mut sources = Vec::with_capacity(devices.len() + missing.len());
        for device in devices {
            sources.push(tj_energy_source {
                kind: texts.put(device.kind),
                name: texts.put(&device.name),
                vendor: texts.put(&device.vendor),
                method: texts.put(&device.method),
                part: device.part as u32,
                is_available: 1,
                update_period_seconds: device.update_period,
                wraps_at_joules: device.wrap_joules().unwrap_or(f64::NAN),
                reason: c"".as_ptr(),
                reserved: [0; 8],
            });
        }
        for it in missing {
            sources.push(tj_energy_source {
                kind: texts.put(it.kind),
                name: texts.put(&it.name),
                vendor: c"".as_ptr(),
                method: c"".as_ptr(),
                part: 0,
                is_available: 0,
                update_period_seconds: f64::NAN,
                wraps_at_joules: f64::NAN,
                reason: texts.put(&it.reason),
                reserved: [0; 8],
            });
        }
        Sources { sources, _texts: texts }
    }
}

/// What has become of a device's joules since the start. Strings are owned by the tj_energy_totals.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_energy_device {
    /// "nvml", "rapl", "hwmon" or "custom".
    pub kind: *const c_char,
    /// The device.
    pub name: *const c_char,
    /// As in a record.
    pub vendor: *const c_char,
    /// As in a record.
    pub method: *const c_char,
    /// A tj_energy_part.
    pub part: u32,
    /// 1: its source was taken out; it is not read any more.
    pub is_gone: u32,
    /// Joules that its counter moved ...
    pub counter_joules: f64,
    /// ... those of calls ...
    pub attributed_joules: f64,
    /// ... those of nobody ...
    pub unattributed_joules: f64,
    /// ... and those left out by leave_idle_out.
    pub idle_joules: f64,
    /// Seconds of which nobody knows what it drew: before the first reading, and where its counter was reset.
    pub lost_seconds: f64,
    /// Mean power between the latest two readings, watts; NAN before there were two.
    pub power_watts: f64,
    /// What it draws without a call, watts; NAN if that has not been seen for a second.
    pub idle_watts: f64,
    /// Readings that failed.
    pub failed_reads: u64,
    /// Always 0; room for later versions, so that the stride of arrays never changes.
    pub reserved: [u64; 8],
}

/// What was measured since the latest tj_energy_start, up to the latest reading. Initialise with TJ_ENERGY_TOTALS_INIT;
/// release with tj_energy_totals_free.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_energy_totals {
    /// Set by TJ_ENERGY_TOTALS_INIT.
    pub struct_size: usize,
    /// 1: energy is measured; 0: it was.
    pub is_running: u32,
    /// Always 0.
    pub reserved: u32,
    /// When it was started, Unix seconds.
    pub since: f64,
    /// From then to the latest reading, seconds.
    pub seconds: f64,
    /// Joules that the counters of all devices moved ...
    pub counter_joules: f64,
    /// ... those of calls, the part of calls in flight included ...
    pub attributed_joules: f64,
    /// ... those of nobody ...
    pub unattributed_joules: f64,
    /// ... and those left out by leave_idle_out.
    pub idle_joules: f64,
    /// Calls in flight, and those that have ended and wait for a reading.
    pub calls: u64,
    /// The interval between two readings while a call is in flight, seconds.
    pub interval_seconds: f64,
    /// How often the devices were read ...
    pub reads: u64,
    /// ... and the processor time that it took, seconds.
    pub cpu_seconds: f64,
    /// The devices. NULL if there are none.
    pub devices: *const tj_energy_device,
    /// How many.
    pub device_count: usize,
    /// The library's; hands back what the list lives in.
    pub owner: *mut c_void,
}

// SAFETY: repr(C), size first, numbers and pointers only.
unsafe impl Sized_ for tj_energy_totals {
    const INIT: &'static str = "ENERGY_TOTALS";
}

// SAFETY: the owner is where this says, and comes from tj_energy_read.
unsafe impl Owning for tj_energy_totals {
    type Owner = Devices;
    const OWNER: usize = offset_of!(tj_energy_totals, owner);

    unsafe fn let_go(at: *mut Self) {
        // SAFETY: by the trait's contract; the list comes before the owner.
        unsafe { ((*at).devices, (*at).device_count) = (std::ptr::null(), 0) }
    }
}

/// Does what TJ_ENERGY_TOTALS_INIT does, for languages without macros. NULL is ignored.
///
/// # Safety
/// `totals` is NULL or points to memory for one `tj_energy_totals`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_energy_totals_init(totals: *mut tj_energy_totals) {
    // SAFETY: the caller's promise is the same.
    unsafe { initialise(totals) }
}

/// Tells where the joules went since the latest tj_energy_start, also after tj_energy_stop. Reads no device.
///
/// TJ_OK: *out_totals is filled; release it with tj_energy_totals_free, also before it is filled again.
/// TJ_ERR_CLOSED: energy was never measured; TJ_ERR_INVALID_ARGUMENT: NULL, or a struct_size without room for the owner.
/// On failure *out_totals is not written.
///
/// # Safety
/// `out_totals` is initialised; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_energy_read(
    out_totals: *mut tj_energy_totals,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked, and `room` is what the caller's struct holds.
    unsafe {
        entry(error, || {
            let room = room_with_owner(out_totals, "out_totals")?;
            let report = Energy::global().report()?;
            let mut out = tj_energy_totals::initial();
            out.is_running = report.is_running.into();
            out.since = report.started;
            out.seconds = report.seconds;
            for device in &report.devices {
                out.counter_joules += device.totals.moved;
                out.attributed_joules += device.totals.attributed;
                out.unattributed_joules += device.totals.unattributed;
                out.idle_joules += device.totals.idle;
            }
            out.calls = report.calls as u64;
            out.interval_seconds = report.interval;
            out.reads = report.reads;
            out.cpu_seconds = report.cpu_seconds;
            let owner = Box::new(Devices::of(&report));
            if !owner.devices.is_empty() {
                (out.devices, out.device_count) = (owner.devices.as_ptr(), owner.devices.len());
            }
            out.owner = Box::into_raw(owner).cast();
            struct_out(&out, out_totals, room);
            Ok(())
        })
    }
}

/// Releases what a filled tj_energy_totals owns. NULL, an initialised one that was never filled, and one that was released
/// before are fine.
///
/// # Safety
/// `totals` is NULL or initialised.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_energy_totals_free(totals: *mut tj_energy_totals) {
    // SAFETY: the caller's promise is the same.
    unsafe { release(totals) }
}

/// What the devices of totals live in.
pub(super) struct Devices {
    devices: Vec<tj_energy_device>,
    _texts: Texts,
}

impl Devices {
    fn of(report: &Report) -> Devices {
        let mut texts = Texts::default();
        let devices = report.devices.iter().map(|it| tj_energy_device {
            kind: texts.put(it.device.kind),
            name: texts.put(&it.device.name),
            vendor: texts.put(&it.device.vendor),
            method: texts.put(&it.device.method),
            part: it.device.part as u32,
            is_gone: it.is_gone.into(),
            counter_joules: it.totals.moved,
            attributed_joules: it.totals.attributed,
            unattributed_joules: it.totals.unattributed,
            idle_joules: it.totals.idle,
            lost_seconds: it.totals.lost as f64 / 1e9,
            power_watts: it.watts,
            idle_watts: it.idle_watts,
            failed_reads: it.failures,
            reserved: [0; 8],
        });
        let devices = devices.collect();
        Devices { devices, _texts: texts }
    }
}

/// What was measured in a window: all that the devices drew, whoever caused it. NAN: not measured.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_energy_window {
    /// Set by TJ_ENERGY_WINDOW_INIT.
    pub struct_size: usize,
    /// Its length.
    pub seconds: f64,
    /// Joules of all devices.
    pub energy_joules: f64,
    /// The GPUs' part ...
    pub gpu_energy_joules: f64,
    /// ... the processors' ...
    pub cpu_energy_joules: f64,
    /// ... the memory's ...
    pub dram_energy_joules: f64,
    /// ... and that of TJ_ENERGY_PART_OTHER.
    pub other_energy_joules: f64,
    /// Energy / length, watts.
    pub mean_power_watts: f64,
    /// The highest power between two readings, watts.
    pub peak_power_watts: f64,
    /// Of the GPUs, 0 to 100.
    pub mean_utilization_pct: f64,
    /// Of the GPUs, 0 to 100.
    pub peak_utilization_pct: f64,
    /// Of the GPUs together, GB of 2^30 bytes.
    pub mean_memory_used_gb: f64,
    /// Of the GPUs together, GB of 2^30 bytes.
    pub peak_memory_used_gb: f64,
    /// Of the GPUs, degrees Celsius.
    pub mean_temperature_c: f64,
    /// Of the GPUs, degrees Celsius.
    pub peak_temperature_c: f64,
    /// How often the devices were read in it.
    pub readings: u64,
}

// SAFETY: repr(C), size first, numbers only.
unsafe impl Sized_ for tj_energy_window {
    const INIT: &'static str = "ENERGY_WINDOW";
}

/// Does what TJ_ENERGY_WINDOW_INIT does, for languages without macros. NULL is ignored.
///
/// # Safety
/// `window` is NULL or points to memory for one `tj_energy_window`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_energy_window_init(window: *mut tj_energy_window) {
    // SAFETY: the caller's promise is the same.
    unsafe { initialise(window) }
}

impl tj_energy_window {
    fn of(measured: &Measured) -> tj_energy_window {
        let Measured { seconds, parts, peak_watts, readings, gauges } = measured;
        let (utilization, memory, temperature) =
            (gauges.utilization_pct(), gauges.memory_gb(), gauges.temperature_c());
        tj_energy_window {
            struct_size: size_of::<Self>(),
            seconds: *seconds,
            energy_joules: parts.sum(),
            gpu_energy_joules: parts.gpu,
            cpu_energy_joules: parts.cpu,
            dram_energy_joules: parts.dram,
            other_energy_joules: parts.other,
            mean_power_watts: if *seconds > 0.0 { parts.sum() / seconds } else { f64::NAN },
            peak_power_watts: *peak_watts,
            mean_utilization_pct: utilization.0,
            peak_utilization_pct: utilization.1,
            mean_memory_used_gb: memory.0,
            peak_memory_used_gb: memory.1,
            mean_temperature_c: temperature.0,
            peak_temperature_c: temperature.1,
            readings: *readings,
        }
    }
}

/// Begins to measure a stretch, whatever happens in it, and reads the devices now: the reference's sample(). Windows may
/// overlap each other and calls, and take nothing from either.
///
/// TJ_OK: *out_window is the number for tj_energy_window_end, never 0. TJ_ERR_CLOSED: energy is not measured; TJ_ERR_BUSY:
/// this is inside of a source's callback; TJ_ERR_INVALID_ARGUMENT: NULL. On failure *out_window is not written.
///
/// # Safety
/// `out_window` is writable; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_energy_window_begin(out_window: *mut u64, error: *mut tj_error) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked.
    unsafe {
        entry(error, || {
            not_null(out_window, "out_window")?;
            write_out(out_window, Energy::global().begin_window()?);
            Ok(())
        })
    }
}

/// Ends a window, and reads the devices now. What a counter that moves slowly has not shown yet is not in it: windows should
/// be longer than update_period_seconds.
///
/// TJ_OK: *out_measured is filled; nothing in it needs freeing. TJ_ERR_NOT_FOUND: no such window, or it has ended, or
/// energy was stopped; TJ_ERR_FORKED: it is the parent process's; TJ_ERR_BUSY: this is inside of a source's callback;
/// TJ_ERR_INVALID_ARGUMENT: the window goes on. On failure *out_measured is not written.
///
/// # Safety
/// `out_measured` is initialised; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_energy_window_end(
    window: u64,
    out_measured: *mut tj_energy_window,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked, and `room` is what the caller's struct holds.
    unsafe {
        entry(error, || {
            let room = room_out(out_measured, "out_measured")?;
            let measured = Energy::global().end_window(window)?;
            struct_out(&tj_energy_window::of(&measured), out_measured, room);
            Ok(())
        })
    }
}

/// What a callback says of its device. All NAN when it is called; it sets what it knows: joules, or else watts.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_energy_reading {
    /// The size that the library gave it.
    pub struct_size: usize,
    /// Joules by a counter that only grows. A step back is taken for a new counter.
    pub joules: f64,
    /// The power now, watts, which the library integrates.
    pub watts: f64,
    /// 0 to 100; of a GPU.
    pub utilization_pct: f64,
    /// GB of 2^30 bytes; of a GPU.
    pub memory_used_gb: f64,
    /// Degrees Celsius; of a GPU.
    pub temperature_c: f64,
}

/// Reads the host program's own device into `reading` and returns 0; anything else is a reading that failed. Called by one
/// thread at a time, most often the sampler's. It must not unwind (no C++ exception, no longjmp) into the library, and may
/// use the library, but for what starts, stops and looks into energy, which answers TJ_ERR_BUSY.
pub type tj_energy_read_fn =
    Option<unsafe extern "C" fn(reading: *mut tj_energy_reading, user_data: *mut c_void) -> i32>;

/// A source of the host program's own: rails of a board, another vendor's library, a wall meter.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_energy_custom {
    /// Set by TJ_ENERGY_CUSTOM_INIT.
    pub struct_size: usize,
    /// The device. Required, not empty.
    pub name: *const c_char,
    /// Goes into records as energy_vendor. NULL or "": "custom".
    pub vendor: *const c_char,
    /// Goes into records as energy_method. NULL or "": "custom".
    pub method: *const c_char,
    /// A tj_energy_part. 0: TJ_ENERGY_PART_OTHER.
    pub part: u32,
    /// How often its counter moves, milliseconds, at most 60000. 0: at every reading.
    pub update_period_ms: u32,
    /// Required.
    pub read: tj_energy_read_fn,
    /// Handed to read as it is.
    pub user_data: *mut c_void,
    /// Releases user_data; may be NULL.
    pub drop: tj_drop_fn,
}

// SAFETY: repr(C), size first, numbers, pointers and nullable function pointers only.
unsafe impl Sized_ for tj_energy_custom {
    const INIT: &'static str = "ENERGY_CUSTOM";
}

/// Does what TJ_ENERGY_CUSTOM_INIT does, for languages without macros. NULL is ignored.
///
/// # Safety
/// `custom` is NULL or points to memory for one `tj_energy_custom`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_energy_custom_init(custom: *mut tj_energy_custom) {
    // SAFETY: the caller's promise is the same.
    unsafe { initialise(custom) }
}

/// A source as the core sees it.
struct Callback {
    device: Device,
    read: unsafe extern "C" fn(reading: *mut tj_energy_reading, user_data: *mut c_void) -> i32,
    closure: Closure,
}

impl Custom for Callback {
    fn device(&self) -> &Device {
        &self.device
    }

    fn read(&self) -> Option<Reading> {
        let nan = f64::NAN;
        let mut it = tj_energy_reading {
            struct_size: size_of::<tj_energy_reading>(),
            joules: nan,
            watts: nan,
            utilization_pct: nan,
            memory_used_gb: nan,
            temperature_c: nan,
        };
        // SAFETY: the caller of tj_energy_register_source vouched for the callback; `it` lives until it returns.
        let failure = unsafe { (self.read)(&raw mut it, self.closure.user_data()) };
        let energy = match (it.joules, it.watts) {
            (joules, _) if !joules.is_nan() => Figure::Joules(joules),
            (_, watts) if !watts.is_nan() => Figure::Watts(watts),
            _ => return None,
        };
        let gauge = |figure: f64| if figure >= 0.0 { figure } else { nan };
        (failure == 0).then_some(Reading {
            energy,
            utilization_pct: gauge(it.utilization_pct),
            memory_gb: gauge(it.memory_used_gb),
            temperature_c: gauge(it.temperature_c),
        })
    }
}

/// Registers a source: for what is being measured, if TJ_ENERGY_CUSTOM is among its kinds, and for each tj_energy_start
/// from now on. drop runs exactly once, after the last call of read, also when this function fails with a `custom` that
/// could be read.
///
/// TJ_OK: *out_source is the number for tj_energy_unregister_source, never 0. TJ_ERR_INVALID_ARGUMENT: the message names
/// the field; TJ_ERR_BUSY: this is inside of a source's callback. On failure *out_source is not written.
///
/// # Safety
/// `custom` is valid; its read and drop may be called with its user_data on any thread until drop has run; `out_source` is
/// writable; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_energy_register_source(
    custom: *const tj_energy_custom,
    out_source: *mut u64,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked.
    unsafe {
        entry(error, || {
            let custom = struct_in(custom, "custom")?;
            let closure = Closure::new(custom.user_data, custom.drop); // dropped on every way out
            not_null(out_source, "out_source")?;
            let read = custom.read.ok_or_else(|| Error::invalid("custom.read", "is NULL"))?;
            let device = custom.device()?;
            write_out(out_source, Energy::global().register(Arc::new(Callback { device, read, closure }))?);
            Ok(())
        })
    }
}

impl tj_energy_custom {
    /// # Safety
    /// Every string is NULL or NUL-terminated.
    unsafe fn device(&self) -> Result<Device> {
        // SAFETY: by this function's contract.
        let text = |text, field, default: &str| -> Result<String> {
            // SAFETY: as above.
            let text = unsafe { string(text, field)? };
            Ok(if text.is_empty() { default } else { text }.to_owned())
        };
        let name = text(self.name, "custom.name", "")?;
        if name.is_empty() {
            return Err(Error::invalid("custom.name", "is required and must not be empty"));
        }
        if self.update_period_ms > 60_000 {
            let what = format!("is {}; at most 60000 make sense", self.update_period_ms);
            return Err(Error::invalid("custom.update_period_ms", what));
        }
        let part = if self.part == 0 { Part::Other as u32 } else { self.part };
        let no_part = || Error::invalid("custom.part", format!("is {part}; no such tj_energy_part"));
        Ok(Device {
            kind: "custom",
            name,
            vendor: text(self.vendor, "custom.vendor", "custom")?,
            method: text(self.method, "custom.method", "custom")?,
            part: Part::from_number(part).ok_or_else(no_part)?,
            update_period: f64::from(self.update_period_ms) / 1e3,
            joules_per_count: 1.0,
            wraps_at: None,
        })
    }
}

/// Takes a source out. When it returns, read is not running and will not run again, and drop has run.
///
/// TJ_OK; TJ_ERR_NOT_FOUND: no such source, or it was taken out; TJ_ERR_FORKED: it is the parent process's; TJ_ERR_BUSY:
/// this is inside of a source's callback.
///
/// # Safety
/// `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_energy_unregister_source(source: u64, error: *mut tj_error) -> tj_status {
    // SAFETY: as the caller promises.
    unsafe { entry(error, || Energy::global().unregister(source)) }
}
