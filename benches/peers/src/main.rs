//! What TokenJoule is measured against, in Rust. Prints JSON, which benches/run.py reads.
//!
//! ```text
//! peers plain LIKE DATABASE ROWS    rows inserted with rusqlite, and nothing else
//! peers span TIMES                  spans of the OpenTelemetry SDK
//! ```

use std::error::Error;
use std::time::Instant;

use opentelemetry::KeyValue;
use opentelemetry::trace::{Span, Tracer, TracerProvider};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use rusqlite::Connection;
use rusqlite::types::Value;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["plain", like, database, rows] => plain(like, database, rows.parse()?)?,
        ["span", times] => span(times.parse()?)?,
        _ => return Err("usage: peers plain LIKE DATABASE ROWS | span TIMES".into()),
    }
    Ok(())
}

/// The reference's columns behind the id; they come first in our table, too.
const COLUMNS: usize = 41;
/// How many different rows there are: so few that reading them costs nothing.
const ROWS: i64 = 100;
/// Rows of one transaction.
const BATCH: usize = 1000;

/// Inserts rows like those in `like`, a database of ours, into a table with the reference's columns and no index.
fn plain(like: &str, database: &str, count: usize) -> rusqlite::Result<()> {
    let like = Connection::open(like)?;
    let columns = like
        .prepare(
            "SELECT name || ' ' || type || iif(\"notnull\", ' NOT NULL', '')
             FROM pragma_table_info('telemetry') WHERE cid > 0",
        )?
        .query_map([], |row| row.get(0))?
        .take(COLUMNS)
        .collect::<rusqlite::Result<Vec<String>>>()?;
    let rows = like
        .prepare("SELECT * FROM telemetry LIMIT ?")?
        .query_map([ROWS], |row| (1..=COLUMNS).map(|column| row.get(column)).collect())?
        .collect::<rusqlite::Result<Vec<Vec<Value>>>>()?;

    let connection = Connection::open(database)?;
    connection.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
         CREATE TABLE telemetry (id INTEGER PRIMARY KEY AUTOINCREMENT, {})",
        columns.join(", ")
    ))?;
    let sql = format!("INSERT INTO telemetry VALUES (NULL{})", ", ?".repeat(COLUMNS));
    let mut insert = connection.prepare(&sql)?;
    let begin = Instant::now();
    let mut rows = rows.iter().cycle();
    for done in (0..count).step_by(BATCH) {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        for row in rows.by_ref().take(BATCH.min(count - done)) {
            for (at, value) in row.iter().enumerate() {
                insert.raw_bind_parameter(at + 1, value)?;
            }
            insert.raw_execute()?;
        }
        connection.execute_batch("COMMIT")?;
    }
    println!("{{\"what\": \"plain\", \"per_second\": {:.0}}}", count as f64 / begin.elapsed().as_secs_f64());
    Ok(())
}

/// Drops everything.
#[derive(Debug)]
struct Nowhere;

impl SpanExporter for Nowhere {
    async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
        Ok(())
    }
}

/// Starts and ends spans with 20 attributes. Empties the batch processor's queue before it is full: no span is dropped.
fn span(times: usize) -> Result<(), Box<dyn Error>> {
    let provider = SdkTracerProvider::builder().with_batch_exporter(Nowhere).build();
    let tracer = provider.tracer("bench");
    let mut took = Vec::with_capacity(times);
    for i in 0..times {
        if i % 512 == 0 {
            provider.force_flush()?;
        }
        let begin = Instant::now();
        tracer.span_builder("chat").with_attributes(attributes(i as i64)).start(&tracer).end();
        took.push(begin.elapsed().as_nanos());
    }
    provider.shutdown()?;
    took.sort_unstable();
    let (median, p99, p999) = (took[times / 2], took[times * 99 / 100], took[times * 999 / 1000]);
    println!("{{\"what\": \"span\", \"median_ns\": {median}, \"p99_ns\": {p99}, \"p999_ns\": {p999}}}");
    Ok(())
}

/// What of a call the semantic conventions have a place for, and the rest under names of ours.
fn attributes(i: i64) -> [KeyValue; 20] {
    let figure = i as f64;
    [
        KeyValue::new("gen_ai.operation.name", "chat"),
        KeyValue::new("gen_ai.request.model", "model-00"),
        KeyValue::new("gen_ai.provider.name", "llama.cpp"),
        KeyValue::new("gen_ai.agent.name", "bench"),
        KeyValue::new("gen_ai.usage.input_tokens", i),
        KeyValue::new("gen_ai.usage.output_tokens", i),
        KeyValue::new("energy.method", "hw_counter"),
        KeyValue::new("energy.vendor", "nvidia"),
        KeyValue::new("latency", figure),
        KeyValue::new("ttft", figure),
        KeyValue::new("cost", figure),
        KeyValue::new("energy", figure),
        KeyValue::new("power", figure),
        KeyValue::new("gpu.utilization", figure),
        KeyValue::new("gpu.memory", figure),
        KeyValue::new("gpu.temperature", figure),
        KeyValue::new("throughput", figure),
        KeyValue::new("itl.mean", figure),
        KeyValue::new("itl.median", figure),
        KeyValue::new("itl.p95", figure),
    ]
}
