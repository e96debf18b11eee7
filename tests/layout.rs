//! The layout that programs are compiled with: sizes, alignments, offsets and types of every public struct on 64-bit
//! Linux (x86_64 and aarch64 agree), held against the Rust structs and against the header as a C compiler sees it.
//!
//! The numbers are written out, not computed: a field that moves, or changes its type, fails on both sides.

mod support;

use std::fmt::Write;
use std::process::Command;

use support::{root, run, scratch};
use tokenjoule::ffi;

/// A kind of field as Rust writes it. [`c_type`] has the same as C writes it.
macro_rules! rust_type {
    (size) => { usize };
    (u32) => { u32 };
    (i32) => { i32 };
    (u64) => { u64 };
    (real) => { f64 };
    (text) => { *const std::ffi::c_char };
    (void) => { *mut std::ffi::c_void };
    (dist) => { ffi::aggregate::tj_distribution };
    (reserved4) => { [u64; 4] };
    (reserved8) => { [u64; 8] };
    (reserved16) => { [u64; 16] };
    (message) => { [std::ffi::c_char; 504] };
    (version) => { [std::ffi::c_char; 128] };
    (messages) => { *const ffi::request::tj_message };
    (record) => { *const ffi::record::tj_telemetry_record };
    (event) => { *const ffi::event::tj_event };
    (models) => { *const ffi::aggregate::tj_model_stats };
    (engines) => { *const ffi::aggregate::tj_engine_stats };
    (stats) => { *const ffi::aggregate::tj_aggregated_stats };
    (steps) => { *const ffi::series::tj_series_step };
    (batches) => { *const ffi::batch::tj_batch };
    (sources) => { *const ffi::energy::tj_energy_source };
    (devices) => { *const ffi::energy::tj_energy_device };
    (read) => { ffi::source::tj_energy_read_fn };
    (drop) => { ffi::bus::tj_drop_fn };
    (generate) => { ffi::generate::tj_generate_fn };
    (phase) => { ffi::efficiency::tj_phase };
}

/// The type of a pointer to such a field.
fn c_type(kind: &str) -> &'static str {
    match kind {
        "size" => "size_t *",
        "u32" => "uint32_t *",
        "i32" => "int32_t *",
        "u64" => "uint64_t *",
        "real" => "double *",
        "text" => "const char **",
        "void" => "void **",
        "dist" => "tj_distribution *",
        "reserved4" => "uint64_t (*)[4]",
        "reserved8" => "uint64_t (*)[8]",
        "reserved16" => "uint64_t (*)[16]",
        "message" => "char (*)[504]",
        "version" => "char (*)[128]",
        "messages" => "const tj_message **",
        "record" => "const tj_telemetry_record **",
        "event" => "const tj_event **",
        "models" => "const tj_model_stats **",
        "engines" => "const tj_engine_stats **",
        "stats" => "const tj_aggregated_stats **",
        "steps" => "const tj_series_step **",
        "batches" => "const tj_batch **",
        "sources" => "const tj_energy_source **",
        "devices" => "const tj_energy_device **",
        "read" => "tj_energy_read_fn *",
        "drop" => "tj_drop_fn *",
        "generate" => "tj_generate_fn *",
        "phase" => "tj_phase *",
        other => panic!("no C type for {other}"),
    }
}

struct Struct {
    name: &'static str,
    size: usize,
    align: usize,
    fields: &'static [(usize, &'static str, &'static str)],
}

macro_rules! layout {
    ($($module:ident::$name:ident ($size:literal, $align:literal) {
        $($offset:literal $kind:ident $field:ident,)*
    })*) => {
        /// What abi.md fixes.
        const LAYOUT: &[Struct] = &[$(Struct {
            name: stringify!($name),
            size: $size,
            align: $align,
            fields: &[$(($offset, stringify!($kind), stringify!($field)),)*],
        },)*];

        // The Rust side, at compile time.
        $(const _: () = {
            use ffi::$module::$name;
            assert!(size_of::<$name>() == $size);
            assert!(align_of::<$name>() == $align);
            $(
                assert!(std::mem::offset_of!($name, $field) == $offset);
                let _: fn(&$name) -> &rust_type!($kind) = |it| &it.$field;
            )*
        };)*
    };
}

#[rustfmt::skip]
layout! {
    error::tj_error (512, 4) {
        0 i32 status, 4 i32 engine_code, 8 message message,
    }
    record::tj_telemetry_record (416, 8) {
        0 size struct_size, 8 real timestamp, 16 text model_id, 24 text engine, 32 text agent,
        40 u64 prompt_tokens, 48 u64 prompt_tokens_evaluated, 56 u64 completion_tokens, 64 u64 total_tokens,
        72 real latency_seconds, 80 real ttft, 88 real cost_usd, 96 real energy_joules,
        104 real power_watts, 112 real gpu_utilization_pct, 120 real gpu_memory_used_gb,
        128 real gpu_temperature_c, 136 real throughput_tok_per_sec, 144 real prefill_latency_seconds,
        152 real decode_latency_seconds, 160 text energy_method, 168 text energy_vendor, 176 text batch_id,
        184 u32 is_warmup, 188 u32 is_streaming, 192 real cpu_energy_joules, 200 real gpu_energy_joules,
        208 real dram_energy_joules, 216 real tokens_per_joule, 224 real energy_per_output_token_joules,
        232 real throughput_per_watt, 240 real prefill_energy_joules, 248 real decode_energy_joules,
        256 real mean_itl_ms, 264 real median_itl_ms, 272 real p90_itl_ms, 280 real p95_itl_ms,
        288 real p99_itl_ms, 296 real std_itl_ms, 304 u32 token_counting_version, 308 u32 outcome,
        312 text metadata_json, 320 text operation, 328 text finish_reason, 336 text error_type,
        344 text request_id, 352 text session_id, 360 text trace_id, 368 text span_id,
        376 u64 cached_tokens, 384 u64 reasoning_tokens, 392 u64 draft_tokens,
        400 u64 draft_accepted_tokens, 408 real queue_seconds,
    }
    store::tj_store_options (64, 8) {
        0 size struct_size, 8 u32 read_only, 12 u32 durability, 16 u32 overflow, 20 u32 busy_timeout_ms,
        24 u32 commit_interval_ms, 32 u64 journal_bytes, 40 real max_age_seconds, 48 u64 max_bytes,
        56 u32 keep_rollups, 60 u32 reserved,
    }
    query::tj_query (96, 8) {
        0 size struct_size, 8 real since, 16 real until, 24 text model_id, 32 text engine, 40 text agent,
        48 text batch_id, 56 u32 exclude_warmup, 60 u32 token_counting_version, 64 u32 outcome_mask,
        68 u32 limit, 72 real max_ttft, 80 real max_tpot, 88 real max_latency,
    }
    aggregate::tj_distribution (64, 8) {
        0 u64 count, 8 real min, 16 real max, 24 real mean, 32 real p50, 40 real p90, 48 real p95,
        56 real p99,
    }
    aggregate::tj_model_stats (520, 8) {
        0 text model_id, 8 u64 call_count, 16 u64 total_tokens, 24 u64 prompt_tokens,
        32 u64 prompt_tokens_evaluated, 40 u64 completion_tokens, 48 u64 cached_tokens, 56 u64 error_count,
        64 u64 cancelled_count, 72 u64 interrupted_count, 80 real total_latency, 88 real avg_latency,
        96 real total_cost, 104 real avg_ttft, 112 real total_energy_joules,
        120 real avg_gpu_utilization_pct, 128 real avg_throughput_tok_per_sec,
        136 real avg_tokens_per_joule, 144 real avg_energy_per_output_token_joules,
        152 real avg_throughput_per_watt, 160 real total_prefill_energy_joules,
        168 real total_decode_energy_joules, 176 real avg_mean_itl_ms, 184 real avg_median_itl_ms,
        192 real avg_p95_itl_ms, 200 dist latency, 264 dist ttft, 328 dist itl_ms, 392 reserved16 reserved,
    }
    aggregate::tj_engine_stats (520, 8) {
        0 text engine, 8 u64 call_count, 16 u64 total_tokens, 24 u64 prompt_tokens,
        32 u64 prompt_tokens_evaluated, 40 u64 completion_tokens, 48 u64 cached_tokens, 56 u64 error_count,
        64 u64 cancelled_count, 72 u64 interrupted_count, 80 real total_latency, 88 real avg_latency,
        96 real total_cost, 104 real avg_ttft, 112 real total_energy_joules,
        120 real avg_gpu_utilization_pct, 128 real avg_throughput_tok_per_sec,
        136 real avg_tokens_per_joule, 144 real avg_energy_per_output_token_joules,
        152 real avg_throughput_per_watt, 160 real total_prefill_energy_joules,
        168 real total_decode_energy_joules, 176 real avg_mean_itl_ms, 184 real avg_median_itl_ms,
        192 real avg_p95_itl_ms, 200 dist latency, 264 dist ttft, 328 dist itl_ms, 392 reserved16 reserved,
    }
    aggregate::tj_aggregated_stats (400, 8) {
        0 size struct_size, 8 u64 total_calls, 16 u64 total_tokens, 24 u64 error_count,
        32 u64 cancelled_count, 40 u64 interrupted_count, 48 real total_cost, 56 real total_latency,
        64 real total_energy_joules, 72 real avg_throughput_tok_per_sec, 80 real avg_gpu_utilization_pct,
        88 real avg_energy_per_output_token_joules, 96 real avg_throughput_per_watt,
        104 real total_prefill_energy_joules, 112 real total_decode_energy_joules, 120 real avg_mean_itl_ms,
        128 real avg_median_itl_ms, 136 real avg_p95_itl_ms, 144 dist latency, 208 dist ttft,
        272 dist itl_ms, 336 models per_model, 344 size per_model_count, 352 engines per_engine,
        360 size per_engine_count, 368 void owner, 376 u64 goodput_calls, 384 real goodput,
        392 real goodput_per_second,
    }
    series::tj_series_step (56, 8) {
        0 real since, 8 real until, 16 stats stats, 24 reserved4 reserved,
    }
    series::tj_series (32, 8) {
        0 size struct_size, 8 steps steps, 16 size step_count, 24 void owner,
    }
    batch::tj_batch (144, 8) {
        0 text batch_id, 8 u64 total_requests, 16 u64 total_tokens, 24 u64 completion_tokens,
        32 u64 failed_requests, 40 real total_energy_joules, 48 real energy_per_token_joules,
        56 real energy_per_request_joules, 64 real oldest_timestamp, 72 real newest_timestamp,
        80 reserved8 reserved,
    }
    batch::tj_batches (32, 8) {
        0 size struct_size, 8 batches batches, 16 size batch_count, 24 void owner,
    }
    upkeep::tj_health (672, 8) {
        0 size struct_size, 8 u64 recorded, 16 u64 committed, 24 u64 waiting, 32 u64 refused, 40 u64 failed,
        48 u64 failures_busy, 56 u64 failures_full, 64 u64 failures_corrupt, 72 u64 failures_other,
        80 u64 adopted, 88 u64 damaged_journals, 96 u64 pruned, 104 u64 rollups_waiting,
        112 u64 journal_used, 120 u64 journal_size, 128 u64 database_bytes, 136 real oldest_timestamp,
        144 real newest_timestamp, 152 i32 last_status, 156 u32 reserved, 160 real last_failure_time,
        168 message last_message,
    }
    upkeep::tj_difference (72, 8) {
        0 size struct_size, 8 real since, 16 real until, 24 text model_id, 32 text engine, 40 text agent,
        48 text what, 56 real expected, 64 real found,
    }
    event::tj_event (80, 8) {
        0 size struct_size, 8 u32 kind, 16 u64 sequence, 24 real timestamp, 32 text name, 40 text model_id,
        48 text engine, 56 u64 call_id, 64 record record, 72 text data_json,
    }
    queue::tj_polled_event (32, 8) {
        0 size struct_size, 8 event event, 16 u64 lost, 24 void owner,
    }
    request::tj_message (16, 8) {
        0 text role, 8 text content,
    }
    request::tj_generate_request (120, 8) {
        0 size struct_size, 8 text model, 16 messages messages, 24 size message_count, 32 real temperature,
        40 u32 max_tokens, 48 text extra_json, 56 text agent, 64 text batch_id, 72 text operation,
        80 text request_id, 88 text session_id, 96 text trace_id, 104 text span_id, 112 u32 is_warmup,
    }
    request::tj_generate_result (144, 8) {
        0 size struct_size, 8 text content, 16 u64 prompt_tokens, 24 u64 prompt_tokens_evaluated,
        32 u64 completion_tokens, 40 u64 cached_tokens, 48 u64 reasoning_tokens, 56 u64 draft_tokens,
        64 u64 draft_accepted_tokens, 72 real ttft, 80 real cost_usd, 88 real queue_seconds,
        96 real prefill_seconds, 104 real decode_seconds, 112 text finish_reason, 120 text error_type,
        128 text metadata_json, 136 void user_data,
    }
    generate::tj_engine (32, 8) {
        0 size struct_size, 8 text engine_id, 16 generate generate, 24 void engine_data,
    }
    cost::tj_price (64, 8) {
        0 size struct_size, 8 text model, 16 real input_usd_per_token, 24 real output_usd_per_token,
        32 real cached_input_usd_per_token, 40 real reasoning_usd_per_token, 48 u32 cached_input_is_free,
        52 u32 reserved, 56 text version,
    }
    cost::tj_local_cost (32, 8) {
        0 size struct_size, 8 real electricity_usd_per_kwh, 16 real hardware_usd_per_second,
        24 real carbon_grams_per_kwh,
    }
    cost::tj_cost (160, 8) {
        0 size struct_size, 8 real cost_usd, 16 real co2e_grams, 24 u32 rule, 28 u32 reserved,
        32 version price_table,
    }
    efficiency::tj_gpu_peak (88, 8) {
        0 size struct_size, 8 text name, 16 text source, 24 real fp32_flops, 32 real tf32_flops,
        40 real fp16_flops, 48 real bf16_flops, 56 real fp8_flops, 64 real fp4_flops, 72 real int8_ops,
        80 real memory_bytes_per_second,
    }
    efficiency::tj_phase (72, 8) {
        0 real energy_joules, 8 real seconds, 16 real mean_power_watts, 24 real energy_per_token_joules,
        32 u64 tokens, 40 reserved4 reserved,
    }
    efficiency::tj_phases (152, 8) {
        0 size struct_size, 8 phase prefill, 80 phase decode,
    }
    efficiency::tj_steady_options (32, 8) {
        0 size struct_size, 8 u32 warmup_samples, 12 u32 no_warmup, 16 u32 window_size,
        20 u32 min_steady_samples, 24 real cv_threshold,
    }
    efficiency::tj_steady_state (64, 8) {
        0 size struct_size, 8 u64 total_samples, 16 u64 warmup_samples, 24 u64 steady_state_samples,
        32 u64 reached_at, 40 u32 steady_state_reached, 44 u32 reserved, 48 real coefficient_of_variation,
        56 real mean,
    }
    efficiency::tj_energy_batch (72, 8) {
        0 size struct_size, 8 u64 total_requests, 16 u64 measured_requests, 24 u64 total_tokens,
        32 real total_energy_joules, 40 real energy_per_token_joules, 48 real energy_per_request_joules,
        56 real mean_power_watts, 64 real mean_throughput_tok_per_sec,
    }
    energy::tj_energy_options (56, 8) {
        0 size struct_size, 8 u32 interval_ms, 12 u32 kinds, 16 u32 weight, 20 u32 leave_idle_out,
        24 text nvml_path, 32 text powercap_root, 40 text drm_root, 48 text hwmon_root,
    }
    energy::tj_energy_source (128, 8) {
        0 text kind, 8 text name, 16 text vendor, 24 text method, 32 u32 part, 36 u32 is_available,
        40 real update_period_seconds, 48 real wraps_at_joules, 56 text reason, 64 reserved8 reserved,
    }
    energy::tj_energy_source_list (32, 8) {
        0 size struct_size, 8 sources sources, 16 size source_count, 24 void owner,
    }
    energy::tj_energy_device (168, 8) {
        0 text kind, 8 text name, 16 text vendor, 24 text method, 32 u32 part, 36 u32 is_gone,
        40 real counter_joules, 48 real attributed_joules, 56 real unattributed_joules, 64 real idle_joules,
        72 real lost_seconds, 80 real power_watts, 88 real idle_watts, 96 u64 failed_reads,
        104 reserved8 reserved,
    }
    energy::tj_energy_totals (120, 8) {
        0 size struct_size, 8 u32 is_running, 12 u32 reserved, 16 real since, 24 real seconds,
        32 real counter_joules, 40 real attributed_joules, 48 real unattributed_joules, 56 real idle_joules,
        64 u64 calls, 72 real interval_seconds, 80 u64 reads, 88 real cpu_seconds, 96 devices devices,
        104 size device_count, 112 void owner,
    }
    window::tj_energy_window (128, 8) {
        0 size struct_size, 8 real seconds, 16 real energy_joules, 24 real gpu_energy_joules,
        32 real cpu_energy_joules, 40 real dram_energy_joules, 48 real other_energy_joules,
        56 real mean_power_watts, 64 real peak_power_watts, 72 real mean_utilization_pct,
        80 real peak_utilization_pct, 88 real mean_memory_used_gb, 96 real peak_memory_used_gb,
        104 real mean_temperature_c, 112 real peak_temperature_c, 120 u64 readings,
    }
    source::tj_energy_reading (48, 8) {
        0 size struct_size, 8 real joules, 16 real watts, 24 real utilization_pct, 32 real memory_used_gb,
        40 real temperature_c,
    }
    source::tj_energy_custom (64, 8) {
        0 size struct_size, 8 text name, 16 text vendor, 24 text method, 32 u32 part, 36 u32 update_period_ms,
        40 read read, 48 void user_data, 56 drop drop,
    }
}

#[test]
fn the_header_has_this_layout() {
    let mut source = "#include \"tokenjoule.h\"\n#include <stddef.h>\n".to_owned();
    let mut demand = |condition: String, what: String| {
        writeln!(source, "_Static_assert({condition}, \"{what}\");").unwrap();
    };
    for Struct { name, size, align, fields } in LAYOUT {
        demand(format!("sizeof({name}) == {size}"), format!("size of {name}"));
        demand(format!("_Alignof({name}) == {align}"), format!("alignment of {name}"));
        for (offset, kind, field) in *fields {
            let (place, c_type) = (format!("{name}.{field}"), c_type(kind));
            demand(format!("offsetof({name}, {field}) == {offset}"), format!("offset of {place}"));
            let pointer = format!("&(({name} *)0)->{field}");
            demand(format!("_Generic({pointer}, {c_type}: 1, default: 0)"), format!("type of {place}"));
        }
    }
    source += "int main(void) { return 0; }\n";
    let folder = scratch();
    let file = folder.path().join("layout.c");
    std::fs::write(&file, source).unwrap();
    support::compile(&file, folder.path(), &[]);
}

/// Nothing in the header is left out above: a new field or struct must be written down here.
#[test]
fn every_field_of_every_struct_is_listed() {
    let header =
        run(Command::new("cc").args(["-E", "-P", "-x", "c"]).arg(root().join("include/tokenjoule.h")));
    let mut found = String::new();
    for definition in header.split("typedef struct ").skip(1) {
        let Some((name, body)) = definition.split_once('{') else { continue };
        let (body, _) = body.split_once('}').unwrap();
        if name.trim().starts_with("tj_") && !name.contains(';') {
            let fields = body.split(';').filter_map(|field| {
                let declared = field.split('[').next().unwrap_or_default();
                declared.split([' ', '*', '\n']).rfind(|word| !word.is_empty())
            });
            writeln!(found, "{}: {}", name.trim(), fields.collect::<Vec<_>>().join(" ")).unwrap();
        }
    }
    let mut listed: Vec<String> = LAYOUT
        .iter()
        .map(|it| {
            let fields: Vec<&str> = it.fields.iter().map(|(_, _, field)| *field).collect();
            format!("{}: {}", it.name, fields.join(" "))
        })
        .collect();
    let mut found: Vec<&str> = found.lines().collect();
    found.sort_unstable();
    listed.sort_unstable();
    assert_eq!(found, listed);
    assert!(found.len() >= 15, "{found:?}");
}
