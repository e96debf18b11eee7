//! Measuring a stretch.
//!
//! What the machine drew from one moment to another, whatever ran: the reference's `sample()`.

use super::boundary::{Sized_, entry, initialise, not_null, room_out, struct_out, write_out};
use super::error::{tj_error, tj_status};
use crate::energy::Energy;
use crate::energy::figures::Measured;

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
