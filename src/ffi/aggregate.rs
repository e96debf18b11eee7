//! Aggregating.
//!
//! Per model, per engine and in all, between two times. Averages and distributions are taken over the calls that
//! measured the value, never over the others; sums likewise.

use std::ffi::{CString, c_char, c_void};
use std::mem::offset_of;

use super::boundary::{
    Owning, Sized_, c_string, covers_owner, entry, initialise, release, room_out, struct_out,
};
use super::error::{tj_error, tj_status};
use super::query::{query_in, tj_query};
use super::store::{store_of, tj_store};
use crate::stats::{Aggregate, Distribution, Goodput, Statistics};

/// How a value is distributed, over the calls that measured it. All NAN where count is 0. min, max and mean are
/// exact; a percentile is within 1 % of the exact one (linear interpolation between closest ranks).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_distribution {
    /// How many values.
    pub count: u64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
}

/// Statistics of one model. An average over nothing is 0.0, as in the reference; its distribution says NAN.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_model_stats {
    /// The model. Owned by the tj_aggregated_stats.
    pub model_id: *const c_char,
    /// Calls.
    pub call_count: u64,
    /// Sum of total_tokens.
    pub total_tokens: u64,
    /// Sum of prompt_tokens.
    pub prompt_tokens: u64,
    /// Sum of prompt_tokens_evaluated.
    pub prompt_tokens_evaluated: u64,
    /// Sum of completion_tokens.
    pub completion_tokens: u64,
    /// Sum of cached_tokens.
    pub cached_tokens: u64,
    /// Calls that ended as TJ_OUTCOME_ERROR.
    pub error_count: u64,
    /// Calls that ended as TJ_OUTCOME_CANCELLED.
    pub cancelled_count: u64,
    /// Calls that ended as TJ_OUTCOME_INTERRUPTED.
    pub interrupted_count: u64,
    /// Sum of latency_seconds, seconds.
    pub total_latency: f64,
    /// Mean of latency_seconds, seconds.
    pub avg_latency: f64,
    /// Sum of cost_usd, US dollars.
    pub total_cost: f64,
    /// Mean of ttft, seconds.
    pub avg_ttft: f64,
    /// Sum of energy_joules, joules.
    pub total_energy_joules: f64,
    /// Mean of gpu_utilization_pct, 0 to 100.
    pub avg_gpu_utilization_pct: f64,
    /// Mean of throughput_tok_per_sec, tokens per second.
    pub avg_throughput_tok_per_sec: f64,
    /// Mean of tokens_per_joule.
    pub avg_tokens_per_joule: f64,
    /// Mean of energy_per_output_token_joules, joules.
    pub avg_energy_per_output_token_joules: f64,
    /// Mean of throughput_per_watt.
    pub avg_throughput_per_watt: f64,
    /// Sum of prefill_energy_joules, joules.
    pub total_prefill_energy_joules: f64,
    /// Sum of decode_energy_joules, joules.
    pub total_decode_energy_joules: f64,
    /// Mean over calls of mean_itl_ms, milliseconds.
    pub avg_mean_itl_ms: f64,
    /// Mean over calls of median_itl_ms, milliseconds.
    pub avg_median_itl_ms: f64,
    /// Mean over calls of p95_itl_ms, milliseconds. The percentile over tokens is itl_ms.p95.
    pub avg_p95_itl_ms: f64,
    /// Distribution of latency_seconds over calls, seconds.
    pub latency: tj_distribution,
    /// Distribution of ttft over calls, seconds.
    pub ttft: tj_distribution,
    /// Distribution of inter-token latency over tokens, milliseconds, of the calls that were instrumented.
    pub itl_ms: tj_distribution,
    /// Always 0; room for later versions, so that the stride of arrays never changes.
    pub reserved: [u64; 16],
}

/// Statistics of one engine: tj_model_stats with another name in front.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_engine_stats {
    /// The engine. Owned by the tj_aggregated_stats.
    pub engine: *const c_char,
    /// Calls.
    pub call_count: u64,
    /// Sum of total_tokens.
    pub total_tokens: u64,
    /// Sum of prompt_tokens.
    pub prompt_tokens: u64,
    /// Sum of prompt_tokens_evaluated.
    pub prompt_tokens_evaluated: u64,
    /// Sum of completion_tokens.
    pub completion_tokens: u64,
    /// Sum of cached_tokens.
    pub cached_tokens: u64,
    /// Calls that ended as TJ_OUTCOME_ERROR.
    pub error_count: u64,
    /// Calls that ended as TJ_OUTCOME_CANCELLED.
    pub cancelled_count: u64,
    /// Calls that ended as TJ_OUTCOME_INTERRUPTED.
    pub interrupted_count: u64,
    /// Sum of latency_seconds, seconds.
    pub total_latency: f64,
    /// Mean of latency_seconds, seconds.
    pub avg_latency: f64,
    /// Sum of cost_usd, US dollars.
    pub total_cost: f64,
    /// Mean of ttft, seconds.
    pub avg_ttft: f64,
    /// Sum of energy_joules, joules.
    pub total_energy_joules: f64,
    /// Mean of gpu_utilization_pct, 0 to 100.
    pub avg_gpu_utilization_pct: f64,
    /// Mean of throughput_tok_per_sec, tokens per second.
    pub avg_throughput_tok_per_sec: f64,
    /// Mean of tokens_per_joule.
    pub avg_tokens_per_joule: f64,
    /// Mean of energy_per_output_token_joules, joules.
    pub avg_energy_per_output_token_joules: f64,
    /// Mean of throughput_per_watt.
    pub avg_throughput_per_watt: f64,
    /// Sum of prefill_energy_joules, joules.
    pub total_prefill_energy_joules: f64,
    /// Sum of decode_energy_joules, joules.
    pub total_decode_energy_joules: f64,
    /// Mean over calls of mean_itl_ms, milliseconds.
    pub avg_mean_itl_ms: f64,
    /// Mean over calls of median_itl_ms, milliseconds.
    pub avg_median_itl_ms: f64,
    /// Mean over calls of p95_itl_ms, milliseconds. The percentile over tokens is itl_ms.p95.
    pub avg_p95_itl_ms: f64,
    /// Distribution of latency_seconds over calls, seconds.
    pub latency: tj_distribution,
    /// Distribution of ttft over calls, seconds.
    pub ttft: tj_distribution,
    /// Distribution of inter-token latency over tokens, milliseconds, of the calls that were instrumented.
    pub itl_ms: tj_distribution,
    /// Always 0; room for later versions, so that the stride of arrays never changes.
    pub reserved: [u64; 16],
}

/// Statistics of all calls that a query selects. Initialise with TJ_AGGREGATED_STATS_INIT; release with
/// tj_aggregated_stats_free.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_aggregated_stats {
    /// Set by TJ_AGGREGATED_STATS_INIT.
    pub struct_size: usize,
    /// Calls.
    pub total_calls: u64,
    /// Sum of total_tokens.
    pub total_tokens: u64,
    /// Calls that ended as TJ_OUTCOME_ERROR.
    pub error_count: u64,
    /// Calls that ended as TJ_OUTCOME_CANCELLED.
    pub cancelled_count: u64,
    /// Calls that ended as TJ_OUTCOME_INTERRUPTED.
    pub interrupted_count: u64,
    /// Sum of cost_usd, US dollars.
    pub total_cost: f64,
    /// Sum of latency_seconds, seconds.
    pub total_latency: f64,
    /// Sum of energy_joules, joules.
    pub total_energy_joules: f64,
    /// Mean of throughput_tok_per_sec, tokens per second.
    pub avg_throughput_tok_per_sec: f64,
    /// Mean of gpu_utilization_pct, 0 to 100.
    pub avg_gpu_utilization_pct: f64,
    /// Mean of energy_per_output_token_joules, joules.
    pub avg_energy_per_output_token_joules: f64,
    /// Mean of throughput_per_watt.
    pub avg_throughput_per_watt: f64,
    /// Sum of prefill_energy_joules, joules.
    pub total_prefill_energy_joules: f64,
    /// Sum of decode_energy_joules, joules.
    pub total_decode_energy_joules: f64,
    /// Mean over calls of mean_itl_ms, milliseconds.
    pub avg_mean_itl_ms: f64,
    /// Mean over calls of median_itl_ms, milliseconds.
    pub avg_median_itl_ms: f64,
    /// Mean over calls of p95_itl_ms, milliseconds. The percentile over tokens is itl_ms.p95.
    pub avg_p95_itl_ms: f64,
    /// Distribution of latency_seconds over calls, seconds.
    pub latency: tj_distribution,
    /// Distribution of ttft over calls, seconds.
    pub ttft: tj_distribution,
    /// Distribution of inter-token latency over tokens, milliseconds, of the calls that were instrumented.
    pub itl_ms: tj_distribution,
    /// The models, by call_count descending, then by name ascending. NULL if there are none.
    pub per_model: *const tj_model_stats,
    /// How many models.
    pub per_model_count: usize,
    /// The engines, in the same order. NULL if there are none.
    pub per_engine: *const tj_engine_stats,
    /// How many engines.
    pub per_engine_count: usize,
    /// The library's; hands back what the lists live in.
    pub owner: *mut c_void,
    /// Calls that ended as TJ_OUTCOME_OK and met every objective of the query. One that was not measured is not met;
    /// the time per output token is met by a call with fewer than two. 0 for a query without objectives.
    pub goodput_calls: u64,
    /// Their share of all calls, 0 to 1. NAN without objectives or calls.
    pub goodput: f64,
    /// How many there were per second from the query's since to its until, of which one that is unbounded stands for
    /// the first or last call's timestamp. NAN without objectives, or if that is no time at all.
    pub goodput_per_second: f64,
}

// SAFETY: repr(C), size first, numbers and pointers only.
unsafe impl Sized_ for tj_aggregated_stats {
    const INIT: &'static str = "AGGREGATED_STATS";
}

// SAFETY: the owner is where this says, and comes from tj_aggregate.
unsafe impl Owning for tj_aggregated_stats {
    type Owner = Lists;
    const OWNER: usize = offset_of!(tj_aggregated_stats, owner);

    unsafe fn let_go(at: *mut Self) {
        // SAFETY: by the trait's contract; the lists come before the owner.
        unsafe {
            ((*at).per_model, (*at).per_model_count) = (std::ptr::null(), 0);
            ((*at).per_engine, (*at).per_engine_count) = (std::ptr::null(), 0);
        }
    }
}

/// Does what TJ_AGGREGATED_STATS_INIT does, for languages without macros. NULL is ignored.
///
/// # Safety
/// `stats` is NULL or points to memory for one `tj_aggregated_stats`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_aggregated_stats_init(stats: *mut tj_aggregated_stats) {
    // SAFETY: the caller's promise is the same.
    unsafe { initialise(stats) }
}

/// Answers a query; NULL asks for everything. Sees every record that this process recorded before, and other
/// processes' as far as they are committed.
///
/// TJ_OK: *out_stats is filled, as far as its struct_size reaches; release it with tj_aggregated_stats_free, also
/// before it is filled again. TJ_ERR_INVALID_ARGUMENT: the message names the field; TJ_ERR_CLOSED; TJ_ERR_FORKED;
/// TJ_ERR_BUSY; TJ_ERR_FULL; TJ_ERR_IO; TJ_ERR_CORRUPT: *out_stats is not written.
///
/// # Safety
/// `store` came from tj_store_open; `query` is NULL or valid; `out_stats` is initialised; `error` is NULL or
/// writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_aggregate(
    store: *mut tj_store,
    query: *const tj_query,
    out_stats: *mut tj_aggregated_stats,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked, and `room` is what the caller's struct holds.
    unsafe {
        entry(error, || {
            let store = store_of(store)?;
            let room = room_out(out_stats, "out_stats")?;
            let answer = store.aggregate(&query_in(query)?.view()?)?;
            let mut out = totals(&answer);
            if covers_owner::<tj_aggregated_stats>(room) {
                let lists = Box::new(Lists::of(&answer));
                lists.show(&mut out);
                out.owner = Box::into_raw(lists).cast();
            }
            struct_out(&out, out_stats, room);
            Ok(())
        })
    }
}

/// Releases what a filled tj_aggregated_stats owns; its names and lists are gone, its totals stay. NULL, an
/// initialised one that was never filled, and one that was released before are fine.
///
/// # Safety
/// `stats` is NULL or initialised.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_aggregated_stats_free(stats: *mut tj_aggregated_stats) {
    // SAFETY: the caller's promise is the same.
    unsafe { release(stats) }
}

/// What the two lists live in.
pub(super) struct Lists {
    models: Vec<tj_model_stats>,
    engines: Vec<tj_engine_stats>,
    _names: Vec<CString>,
}

impl Lists {
    pub(super) fn of(answer: &Aggregate) -> Lists {
        let mut names = Vec::new();
        let mut keep = |name: &str| {
            names.push(c_string(name));
            names.last().map_or(std::ptr::null(), |name| name.as_ptr())
        };
        let models = answer.per_model.iter().map(|(name, stats)| model_stats(keep(name), stats)).collect();
        let engines = answer.per_engine.iter().map(|(name, stats)| engine_stats(keep(name), stats)).collect();
        Lists { models, engines, _names: names }
    }

    /// Makes `out` point to them. They must outlive it, and may be moved.
    pub(super) fn show(&self, out: &mut tj_aggregated_stats) {
        if !self.models.is_empty() {
            (out.per_model, out.per_model_count) = (self.models.as_ptr(), self.models.len());
        }
        if !self.engines.is_empty() {
            (out.per_engine, out.per_engine_count) = (self.engines.as_ptr(), self.engines.len());
        }
    }
}

impl From<&Distribution> for tj_distribution {
    fn from(it: &Distribution) -> Self {
        let Distribution { count, min, max, mean, p50, p90, p95, p99 } = *it;
        tj_distribution { count, min, max, mean, p50, p90, p95, p99 }
    }
}

/// The two structs differ in their first field only.
macro_rules! group_stats {
    ($function:ident, $struct:ident, $name:ident) => {
        fn $function($name: *const c_char, stats: &Statistics) -> $struct {
            $struct {
                $name,
                call_count: stats.call_count,
                total_tokens: stats.total_tokens,
                prompt_tokens: stats.prompt_tokens,
                prompt_tokens_evaluated: stats.prompt_tokens_evaluated,
                completion_tokens: stats.completion_tokens,
                cached_tokens: stats.cached_tokens,
                error_count: stats.error_count,
                cancelled_count: stats.cancelled_count,
                interrupted_count: stats.interrupted_count,
                total_latency: stats.total_latency,
                avg_latency: stats.avg_latency,
                total_cost: stats.total_cost,
                avg_ttft: stats.avg_ttft,
                total_energy_joules: stats.total_energy_joules,
                avg_gpu_utilization_pct: stats.avg_gpu_utilization_pct,
                avg_throughput_tok_per_sec: stats.avg_throughput_tok_per_sec,
                avg_tokens_per_joule: stats.avg_tokens_per_joule,
                avg_energy_per_output_token_joules: stats.avg_energy_per_output_token_joules,
                avg_throughput_per_watt: stats.avg_throughput_per_watt,
                total_prefill_energy_joules: stats.total_prefill_energy_joules,
                total_decode_energy_joules: stats.total_decode_energy_joules,
                avg_mean_itl_ms: stats.avg_mean_itl_ms,
                avg_median_itl_ms: stats.avg_median_itl_ms,
                avg_p95_itl_ms: stats.avg_p95_itl_ms,
                latency: (&stats.latency).into(),
                ttft: (&stats.ttft).into(),
                itl_ms: (&stats.itl_ms).into(),
                reserved: [0; 16],
            }
        }
    };
}
group_stats!(model_stats, tj_model_stats, model_id);
group_stats!(engine_stats, tj_engine_stats, engine);

/// All of an answer but the lists.
pub(super) fn totals(answer: &Aggregate) -> tj_aggregated_stats {
    let total = &answer.total;
    let (good, goodput, per_second) = match answer.goodput {
        None => (0, f64::NAN, f64::NAN),
        // Of no calls at all: 0 / 0.
        Some(Goodput { calls, good, per_second }) => (good, good as f64 / calls as f64, per_second),
    };
    tj_aggregated_stats {
        struct_size: size_of::<tj_aggregated_stats>(),
        total_calls: total.call_count,
        total_tokens: total.total_tokens,
        error_count: total.error_count,
        cancelled_count: total.cancelled_count,
        interrupted_count: total.interrupted_count,
        total_cost: total.total_cost,
        total_latency: total.total_latency,
        total_energy_joules: total.total_energy_joules,
        avg_throughput_tok_per_sec: total.avg_throughput_tok_per_sec,
        avg_gpu_utilization_pct: total.avg_gpu_utilization_pct,
        avg_energy_per_output_token_joules: total.avg_energy_per_output_token_joules,
        avg_throughput_per_watt: total.avg_throughput_per_watt,
        total_prefill_energy_joules: total.total_prefill_energy_joules,
        total_decode_energy_joules: total.total_decode_energy_joules,
        avg_mean_itl_ms: total.avg_mean_itl_ms,
        avg_median_itl_ms: total.avg_median_itl_ms,
        avg_p95_itl_ms: total.avg_p95_itl_ms,
        latency: (&total.latency).into(),
        ttft: (&total.ttft).into(),
        itl_ms: (&total.itl_ms).into(),
        per_model: std::ptr::null(),
        per_model_count: 0,
        per_engine: std::ptr::null(),
        per_engine_count: 0,
        owner: std::ptr::null_mut(),
        goodput_calls: good,
        goodput,
        goodput_per_second: per_second,
    }
}
