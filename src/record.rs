//! One inference call's record: its fields, what "unknown" means in them, and what is refused.
//!
//! A record borrows its strings, so that recording allocates nothing. [`with_record_fields!`](crate::record) lists the
//! fields once by their kind; validation, the database's columns and the C door are written over that list.

use crate::error::{Error, Result};
use crate::sketch::Gaps;

/// A token count that nobody measured. The C ABI calls it `TJ_UNKNOWN`.
pub const UNKNOWN: u64 = u64::MAX;

/// The longest string in a record, in bytes.
pub const MAX_STRING: usize = 64 * 1024;
/// The longest metadata, in bytes.
pub const MAX_METADATA: usize = 1024 * 1024;

/// How a call ended. Every begun call ends in exactly one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u32)]
pub enum Outcome {
    /// The engine finished.
    #[default]
    Ok = 0,
    /// The engine failed.
    Error = 1,
    /// The engine stopped because it was asked to.
    Cancelled = 2,
    /// The handle was freed without an end.
    Abandoned = 3,
    /// The process died in the middle of the call.
    Interrupted = 4,
}

impl Outcome {
    /// All outcomes, in the order of their numbers.
    pub const ALL: [Outcome; 5] =
        [Outcome::Ok, Outcome::Error, Outcome::Cancelled, Outcome::Abandoned, Outcome::Interrupted];

    /// The outcome with this number, if there is one.
    pub fn from_number(number: u32) -> Option<Outcome> {
        Outcome::ALL.into_iter().find(|outcome| *outcome as u32 == number)
    }

    /// The name in lower case, as the event bus and the exports write it.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Error => "error",
            Outcome::Cancelled => "cancelled",
            Outcome::Abandoned => "abandoned",
            Outcome::Interrupted => "interrupted",
        }
    }
}

/// One inference call. `NAN` in a figure and [`UNKNOWN`] in a count mean "not measured", and that is the default.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// When the call began, Unix seconds. 0 means now.
    pub timestamp: f64,
    /// The model. Required.
    pub model_id: &'a str,
    /// The engine that ran it.
    pub engine: &'a str,
    /// Who asked.
    pub agent: &'a str,
    /// The whole prompt, its cached part included.
    pub prompt_tokens: u64,
    /// The part of the prompt that was really processed.
    pub prompt_tokens_evaluated: u64,
    /// Output tokens.
    pub completion_tokens: u64,
    /// 0 or unknown means prompt + completion, as far as they are known.
    pub total_tokens: u64,
    /// From the start of the call to its end, seconds.
    pub latency_seconds: f64,
    /// From the start of the call to the first output token, seconds.
    pub ttft: f64,
    /// US dollars.
    pub cost_usd: f64,
    /// Joules attributed to the call, all devices together.
    pub energy_joules: f64,
    /// Mean power, watts.
    pub power_watts: f64,
    /// 0 to 100.
    pub gpu_utilization_pct: f64,
    /// GB of 2^30 bytes.
    pub gpu_memory_used_gb: f64,
    /// °C.
    pub gpu_temperature_c: f64,
    /// Output tokens / latency.
    pub throughput_tok_per_sec: f64,
    /// Seconds spent on the prompt.
    pub prefill_latency_seconds: f64,
    /// Seconds spent on the output after its first token.
    pub decode_latency_seconds: f64,
    /// How the energy was measured (`hw_counter`, `polling`, `rapl` …).
    pub energy_method: &'a str,
    /// Whose counter it was (`nvidia`, `amd`, `cpu_rapl` …).
    pub energy_vendor: &'a str,
    /// The batch that the call belongs to.
    pub batch_id: &'a str,
    /// A warm-up call, to be left out of statistics on request.
    pub is_warmup: bool,
    /// The output was streamed.
    pub is_streaming: bool,
    /// Joules, the CPU's part.
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
    /// Inter-token latency, milliseconds: mean …
    pub mean_itl_ms: f64,
    /// … median …
    pub median_itl_ms: f64,
    /// … 90th percentile …
    pub p90_itl_ms: f64,
    /// … 95th …
    pub p95_itl_ms: f64,
    /// … 99th …
    pub p99_itl_ms: f64,
    /// … and sample standard deviation.
    pub std_itl_ms: f64,
    /// The version of the method by which tokens were counted; 0 for none.
    pub token_counting_version: u32,
    /// How the call ended.
    pub outcome: Outcome,
    /// A JSON object; "" means `{}`.
    pub metadata_json: &'a str,
    /// What was asked for (`chat`, `text_completion`, `embeddings` …: OpenTelemetry's `gen_ai.operation.name`).
    pub operation: &'a str,
    /// Why the output ended (`stop`, `length` …).
    pub finish_reason: &'a str,
    /// The class of the error, for calls that failed.
    pub error_type: &'a str,
    /// The request.
    pub request_id: &'a str,
    /// The conversation.
    pub session_id: &'a str,
    /// The trace.
    pub trace_id: &'a str,
    /// The span in the trace.
    pub span_id: &'a str,
    /// Prompt tokens that came from a KV or prefix cache.
    pub cached_tokens: u64,
    /// Output tokens that were reasoning.
    pub reasoning_tokens: u64,
    /// Tokens proposed by speculative decoding …
    pub draft_tokens: u64,
    /// … and those of them that were accepted.
    pub draft_accepted_tokens: u64,
    /// Seconds spent waiting before the engine began.
    pub queue_seconds: f64,
    /// The gaps between the call's tokens in milliseconds, where the call was instrumented. Not part of the C record.
    pub token_gaps: Gaps<'a>,
}

/// Hands `$visit!` every field of a [`Record`] but `timestamp`, `token_counting_version`, `outcome`, `metadata_json`
/// and `token_gaps`, by kind. The number behind a count or figure is its bit in the database's `measured` column:
/// stored, so never reused.
///
/// * `texts`: strings.
/// * `counts`: tokens; 0 is a measurement.
/// * `levels`: figures of which 0 is a measurement (a free call, an idle GPU, no queue).
/// * `extents`: figures that no finished measurement can show as 0 (latency, energy, power, throughput …), so that 0
///   means "not measured".
/// * `flags`: yes or no.
macro_rules! with_record_fields {
    ($visit:ident) => {
        $visit! {
            texts: model_id engine agent energy_method energy_vendor batch_id
                   operation finish_reason error_type request_id session_id trace_id span_id;
            counts: prompt_tokens = 0, prompt_tokens_evaluated = 1, completion_tokens = 2, total_tokens = 3,
                    cached_tokens = 4, reasoning_tokens = 5, draft_tokens = 6, draft_accepted_tokens = 7;
            levels: cost_usd = 8, gpu_utilization_pct = 9, gpu_memory_used_gb = 10, gpu_temperature_c = 11,
                    std_itl_ms = 12, queue_seconds = 13;
            extents: latency_seconds = 16, ttft = 17, energy_joules = 18, power_watts = 19,
                     throughput_tok_per_sec = 20, prefill_latency_seconds = 21, decode_latency_seconds = 22,
                     cpu_energy_joules = 23, gpu_energy_joules = 24, dram_energy_joules = 25, tokens_per_joule = 26,
                     energy_per_output_token_joules = 27, throughput_per_watt = 28, prefill_energy_joules = 29,
                     decode_energy_joules = 30, mean_itl_ms = 31, median_itl_ms = 32, p90_itl_ms = 33,
                     p95_itl_ms = 34, p99_itl_ms = 35;
            flags: is_warmup is_streaming;
        }
    };
}
pub(crate) use with_record_fields;

macro_rules! implement_record {
    (texts: $($text:ident)*; counts: $($count:ident = $count_bit:literal),*;
     levels: $($level:ident = $level_bit:literal),*; extents: $($extent:ident = $extent_bit:literal),*;
     flags: $($flag:ident)*;) => {
        /// The bit of each count and figure in the `measured` column.
        pub(crate) mod bit {
            #![allow(non_upper_case_globals, dead_code)]
            $(pub(crate) const $count: u64 = 1 << $count_bit;)*
            $(pub(crate) const $level: u64 = 1 << $level_bit;)*
            $(pub(crate) const $extent: u64 = 1 << $extent_bit;)*
        }

        impl Default for Record<'_> {
            fn default() -> Self {
                Record {
                    timestamp: 0.0,
                    $($text: "",)* $($count: UNKNOWN,)* $($level: f64::NAN,)* $($extent: f64::NAN,)* $($flag: false,)*
                    token_counting_version: 0,
                    outcome: Outcome::Ok,
                    metadata_json: "",
                    token_gaps: Gaps::Unknown,
                }
            }
        }

        impl<'a> Record<'a> {
            /// Whether [`Record::check_fields`] will find nothing, without a branch for each field: nearly every record
            /// passes. `false` is only a suspicion.
            #[inline]
            fn is_above_suspicion(&self) -> bool {
                const INFINITE: u64 = f64::INFINITY.to_bits();
                let (mut signs, mut lengths, mut infinite) = (0, 0, false);
                $(lengths |= self.$text.len();)*
                $(signs |= self.$count.wrapping_add(1);)* // of UNKNOWN that is 0
                $(signs |= self.$level.to_bits(); infinite |= self.$level.to_bits() == INFINITE;)*
                $(signs |= self.$extent.to_bits(); infinite |= self.$extent.to_bits() == INFINITE;)*
                (lengths < MAX_STRING) & (signs >> 63 == 0) & !infinite
            }

            /// Refuses what no record may hold, naming the field.
            #[cold]
            fn check_fields(&self) -> Result<()> {
                $(check_text(stringify!($text), self.$text)?;)*
                $(check_count(stringify!($count), self.$count)?;)*
                $(check_figure(stringify!($level), self.$level)?;)*
                $(check_figure(stringify!($extent), self.$extent)?;)*
                Ok(())
            }

            /// Makes "not measured" look the same everywhere: `NAN` where 0 is no measurement, and no -0.
            fn settle_unknowns(&mut self) {
                $(if self.$level == 0.0 { self.$level = 0.0; })*
                $(if self.$extent == 0.0 { self.$extent = f64::NAN; })*
            }

            /// Which counts and figures were measured, as the database's `measured` column holds it.
            pub(crate) fn measured(&self) -> u64 {
                let mut bits = 0;
                $(bits |= u64::from(self.$count != UNKNOWN) << $count_bit;)*
                $(bits |= u64::from(!self.$level.is_nan()) << $level_bit;)*
                $(bits |= u64::from(!self.$extent.is_nan()) << $extent_bit;)*
                bits
            }
        }
    };
}
with_record_fields!(implement_record);

impl<'a> Record<'a> {
    /// The record as it is stored: checked, and settled. `now` is the wall clock, Unix seconds.
    pub fn settled(&self, now: impl FnOnce() -> f64) -> Result<Record<'a>> {
        self.check()?;
        let mut settled = *self;
        if settled.timestamp == 0.0 {
            settled.timestamp = now();
        }
        settled.settle();
        Ok(settled)
    }

    /// Gives what was left open its one meaning: which figures are unknown, the total, the metadata. Doing it twice is the
    /// same as once.
    pub(crate) fn settle(&mut self) {
        self.settle_unknowns();
        if self.total_tokens == 0 || self.total_tokens == UNKNOWN {
            self.total_tokens = sum_of_known(self.prompt_tokens, self.completion_tokens);
        }
        // A spread of zero is a measurement only where the gaps were measured at all.
        if self.std_itl_ms == 0.0 && self.mean_itl_ms.is_nan() {
            self.std_itl_ms = f64::NAN;
        }
        if self.metadata_json.is_empty() {
            self.metadata_json = "{}";
        }
    }

    /// Refuses what no record may hold, naming the field.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        // In one look what nearly every record passes.
        let is_too_busy = self.gpu_utilization_pct > 100.0;
        let is_fine = !self.model_id.is_empty()
            & (self.timestamp >= 0.0)
            & (self.timestamp < f64::INFINITY)
            & !is_too_busy
            & matches!(self.metadata_json, "" | "{}")
            & self.is_above_suspicion();
        if is_fine { Ok(()) } else { self.check_each() }
    }

    #[cold]
    fn check_each(&self) -> Result<()> {
        if self.model_id.is_empty() {
            return Err(Error::invalid("model_id", "is required and must not be empty"));
        }
        if self.timestamp.is_nan() {
            return Err(Error::invalid("timestamp", "is NaN; 0 means now"));
        }
        check_figure("timestamp", self.timestamp)?;
        self.check_fields()?;
        if self.gpu_utilization_pct > 100.0 {
            let what = format!("is {}; a percentage is at most 100", self.gpu_utilization_pct);
            return Err(Error::invalid("gpu_utilization_pct", what));
        }
        check_json_object("metadata_json", self.metadata_json, MAX_METADATA)
    }

    /// Time per output token, seconds: (latency − TTFT) / (output tokens − 1). `NAN` for fewer than two tokens or
    /// where a part is unknown. The first token is never counted into a decode rate (vLLM, NVIDIA AIPerf).
    pub fn tpot(&self) -> f64 {
        tpot(self.latency_seconds, self.ttft, self.completion_tokens)
    }

    /// Decode rate, tokens per second: tokens after the first / decode seconds. `NAN` where a part is unknown.
    pub fn decode_tok_per_sec(&self) -> f64 {
        if self.completion_tokens == UNKNOWN
            || self.completion_tokens < 2
            || self.decode_latency_seconds <= 0.0
        {
            return f64::NAN;
        }
        (self.completion_tokens - 1) as f64 / self.decode_latency_seconds
    }
}

/// [`Record::tpot`].
pub(crate) fn tpot(latency_seconds: f64, ttft: f64, completion_tokens: u64) -> f64 {
    if completion_tokens == UNKNOWN || completion_tokens < 2 {
        return f64::NAN;
    }
    let after_first = latency_seconds - ttft;
    if after_first >= 0.0 { after_first / (completion_tokens - 1) as f64 } else { f64::NAN }
}

fn sum_of_known(prompt: u64, completion: u64) -> u64 {
    match (prompt, completion) {
        (UNKNOWN, UNKNOWN) => UNKNOWN,
        (UNKNOWN, known) | (known, UNKNOWN) => known,
        (prompt, completion) => prompt.saturating_add(completion).min(i64::MAX as u64),
    }
}

fn check_text(field: &str, text: &str) -> Result<()> {
    if text.len() > MAX_STRING {
        return Err(Error::invalid(field, format!("has {} bytes; at most {MAX_STRING} fit", text.len())));
    }
    Ok(())
}

fn check_count(field: &str, count: u64) -> Result<()> {
    if count > i64::MAX as u64 && count != UNKNOWN {
        return Err(Error::invalid(field, format!("is {count}; a count is below 2^63")));
    }
    Ok(())
}

/// A figure is a finite number that is not negative, or `NAN`.
pub(crate) fn check_figure(field: &str, figure: f64) -> Result<()> {
    if figure < 0.0 {
        return Err(Error::invalid(field, format!("is {figure}; it must not be negative")));
    }
    if figure.is_infinite() {
        return Err(Error::invalid(field, "is infinite; NAN means not measured"));
    }
    Ok(())
}

/// "" or the text of one JSON object.
pub(crate) fn check_json_object(field: &str, json: &str, limit: usize) -> Result<()> {
    if json.is_empty() || json == "{}" {
        return Ok(());
    }
    if json.len() > limit {
        return Err(Error::invalid(field, format!("has {} bytes; at most {limit} fit", json.len())));
    }
    if !json.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('{') {
        return Err(Error::invalid(field, "is not a JSON object"));
    }
    match serde_json::from_str::<serde::de::IgnoredAny>(json) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::invalid(field, format!("is not valid JSON: {error}"))),
    }
}
