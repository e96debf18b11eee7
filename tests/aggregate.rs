//! What `tj_aggregate` answers about 10,000 records equals an independent computation: counts exactly, sums to 1e-9,
//! percentiles to 1 %.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // calls the C door as C does

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::ptr::null_mut;

mod support;

use support::random::Random;
use tokenjoule::ffi::aggregate::{
    tj_aggregate, tj_aggregated_stats, tj_aggregated_stats_free, tj_aggregated_stats_init, tj_distribution,
    tj_model_stats,
};
use tokenjoule::ffi::query::{tj_query, tj_query_init};
use tokenjoule::ffi::record::{TJ_UNKNOWN, tj_telemetry_record, tj_telemetry_record_init};
use tokenjoule::ffi::store::{tj_record, tj_store, tj_store_close, tj_store_count, tj_store_open};

/// A call as the test knows it: `None` was not measured.
#[derive(Debug, Clone)]
struct Call {
    time: f64,
    model: String,
    engine: String,
    agent: String,
    batch: String,
    warmup: bool,
    version: u32,
    outcome: u32,
    prompt: Option<u64>,
    completion: Option<u64>,
    cached: Option<u64>,
    latency: Option<f64>,
    ttft: Option<f64>,
    cost: Option<f64>,
    energy: Option<f64>,
    utilization: Option<f64>,
    throughput: Option<f64>,
    prefill_energy: Option<f64>,
    mean_itl: Option<f64>,
    p95_itl: Option<f64>,
}

const BEGIN: f64 = 1_750_000_000.0;
const SPAN: f64 = 30.0 * 86_400.0;

fn calls(count: usize) -> Vec<Call> {
    let mut random = Random::new(0x5EED);
    (0..count)
        .map(|_| Call {
            time: (BEGIN + random.unit() * SPAN).floor() + 0.25 * random.below(4) as f64,
            model: format!("model-{:02}", (random.unit() * random.unit() * 20.0) as u32),
            engine: ["", "llama.cpp", "vllm", "sglang", "mlx"][random.below(5) as usize].to_owned(),
            agent: format!("agent-{}", random.below(3)),
            batch: if random.below(4) == 0 { format!("batch-{}", random.below(7)) } else { String::new() },
            warmup: random.below(10) == 0,
            version: random.below(3) as u32,
            outcome: if random.below(5) == 0 { random.below(5) as u32 } else { 0 },
            prompt: random.sometimes(95, |r| r.below(5000)),
            completion: random.sometimes(95, |r| r.below(2000)),
            cached: random.sometimes(50, |r| r.below(1000)),
            latency: random.sometimes(98, |r| r.heavy_tailed(0.5)),
            ttft: random.sometimes(80, |r| r.heavy_tailed(0.05)),
            cost: random.sometimes(60, |r| if r.below(3) == 0 { 0.0 } else { r.heavy_tailed(0.001) }),
            energy: random.sometimes(40, |r| r.heavy_tailed(30.0)),
            utilization: random.sometimes(40, |r| if r.below(5) == 0 { 0.0 } else { r.unit() * 100.0 }),
            throughput: random.sometimes(70, |r| r.heavy_tailed(40.0)),
            prefill_energy: random.sometimes(30, |r| r.heavy_tailed(10.0)),
            mean_itl: random.sometimes(50, |r| r.heavy_tailed(20.0)),
            p95_itl: random.sometimes(50, |r| r.heavy_tailed(40.0)),
        })
        .collect()
}

fn record(store: *mut tj_store, call: &Call) {
    let text = |text: &str| CString::new(text).unwrap();
    let (model, engine, agent, batch) =
        (text(&call.model), text(&call.engine), text(&call.agent), text(&call.batch));
    let mut out: tj_telemetry_record = unsafe { std::mem::zeroed() };
    unsafe { tj_telemetry_record_init(&mut out) };
    let figure = |figure: Option<f64>| figure.unwrap_or(f64::NAN);
    out.timestamp = call.time;
    (out.model_id, out.engine, out.agent, out.batch_id) =
        (model.as_ptr(), engine.as_ptr(), agent.as_ptr(), batch.as_ptr());
    out.is_warmup = call.warmup.into();
    out.token_counting_version = call.version;
    out.outcome = call.outcome;
    out.prompt_tokens = call.prompt.unwrap_or(TJ_UNKNOWN);
    out.completion_tokens = call.completion.unwrap_or(TJ_UNKNOWN);
    out.cached_tokens = call.cached.unwrap_or(TJ_UNKNOWN);
    out.latency_seconds = figure(call.latency);
    out.ttft = figure(call.ttft);
    out.cost_usd = figure(call.cost);
    out.energy_joules = figure(call.energy);
    out.gpu_utilization_pct = figure(call.utilization);
    out.throughput_tok_per_sec = figure(call.throughput);
    out.prefill_energy_joules = figure(call.prefill_energy);
    out.mean_itl_ms = figure(call.mean_itl);
    out.p95_itl_ms = figure(call.p95_itl);
    assert_eq!(unsafe { tj_record(store, &out, null_mut()) }, 0);
}

fn open() -> *mut tj_store {
    let mut store = null_mut();
    assert_eq!(unsafe { tj_store_open(c":memory:".as_ptr(), std::ptr::null(), &mut store, null_mut()) }, 0);
    store
}

fn query() -> tj_query {
    let mut query: tj_query = unsafe { std::mem::zeroed() };
    unsafe { tj_query_init(&mut query) };
    query
}

fn close_to(got: f64, expected: f64, relative: f64, what: &str) {
    if expected.is_nan() {
        assert!(got.is_nan(), "{what}: {got}, expected NAN");
    } else {
        assert!((got - expected).abs() <= relative * expected.abs(), "{what}: {got}, expected {expected}");
    }
}

/// The exact percentile: linear interpolation between closest ranks, as numpy's default.
fn percentile(sorted: &[f64], q: f64) -> f64 {
    let rank = q * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[rank.floor() as usize], sorted[rank.ceil() as usize]);
    low + (high - low) * rank.fract()
}

fn check_distribution(got: &tj_distribution, values: impl Iterator<Item = Option<f64>>, what: &str) {
    let mut values: Vec<f64> = values.flatten().collect();
    values.sort_by(f64::total_cmp);
    assert_eq!(got.count, values.len() as u64, "{what}.count");
    let nothing = values.is_empty();
    let or_nan = |value: f64| if nothing { f64::NAN } else { value };
    let at = |q| if nothing { f64::NAN } else { percentile(&values, q) };
    close_to(got.min, or_nan(values.first().copied().unwrap_or(0.0)), 0.0, &format!("{what}.min"));
    close_to(got.max, or_nan(values.last().copied().unwrap_or(0.0)), 0.0, &format!("{what}.max"));
    close_to(
        got.mean,
        or_nan(values.iter().sum::<f64>() / values.len() as f64),
        1e-9,
        &format!("{what}.mean"),
    );
    close_to(got.p50, at(0.5), 0.01, &format!("{what}.p50"));
    close_to(got.p90, at(0.9), 0.01, &format!("{what}.p90"));
    close_to(got.p95, at(0.95), 0.01, &format!("{what}.p95"));
    close_to(got.p99, at(0.99), 0.01, &format!("{what}.p99"));
}

fn sum(values: impl Iterator<Item = Option<f64>>) -> f64 {
    values.flatten().sum()
}

/// The mean over those that measured; 0.0 over nothing.
fn mean(values: impl Iterator<Item = Option<f64>>) -> f64 {
    let values: Vec<f64> = values.flatten().collect();
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

fn tokens(values: impl Iterator<Item = Option<u64>>) -> u64 {
    values.flatten().sum()
}

fn check_group(got: &tj_model_stats, calls: &[&Call], what: &str) {
    let with_outcome = |outcome| calls.iter().filter(|call| call.outcome == outcome).count() as u64;
    assert_eq!(got.call_count, calls.len() as u64, "{what}");
    assert_eq!(got.prompt_tokens, tokens(calls.iter().map(|c| c.prompt)), "{what}");
    assert_eq!(got.completion_tokens, tokens(calls.iter().map(|c| c.completion)), "{what}");
    assert_eq!(got.total_tokens, got.prompt_tokens + got.completion_tokens, "{what}");
    assert_eq!(got.cached_tokens, tokens(calls.iter().map(|c| c.cached)), "{what}");
    assert_eq!(
        (got.error_count, got.cancelled_count, got.interrupted_count),
        (with_outcome(1), with_outcome(2), with_outcome(4)),
        "{what}"
    );
    let figures: [(&str, f64, f64); 14] = [
        ("total_latency", got.total_latency, sum(calls.iter().map(|c| c.latency))),
        ("avg_latency", got.avg_latency, mean(calls.iter().map(|c| c.latency))),
        ("total_cost", got.total_cost, sum(calls.iter().map(|c| c.cost))),
        ("avg_ttft", got.avg_ttft, mean(calls.iter().map(|c| c.ttft))),
        ("total_energy_joules", got.total_energy_joules, sum(calls.iter().map(|c| c.energy))),
        ("avg_gpu_utilization_pct", got.avg_gpu_utilization_pct, mean(calls.iter().map(|c| c.utilization))),
        ("avg_throughput", got.avg_throughput_tok_per_sec, mean(calls.iter().map(|c| c.throughput))),
        ("prefill_energy", got.total_prefill_energy_joules, sum(calls.iter().map(|c| c.prefill_energy))),
        ("decode_energy", got.total_decode_energy_joules, 0.0),
        ("avg_mean_itl_ms", got.avg_mean_itl_ms, mean(calls.iter().map(|c| c.mean_itl))),
        ("avg_median_itl_ms", got.avg_median_itl_ms, 0.0),
        ("avg_p95_itl_ms", got.avg_p95_itl_ms, mean(calls.iter().map(|c| c.p95_itl))),
        ("avg_tokens_per_joule", got.avg_tokens_per_joule, 0.0),
        ("avg_throughput_per_watt", got.avg_throughput_per_watt, 0.0),
    ];
    for (name, got, expected) in figures {
        close_to(got, expected, 1e-9, &format!("{what}: {name}"));
    }
    check_distribution(&got.latency, calls.iter().map(|c| c.latency), &format!("{what}: latency"));
    check_distribution(&got.ttft, calls.iter().map(|c| c.ttft), &format!("{what}: ttft"));
    check_distribution(&got.itl_ms, std::iter::empty(), &format!("{what}: itl_ms")); // no call was instrumented
    assert_eq!(got.reserved, [0; 16]);
}

/// The statistics of an engine as those of a model: the structs differ in the name of their first field.
fn check_groups<'a>(
    got: impl Iterator<Item = (String, tj_model_stats)>,
    calls: &[&'a Call],
    name: impl Fn(&'a Call) -> &'a str,
    limit: usize,
) {
    let mut groups: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
    calls.iter().for_each(|call| groups.entry(name(call)).or_default().push(call));
    let mut expected: Vec<_> = groups.into_iter().collect(); // by name, and a stable sort keeps that
    expected.sort_by_key(|(_, calls)| std::cmp::Reverse(calls.len()));
    expected.truncate(if limit == 0 { usize::MAX } else { limit });

    let got: Vec<_> = got.collect();
    let names =
        |list: &[(&str, Vec<&Call>)]| list.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>();
    assert_eq!(got.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), names(&expected));
    for ((name, stats), (_, calls)) in got.iter().zip(&expected) {
        check_group(stats, calls, name);
    }
}

fn check(store: *mut tj_store, query: &tj_query, calls: &[Call], selects: impl Fn(&Call) -> bool) -> usize {
    let mut stats: tj_aggregated_stats = unsafe { std::mem::zeroed() };
    unsafe { tj_aggregated_stats_init(&mut stats) };
    assert_eq!(unsafe { tj_aggregate(store, query, &mut stats, null_mut()) }, 0);

    let selected: Vec<&Call> = calls.iter().filter(|call| selects(call)).collect();
    assert_eq!(stats.total_calls, selected.len() as u64);
    assert_eq!(stats.error_count, selected.iter().filter(|call| call.outcome == 1).count() as u64);
    close_to(stats.total_cost, sum(selected.iter().map(|c| c.cost)), 1e-9, "total_cost");
    close_to(
        stats.avg_gpu_utilization_pct,
        mean(selected.iter().map(|c| c.utilization)),
        1e-9,
        "utilization",
    );
    check_distribution(&stats.latency, selected.iter().map(|c| c.latency), "latency");
    check_distribution(&stats.ttft, selected.iter().map(|c| c.ttft), "ttft");

    let name = |name| unsafe { CStr::from_ptr(name) }.to_str().unwrap().to_owned();
    let limit = query.limit as usize;
    let models = (0..stats.per_model_count).map(|at| unsafe { *stats.per_model.add(at) });
    check_groups(models.map(|model| (name(model.model_id), model)), &selected, |call| &call.model, limit);
    let engines =
        (0..stats.per_engine_count).map(|at| unsafe { *stats.per_engine.add(at).cast::<tj_model_stats>() });
    check_groups(
        engines.map(|engine| (name(engine.model_id), engine)),
        &selected,
        |call| &call.engine,
        limit,
    );
    unsafe { tj_aggregated_stats_free(&mut stats) };
    selected.len()
}

#[test]
fn every_question_about_ten_thousand_records_has_the_independent_answer() {
    let calls = calls(10_000);
    let store = open();
    calls.iter().for_each(|call| record(store, call));
    let mut count = 0;
    assert_eq!(unsafe { tj_store_count(store, &mut count, null_mut()) }, 0);
    assert_eq!(count, 10_000);

    let mut answered = Vec::new();
    let mut ask = |set: &dyn Fn(&mut tj_query), selects: &dyn Fn(&Call) -> bool| {
        let mut query = query();
        set(&mut query);
        answered.push(check(store, &query, &calls, selects));
    };
    ask(&|_| (), &|_| true);

    // Ranges are half-open: the ends are timestamps of records, which lie on quarters of a second.
    let mut times: Vec<f64> = calls.iter().map(|call| call.time).collect();
    times.sort_by(f64::total_cmp);
    let (since, until) = (times[2_000], times[7_000]);
    ask(&|q| q.since = since, &|c| c.time >= since);
    ask(&|q| q.until = until, &|c| c.time < until);
    ask(&|q| (q.since, q.until) = (since, until), &|c| since <= c.time && c.time < until);
    ask(&|q| (q.since, q.until) = (since, since), &|_| false);
    ask(&|q| (q.since, q.until) = (until, since), &|_| false);
    ask(&|q| (q.since, q.until) = (since, since + 0.125), &|c| c.time == since);

    ask(&|q| q.model_id = c"model-03".as_ptr(), &|c| c.model == "model-03");
    ask(&|q| q.engine = c"vllm".as_ptr(), &|c| c.engine == "vllm");
    ask(&|q| q.engine = c"".as_ptr(), &|c| c.engine.is_empty());
    ask(&|q| q.engine = c"vll".as_ptr(), &|_| false);
    ask(&|q| q.agent = c"agent-1".as_ptr(), &|c| c.agent == "agent-1");
    ask(&|q| q.batch_id = c"batch-4".as_ptr(), &|c| c.batch == "batch-4");
    ask(&|q| q.exclude_warmup = 1, &|c| !c.warmup);
    ask(&|q| q.token_counting_version = 2, &|c| c.version == 2);
    ask(&|q| q.outcome_mask = 1 << 1 | 1 << 4, &|c| c.outcome == 1 || c.outcome == 4);
    ask(&|q| q.outcome_mask = 1, &|c| c.outcome == 0);
    ask(&|q| q.outcome_mask = u32::MAX, &|_| true);
    ask(&|q| q.limit = 3, &|_| true);
    ask(
        &|q| {
            (q.since, q.model_id, q.engine) = (since, c"model-01".as_ptr(), c"mlx".as_ptr());
            (q.exclude_warmup, q.outcome_mask, q.limit) = (1, 1, 1);
        },
        &|c| c.time >= since && c.model == "model-01" && c.engine == "mlx" && !c.warmup && c.outcome == 0,
    );
    // The questions were not all about everything or nothing.
    assert!(answered.iter().filter(|count| (1..10_000).contains(*count)).count() >= 12, "{answered:?}");
    assert_eq!(unsafe { tj_store_close(store, null_mut()) }, 0);
}

#[test]
fn an_empty_store_answers_nothing() {
    let store = open();
    assert_eq!(check(store, &query(), &[], |_| true), 0);
    assert_eq!(unsafe { tj_store_close(store, null_mut()) }, 0);
}
