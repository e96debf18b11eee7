//! The Python reference itself, from its package, and our store at the same database: each takes over what the other
//! made, reads and writes it at the same time, and gives the same answers.

#![recursion_limit = "256"] // json! goes one deeper for each of a call's many fields
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // calls the C door as C does

mod support;

#[path = "reference/compare.rs"]
mod compare;
#[path = "reference/ours.rs"]
mod ours;
#[path = "reference/process.rs"]
mod process;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use compare::{
    Compare, REFERENCE_COLUMNS, assert_agreement, assert_equal, assert_row, assert_rows, assert_same_answer,
};
use ours::Ours;
use process::Reference;
use serde_json::{Value, json};
use support::scratch;
use tokenjoule::ffi::query::tj_query;

const BEGIN: f64 = 1_750_000_000.0;
const MINUTE: f64 = 60.0;

/// The version with which the reference stamps what it counts today.
const CURRENT_METHOD: u32 = 2;

/// The n-th of many calls, one each minute, of which everything was measured: no figure is 0, and hardly one is a binary
/// fraction.
fn measured(n: u32) -> Value {
    let x = f64::from(n % 17) + 1.0;
    let (prompt, completion) = (100 + n % 29, 10 + n % 7);
    json!({
        "timestamp": BEGIN + MINUTE * f64::from(n), "model_id": (["llama", "phi", "qwen-3 ü"][n as usize % 3]),
        "engine": (["llama.cpp", "ollama"][n as usize / 2 % 2]), "agent": format!("agent-{}", n % 2),
        "prompt_tokens": prompt, "prompt_tokens_evaluated": prompt - 40, "completion_tokens": completion,
        "total_tokens": prompt + completion, "latency_seconds": 0.1 * x, "ttft": 0.03 * x, "cost_usd": 1e-5 * x,
        "energy_joules": 7.7 * x, "power_watts": 77.0 + x, "gpu_utilization_pct": 5.1 * x,
        "gpu_memory_used_gb": 11.3 + x, "gpu_temperature_c": 40.7 + x, "throughput_tok_per_sec": 33.3 + x,
        "prefill_latency_seconds": 0.03 * x, "decode_latency_seconds": 0.07 * x, "energy_method": "hw_counter",
        "energy_vendor": "nvidia", "batch_id": format!("batch-{}", n % 4), "is_warmup": n.is_multiple_of(5),
        "cpu_energy_joules": 2.3 * x, "gpu_energy_joules": 4.1 * x, "dram_energy_joules": 1.3 * x,
        "tokens_per_joule": 1.7 / x, "energy_per_output_token_joules": 0.6 * x, "throughput_per_watt": 0.9 / x,
        "prefill_energy_joules": 2.9 * x, "decode_energy_joules": 4.8 * x, "mean_itl_ms": 13.1 + x,
        "median_itl_ms": 12.9 + x, "p90_itl_ms": 17.3 + x, "p95_itl_ms": 18.1 + x, "p99_itl_ms": 19.9 + x,
        "std_itl_ms": 1.1 + x, "is_streaming": n.is_multiple_of(2), "token_counting_version": 1 + n % 2,
        "metadata": { "n": n, "note": "\"quoted\" ü" },
    })
}

/// The n-th call again, of which nothing was measured, and by a model of its own.
fn bare(n: u32) -> Value {
    json!({ "timestamp": BEGIN + MINUTE * f64::from(n), "model_id": "bare" })
}

/// What only the reference has. Its aggregator sums up the first two; ours does not know them.
fn with_its_own(mut call: Value) -> Value {
    call["ane_energy_joules"] = 0.7.into();
    call["soc_energy_joules"] = 9.1.into();
    call["energy_basis"] = "soc".into();
    call["mining_session_id"] = "session-1".into();
    call
}

fn database(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("telemetry.db")
}

fn columns(reference: &mut Reference) -> Vec<String> {
    let rows = reference.rows("SELECT name FROM pragma_table_info('telemetry')");
    rows.as_array().unwrap().iter().map(|row| row[0].as_str().unwrap().to_owned()).collect()
}

// ---- its database ---------------------------------------------------------------------------------------------------

#[test]
fn a_database_of_the_reference_is_taken_over_in_place_while_it_goes_on_recording() {
    let folder = scratch();
    let Some(mut reference) = Reference::at(&database(&folder)) else { return };
    let mining = json!({
        "provider_id": "p", "shares_submitted": 3, "shares_accepted": 2, "blocks_found": 1, "hashrate": 1.5,
        "uptime_seconds": 60.5, "last_share_at": BEGIN, "last_error": null, "payout_target": "solo", "fees_owed": 4,
    });
    let mut calls: Vec<Value> = (0..20).map(measured).map(with_its_own).collect();
    calls.extend((20..30).map(bare));
    reference.open(json!({ "batch_size": 7 }));
    reference.record(&calls);
    reference.run("record_mining_stats", json!({ "stats": mining }));

    let ours = Ours::open(&database(&folder));
    assert_eq!(ours.count(), 30);
    assert_agreement(&mut reference, &ours, Compare::Sums);
    assert_rows(&mut reference, &calls);
    let expected: Vec<&str> = REFERENCE_COLUMNS.split_whitespace().collect();
    let columns = columns(&mut reference);
    assert_eq!(columns[..expected.len()], expected, "what we added comes after its own");
    assert!(columns.len() > expected.len());

    // It never opened again: its connection is from before.
    let later: Vec<Value> = (30..40).map(measured).map(with_its_own).collect();
    reference.record(&later);
    reference.run("record_mining_stats", json!({ "stats": mining }));
    assert_eq!(ours.count(), 40);
    assert_agreement(&mut reference, &ours, Compare::Sums);
    calls.extend(later);
    assert_rows(&mut reference, &calls);
    let kept = "SELECT provider_id, shares_accepted, hashrate, last_error, fees_owed FROM mining_stats";
    assert_eq!(reference.rows(kept), json!([["p", 2, 1.5, null, 4], ["p", 2, 1.5, null, 4]]));
}

#[test]
fn the_same_question_about_its_rows_has_the_same_answer() {
    let folder = scratch();
    let Some(mut reference) = Reference::at(&database(&folder)) else { return };
    let calls: Vec<Value> = (0..500).map(measured).chain((500..600).map(bare)).collect();
    reference.open(json!({}));
    reference.record(&calls);
    let ours = Ours::open(&database(&folder));
    let mut same = |question: Value, select: &dyn Fn(&mut tj_query), compare| {
        assert_same_answer(&mut reference, question, &ours.aggregate(select), compare);
    };
    same(json!({}), &|_| (), Compare::Sums);

    // Where everything was measured, averages are the same, too. No call lies on the end of a range: see below.
    let all_measured = BEGIN + MINUTE * 499.5;
    same(json!({ "until": all_measured }), &|query| query.until = all_measured, Compare::All);
    let (since, until) = (BEGIN + MINUTE * 99.5, BEGIN + MINUTE * 301.25);
    let range = |query: &mut tj_query| (query.since, query.until) = (since, until);
    same(json!({ "since": since, "until": until }), &range, Compare::All);
    same(json!({ "since": since }), &|query| query.since = since, Compare::Sums);
    let current = json!({ "since": since, "until": until, "current_methodology_only": true });
    let range_of_current = |query: &mut tj_query| {
        range(query);
        query.token_counting_version = CURRENT_METHOD;
    };
    same(current, &range_of_current, Compare::All);
    same(json!({ "since": BEGIN * 2.0 }), &|query| query.since = BEGIN * 2.0, Compare::All);
}

/// The header: "averages and distributions are taken over the calls that measured the value". The reference takes them
/// over all calls, and so counts a call that nobody measured as one that took no time.
#[test]
fn averages_are_over_the_calls_that_measured_and_the_references_over_all() {
    let folder = scratch();
    let Some(mut reference) = Reference::at(&database(&folder)) else { return };
    let unmeasured = |n| json!({ "timestamp": BEGIN + f64::from(n), "model_id": "m", "engine": "e" });
    let timed = |n| {
        let mut call = unmeasured(n);
        (call["latency_seconds"], call["ttft"], call["throughput_tok_per_sec"]) =
            (2.0.into(), 0.5.into(), 8.0.into());
        call
    };
    reference.open(json!({}));
    reference.record(&(0..3).map(unmeasured).chain((3..4).map(timed)).collect::<Vec<_>>());
    let ours = Ours::open(&database(&folder));
    assert_agreement(&mut reference, &ours, Compare::Sums);
    let of_ours = &ours.everything().per_model[0].1;
    let of_theirs = &reference.ask("per_model_stats", json!({}))[0];
    for (figure, over_measured, over_all) in
        [("avg_latency", 2.0, 0.5), ("avg_ttft", 0.5, 0.125), ("avg_throughput_tok_per_sec", 8.0, 2.0)]
    {
        assert_eq!(
            (&of_ours[figure], &of_theirs[figure]),
            (&json!(over_measured), &json!(over_all)),
            "{figure}"
        );
    }
}

/// The header: "ranges are half-open, since <= t < until".
#[test]
fn a_call_at_the_end_of_a_range_is_outside_it_and_for_the_reference_inside() {
    let folder = scratch();
    let Some(mut reference) = Reference::at(&database(&folder)) else { return };
    reference.open(json!({}));
    reference.record(&(0..10).map(measured).collect::<Vec<_>>());
    let ours = Ours::open(&database(&folder));
    let (since, until) = (BEGIN + MINUTE * 3.0, BEGIN + MINUTE * 7.0);
    let of_ours = ours.aggregate(|query| (query.since, query.until) = (since, until));
    let of_theirs = reference.ask("summary", json!({ "since": since, "until": until }));
    assert_eq!((&of_ours.total["total_calls"], &of_theirs["total_calls"]), (&json!(4), &json!(5)));
}

// ---- our database ---------------------------------------------------------------------------------------------------

#[test]
fn the_reference_reads_every_field_of_our_records_in_its_column() {
    let folder = scratch();
    let ours = Ours::open(&database(&folder));
    let calls: Vec<Value> = (0..20).map(measured).chain((20..30).map(bare)).collect();
    calls.iter().for_each(|call| ours.record(call));
    ours.flush();
    let Some(mut reference) = Reference::at(&database(&folder)) else { return };
    // Its aggregator alone: the three columns that it has and we do not are not there.
    assert_rows(&mut reference, &calls);
    assert_agreement(&mut reference, &ours, Compare::Sums);
    // Its store adds them.
    reference.open(json!({}));
    assert_rows(&mut reference, &calls);
    assert!(columns(&mut reference).iter().any(|column| column == "soc_energy_joules"));
    assert_agreement(&mut reference, &ours, Compare::Sums);
}

#[test]
fn the_reference_records_into_our_database() {
    let folder = scratch();
    let ours = Ours::open(&database(&folder));
    let Some(mut reference) = Reference::at(&database(&folder)) else { return };
    reference.open(json!({}));
    let mut calls = Vec::new();
    for n in (0..60).step_by(2) {
        let (mine, its) = (measured(n), with_its_own(measured(n + 1)));
        ours.record(&mine);
        reference.record(std::slice::from_ref(&its));
        calls.extend([mine, its]);
        assert_eq!(ours.count(), calls.len() as u64);
    }
    ours.flush();
    assert_agreement(&mut reference, &ours, Compare::All);
    assert_rows(&mut reference, &calls);
    // What another program leaves in the columns that are ours is their default.
    let of_ours = "SELECT DISTINCT outcome, finish_reason, cached_tokens, queue_seconds, measured, token_gaps \
        FROM telemetry WHERE energy_basis = 'soc'";
    assert_eq!(reference.rows(of_ours), json!([[0, "", 0, 0.0, null, null]]));
}

#[test]
fn after_the_references_clear_there_is_nothing_and_everybody_goes_on() {
    let folder = scratch();
    let ours = Ours::open(&database(&folder));
    let Some(mut reference) = Reference::at(&database(&folder)) else { return };
    reference.open(json!({}));
    let fill = |reference: &mut Reference| {
        (0..50).for_each(|n| ours.record(&measured(n)));
        reference.record(&(50..100).map(measured).collect::<Vec<_>>());
        ours.flush();
        assert_eq!(ours.count(), 100);
        assert_agreement(reference, &ours, Compare::All);
    };
    fill(&mut reference);
    assert_eq!(reference.ask("clear", json!({})), 100);
    let nothing = ours.everything();
    assert_eq!((ours.count(), nothing.per_model.len(), nothing.per_engine.len()), (0, 0, 0));
    assert!(
        nothing.total.as_object().unwrap().values().all(|figure| figure.as_f64() == Some(0.0)),
        "{nothing:?}"
    );
    fill(&mut reference);

    // Somebody who wants a fresh start lets the ids begin again as well.
    reference.sql("DELETE FROM telemetry; DELETE FROM sqlite_sequence");
    assert_agreement(&mut reference, &ours, Compare::All);
    fill(&mut reference);
    assert_eq!(reference.rows("SELECT MIN(id), MAX(id) FROM telemetry"), json!([[1, 100]]));
}

#[test]
fn whatever_sql_does_to_the_rows_the_answers_are_about_what_is_there() {
    let folder = scratch();
    let ours = Ours::open(&database(&folder));
    let Some(mut reference) = Reference::at(&database(&folder)) else { return };
    reference.open(json!({}));
    (0..200).for_each(|n| ours.record(&measured(n)));
    ours.flush();
    reference.record(&(200..400).map(measured).collect::<Vec<_>>());

    // The reference reads its rows afresh for each question, so it is the judge.
    let (since, until) = (BEGIN + MINUTE * 50.5, BEGIN + MINUTE * 350.5);
    let still_agree = |reference: &mut Reference, after: &str| {
        println!("after: {after}");
        assert_agreement(reference, &ours, Compare::Sums);
        let range = ours.aggregate(|query| (query.since, query.until) = (since, until));
        assert_same_answer(reference, json!({ "since": since, "until": until }), &range, Compare::Sums);
    };
    still_agree(&mut reference, "nothing yet");
    for script in [
        "DELETE FROM telemetry WHERE id % 7 = 0",
        "DELETE FROM telemetry WHERE id = (SELECT MAX(id) FROM telemetry)",
        "UPDATE telemetry SET latency_seconds = 3.3, cost_usd = cost_usd * 2, total_tokens = 9 WHERE id % 3 = 0",
        "UPDATE telemetry SET model_id = 'renamed', engine = 'moved' WHERE id % 11 = 0",
        "UPDATE telemetry SET timestamp = timestamp + 12345.6 WHERE id % 5 = 0",
        "UPDATE telemetry SET id = id + 100000 WHERE id % 13 = 0",
        // The gaps are filled, in the middle of what was there.
        "INSERT INTO telemetry (id, timestamp, model_id, total_tokens) VALUES (7, 1750000001.5, 'late', 5)",
        // A row in place of another: by default SQLite runs no trigger for the one that goes.
        "INSERT OR REPLACE INTO telemetry (id, timestamp, model_id, total_tokens) VALUES (8, 1750009e3, 'in place', 6)",
        "UPDATE OR REPLACE telemetry SET id = 9 WHERE id = 10",
        "BEGIN; DELETE FROM telemetry; ROLLBACK",
        "BEGIN; UPDATE telemetry SET cost_usd = 1.0 WHERE id < 50; DELETE FROM telemetry WHERE id < 20; COMMIT",
        "DELETE FROM telemetry WHERE model_id = 'llama'",
        "VACUUM",
        "CREATE TABLE other (x); INSERT INTO other VALUES (1); DROP TABLE other",
    ] {
        reference.sql(script);
        still_agree(&mut reference, script);
        ours.record(&measured(500));
        ours.flush();
        reference.record(&[measured(501)]);
        still_agree(&mut reference, &format!("{script}, and two records"));
    }
}

// ---- both -----------------------------------------------------------------------------------------------------------

#[test]
fn everybody_records_and_asks_at_the_same_time_and_nothing_is_lost() {
    const ITS: u32 = 1000;
    const THREADS: u32 = 2;
    const EACH: u32 = 1000;
    const TOTAL: u32 = ITS + THREADS * EACH;
    let pause = Duration::from_millis(2); // so that they are at it together for some seconds
    let folder = scratch();
    let Some(mut recorder) = Reference::at(&database(&folder)) else { return };
    let Some(mut poller) = Reference::at(&database(&folder)) else { return };
    let ours = Ours::open(&database(&folder));
    recorder.open(json!({ "batch_size": 3, "flush_interval_seconds": 0.05 }));

    let calls: Vec<Value> = (0..ITS).map(measured).collect();
    recorder.begin("record", json!({ "calls": calls, "pause": pause.as_secs_f64() }));
    poller.begin("poll", json!({ "until": TOTAL }));
    thread::scope(|scope| {
        for number in 0..THREADS {
            let ours = &ours;
            scope.spawn(move || {
                let first = ITS + number * EACH;
                (first..first + EACH).for_each(|n| {
                    ours.record(&measured(n));
                    thread::sleep(pause);
                });
            });
        }
        let mut before = 0;
        while before < u64::from(TOTAL) {
            let now = ours.everything().total["total_calls"].as_u64().unwrap();
            assert!(before <= now && now <= u64::from(TOTAL), "{before} records, then {now}");
            before = now;
            thread::sleep(5 * pause);
        }
    });
    recorder.end();
    let polled: Vec<u64> =
        poller.end().as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).collect();
    assert!(polled.is_sorted() && polled.last() == Some(&TOTAL.into()), "{polled:?}");
    assert!(polled.iter().any(|count| (1..u64::from(TOTAL)).contains(count)), "it only looked afterwards");

    let health = ours.health();
    assert_eq!((health.recorded, health.committed), (u64::from(THREADS * EACH), u64::from(THREADS * EACH)));
    assert_eq!(health.failed + health.failures_busy + health.failures_other, 0);
    assert_agreement(&mut poller, &ours, Compare::All);
    let all: Vec<Value> = (0..TOTAL).map(measured).collect();
    assert_rows(&mut poller, &all);
}

/// The table as the reference's first version made it; later ones added columns at its end. It is in WAL mode already:
/// where two programs switch to that at the same moment, SQLite lets one fail at once. We try again; the reference does
/// not, and fails so against itself as well.
const FIRST_VERSION: &str = "
    PRAGMA journal_mode = WAL;
    CREATE TABLE telemetry (
        id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp REAL NOT NULL, model_id TEXT NOT NULL,
        engine TEXT NOT NULL DEFAULT '', agent TEXT NOT NULL DEFAULT '', prompt_tokens INTEGER NOT NULL DEFAULT 0,
        completion_tokens INTEGER NOT NULL DEFAULT 0, total_tokens INTEGER NOT NULL DEFAULT 0,
        latency_seconds REAL NOT NULL DEFAULT 0.0, ttft REAL NOT NULL DEFAULT 0.0,
        cost_usd REAL NOT NULL DEFAULT 0.0, energy_joules REAL NOT NULL DEFAULT 0.0,
        power_watts REAL NOT NULL DEFAULT 0.0, metadata TEXT NOT NULL DEFAULT '{}');
    INSERT INTO telemetry (timestamp, model_id, engine, prompt_tokens, completion_tokens, total_tokens, latency_seconds)
    VALUES (1.74e9, 'old', 'ollama', 10, 20, 30, 2.5), (1.74e9 + 1, 'old', 'ollama', 1, 2, 3, 1.25);";

/// What a later one added, up to 20 columns.
const TWENTY_COLUMNS: &str = "
    ALTER TABLE telemetry ADD COLUMN gpu_utilization_pct REAL NOT NULL DEFAULT 0.0;
    ALTER TABLE telemetry ADD COLUMN gpu_memory_used_gb REAL NOT NULL DEFAULT 0.0;
    ALTER TABLE telemetry ADD COLUMN gpu_temperature_c REAL NOT NULL DEFAULT 0.0;
    ALTER TABLE telemetry ADD COLUMN throughput_tok_per_sec REAL NOT NULL DEFAULT 0.0;
    ALTER TABLE telemetry ADD COLUMN prefill_latency_seconds REAL NOT NULL DEFAULT 0.0;
    ALTER TABLE telemetry ADD COLUMN decode_latency_seconds REAL NOT NULL DEFAULT 0.0;
    UPDATE telemetry SET throughput_tok_per_sec = 8.0;";

#[test]
fn an_older_database_of_the_references_is_migrated_by_whoever_comes_first() {
    let folder = scratch();
    let Some(mut reference) = Reference::at(&database(&folder)) else { return };
    let ages = [("14", FIRST_VERSION.to_owned()), ("20", format!("{FIRST_VERSION}{TWENTY_COLUMNS}"))];
    for (age, made_by) in ages {
        for first in ["ours", "the reference", "both"] {
            let path: &Path = &folder.path().join(format!("{age} columns, {first} first.db"));
            reference.go_to(path);
            reference.sql(&made_by);
            assert_eq!(columns(&mut reference).len().to_string(), age);
            let ours = match first {
                "ours" => {
                    let ours = Ours::open(path);
                    reference.open(json!({}));
                    ours
                }
                "the reference" => {
                    reference.open(json!({}));
                    Ours::open(path)
                }
                _ => {
                    reference.begin("open", json!({}));
                    let ours = Ours::open(path);
                    reference.end();
                    ours
                }
            };
            let (mine, its) = (measured(1), with_its_own(measured(2)));
            ours.record(&mine);
            ours.flush();
            reference.record(std::slice::from_ref(&its));

            let columns = columns(&mut reference);
            for column in REFERENCE_COLUMNS.split_whitespace().chain(["outcome", "measured", "token_gaps"]) {
                let times = columns.iter().filter(|name| *name == column).count();
                assert_eq!(times, 1, "{age} columns, {first} first: {column} in {columns:?}");
            }
            assert_eq!(ours.count(), 4);
            assert_agreement(&mut reference, &ours, Compare::Sums);
            let rows = reference.ask("export_records", json!({}));
            let old = json!({
                "timestamp": 1.74e9, "model_id": "old", "engine": "ollama", "prompt_tokens": 10,
                "completion_tokens": 20, "total_tokens": 30, "latency_seconds": 2.5,
                "throughput_tok_per_sec": if age == "20" { 8.0 } else { 0.0 },
            });
            assert_row(&rows[0], &old);
            assert_row(&rows[2], &mine);
            assert_row(&rows[3], &its);
        }
    }
}

#[test]
fn a_batch_is_what_the_reference_says_it_is() {
    let folder = scratch();
    let ours = Ours::open(&database(&folder));
    let Some(mut reference) = Reference::at(&database(&folder)) else { return };
    reference.open(json!({}));
    (0..100).chain(200..300).for_each(|n| ours.record(&measured(n)));
    ours.record(&bare(300)); // in no batch
    ours.flush();
    reference.record(&(100..200).map(measured).collect::<Vec<_>>());

    let (since, until) = (BEGIN + MINUTE * 50.5, BEGIN + MINUTE * 250.5);
    let range = json!({ "since": since, "until": until });
    for question in [json!({}), json!({ "exclude_warmup": true }), range] {
        let batches = reference.ask("per_batch_stats", question.clone());
        let batches = batches.as_array().unwrap();
        assert_eq!(batches.len(), 4);
        for batch in batches {
            let name = std::ffi::CString::new(batch["batch_id"].as_str().unwrap()).unwrap();
            let answer = ours.aggregate(|query| {
                query.batch_id = name.as_ptr();
                query.exclude_warmup = (question["exclude_warmup"] == true).into();
                query.since = question["since"].as_f64().unwrap_or(0.0);
                query.until = question["until"].as_f64().unwrap_or(0.0);
            });
            let what = batch["batch_id"].as_str().unwrap();
            assert_equal(&answer.total["total_calls"], &batch["total_requests"], what);
            assert_equal(&answer.total["total_tokens"], &batch["total_tokens"], what);
            assert_equal(&answer.total["total_energy_joules"], &batch["total_energy_joules"], what);
        }
    }
}
