//! Letting old records go: all of them before a time, or little by little by age and by size.

use rusqlite::{Connection, OptionalExtension};

use super::rollup::Folder;
use super::writer::Writer;
use super::{StoreOptions, fault};
use crate::error::Result;

/// Rows that go at once.
const STEP: i64 = 2000;
const HOUR: f64 = 3600.0;

impl Writer {
    /// Deletes the records from before `before`, Unix seconds; gives how many there were. `keep_rollups`: what the rollups
    /// say of them stays, and only whole hours go.
    pub(super) fn prune(&mut self, before: f64, keep_rollups: bool) -> Result<u64> {
        if keep_rollups {
            // What is to be kept must be there first, in transactions of their own: there may be much of it.
            while self.step_rollups()? > 0 {}
            let before = (before / HOUR).floor() * HOUR;
            return self.within("deleting records", |connection, folder| {
                while folder.waiting() > 0 || folder.is_stale() {
                    while folder.is_stale() && folder.repair(connection)? {}
                    folder.fold(connection)?;
                }
                folder.freeze(connection, before)?;
                remove(connection, folder, before)
            });
        }
        self.within("deleting records", |connection, folder| {
            let deleted = remove(connection, folder, before)?;
            folder.forget_before(connection, before)?;
            Ok(deleted)
        })
    }

    /// Deletes a few of the records that are older than the options allow, or too many. `now`: Unix seconds. Gives how many.
    pub(super) fn retain(&mut self, options: &StoreOptions, now: f64) -> Result<u64> {
        if options.max_age_seconds == 0.0 && options.max_bytes == 0 {
            return Ok(0);
        }
        let connection = self.connection();
        let during = |error| fault::database("looking for old records", &error);
        let number = |sql: &str| {
            let number = connection.prepare_cached(sql);
            number
                .and_then(|mut number| number.query_row([], |row| row.get::<_, Option<f64>>(0)))
                .map_err(during)
        };
        let mut before = f64::NEG_INFINITY;
        if options.max_age_seconds > 0.0 {
            before = now - options.max_age_seconds;
        }
        if options.max_bytes > 0 {
            let pages: f64 = number("PRAGMA page_count")?.unwrap_or(0.0);
            let free: f64 = number("PRAGMA freelist_count")?.unwrap_or(0.0);
            let bytes: f64 = number("PRAGMA page_size")?.unwrap_or(0.0);
            if (pages - free) * bytes > options.max_bytes as f64 {
                before = f64::INFINITY;
            }
        }
        let Some(oldest) = number("SELECT min(timestamp) FROM telemetry")?.filter(|oldest| *oldest < before)
        else {
            return Ok(0);
        };
        let nth = format!("SELECT timestamp FROM telemetry ORDER BY timestamp LIMIT 1 OFFSET {STEP}");
        let nth = connection
            .prepare_cached(&nth)
            .and_then(|mut nth| nth.query_row([], |row| row.get::<_, f64>(0)).optional());
        let nth = match nth.map_err(during)? {
            Some(nth) => nth,
            None => number("SELECT max(timestamp) FROM telemetry")?.unwrap_or(oldest),
        };
        let mut step = before.min(nth.max(oldest.next_up()));
        if options.keep_rollups {
            let hour = (step / HOUR).floor() * HOUR;
            step = if hour > oldest { hour } else { ((oldest / HOUR).floor() + 1.0) * HOUR };
            if step > before {
                return Ok(0);
            }
        }
        self.prune(step, options.keep_rollups)
    }
}

fn remove(connection: &Connection, folder: &mut Folder, before: f64) -> Result<u64> {
    let deleted = connection.execute("DELETE FROM telemetry WHERE timestamp < ?", [before]);
    folder.doubt(); // of the rows it remembers
    deleted.map(|rows| rows as u64).map_err(|error| fault::database("deleting records", &error))
}
