//! Efficiency.
//!
//! Pure functions: they know nothing of stores and calls, and never fail where a double says it all. Of an unknown input
//! (NAN, TJ_UNKNOWN), and of one that cannot be (negative, infinite, 0 where a divisor is needed), comes NAN; nothing is
//! ever infinite.

use std::ffi::c_char;

use super::boundary::{
    Sized_, entry, infallible, initialise, not_null, room_out, string, struct_in, struct_out,
};
use super::error::{tj_error, tj_status};
use super::record::{TJ_UNKNOWN, tj_telemetry_record};
use crate::efficiency::{self, EnergyBatch, Phase, Steadiness, gpu_peak};
use crate::error::{Error, ErrorKind, Result};

/// Floating-point operations of a call with a KV cache: 2 x params x (prompt_tokens + completion_tokens). `params` are
/// the parameters that a token meets: of a mixture of experts, the active ones. The whole prompt counts, also what came
/// from a cache. (Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1, without attention.)
#[unsafe(no_mangle)]
pub extern "C" fn tj_flops_estimate(params: f64, prompt_tokens: u64, completion_tokens: u64) -> f64 {
    infallible(f64::NAN, || efficiency::flops(params, prompt_tokens, completion_tokens))
}

/// The same without a KV cache, where every token is computed again for each that follows: the sum of 2 x params x i for
/// i from 1 to n = prompt_tokens + completion_tokens, which is params x n x (n + 1).
#[unsafe(no_mangle)]
pub extern "C" fn tj_flops_estimate_uncached(params: f64, prompt_tokens: u64, completion_tokens: u64) -> f64 {
    infallible(f64::NAN, || efficiency::flops_uncached(params, prompt_tokens, completion_tokens))
}

/// Bytes of weights that are read from memory: params x bytes_per_param x steps. FP16 has 2 bytes, FP8 1, a 4-bit
/// quantisation about 0.5. A step of decoding reads all weights once, for however many calls it makes a token. The KV
/// cache is not counted.
#[unsafe(no_mangle)]
pub extern "C" fn tj_weight_bytes_estimate(params: f64, bytes_per_param: f64, steps: u64) -> f64 {
    infallible(f64::NAN, || efficiency::weight_bytes(params, bytes_per_param, steps))
}

/// Model FLOPs utilisation, percent: flops / seconds / (peak_flops x gpu_count) x 100. `peak_flops` is one GPU's, per
/// second, at the precision that is computed in: see tj_gpu_peak_find. (Chowdhery et al. 2022, "PaLM", appendix B.)
#[unsafe(no_mangle)]
pub extern "C" fn tj_mfu_compute(flops: f64, seconds: f64, peak_flops: f64, gpu_count: u32) -> f64 {
    infallible(f64::NAN, || efficiency::utilization_pct(flops, seconds, peak_flops, gpu_count))
}

/// Model bandwidth utilisation, percent: bytes / seconds / (peak_bytes_per_second x gpu_count) x 100. (Agarwal et al.
/// 2023, "LLM Inference Performance Engineering: Best Practices", Databricks.)
#[unsafe(no_mangle)]
pub extern "C" fn tj_mbu_compute(
    bytes: f64,
    seconds: f64,
    peak_bytes_per_second: f64,
    gpu_count: u32,
) -> f64 {
    infallible(f64::NAN, || efficiency::utilization_pct(bytes, seconds, peak_bytes_per_second, gpu_count))
}

/// Intelligence per joule: accuracy / energy_joules, with an accuracy from 0 to 1.
#[unsafe(no_mangle)]
pub extern "C" fn tj_ipj_compute(accuracy: f64, energy_joules: f64) -> f64 {
    infallible(f64::NAN, || efficiency::intelligence_per_joule(accuracy, energy_joules))
}

/// What a GPU can do at most, without sparsity, as its vendor says. NAN: the vendor gives no such figure, or the GPU
/// cannot.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_gpu_peak {
    /// Set by TJ_GPU_PEAK_INIT.
    pub struct_size: usize,
    /// What it is called here. Static.
    pub name: *const c_char,
    /// The vendor's paper with these figures. Static.
    pub source: *const c_char,
    /// FLOP/s in FP32, outside of tensor cores.
    pub fp32_flops: f64,
    /// FLOP/s in TF32.
    pub tf32_flops: f64,
    /// FLOP/s in FP16, accumulated in FP32.
    pub fp16_flops: f64,
    /// FLOP/s in BF16.
    pub bf16_flops: f64,
    /// FLOP/s in FP8, accumulated in FP32.
    pub fp8_flops: f64,
    /// FLOP/s in FP4.
    pub fp4_flops: f64,
    /// Operations per second in INT8.
    pub int8_ops: f64,
    /// Bytes per second from memory (a vendor's GB/s x 10^9).
    pub memory_bytes_per_second: f64,
}

// SAFETY: repr(C), size first, numbers and pointers only.
unsafe impl Sized_ for tj_gpu_peak {
    const INIT: &'static str = "GPU_PEAK";
}

/// Does what TJ_GPU_PEAK_INIT does, for languages without macros. NULL is ignored.
///
/// # Safety
/// `peak` is NULL or points to memory for one `tj_gpu_peak`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_gpu_peak_init(peak: *mut tj_gpu_peak) {
    // SAFETY: the caller's promise is the same.
    unsafe { initialise(peak) }
}

/// Looks a GPU up by the name that its driver gives it ("NVIDIA A100-SXM4-80GB"), or in short ("A100"). Whole words
/// count, in any case: "L40S" is not an "L4", and an "RTX 4090 Laptop GPU" no "RTX 4090". Known are GB200, B200, H200,
/// H100 (SXM, PCIe, NVL), A100 (40GB, 80GB), A40, A30, A10, L40S, L40, L4, T4, V100, V100S, RTX 5090, 4090, 4080, 3090;
/// MI325X, MI300X; and the memory bandwidth of Apple's M1, M2 and M3 Ultra, M1 and M2 Max. A name without a form factor
/// or a size of memory is taken for the SXM module with the most memory.
///
/// TJ_OK: *out_peak is filled; nothing in it needs freeing. TJ_ERR_NOT_FOUND: there is no such GPU here.
/// TJ_ERR_INVALID_ARGUMENT. On failure *out_peak is not written.
///
/// # Safety
/// `gpu_name` is NUL-terminated; `out_peak` is initialised; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_gpu_peak_find(
    gpu_name: *const c_char,
    out_peak: *mut tj_gpu_peak,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked, and `room` is what the caller's struct holds.
    unsafe {
        entry(error, || {
            not_null(gpu_name, "gpu_name")?;
            let name = string(gpu_name, "gpu_name")?;
            let room = room_out(out_peak, "out_peak")?;
            let peak = gpu_peak(name).ok_or_else(|| {
                Error::new(ErrorKind::NotFound, format!("gpu_name {name:?} is none of those known here"))
            })?;
            let out = tj_gpu_peak {
                struct_size: size_of::<tj_gpu_peak>(),
                name: peak.name.as_ptr(),
                source: peak.source.as_ptr(),
                fp32_flops: peak.fp32_flops,
                tf32_flops: peak.tf32_flops,
                fp16_flops: peak.fp16_flops,
                bf16_flops: peak.bf16_flops,
                fp8_flops: peak.fp8_flops,
                fp4_flops: peak.fp4_flops,
                int8_ops: peak.int8_ops,
                memory_bytes_per_second: peak.memory_bytes_per_second,
            };
            struct_out(&out, out_peak, room);
            Ok(())
        })
    }
}

/// One part of a call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_phase {
    /// Joules.
    pub energy_joules: f64,
    /// Its length.
    pub seconds: f64,
    /// energy_joules / seconds.
    pub mean_power_watts: f64,
    /// energy_joules / tokens.
    pub energy_per_token_joules: f64,
    /// Prompt tokens, or output tokens; TJ_UNKNOWN if they were not counted.
    pub tokens: u64,
    /// Always 0.
    pub reserved: [u64; 4],
}

/// A call's two parts.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_phases {
    /// Set by TJ_PHASES_INIT.
    pub struct_size: usize,
    /// Up to the first output token: prefill_energy_joules, prefill_latency_seconds (or ttft), prompt_tokens.
    pub prefill: tj_phase,
    /// From there on: decode_energy_joules, decode_latency_seconds (or latency_seconds - ttft), completion_tokens.
    pub decode: tj_phase,
}

// SAFETY: repr(C), size first, numbers only.
unsafe impl Sized_ for tj_phases {
    const INIT: &'static str = "PHASES";
}

/// Does what TJ_PHASES_INIT does, for languages without macros. NULL is ignored.
///
/// # Safety
/// `phases` is NULL or points to memory for one `tj_phases`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_phases_init(phases: *mut tj_phases) {
    // SAFETY: the caller's promise is the same.
    unsafe { initialise(phases) }
}

/// Splits a record at its first output token. Energy that was not measured apart is NAN: it is not split by time.
///
/// TJ_OK: *out_phases is filled. TJ_ERR_INVALID_ARGUMENT: the message names the field, as for tj_record; *out_phases is
/// not written.
///
/// # Safety
/// `record` is valid; `out_phases` is initialised; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_phases_split(
    record: *const tj_telemetry_record,
    out_phases: *mut tj_phases,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked, and `room` is what the caller's struct holds.
    unsafe {
        entry(error, || {
            let record = struct_in(record, "record")?.view()?.settled(|| 0.0)?;
            let room = room_out(out_phases, "out_phases")?;
            let (prefill, decode) = Phase::split(&record);
            let out = tj_phases {
                struct_size: size_of::<tj_phases>(),
                prefill: tj_phase::of(&prefill),
                decode: tj_phase::of(&decode),
            };
            struct_out(&out, out_phases, room);
            Ok(())
        })
    }
}

impl tj_phase {
    fn of(phase: &Phase) -> tj_phase {
        tj_phase {
            energy_joules: phase.energy_joules,
            seconds: phase.seconds,
            mean_power_watts: phase.mean_power_watts,
            energy_per_token_joules: phase.energy_per_token_joules,
            tokens: phase.tokens,
            reserved: [0; 4],
        }
    }
}

/// When a series of samples counts as steady.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_steady_options {
    /// Set by TJ_STEADY_OPTIONS_INIT.
    pub struct_size: usize,
    /// So many samples at the beginning are never looked at. 0: 5, unless ...
    pub warmup_samples: u32,
    /// ... this is 1: there is no warm-up.
    pub no_warmup: u32,
    /// The coefficient of variation is that of the last so many samples. 0: 5.
    pub window_size: u32,
    /// Steady is what was below the threshold so many times running. 0: 3.
    pub min_steady_samples: u32,
    /// 0: 0.05.
    pub cv_threshold: f64,
}

/// What a series of samples came to.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_steady_state {
    /// Set by TJ_STEADY_STATE_INIT.
    pub struct_size: usize,
    /// Samples.
    pub total_samples: u64,
    /// Those of the warm-up.
    pub warmup_samples: u64,
    /// Those after it, as in the reference, whether or not the series became steady.
    pub steady_state_samples: u64,
    /// The sample, counted from 0, at which the series had become steady; TJ_UNKNOWN if it did not.
    pub reached_at: u64,
    /// 1: it did. It stays so, whatever comes after.
    pub steady_state_reached: u32,
    /// Always 0.
    pub reserved: u32,
    /// That of the last window; NAN if there were not enough samples for one.
    pub coefficient_of_variation: f64,
    /// The mean of the last window.
    pub mean: f64,
}

// SAFETY: repr(C), size first, numbers only.
unsafe impl Sized_ for tj_steady_options {
    const INIT: &'static str = "STEADY_OPTIONS";
}

// SAFETY: repr(C), size first, numbers only.
unsafe impl Sized_ for tj_steady_state {
    const INIT: &'static str = "STEADY_STATE";
}

/// Does what TJ_STEADY_OPTIONS_INIT does, for languages without macros. NULL is ignored.
///
/// # Safety
/// `options` is NULL or points to memory for one `tj_steady_options`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_steady_options_init(options: *mut tj_steady_options) {
    // SAFETY: the caller's promise is the same.
    unsafe { initialise(options) }
}

/// Does what TJ_STEADY_STATE_INIT does, for languages without macros. NULL is ignored.
///
/// # Safety
/// `state` is NULL or points to memory for one `tj_steady_state`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_steady_state_init(state: *mut tj_steady_state) {
    // SAFETY: the caller's promise is the same.
    unsafe { initialise(state) }
}

/// Finds out whether a series (throughputs, in the order of their calls) has become steady: whether the coefficient of
/// variation (sample standard deviation / mean) of the last window_size samples after the warm-up was below
/// cv_threshold for min_steady_samples samples running. A window with a NAN in it, or a mean of 0, is not.
///
/// TJ_OK: *out_state is filled. TJ_ERR_INVALID_ARGUMENT: a sample or an option is negative or infinite; the message
/// names it, and *out_state is not written.
///
/// # Safety
/// `samples` has `sample_count` elements, or is NULL if that is 0; `options` is NULL (the defaults) or valid; `out_state`
/// is initialised; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_steady_state_detect(
    samples: *const f64,
    sample_count: usize,
    options: *const tj_steady_options,
    out_state: *mut tj_steady_state,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked, and `room` is what the caller's struct holds.
    unsafe {
        entry(error, || {
            let samples = slice(samples, sample_count, "samples")?;
            let steadiness = if options.is_null() {
                Steadiness::default()
            } else {
                struct_in(options, "options")?.view()?
            };
            let room = room_out(out_state, "out_state")?;
            let state = steadiness.detect(samples)?;
            let out = tj_steady_state {
                struct_size: size_of::<tj_steady_state>(),
                total_samples: sample_count as u64,
                warmup_samples: state.warmup_samples as u64,
                steady_state_samples: (sample_count - state.warmup_samples) as u64,
                reached_at: state.reached_at.map_or(TJ_UNKNOWN, |at| at as u64),
                steady_state_reached: state.reached_at.is_some().into(),
                reserved: 0,
                coefficient_of_variation: state.coefficient_of_variation,
                mean: state.mean,
            };
            struct_out(&out, out_state, room);
            Ok(())
        })
    }
}

impl tj_steady_options {
    fn view(&self) -> Result<Steadiness> {
        let or = |given: u32, default: usize| if given == 0 { default } else { given as usize };
        let default = Steadiness::default();
        if self.cv_threshold.is_nan() {
            return Err(Error::invalid("options.cv_threshold", "is NaN; 0 is the default"));
        }
        Ok(Steadiness {
            warmup_samples: match (self.no_warmup, self.warmup_samples) {
                (0, given) => or(given, default.warmup_samples),
                (1, 0) => 0,
                (1, _) => return Err(Error::invalid("options.no_warmup", "is 1, and warmup_samples is set")),
                _ => return Err(Error::invalid("options.no_warmup", "is neither 0 nor 1")),
            },
            window_size: or(self.window_size, default.window_size),
            min_steady_samples: or(self.min_steady_samples, default.min_steady_samples),
            cv_threshold: if self.cv_threshold == 0.0 { default.cv_threshold } else { self.cv_threshold },
        })
    }
}

/// The energy of requests that were served together.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_energy_batch {
    /// Set by TJ_ENERGY_BATCH_INIT.
    pub struct_size: usize,
    /// Requests.
    pub total_requests: u64,
    /// Those of them whose own energy was measured.
    pub measured_requests: u64,
    /// Tokens, as far as they are known.
    pub total_tokens: u64,
    /// Joules.
    pub total_energy_joules: f64,
    /// Energy / tokens; NAN if the tokens of one request are unknown.
    pub energy_per_token_joules: f64,
    /// Energy / requests.
    pub energy_per_request_joules: f64,
    /// Energy / seconds.
    pub mean_power_watts: f64,
    /// Tokens / seconds; NAN if the tokens of one request are unknown.
    pub mean_throughput_tok_per_sec: f64,
}

// SAFETY: repr(C), size first, numbers only.
unsafe impl Sized_ for tj_energy_batch {
    const INIT: &'static str = "ENERGY_BATCH";
}

/// Does what TJ_ENERGY_BATCH_INIT does, for languages without macros. NULL is ignored.
///
/// # Safety
/// `batch` is NULL or points to memory for one `tj_energy_batch`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_energy_batch_init(batch: *mut tj_energy_batch) {
    // SAFETY: the caller's promise is the same.
    unsafe { initialise(batch) }
}

/// Sums up requests that were served together within `seconds`: `tokens[i]` is how many the i-th had, prompt and output,
/// `energy_joules[i]` what it drew; NULL if no request was measured by itself. `total_energy_joules` is what was measured
/// around them all. If it was not (NAN or 0), the sum of the requests' own stands for it, and energy per token and per
/// request are over the requests that measured it. NAN, 0 and TJ_UNKNOWN in the lists mean "not measured", but for 0
/// tokens.
///
/// TJ_OK: *out_batch is filled. TJ_ERR_INVALID_ARGUMENT: a figure is negative or infinite, or a count above 2^63; the
/// message names it, and *out_batch is not written.
///
/// # Safety
/// `tokens` has `request_count` elements, or is NULL if that is 0; `energy_joules` has as many, or is NULL; `out_batch` is
/// initialised; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_energy_batch_compute(
    energy_joules: *const f64,
    tokens: *const u64,
    request_count: usize,
    total_energy_joules: f64,
    seconds: f64,
    out_batch: *mut tj_energy_batch,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked, and `room` is what the caller's struct holds.
    unsafe {
        entry(error, || {
            let tokens = slice(tokens, request_count, "tokens")?;
            let measured = if energy_joules.is_null() { 0 } else { request_count };
            let energies = slice(energy_joules, measured, "energy_joules")?;
            let room = room_out(out_batch, "out_batch")?;
            if let Some(at) = tokens.iter().position(|count| *count > i64::MAX as u64 && *count != TJ_UNKNOWN)
            {
                let what = format!("is {}; a count is below 2^63", tokens[at]);
                return Err(Error::invalid(&format!("tokens[{at}]"), what));
            }
            let energies = energies.iter().copied().chain(std::iter::repeat(f64::NAN));
            let requests = energies.zip(tokens.iter().copied());
            let batch = EnergyBatch::of(requests, total_energy_joules, seconds)?;
            let out = tj_energy_batch {
                struct_size: size_of::<tj_energy_batch>(),
                total_requests: batch.total_requests,
                measured_requests: batch.measured_requests,
                total_tokens: batch.total_tokens,
                total_energy_joules: batch.total_energy_joules,
                energy_per_token_joules: batch.energy_per_token_joules,
                energy_per_request_joules: batch.energy_per_request_joules,
                mean_power_watts: batch.mean_power_watts,
                mean_throughput_tok_per_sec: batch.mean_throughput_tok_per_sec,
            };
            struct_out(&out, out_batch, room);
            Ok(())
        })
    }
}

/// An array in. NULL is fine for one without elements.
///
/// # Safety
/// `at` is NULL or has `count` elements that stay as they are for `'a`.
unsafe fn slice<'a, T>(at: *const T, count: usize, argument: &str) -> Result<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    not_null(at, argument)?;
    if count > isize::MAX as usize / size_of::<T>() {
        return Err(Error::invalid(argument, format!("has {count} elements")));
    }
    // SAFETY: not NULL, aligned, and of that length by this function's contract.
    Ok(unsafe { std::slice::from_raw_parts(at, count) })
}
