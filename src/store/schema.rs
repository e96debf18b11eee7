//! The database's tables. `telemetry` is the Python reference's, with its names and types, and columns of ours behind
//! them; either program reads and writes it while the other does.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::{fault, rollup};
use crate::error::{Error, ErrorKind, Result};

/// The version of this schema, in SQLite's `user_version`. The reference leaves that at 0.
const VERSION: i64 = 1;

const TEXT: &str = "TEXT NOT NULL DEFAULT ''";
const COUNT: &str = "INTEGER NOT NULL DEFAULT 0";
const REAL: &str = "REAL NOT NULL DEFAULT 0.0";

/// The columns behind `id`, in their order.
const COLUMNS: [(&str, &str); 56] = [
    // The reference's.
    ("timestamp", "REAL NOT NULL"),
    ("model_id", "TEXT NOT NULL"),
    ("engine", TEXT),
    ("agent", TEXT),
    ("prompt_tokens", COUNT),
    ("prompt_tokens_evaluated", COUNT),
    ("completion_tokens", COUNT),
    ("total_tokens", COUNT),
    ("latency_seconds", REAL),
    ("ttft", REAL),
    ("cost_usd", REAL),
    ("energy_joules", REAL),
    ("power_watts", REAL),
    ("gpu_utilization_pct", REAL),
    ("gpu_memory_used_gb", REAL),
    ("gpu_temperature_c", REAL),
    ("throughput_tok_per_sec", REAL),
    ("prefill_latency_seconds", REAL),
    ("decode_latency_seconds", REAL),
    ("energy_method", TEXT),
    ("energy_vendor", TEXT),
    ("batch_id", TEXT),
    ("is_warmup", COUNT),
    ("cpu_energy_joules", REAL),
    ("gpu_energy_joules", REAL),
    ("dram_energy_joules", REAL),
    ("tokens_per_joule", REAL),
    ("energy_per_output_token_joules", REAL),
    ("throughput_per_watt", REAL),
    ("prefill_energy_joules", REAL),
    ("decode_energy_joules", REAL),
    ("mean_itl_ms", REAL),
    ("median_itl_ms", REAL),
    ("p90_itl_ms", REAL),
    ("p95_itl_ms", REAL),
    ("p99_itl_ms", REAL),
    ("std_itl_ms", REAL),
    ("is_streaming", COUNT),
    ("token_counting_version", "INTEGER"),
    ("mining_session_id", "TEXT"),
    ("metadata", "TEXT NOT NULL DEFAULT '{}'"),
    // Ours.
    ("outcome", COUNT),
    ("operation", TEXT),
    ("finish_reason", TEXT),
    ("error_type", TEXT),
    ("request_id", TEXT),
    ("session_id", TEXT),
    ("trace_id", TEXT),
    ("span_id", TEXT),
    ("cached_tokens", COUNT),
    ("reasoning_tokens", COUNT),
    ("draft_tokens", COUNT),
    ("draft_accepted_tokens", COUNT),
    ("queue_seconds", REAL),
    // A bit for each count and figure that was measured (record.rs). NULL in a row of the reference's.
    ("measured", "INTEGER"),
    // The gaps between the call's tokens, a sketch (sketch.rs).
    ("token_gaps", "BLOB"),
];

/// What the table must have for a row to make sense; everything else has a default.
const REQUIRED: [&str; 2] = ["timestamp", "model_id"];

/// Answers a range of time, and a batch, without reading the whole table.
const INDEXES: &str = "
    CREATE INDEX IF NOT EXISTS telemetry_by_timestamp ON telemetry (timestamp);
    CREATE INDEX IF NOT EXISTS telemetry_by_batch ON telemetry (batch_id) WHERE batch_id <> '';
";

/// Up to where each journal beside the database is in it (journal.rs).
const JOURNALS: &str = "
    CREATE TABLE IF NOT EXISTS tokenjoule_journal (name TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;
";

/// The rollups (rollup/mod.rs).
const ROLLUPS: &str = "
    CREATE TABLE IF NOT EXISTS tokenjoule_rollup (place INTEGER PRIMARY KEY, cells BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS tokenjoule_key (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        model_id TEXT NOT NULL, engine TEXT NOT NULL, agent TEXT NOT NULL,
        is_warmup INTEGER NOT NULL, token_counting_version INTEGER NOT NULL, outcome INTEGER NOT NULL,
        UNIQUE (model_id, engine, agent, is_warmup, token_counting_version, outcome)
    );
    CREATE TABLE IF NOT EXISTS tokenjoule_stale (minute INTEGER PRIMARY KEY);
    CREATE TABLE IF NOT EXISTS tokenjoule_reach (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        format INTEGER NOT NULL, row_id INTEGER NOT NULL, frozen INTEGER NOT NULL
    );
";

/// Begins the rollups, again if there were any: nobody kept watch over them, or they are of another version.
const BEGIN_ROLLUPS: &str = "
    DELETE FROM tokenjoule_rollup;
    DELETE FROM tokenjoule_stale;
    DELETE FROM tokenjoule_key;
    INSERT OR REPLACE INTO tokenjoule_reach (one, format, row_id, frozen) VALUES (1, {format}, -9223372036854775808, 0);
";

/// What tells the rollups of changes that are not the writer's own.
fn triggers() -> [(&'static str, String); 5] {
    let reach = "(SELECT row_id FROM tokenjoule_reach)";
    let (old, new) = (rollup::stale_sql("OLD.timestamp"), rollup::stale_sql("NEW.timestamp"));
    // A row that an OR REPLACE puts another in the place of fires no trigger of its own.
    let displaced = rollup::stale_sql("(SELECT timestamp FROM telemetry WHERE id = NEW.id)");
    let displaces = format!("NEW.id <= {reach} AND EXISTS (SELECT 1 FROM telemetry WHERE id = NEW.id)");
    [
        ("tokenjoule_deleted", format!("AFTER DELETE ON telemetry WHEN OLD.id <= {reach} BEGIN {old} END")),
        (
            "tokenjoule_updated",
            format!("AFTER UPDATE ON telemetry WHEN min(OLD.id, NEW.id) <= {reach} BEGIN {old} {new} END"),
        ),
        ("tokenjoule_inserted", format!("AFTER INSERT ON telemetry WHEN NEW.id <= {reach} BEGIN {new} END")),
        (
            "tokenjoule_inserted_over",
            format!("BEFORE INSERT ON telemetry WHEN {displaces} BEGIN {displaced} END"),
        ),
        (
            "tokenjoule_updated_over",
            format!("BEFORE UPDATE ON telemetry WHEN NEW.id <> OLD.id AND {displaces} BEGIN {displaced} END"),
        ),
    ]
}

/// Refuses a database that this version must not touch. Changes nothing.
pub(super) fn check(connection: &Connection) -> Result<()> {
    let version = version(connection)?;
    if version > VERSION {
        let message = format!(
            "the database has schema version {version}, written by a newer version of the library; this one knows {VERSION}"
        );
        return Err(Error::new(ErrorKind::Schema, message));
    }
    let present = Columns::of(connection)?;
    if let Some(missing) = REQUIRED.iter().find(|name| !present.0.is_empty() && !present.has(name)) {
        let message =
            format!("the database has a table telemetry without a column {missing}: another program's");
        return Err(Error::new(ErrorKind::Schema, message));
    }
    Ok(())
}

/// Makes the table, or gives the reference's table what it lacks, in one transaction.
pub(super) fn migrate(connection: &mut Connection) -> Result<()> {
    if version(connection)? == VERSION && Columns::of(connection)?.is_complete() && has_rollups(connection)? {
        return Ok(());
    }
    let during = |error| fault::database("preparing the database's tables", &error);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(during)?;
    let present = Columns::of(&transaction)?; // again: another process may have been first
    let mut sql = String::new();
    if present.0.is_empty() {
        let columns: Vec<String> =
            COLUMNS.iter().map(|(name, kind)| format!(",\n    {name} {kind}")).collect();
        sql += &format!(
            "CREATE TABLE telemetry (\n    id INTEGER PRIMARY KEY AUTOINCREMENT{}\n);",
            columns.concat()
        );
    } else {
        for (name, kind) in COLUMNS.iter().filter(|(name, _)| !present.has(name)) {
            sql += &format!("ALTER TABLE telemetry ADD COLUMN {name} {kind};");
        }
    }
    sql += INDEXES;
    sql += JOURNALS;
    sql += ROLLUPS;
    if !has_rollups(&transaction)? {
        sql += &BEGIN_ROLLUPS.replace("{format}", &rollup::FORMAT.to_string());
        for (name, what) in triggers() {
            sql += &format!("DROP TRIGGER IF EXISTS {name}; CREATE TRIGGER {name} {what};");
        }
    }
    sql += &format!("PRAGMA user_version = {VERSION};");
    transaction.execute_batch(&sql).map_err(during)?;
    transaction.commit().map_err(during)
}

/// Whether there are rollups of this version, and triggers that keep them right.
fn has_rollups(connection: &Connection) -> Result<bool> {
    let during = |error| fault::database("reading the database's tables", &error);
    let created = |(name, what): (&str, String)| -> rusqlite::Result<bool> {
        let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND name = ? AND sql = ?";
        let as_created = format!("CREATE TRIGGER {name} {what}");
        connection.query_row(sql, (name, as_created), |_| Ok(())).optional().map(|found| found.is_some())
    };
    for trigger in triggers() {
        if !created(trigger).map_err(during)? {
            return Ok(false);
        }
    }
    Ok(rollup::Extent::read(connection)?.is_some())
}

fn version(connection: &Connection) -> Result<i64> {
    connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(|error| fault::database("reading the database's version", &error))
}

/// The columns that the table `telemetry` has; none if there is no such table.
pub(super) struct Columns(HashSet<String>);

impl Columns {
    pub(super) fn of(connection: &Connection) -> Result<Columns> {
        let names = || -> rusqlite::Result<HashSet<String>> {
            connection
                .prepare("SELECT name FROM pragma_table_info('telemetry')")?
                .query_map([], |row| row.get(0))?
                .collect()
        };
        names().map(Columns).map_err(|error| fault::database("reading the database's tables", &error))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    /// The column, or what a row without it means: a database that is only read is not migrated.
    pub(super) fn or_default<'a>(&self, column: &'a str, default: &'a str) -> &'a str {
        if self.has(column) { column } else { default }
    }

    fn is_complete(&self) -> bool {
        COLUMNS.iter().all(|(name, _)| self.has(name))
    }
}
