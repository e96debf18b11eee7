//! How a record lies in a row of the table `telemetry`.

use once_cell::race::OnceBox;
use rusqlite::types::{Null, Value, ValueRef};
use rusqlite::{CachedStatement, Connection, Statement};

use super::key::Key;
use super::schema::Columns;
use crate::record::{Outcome, Record, UNKNOWN, bit, with_record_fields};
use crate::sketch::Gaps;
use crate::stats::{Sample, with_tallied_fields};

/// The columns of ours that most records leave as they are by default: what an insertion does not bind it need not pay for.
macro_rules! with_rare_fields {
    ($visit:ident) => {
        $visit! {
            texts: operation finish_reason error_type request_id session_id trace_id span_id;
            counts: cached_tokens reasoning_tokens draft_tokens draft_accepted_tokens;
            levels: queue_seconds;
        }
    };
}

macro_rules! implement_rare {
    (texts: $($text:ident)*; counts: $($count:ident)*; levels: $($level:ident)*;) => {
        const RARE: &[&str] = &[$(stringify!($text),)* $(stringify!($count),)* $(stringify!($level),)*];

        /// `RARE.contains`, when compiling.
        const fn is_rare(name: &str) -> bool {
            let mut at = 0;
            while at < RARE.len() {
                let (rare, name) = (RARE[at].as_bytes(), name.as_bytes());
                let mut same = 0;
                while same < name.len() && same < rare.len() && name[same] == rare[same] {
                    same += 1;
                }
                if same == name.len() && same == rare.len() {
                    return true;
                }
                at += 1;
            }
            false
        }

        fn has_rare(record: &Record<'_>) -> bool {
            false $(|| !record.$text.is_empty())*
                $(|| !matches!(record.$count, 0 | UNKNOWN))*
                $(|| record.$level > 0.0)*
        }
    };
}
with_rare_fields!(implement_rare);

macro_rules! implement_insert {
    (texts: $($text:ident)*; counts: $($count:ident = $c:literal),*; levels: $($level:ident = $l:literal),*;
     extents: $($extent:ident = $e:literal),*; flags: $($flag:ident)*;) => {
        /// The columns in the order in which they are bound.
        const WRITTEN: &[&str] = &[
            "timestamp", "token_counting_version", "outcome", "metadata", "measured", "token_gaps",
            $(stringify!($text),)* $(stringify!($count),)* $(stringify!($level),)* $(stringify!($extent),)*
            $(stringify!($flag),)*
        ];

        fn bind(insert: &mut Statement<'_>, record: &Record<'_>, with_rare: bool) -> rusqlite::Result<()> {
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
            record.token_gaps.with_bytes(|gaps| insert.raw_bind_parameter(next(), gaps))?;
            // What was not measured is stored as 0, and its bit in `measured` is not set.
            let count = |count: u64| if count == UNKNOWN { 0 } else { count as i64 };
            let figure = |figure: f64| if figure.is_nan() { 0.0 } else { figure };
            $(if with_rare || const { !is_rare(stringify!($text)) } { insert.raw_bind_parameter(next(), record.$text)?; })*
            $(if with_rare || const { !is_rare(stringify!($count)) } { insert.raw_bind_parameter(next(), count(record.$count))?; })*
            $(if with_rare || const { !is_rare(stringify!($level)) } { insert.raw_bind_parameter(next(), figure(record.$level))?; })*
            $(if with_rare || const { !is_rare(stringify!($extent)) } { insert.raw_bind_parameter(next(), figure(record.$extent))?; })*
            $(if with_rare || const { !is_rare(stringify!($flag)) } { insert.raw_bind_parameter(next(), record.$flag)?; })*
            Ok(())
        }
    };
}
with_record_fields!(implement_insert);

/// Inserts settled records, one by one.
pub(super) struct Inserting<'c> {
    whole: CachedStatement<'c>,
    /// Without the rare columns.
    short: CachedStatement<'c>,
}

impl<'c> Inserting<'c> {
    pub(super) fn new(connection: &'c Connection) -> rusqlite::Result<Self> {
        let (whole, short) = insert_sql();
        Ok(Inserting { whole: connection.prepare_cached(whole)?, short: connection.prepare_cached(short)? })
    }

    pub(super) fn insert(&mut self, record: &Record<'_>) -> rusqlite::Result<()> {
        let with_rare = has_rare(record);
        let statement = if with_rare { &mut self.whole } else { &mut self.short };
        bind(statement, record, with_rare)?;
        statement.raw_execute().map(drop)
    }
}

/// The statement that inserts all columns, and the one that leaves the rare ones out.
fn insert_sql() -> (&'static str, &'static str) {
    static SQL: OnceBox<(String, String)> = OnceBox::new();
    let (whole, short) = SQL.get_or_init(|| {
        let sql = |with_rare: bool| {
            let columns: Vec<&str> =
                WRITTEN.iter().copied().filter(|column| with_rare || !RARE.contains(column)).collect();
            let places = vec!["?"; columns.len()].join(", ");
            format!("INSERT INTO telemetry ({}) VALUES ({places})", columns.join(", "))
        };
        Box::new((sql(true), sql(false)))
    });
    (whole, short)
}

macro_rules! implement_reading {
    (counts: $($count:ident)*; means: $($mean:ident)*; sketches: $($sketch:ident)*;) => {
        /// The columns that [`Row`] reads, in its order.
        const READ: &[&str] = &[
            "id", "timestamp", "model_id", "engine", "agent", "is_warmup", "token_counting_version", "outcome",
            "measured", "token_gaps", $(stringify!($count),)* $(stringify!($mean),)* $(stringify!($sketch),)*
        ];
        /// The bits of the counts in `measured` ...
        const COUNT_BITS: &[u64] = &[$(bit::$count),*];
        /// ... and of the figures.
        const BITS: &[u64] = &[$(bit::$mean,)* $(bit::$sketch,)*];
    };
}
with_tallied_fields!(implement_reading);

/// A row of the table, as far as it is counted.
pub(super) struct Row<'r>(&'r rusqlite::Row<'r>);

impl<'r> Row<'r> {
    /// What to select; `columns`: those that the table has.
    pub(super) fn columns(columns: &Columns) -> String {
        let all: Vec<&str> = READ.iter().map(|column| columns.or_default(column, "NULL")).collect();
        all.join(", ")
    }

    /// A row of a selection of [`Row::columns`].
    pub(super) fn of(row: &'r rusqlite::Row<'r>) -> Self {
        Row(row)
    }

    pub(super) fn id(&self) -> i64 {
        integer(self.0.get_ref_unwrap(0))
    }

    /// The timestamp, in SQLite's order: what is no number comes after all numbers.
    pub(super) fn time(&self) -> f64 {
        match self.0.get_ref_unwrap(1) {
            ValueRef::Real(time) => time,
            ValueRef::Integer(time) => time as f64,
            ValueRef::Null => f64::NEG_INFINITY,
            _ => f64::INFINITY,
        }
    }

    pub(super) fn key(&self) -> Key<'r> {
        let row = self.0;
        let (model_id, engine) = self.names();
        Key {
            model_id,
            engine,
            agent: text(row.get_ref_unwrap(4)),
            is_warmup: integer(row.get_ref_unwrap(5)) != 0,
            token_counting_version: u32::try_from(integer(row.get_ref_unwrap(6))).unwrap_or(0),
            outcome: self.outcome(),
        }
    }

    /// Model and engine, where no more of the key is asked for.
    pub(super) fn names(&self) -> (&'r str, &'r str) {
        (text(self.0.get_ref_unwrap(2)), text(self.0.get_ref_unwrap(3)))
    }

    fn outcome(&self) -> Outcome {
        let outcome = u32::try_from(integer(self.0.get_ref_unwrap(7))).ok();
        outcome.and_then(Outcome::from_number).unwrap_or_default()
    }

    pub(super) fn sample(&self) -> Sample<'r> {
        let row = self.0;
        // In a row of the reference's, a figure that is not 0 was measured.
        let measured = integer(row.get_ref_unwrap(8)) as u64;
        let gaps = match row.get_ref_unwrap(9) {
            ValueRef::Blob(bytes) => Gaps::Kept(bytes),
            _ => Gaps::Unknown,
        };
        let mut sample = Sample { outcome: self.outcome(), gaps, ..Sample::default() };
        let mut columns = 10..;
        let mut next = || columns.next().map_or(ValueRef::Null, |at| row.get_ref_unwrap(at));
        for (mine, bit) in sample.counts.iter_mut().zip(COUNT_BITS) {
            *mine = count(next(), measured & bit != 0);
        }
        for (mine, bit) in sample.figures.iter_mut().zip(BITS) {
            *mine = figure(next(), measured & bit != 0);
        }
        sample
    }
}

macro_rules! implement_full {
    (texts: $($text:ident)*; counts: $($count:ident = $c:literal),*; levels: $($level:ident = $l:literal),*;
     extents: $($extent:ident = $e:literal),*; flags: $($flag:ident)*;) => {
        /// The columns of a whole record, behind those of [`Row`], in the order in which [`FullRow::record`] reads them.
        const FULL: &[&str] = &[
            "metadata", $(stringify!($text),)* $(stringify!($count),)* $(stringify!($level),)* $(stringify!($extent),)*
            $(stringify!($flag),)*
        ];

        impl<'r> FullRow<'r> {
            pub(super) fn record(&self) -> Record<'r> {
                let row = self.0.0;
                let mut columns = READ.len()..;
                let mut next = || columns.next().map_or(ValueRef::Null, |at| row.get_ref_unwrap(at));
                let measured = integer(row.get_ref_unwrap(8)) as u64;
                let has = |bit: u64| measured & bit != 0;
                let key = self.key();
                Record {
                    timestamp: self.0.time(),
                    metadata_json: text(next()),
                    $($text: text(next()),)*
                    $($count: count(next(), has(bit::$count)),)*
                    $($level: figure(next(), has(bit::$level)),)*
                    $($extent: figure(next(), has(bit::$extent)),)*
                    $($flag: integer(next()) != 0,)*
                    token_counting_version: key.token_counting_version,
                    outcome: key.outcome,
                    token_gaps: self.0.sample().gaps,
                }
            }
        }
    };
}
with_record_fields!(implement_full);

/// A row of the table with all that is recorded in it.
pub(super) struct FullRow<'r>(Row<'r>);

impl<'r> FullRow<'r> {
    /// What to select.
    pub(super) fn columns(columns: &Columns) -> String {
        let full: Vec<&str> = FULL.iter().map(|column| columns.or_default(column, "NULL")).collect();
        format!("{}, {}", Row::columns(columns), full.join(", "))
    }

    /// A row of a selection of [`FullRow::columns`].
    pub(super) fn of(row: &'r rusqlite::Row<'r>) -> Self {
        FullRow(Row(row))
    }

    pub(super) fn id(&self) -> i64 {
        self.0.id()
    }

    pub(super) fn key(&self) -> Key<'r> {
        self.0.key()
    }

    /// The timestamp as SQLite compares it.
    pub(super) fn raw_time(&self) -> Value {
        self.0.0.get(1).unwrap_or(Value::Null)
    }
}

fn integer(value: ValueRef<'_>) -> i64 {
    match value {
        ValueRef::Integer(integer) => integer,
        ValueRef::Real(real) => real as i64,
        _ => 0,
    }
}

fn text(value: ValueRef<'_>) -> &str {
    value.as_str().unwrap_or_default()
}

fn count(value: ValueRef<'_>, is_measured: bool) -> u64 {
    let count = match value {
        ValueRef::Integer(count) => u64::try_from(count).unwrap_or(0),
        ValueRef::Real(count) => count as u64, // saturates, and takes a negative for 0
        _ => 0,
    };
    if count == 0 && !is_measured { UNKNOWN } else { count }
}

fn figure(value: ValueRef<'_>, is_measured: bool) -> f64 {
    let figure = match value {
        ValueRef::Real(figure) => figure,
        ValueRef::Integer(figure) => figure as f64,
        _ => return f64::NAN,
    };
    // A negative one is a clock that was set back, or a counter that was reset: the reference stores what it gets.
    let is_possible = figure.is_finite() && figure >= 0.0;
    if is_possible && (is_measured || figure != 0.0) { figure } else { f64::NAN }
}
