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
use std::time::Duration;

use super::boundary::{
    Owning, Sized_, c_string, entry, initialise, release, room_with_owner, string, struct_in, struct_out,
};
use super::error::{tj_error, tj_status};
use crate::energy::ledger::Weight;
use crate::energy::source::{Device, Kinds, Missing};
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
