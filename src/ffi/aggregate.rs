//! Aggregating.
//!
//! Per model, per engine and in all, between two times. Averages and distributions are taken over the calls that
//! measured the value, never over the others; sums likewise.

use std::ffi::{CString, c_char, c_void};
use std::mem::{offset_of, size_of};

use super::boundary::{Sized_, entry, initialise, optional_string, room_out, struct_in, struct_out};
use super::error::{tj_error, tj_status};
use super::store::{store_of, tj_store};
use crate::error::Result;
use crate::stats::{Aggregate, Distribution, Objectives, Statistics};
use crate::store::Query;

/// Which records. Zero and NULL in a field leave it open.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_query {
    /// Set by TJ_QUERY_INIT.
    pub struct_size: usize,
    /// Unix seconds: since <= timestamp ...
    pub since: f64,
    /// ... < until. 0: unbounded. An empty range selects nothing.
    pub until: f64,
    /// NULL: any; otherwise exactly this one ("" is one too).
    pub model_id: *const c_char,
    /// NULL: any; otherwise exactly this one.
    pub engine: *const c_char,
    /// NULL: any; otherwise exactly this one.
    pub agent: *const c_char,
    /// NULL: any; otherwise exactly this one.
    pub batch_id: *const c_char,
    /// 1: leave warm-up calls out.
    pub exclude_warmup: u32,
    /// 0: any; n: only records stamped n.
    pub token_counting_version: u32,
    /// 0: all; otherwise the bits (1 << TJ_OUTCOME_...) of those wanted. UINT32_MAX is all, too.
    pub outcome_mask: u32,
    /// 0: all; otherwise only the first n models and the first n engines. The totals are over all.
    pub limit: u32,
    /// Objectives, for goodput: the most seconds to the first token; 0: any ...
    pub max_ttft: f64,
    /// ... the most seconds per output token after the first; 0: any ...
    pub max_tpot: f64,
    /// ... and the most seconds from start to end; 0: any. With an objective a query reads every record in its range.
    pub max_latency: f64,
}

/// How a value is distributed, over the calls that measured it. All NAN where count is 0. min, max and mean are exact;
/// a percentile is within 1 % of the exact one (linear interpolation between closest ranks).
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
}

// SAFETY: repr(C), size first, numbers and pointers only.
unsafe impl Sized_ for tj_query {
    const INIT: &'static str = "QUERY";
}

// SAFETY: repr(C), size first, numbers and pointers only.
unsafe impl Sized_ for tj_aggregated_stats {
    const INIT: &'static str = "AGGREGATED_STATS";
}

/// Does what TJ_QUERY_INIT does, for languages without macros. NULL is ignored.
///
/// # Safety
/// `query` is NULL or points to memory for one `tj_query`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_query_init(query: *mut tj_query) {
    // SAFETY: the caller's promise is the same.
    unsafe { initialise(query) }
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
/// TJ_OK: *out_stats is filled, as far as its struct_size reaches; release it with tj_aggregated_stats_free, also before
/// it is filled again. TJ_ERR_INVALID_ARGUMENT: the message names the field; TJ_ERR_CLOSED; TJ_ERR_FORKED; TJ_ERR_BUSY;
/// TJ_ERR_IO; TJ_ERR_CORRUPT: *out_stats is not written.
///
/// # Safety
/// `store` came from tj_store_open; `query` is NULL or valid; `out_stats` is initialised; `error` is NULL or writable.
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
            let query = if query.is_null() { tj_query::initial() } else { struct_in(query, "query")? };
            let answer = store.aggregate(&query.view()?)?;
            let mut out = totals(&answer);
            if room >= offset_of!(tj_aggregated_stats, owner) + size_of::<*mut c_void>() {
                attach_lists(&mut out, &answer);
            }
            struct_out(&out, out_stats, room);
            Ok(())
        })
    }
}

/// Releases what a filled tj_aggregated_stats owns; its names and lists are gone, its totals stay. NULL, an initialised
/// one that was never filled, and one that was released before are fine.
///
/// # Safety
/// `stats` is NULL or initialised.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_aggregated_stats_free(stats: *mut tj_aggregated_stats) {
    let covers = room_out(stats, "stats").is_ok_and(|room| room == size_of::<tj_aggregated_stats>());
    if !covers {
        return;
    }
    // SAFETY: the struct is there to its last field, and `owner` is NULL or came from `attach_lists`; it is taken out
    // before it is dropped, so that a second call finds NULL.
    unsafe {
        let stats = &mut *stats;
        let owner = std::mem::replace(&mut stats.owner, std::ptr::null_mut());
        (stats.per_model, stats.per_model_count) = (std::ptr::null(), 0);
        (stats.per_engine, stats.per_engine_count) = (std::ptr::null(), 0);
        if !owner.is_null() {
            drop(Box::from_raw(owner.cast::<Lists>()));
        }
    }
}

impl tj_query {
    /// # Safety
    /// Every string is NULL or NUL-terminated and stays as it is for `'a`.
    pub(super) unsafe fn view<'a>(&self) -> Result<Query<'a>> {
        // SAFETY: by this function's contract.
        unsafe {
            Ok(Query {
                since: self.since,
                until: self.until,
                model_id: optional_string(self.model_id, "query.model_id")?,
                engine: optional_string(self.engine, "query.engine")?,
                agent: optional_string(self.agent, "query.agent")?,
                batch_id: optional_string(self.batch_id, "query.batch_id")?,
                exclude_warmup: self.exclude_warmup != 0,
                token_counting_version: self.token_counting_version,
                outcome_mask: self.outcome_mask,
                limit: self.limit as usize,
                objectives: Objectives {
                    ttft: self.max_ttft,
                    tpot: self.max_tpot,
                    latency: self.max_latency,
                },
            })
        }
    }
}

/// What the two lists live in.
struct Lists {
    models: Vec<tj_model_stats>,
    engines: Vec<tj_engine_stats>,
    _names: Vec<CString>,
}

fn attach_lists(out: &mut tj_aggregated_stats, answer: &Aggregate) {
    let mut names = Vec::new();
    let mut keep = |name: &str| {
        // A name with a NUL in it can only come from a foreign writer; C sees it up to there.
        names.push(CString::new(name.split('\0').next().unwrap_or_default()).unwrap_or_default());
        names.last().map_or(std::ptr::null(), |name| name.as_ptr())
    };
    let models = answer.per_model.iter().map(|(name, stats)| model_stats(keep(name), stats)).collect();
    let engines = answer.per_engine.iter().map(|(name, stats)| engine_stats(keep(name), stats)).collect();
    let lists = Box::new(Lists { models, engines, _names: names });
    if !lists.models.is_empty() {
        out.per_model = lists.models.as_ptr();
        out.per_model_count = lists.models.len();
    }
    if !lists.engines.is_empty() {
        out.per_engine = lists.engines.as_ptr();
        out.per_engine_count = lists.engines.len();
    }
    out.owner = Box::into_raw(lists).cast();
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

fn totals(answer: &Aggregate) -> tj_aggregated_stats {
    let total = &answer.total;
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
    }
}
