//! How a record lies in a row of the table `telemetry`.

use rusqlite::types::{Null, ValueRef};
use rusqlite::{Row, Statement};

use crate::error::Result;
use crate::record::{Outcome, Record, UNKNOWN, bit, with_record_fields};
use crate::sketch::Sketch;

macro_rules! implement_insert {
    (texts: $($text:ident)*; counts: $($count:ident = $c:literal),*; levels: $($level:ident = $l:literal),*;
     extents: $($extent:ident = $e:literal),*; flags: $($flag:ident)*;) => {
        /// The statement that [`bind`] fills.
        pub(super) const INSERT: &str = concat!(
            "INSERT INTO telemetry (timestamp, token_counting_version, outcome, metadata, measured, token_gaps",
            $(", ", stringify!($text),)* $(", ", stringify!($count),)* $(", ", stringify!($level),)*
            $(", ", stringify!($extent),)* $(", ", stringify!($flag),)*
            ") VALUES (?, ?, ?, ?, ?, ?"
            $(, ", ?", implement_insert!(@nothing $text))* $(, ", ?", implement_insert!(@nothing $count))*
            $(, ", ?", implement_insert!(@nothing $level))* $(, ", ?", implement_insert!(@nothing $extent))*
            $(, ", ?", implement_insert!(@nothing $flag))*,
            ")"
        );

        /// Binds a settled record to [`INSERT`]. What was not measured is stored as 0, and its bit in `measured` is not
        /// set.
        pub(super) fn bind(insert: &mut Statement<'_>, record: &Record<'_>) -> rusqlite::Result<()> {
            let mut at = 0;
            let mut next = || {
                at += 1;
                at
            };
            insert.raw_bind_parameter(next(), record.timestamp)?;
            match record.token_counting_version {
                0 => insert.raw_bind_parameter(next(), Null)?,
                version => insert.raw_bind_parameter(next(), version)?,
            }
            insert.raw_bind_parameter(next(), record.outcome as u32)?;
            insert.raw_bind_parameter(next(), record.metadata_json)?;
            insert.raw_bind_parameter(next(), record.measured() as i64)?;
            insert.raw_bind_parameter(next(), record.token_gaps.map(Sketch::to_bytes))?;
            $(insert.raw_bind_parameter(next(), record.$text)?;)*
            $(insert.raw_bind_parameter(next(), if record.$count == UNKNOWN { 0 } else { record.$count as i64 })?;)*
            $(insert.raw_bind_parameter(next(), if record.$level.is_nan() { 0.0 } else { record.$level })?;)*
            $(insert.raw_bind_parameter(next(), if record.$extent.is_nan() { 0.0 } else { record.$extent })?;)*
            $(insert.raw_bind_parameter(next(), record.$flag)?;)*
            Ok(())
        }
    };
    (@nothing $name:ident) => { "" };
}
with_record_fields!(implement_insert);

macro_rules! implement_tallied {
    (counts: $($count:ident)*; figures: $($figure:ident)*;) => {
        /// The columns that a tally looks at, in the order in which [`tallied`] reads them; the first four are fixed.
        pub(super) const TALLIED: &[&str] = &[
            "model_id", "engine", "outcome", "measured", "token_gaps",
            $(stringify!($count),)* $(stringify!($figure),)*
        ];

        /// Hands `visit` the record in a row of [`TALLIED`], as far as a tally looks at it.
        pub(super) fn tallied(row: &Row<'_>, visit: impl FnOnce(&Record<'_>)) -> Result<()> {
            let gaps = match row.get_ref_unwrap(4) {
                ValueRef::Blob(bytes) => Some(Sketch::from_bytes(bytes)?),
                _ => None,
            };
            // In a row of the reference's, a figure that is not 0 was measured.
            let measured = match row.get_ref_unwrap(3) {
                ValueRef::Integer(bits) => bits as u64,
                _ => 0,
            };
            let mut at = 4;
            let mut next = || {
                at += 1;
                row.get_ref_unwrap(at)
            };
            visit(&Record {
                model_id: text(row.get_ref_unwrap(0)),
                engine: text(row.get_ref_unwrap(1)),
                outcome: match row.get_ref_unwrap(2) {
                    ValueRef::Integer(number) => Outcome::from_number(number as u32).unwrap_or_default(),
                    _ => Outcome::Ok,
                },
                $($count: count(next()),)*
                $($figure: figure(next(), measured & bit::$figure != 0),)*
                token_gaps: gaps.as_ref(),
                ..Record::default()
            });
            Ok(())
        }
    };
}
implement_tallied! {
    counts: prompt_tokens prompt_tokens_evaluated completion_tokens total_tokens cached_tokens;
    figures: latency_seconds ttft cost_usd energy_joules gpu_utilization_pct throughput_tok_per_sec tokens_per_joule
             energy_per_output_token_joules throughput_per_watt prefill_energy_joules decode_energy_joules
             mean_itl_ms median_itl_ms p95_itl_ms;
}

fn text(value: ValueRef<'_>) -> &str {
    value.as_str().unwrap_or_default()
}

fn count(value: ValueRef<'_>) -> u64 {
    match value {
        ValueRef::Integer(count) => u64::try_from(count).unwrap_or(0),
        ValueRef::Real(count) => count as u64, // saturates, and takes a negative for 0
        _ => 0,
    }
}

fn figure(value: ValueRef<'_>, is_measured: bool) -> f64 {
    let figure = match value {
        ValueRef::Real(figure) => figure,
        ValueRef::Integer(figure) => figure as f64,
        _ => return f64::NAN,
    };
    if figure.is_finite() && (is_measured || figure != 0.0) { figure } else { f64::NAN }
}
