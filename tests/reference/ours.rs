//! Our store through the C door, with calls and answers as the reference names their fields.

use std::ffi::{CStr, CString};
use std::path::Path;
use std::ptr::{null, null_mut};

use serde_json::{Value, json};
use tokenjoule::ffi::aggregate::{
    tj_aggregate, tj_aggregated_stats, tj_aggregated_stats_free, tj_aggregated_stats_init, tj_model_stats,
};
use tokenjoule::ffi::error::tj_error;
use tokenjoule::ffi::query::{tj_query, tj_query_init};
use tokenjoule::ffi::record::{TJ_UNKNOWN, tj_telemetry_record, tj_telemetry_record_init};
use tokenjoule::ffi::store::{
    tj_record, tj_store, tj_store_close, tj_store_count, tj_store_flush, tj_store_open,
};
use tokenjoule::ffi::upkeep::{tj_health, tj_health_init, tj_store_health};

/// Our answer to a query; the groups by name.
#[derive(Debug)]
pub struct Answer {
    pub total: Value,
    pub per_model: Vec<(String, Value)>,
    pub per_engine: Vec<(String, Value)>,
}

/// A store, closed with the value.
pub struct Ours(*mut tj_store);

// SAFETY: "every function may be called from any thread at any time on the same handle".
unsafe impl Sync for Ours {}

/// Calls a fallible function of the library to success.
fn ok(call: impl FnOnce(*mut tj_error) -> i32) {
    let mut error: tj_error = unsafe { std::mem::zeroed() };
    let status = call(&mut error);
    let message = unsafe { CStr::from_ptr(error.message.as_ptr()) };
    assert_eq!(status, 0, "{}", message.to_string_lossy());
}

impl Ours {
    pub fn open(database: &Path) -> Ours {
        let path = CString::new(database.to_str().unwrap()).unwrap();
        let mut store = null_mut();
        ok(|error| unsafe { tj_store_open(path.as_ptr(), null(), &mut store, error) });
        Ours(store)
    }

    /// Records a call given by the reference's names. What is not there was not measured.
    pub fn record(&self, call: &Value) {
        let mut record: tj_telemetry_record = unsafe { std::mem::zeroed() };
        unsafe { tj_telemetry_record_init(&mut record) };
        let mut texts = Vec::new(); // as long as the record points to them
        let mut text = |text: &str| {
            texts.push(CString::new(text).unwrap());
            texts.last().unwrap().as_ptr()
        };
        macro_rules! set {
            ($($kind:ident: $($field:ident)*;)*) => { $($(set!(@$kind $field);)*)* };
            (@texts $field:ident) => { record.$field = text(call[stringify!($field)].as_str().unwrap_or("")) };
            (@counts $field:ident) => { record.$field = call[stringify!($field)].as_u64().unwrap_or(TJ_UNKNOWN) };
            (@figures $field:ident) => { record.$field = call[stringify!($field)].as_f64().unwrap_or(f64::NAN) };
            (@flags $field:ident) => { record.$field = (call[stringify!($field)] == true).into() };
        }
        set! {
            texts: model_id engine agent energy_method energy_vendor batch_id;
            counts: prompt_tokens prompt_tokens_evaluated completion_tokens total_tokens;
            figures: latency_seconds ttft cost_usd energy_joules power_watts gpu_utilization_pct gpu_memory_used_gb
                gpu_temperature_c throughput_tok_per_sec prefill_latency_seconds decode_latency_seconds
                cpu_energy_joules gpu_energy_joules dram_energy_joules tokens_per_joule
                energy_per_output_token_joules throughput_per_watt prefill_energy_joules decode_energy_joules
                mean_itl_ms median_itl_ms p90_itl_ms p95_itl_ms p99_itl_ms std_itl_ms;
            flags: is_warmup is_streaming;
        }
        record.timestamp = call["timestamp"].as_f64().unwrap();
        record.token_counting_version = call["token_counting_version"].as_u64().unwrap_or(0) as u32;
        record.metadata_json = text(&call.get("metadata").unwrap_or(&json!({})).to_string());
        ok(|error| unsafe { tj_record(self.0, &record, error) });
    }

    /// Now others see what was recorded.
    pub fn flush(&self) {
        ok(|error| unsafe { tj_store_flush(self.0, error) });
    }

    pub fn count(&self) -> u64 {
        let mut count = u64::MAX;
        ok(|error| unsafe { tj_store_count(self.0, &mut count, error) });
        count
    }

    pub fn health(&self) -> tj_health {
        let mut health: tj_health = unsafe { std::mem::zeroed() };
        unsafe { tj_health_init(&mut health) };
        ok(|error| unsafe { tj_store_health(self.0, &mut health, error) });
        health
    }

    /// Answers a query that `select` has filled in.
    pub fn aggregate(&self, select: impl FnOnce(&mut tj_query)) -> Answer {
        let mut query: tj_query = unsafe { std::mem::zeroed() };
        unsafe { tj_query_init(&mut query) };
        select(&mut query);
        let mut stats: tj_aggregated_stats = unsafe { std::mem::zeroed() };
        unsafe { tj_aggregated_stats_init(&mut stats) };
        ok(|error| unsafe { tj_aggregate(self.0, &query, &mut stats, error) });

        macro_rules! object {
            ($of:ident: $($field:ident)*) => { json!({ $(stringify!($field): $of.$field),* }) };
        }
        let group = |group: tj_model_stats| {
            let name = unsafe { CStr::from_ptr(group.model_id) }.to_str().unwrap().to_owned();
            let figures = object!(group: call_count total_tokens prompt_tokens prompt_tokens_evaluated
                completion_tokens total_latency avg_latency total_cost avg_ttft total_energy_joules
                avg_gpu_utilization_pct avg_throughput_tok_per_sec avg_tokens_per_joule
                avg_energy_per_output_token_joules avg_throughput_per_watt total_prefill_energy_joules
                total_decode_energy_joules avg_mean_itl_ms avg_median_itl_ms avg_p95_itl_ms);
            (name, figures)
        };
        let answer = Answer {
            total: object!(stats: total_calls total_tokens total_cost total_latency total_energy_joules
                avg_throughput_tok_per_sec avg_gpu_utilization_pct avg_energy_per_output_token_joules
                avg_throughput_per_watt total_prefill_energy_joules total_decode_energy_joules avg_mean_itl_ms
                avg_median_itl_ms avg_p95_itl_ms),
            per_model: (0..stats.per_model_count)
                .map(|at| group(unsafe { *stats.per_model.add(at) }))
                .collect(),
            // The structs differ in the name of their first field.
            per_engine: (0..stats.per_engine_count)
                .map(|at| group(unsafe { *stats.per_engine.add(at).cast::<tj_model_stats>() }))
                .collect(),
        };
        unsafe { tj_aggregated_stats_free(&mut stats) };
        answer
    }

    pub fn everything(&self) -> Answer {
        self.aggregate(|_| ())
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        let status = unsafe { tj_store_close(self.0, null_mut()) };
        assert!(status == 0 || std::thread::panicking(), "closing: {status}");
    }
}
