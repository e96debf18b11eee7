//! One call's record.
//!
//! What an engine knows about one inference call. Set what was measured and leave the rest: unknown is not zero.
//! NAN in a double and TJ_UNKNOWN in a token count mean "not measured". Where 0 is physically impossible for a finished
//! measurement (every latency, TTFT and inter-token latency, every energy, power and throughput, and the efficiencies
//! made from them) a 0 means "not measured" too, so that a zeroed record is honest. In the other fields 0 is a
//! measurement: a free call, an idle GPU, an empty queue, no tokens. Set NAN or TJ_UNKNOWN there if nobody looked.

use std::ffi::c_char;

use super::boundary::{Sized_, initialise, string};
use crate::error::{Error, Result};
use crate::record::{Outcome, Record, with_record_fields};
use crate::sketch::Gaps;

/// A token count that nobody measured.
pub const TJ_UNKNOWN: u64 = u64::MAX;

/// How a call ended. Every begun call ends in exactly one of these.
#[repr(C)]
pub enum tj_outcome {
    /// The engine finished.
    TJ_OUTCOME_OK = 0,
    /// The engine failed.
    TJ_OUTCOME_ERROR = 1,
    /// The engine stopped because it was asked to.
    TJ_OUTCOME_CANCELLED = 2,
    /// The call's handle was freed without an end.
    TJ_OUTCOME_ABANDONED = 3,
    /// The process died in the middle of the call.
    TJ_OUTCOME_INTERRUPTED = 4,
}

/// One inference call. All strings are copied before tj_record returns; at most 64 KiB each (metadata_json: 1 MiB).
/// Numbers are never negative or infinite. Counts are below 2^63.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_telemetry_record {
    /// Set by TJ_TELEMETRY_RECORD_INIT.
    pub struct_size: usize,
    /// When the call began, Unix seconds. 0: now.
    pub timestamp: f64,
    /// The model. Required, not empty.
    pub model_id: *const c_char,
    /// The engine that ran it.
    pub engine: *const c_char,
    /// Who asked.
    pub agent: *const c_char,
    /// Tokens of the whole prompt, the cached part included.
    pub prompt_tokens: u64,
    /// Prompt tokens that were really processed.
    pub prompt_tokens_evaluated: u64,
    /// Output tokens.
    pub completion_tokens: u64,
    /// 0 or TJ_UNKNOWN: prompt_tokens + completion_tokens, as far as they are known.
    pub total_tokens: u64,
    /// Seconds from the start of the call to its end.
    pub latency_seconds: f64,
    /// Time to first token: seconds from the start of the call to the first output token, queue and prefill included.
    pub ttft: f64,
    /// US dollars.
    pub cost_usd: f64,
    /// Joules that all devices drew for this call.
    pub energy_joules: f64,
    /// Mean power, watts.
    pub power_watts: f64,
    /// 0 to 100.
    pub gpu_utilization_pct: f64,
    /// GB of 2^30 bytes.
    pub gpu_memory_used_gb: f64,
    /// Degrees Celsius.
    pub gpu_temperature_c: f64,
    /// Output tokens / latency, tokens per second.
    pub throughput_tok_per_sec: f64,
    /// Seconds spent on the prompt.
    pub prefill_latency_seconds: f64,
    /// Seconds spent on the output after its first token.
    pub decode_latency_seconds: f64,
    /// How the energy was measured: "hw_counter", "polling", "rapl" ...
    pub energy_method: *const c_char,
    /// Whose counter it was: "nvidia", "amd", "cpu_rapl" ...
    pub energy_vendor: *const c_char,
    /// The batch that the call belongs to.
    pub batch_id: *const c_char,
    /// 1: a warm-up call, which a query can leave out. Any other value but 0 counts as 1.
    pub is_warmup: u32,
    /// 1: the output was streamed. Any other value but 0 counts as 1.
    pub is_streaming: u32,
    /// Joules, the CPU's part of energy_joules.
    pub cpu_energy_joules: f64,
    /// Joules, the GPUs' part.
    pub gpu_energy_joules: f64,
    /// Joules, the memory's part.
    pub dram_energy_joules: f64,
    /// Output tokens / energy.
    pub tokens_per_joule: f64,
    /// Energy / output tokens.
    pub energy_per_output_token_joules: f64,
    /// Throughput / mean power.
    pub throughput_per_watt: f64,
    /// Joules up to the first token.
    pub prefill_energy_joules: f64,
    /// Joules after the first token.
    pub decode_energy_joules: f64,
    /// Inter-token latency in milliseconds, over the call's tokens: mean.
    pub mean_itl_ms: f64,
    /// Median.
    pub median_itl_ms: f64,
    /// 90th percentile.
    pub p90_itl_ms: f64,
    /// 95th percentile.
    pub p95_itl_ms: f64,
    /// 99th percentile.
    pub p99_itl_ms: f64,
    /// Sample standard deviation. 0 is a measurement where mean_itl_ms is one.
    pub std_itl_ms: f64,
    /// The version of the method by which tokens were counted. 0: none.
    pub token_counting_version: u32,
    /// A tj_outcome.
    pub outcome: u32,
    /// A JSON object. NULL or "": {}.
    pub metadata_json: *const c_char,
    /// What was asked for: "chat", "text_completion", "embeddings" ... (OpenTelemetry: gen_ai.operation.name).
    pub operation: *const c_char,
    /// Why the output ended: "stop", "length" ...
    pub finish_reason: *const c_char,
    /// The class of the error, for a call that failed.
    pub error_type: *const c_char,
    /// The request.
    pub request_id: *const c_char,
    /// The conversation.
    pub session_id: *const c_char,
    /// The trace ...
    pub trace_id: *const c_char,
    /// ... and the span in it.
    pub span_id: *const c_char,
    /// Prompt tokens that came from a KV or prefix cache.
    pub cached_tokens: u64,
    /// Output tokens that were reasoning.
    pub reasoning_tokens: u64,
    /// Tokens that speculative decoding proposed ...
    pub draft_tokens: u64,
    /// ... and those of them that were accepted.
    pub draft_accepted_tokens: u64,
    /// Seconds that the call waited before the engine began.
    pub queue_seconds: f64,
}

// SAFETY: repr(C), size first, numbers and pointers only.
unsafe impl Sized_ for tj_telemetry_record {
    const INIT: &'static str = "TELEMETRY_RECORD";
}

/// Does what TJ_TELEMETRY_RECORD_INIT does, for languages without macros. NULL is ignored.
///
/// # Safety
/// `record` is NULL or points to memory for one `tj_telemetry_record`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_telemetry_record_init(record: *mut tj_telemetry_record) {
    // SAFETY: the caller's promise is the same.
    unsafe { initialise(record) }
}

macro_rules! implement_conversion {
    (texts: $($text:ident)*; counts: $($count:ident = $c:literal),*; levels: $($level:ident = $l:literal),*;
     extents: $($extent:ident = $e:literal),*; flags: $($flag:ident)*;) => {
        impl tj_telemetry_record {
            /// The core's view of the record. Borrows its strings.
            ///
            /// # Safety
            /// Every string is NULL or NUL-terminated and stays as it is for `'a`.
            #[inline(always)] // a record is half a kilobyte: not to be copied on the hot path
            pub(super) unsafe fn view<'a>(&self) -> Result<Record<'a>> {
                // SAFETY: the caller's promise covers every string here.
                unsafe {
                    Ok(Record {
                        timestamp: self.timestamp,
                        $($text: string(self.$text, stringify!($text))?,)*
                        $($count: self.$count,)*
                        $($level: self.$level,)*
                        $($extent: self.$extent,)*
                        $($flag: self.$flag != 0,)*
                        token_counting_version: self.token_counting_version,
                        outcome: outcome("outcome", self.outcome)?,
                        metadata_json: string(self.metadata_json, "metadata_json")?,
                        token_gaps: Gaps::Unknown,
                    })
                }
            }

            /// The record for C subscribers. `text` makes a string of the callback's lifetime.
            pub(super) fn of(record: &Record<'_>, mut text: impl FnMut(&str) -> *const c_char) -> Self {
                tj_telemetry_record {
                    struct_size: size_of::<Self>(),
                    timestamp: record.timestamp,
                    $($text: text(record.$text),)*
                    $($count: record.$count,)*
                    $($level: record.$level,)*
                    $($extent: record.$extent,)*
                    $($flag: u32::from(record.$flag),)*
                    token_counting_version: record.token_counting_version,
                    outcome: record.outcome as u32,
                    metadata_json: text(record.metadata_json),
                }
            }
        }
    };
}
with_record_fields!(implement_conversion);

/// A `tj_outcome` from C.
pub(super) fn outcome(field: &str, number: u32) -> Result<Outcome> {
    Outcome::from_number(number)
        .ok_or_else(|| Error::invalid(field, format!("is {number}; no such tj_outcome")))
}
