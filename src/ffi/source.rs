//! Sources of one's own.
//!
//! Rails of a board, another vendor's library, a wall meter: whatever the host program can read.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use super::boundary::{Sized_, entry, initialise, not_null, string, struct_in, write_out};
use super::bus::{Closure, tj_drop_fn};
use super::error::{tj_error, tj_status};
use crate::energy::Energy;
use crate::energy::custom::Custom;
use crate::energy::source::{Device, Energy as Figure, Part, Reading};
use crate::error::{Error, Result};

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
