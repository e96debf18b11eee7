//! The rollups equal the rows: whatever anybody does to the database, every answer is the one that a scan of the table
//! gives (counts exactly, sums to 1e-9, percentiles to 1 %).

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::Connection;
use tokenjoule::record::{Outcome, Record};
use tokenjoule::sketch::{Gaps, Sketch};
use tokenjoule::stats::{Aggregate, Distribution, Statistics};
use tokenjoule::store::{Query, Store, StoreOptions};

mod support;
use support::random::Random;
use support::scratch;

const MODELS: [&str; 4] = ["tiny", "small", "größe", "x"];
const ENGINES: [&str; 3] = ["", "llama.cpp", "vllm"];
const AGENTS: [&str; 3] = ["", "a", "b"];

/// 2026-03-29 01:00 UTC, when Europe's clocks go forward, and the turn of the year 2025.
const DST: f64 = 1_774_746_000.0;
const NEW_YEAR: f64 = 1_767_225_600.0;

fn time(random: &mut Random) -> f64 {
    match random.below(20) {
        0 => random.unit() * 90.0,                         // 1970
        1 => 253_402_300_800.0 + random.unit() * 1e9,      // after the year 10,000
        2 => 2f64.powi(43) - 60.0 + random.unit() * 120.0, // the end of the rollups' time
        3 => 1e300,
        4 => NEW_YEAR + (random.unit() - 0.5) * 7200.0,
        5 => DST + (random.unit() - 0.5) * 7200.0,
        6 => DST + 60.0 * random.below(100) as f64, // exactly at a minute
        7 => f64::from_bits((DST + 60.0 * random.below(10) as f64).to_bits() - 1), // just before one
        8..12 => DST + random.unit() * 120.0,       // crowded minutes
        12..16 => DST + random.unit() * 86_400.0 * 3.0,
        _ => DST - random.unit() * 86_400.0 * 200.0,
    }
}

/// Mostly measured, over several powers of ten; now and then nothing, 0 or NaN.
fn figure(random: &mut Random) -> f64 {
    match random.below(10) {
        0 => f64::NAN,
        1 => 0.0,
        _ => (random.unit() * 12.0 - 6.0).exp(),
    }
}

fn record(store: &Store, random: &mut Random) {
    let mut gaps = Sketch::new();
    if random.one_in(3) {
        (0..1 + random.below(40)).for_each(|_| gaps.add((random.unit() * 6.0).exp(), 1 + random.below(3)));
    }
    let batch = random.pick(&["", "", "one", "two"]);
    store
        .record(&Record {
            timestamp: time(random),
            model_id: random.pick(&MODELS),
            engine: random.pick(&ENGINES),
            agent: random.pick(&AGENTS),
            batch_id: batch,
            is_warmup: random.one_in(5),
            token_counting_version: random.below(3) as u32,
            outcome: if random.one_in(3) { random.pick(&Outcome::ALL) } else { Outcome::Ok },
            prompt_tokens: random.below(1000),
            completion_tokens: random.below(5),
            latency_seconds: figure(random),
            ttft: figure(random),
            cost_usd: figure(random),
            energy_joules: figure(random),
            throughput_tok_per_sec: figure(random),
            mean_itl_ms: figure(random),
            token_gaps: if gaps.count() > 0 { Gaps::Counted(&gaps) } else { Gaps::Unknown },
            ..Record::default()
        })
        .unwrap();
}

/// A row as the test reads it, without a thought for rollups.
#[derive(Clone)]
struct Row {
    model: String,
    engine: String,
    outcome: i64,
    prompt: i64,
    output: i64,
    latency: f64,
    ttft: f64,
    cost: f64,
    energy: f64,
    gaps: Option<Vec<u8>>,
}

/// The rows that a query selects, found by SQL.
fn rows(foreign: &Connection, query: &Query<'_>) -> Vec<Row> {
    let mut sql = "SELECT model_id, engine, outcome, prompt_tokens, completion_tokens, latency_seconds, ttft, cost_usd, \
                   energy_joules, token_gaps, measured FROM telemetry WHERE 1"
        .to_owned();
    if query.since > 0.0 {
        sql += &format!(" AND timestamp >= {:e}", query.since);
    }
    if query.until > 0.0 {
        sql += &format!(" AND timestamp < {:e}", query.until);
    }
    for (column, wanted) in [
        ("model_id", query.model_id),
        ("engine", query.engine),
        ("agent", query.agent),
        ("batch_id", query.batch_id),
    ] {
        if let Some(wanted) = wanted {
            sql += &format!(" AND {column} = '{wanted}'");
        }
    }
    if query.exclude_warmup {
        sql += " AND is_warmup = 0";
    }
    if query.token_counting_version != 0 {
        sql += &format!(" AND token_counting_version = {}", query.token_counting_version);
    }
    if query.outcome_mask != 0 {
        sql += &format!(" AND (1 << outcome) & {}", query.outcome_mask);
    }
    let mut statement = foreign.prepare(&sql).unwrap();
    let read = |row: &rusqlite::Row<'_>| {
        // Bits of the column `measured` (record.rs); without one, what is not 0 was measured.
        let measured = row.get::<_, Option<i64>>(10)?.unwrap_or(0);
        let figure = |at: usize, bit: i64| -> rusqlite::Result<f64> {
            let figure: f64 = row.get(at)?;
            Ok(if measured >> bit & 1 == 1 || figure != 0.0 { figure } else { f64::NAN })
        };
        Ok(Row {
            model: row.get(0)?,
            engine: row.get(1)?,
            outcome: row.get(2)?,
            prompt: row.get(3)?,
            output: row.get(4)?,
            latency: figure(5, 16)?,
            ttft: figure(6, 17)?,
            cost: figure(7, 8)?,
            energy: figure(8, 18)?,
            gaps: row.get(9)?,
        })
    };
    statement.query_map([], read).unwrap().map(Result::unwrap).collect()
}

fn close_to(got: f64, expected: f64, relative: f64, what: &str) {
    if expected.is_nan() {
        assert!(got.is_nan(), "{what}: {got}, expected NAN");
    } else {
        assert!((got - expected).abs() <= relative * expected.abs(), "{what}: {got}, expected {expected}");
    }
}

fn distribution(got: &Distribution, values: impl Iterator<Item = f64>, what: &str) {
    let mut sorted: Vec<f64> = values.filter(|value| !value.is_nan()).collect();
    sorted.sort_by(f64::total_cmp);
    assert_eq!(got.count, sorted.len() as u64, "{what}: count");
    let Some(last) = sorted.last() else {
        return assert!(got.mean.is_nan() && got.p50.is_nan() && got.min.is_nan(), "{what}: of nothing");
    };
    assert_eq!((got.min, got.max), (sorted[0], *last), "{what}: ends");
    close_to(got.mean, sorted.iter().sum::<f64>() / sorted.len() as f64, 1e-9, what);
    for (got, q) in [(got.p50, 0.5), (got.p90, 0.9), (got.p95, 0.95), (got.p99, 0.99)] {
        let rank = q * (sorted.len() - 1) as f64;
        let (low, high) = (sorted[rank.floor() as usize], sorted[rank.ceil() as usize]);
        close_to(got, low + (high - low) * rank.fract(), 0.01, what);
    }
}

fn compare(got: &Statistics, rows: &[&Row], what: &str) {
    let number = |of: fn(&Row) -> i64| rows.iter().map(|row| of(row)).sum::<i64>() as u64;
    let sum = |of: fn(&Row) -> f64| rows.iter().map(|row| of(row)).filter(|it| !it.is_nan()).sum::<f64>();
    let ended = |outcome: Outcome| rows.iter().filter(|row| row.outcome == outcome as i64).count() as u64;
    assert_eq!(got.call_count, rows.len() as u64, "{what}: calls");
    assert_eq!(got.prompt_tokens, number(|row| row.prompt), "{what}: prompt tokens");
    assert_eq!(got.completion_tokens, number(|row| row.output), "{what}: output tokens");
    assert_eq!(got.error_count, ended(Outcome::Error), "{what}: errors");
    assert_eq!(got.cancelled_count, ended(Outcome::Cancelled), "{what}: cancelled");
    assert_eq!(got.interrupted_count, ended(Outcome::Interrupted), "{what}: interrupted");
    close_to(got.total_latency, sum(|row| row.latency), 1e-9, what);
    close_to(got.total_cost, sum(|row| row.cost), 1e-9, what);
    close_to(got.total_energy_joules, sum(|row| row.energy), 1e-9, what);
    distribution(&got.latency, rows.iter().map(|row| row.latency), what);
    distribution(&got.ttft, rows.iter().map(|row| row.ttft), what);
    let mut gaps = Sketch::new();
    for bytes in rows.iter().filter_map(|row| row.gaps.as_ref()) {
        gaps.merge(&Sketch::from_bytes(bytes).unwrap());
    }
    assert_eq!(got.itl_ms.count, gaps.count(), "{what}: gaps");
    let of_gaps = Distribution::from(&gaps);
    close_to(got.itl_ms.p95, of_gaps.p95, 1e-12, what);
    close_to(got.itl_ms.mean, of_gaps.mean, 1e-9, what);
}

fn compare_all(answer: &Aggregate, rows: &[Row], what: &str) {
    compare(&answer.total, &rows.iter().collect::<Vec<_>>(), what);
    for (list, name) in [
        (&answer.per_model, (|row| &row.model) as fn(&Row) -> &String),
        (&answer.per_engine, |row| &row.engine),
    ] {
        let mut groups: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
        rows.iter().for_each(|row| groups.entry(name(row)).or_default().push(row));
        assert_eq!(list.len(), groups.len(), "{what}: groups");
        for (group, got) in list {
            compare(got, &groups[group.as_str()], &format!("{what}, {group:?}"));
        }
    }
}

fn query(random: &mut Random) -> Query<'static> {
    let limit = |random: &mut Random| match random.below(4) {
        0 => 0.0,
        1 => (time(random) / 3600.0).floor() * 3600.0,
        2 => (time(random) / 60.0).floor() * 60.0,
        _ => time(random),
    };
    let maybe = |random: &mut Random, of: &[&'static str]| random.one_in(5).then(|| random.pick(of));
    Query {
        since: limit(random),
        until: limit(random),
        model_id: maybe(random, &MODELS),
        engine: maybe(random, &ENGINES),
        agent: maybe(random, &AGENTS),
        batch_id: if random.one_in(8) { Some("one") } else { None },
        exclude_warmup: random.one_in(4),
        token_counting_version: if random.one_in(5) { 1 } else { 0 },
        outcome_mask: if random.one_in(5) { 1 + random.below(31) as u32 } else { 0 },
        ..Query::default()
    }
}

fn open(path: &str) -> Arc<Store> {
    Store::open(path, &StoreOptions::default()).unwrap()
}

/// What another program does to the table.
fn meddle(foreign: &Connection, random: &mut Random) {
    let row = |random: &mut Random| {
        format!(
            "({:e}, '{}', '{}', {}, {:e})",
            time(random),
            random.pick(&MODELS),
            random.pick(&ENGINES),
            random.below(100),
            random.unit()
        )
    };
    let columns = "timestamp, model_id, engine, prompt_tokens, latency_seconds";
    let some = format!("id % {} = {}", 3 + random.below(40), random.below(3));
    let sql = match random.below(9) {
        0 | 1 => {
            let rows: Vec<String> = (0..1 + random.below(60)).map(|_| row(random)).collect();
            format!("INSERT INTO telemetry ({columns}) VALUES {}", rows.join(", "))
        }
        2 => format!("DELETE FROM telemetry WHERE {some}"),
        3 => format!("UPDATE telemetry SET latency_seconds = 0.5, model_id = 'x' WHERE {some}"),
        4 => format!("UPDATE telemetry SET timestamp = {:e} WHERE {some}", time(random)),
        5 => format!("UPDATE OR ABORT telemetry SET prompt_tokens = 7 WHERE {some}"),
        // Takes the place of a row, below the reach.
        6 => format!(
            "INSERT OR REPLACE INTO telemetry (id, {columns}) \
             SELECT (SELECT 1 + ifnull(max(id), 0) / 2 FROM telemetry), * FROM (VALUES {})",
            row(random)
        ),
        7 => format!("DELETE FROM telemetry WHERE timestamp > {:e}", time(random)),
        _ => {
            "UPDATE telemetry SET id = id + 1000000 WHERE id = (SELECT max(id) / 3 FROM telemetry)".to_owned()
        }
    };
    foreign.execute_batch(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

fn play(seed: u64, rounds: usize) {
    let mut random = Random::new(seed);
    let folder = scratch();
    let path = folder.path().join("telemetry.db");
    let path = path.to_str().unwrap();
    let mut store = open(path);
    let foreign = Connection::open(path).unwrap();
    foreign.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
    for round in 0..rounds {
        let what = format!("seed {seed}, round {round}");
        match random.below(10) {
            0..5 => (0..random.below(900)).for_each(|_| record(&store, &mut random)),
            5..7 => {
                store.flush().unwrap();
                meddle(&foreign, &mut random);
            }
            7 => {
                store.fold(|_, _| true).unwrap();
            }
            8 if random.one_in(2) => {
                let before = time(&mut random).min(DST + 86_400.0);
                store.flush().unwrap();
                let count = "SELECT count(*) FROM telemetry WHERE timestamp < ?";
                let expected: i64 = foreign.query_row(count, [before], |row| row.get(0)).unwrap();
                assert_eq!(store.prune(before).unwrap(), expected as u64, "{what}");
            }
            8 => {
                store.close().unwrap();
                store = open(path);
            }
            _ if random.one_in(6) => {
                store.clear().unwrap();
            }
            _ => (),
        }
        for _ in 0..4 {
            let query = query(&mut random);
            let answer = store.aggregate(&query).unwrap();
            compare_all(&answer, &rows(&foreign, &query), &format!("{what}, {query:?}"));
        }
        let everything = Query::default();
        compare_all(&store.aggregate(&everything).unwrap(), &rows(&foreign, &everything), &what);
        let differences = store.verify(|difference| panic!("{what}: {difference:?}")).unwrap();
        assert_eq!(differences, 0);
    }
}

#[test]
fn whatever_happens_to_the_rows_every_answer_is_a_scans() {
    for seed in 1..=5 {
        play(seed, 40);
    }
}
