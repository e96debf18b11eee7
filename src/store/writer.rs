//! The connection that writes.

use rusqlite::Connection;

use super::{database_error, row};
use crate::error::Result;
use crate::record::Record;

/// Writes to the database, one transaction a record.
pub(super) struct Writer {
    connection: Connection,
}

impl Writer {
    pub(super) fn new(connection: Connection) -> Writer {
        Writer { connection }
    }

    /// For a store in memory, whose only connection this is.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Inserts a settled record and commits it.
    pub(super) fn insert(&mut self, record: &Record<'_>) -> Result<()> {
        let insert = || -> rusqlite::Result<()> {
            let mut insert = self.connection.prepare_cached(row::INSERT)?;
            row::bind(&mut insert, record)?;
            insert.raw_execute().map(drop)
        };
        insert().map_err(|error| database_error("recording", &error))
    }

    pub(super) fn clear(&mut self) -> Result<u64> {
        self.delete("DELETE FROM telemetry", [])
    }

    pub(super) fn prune(&mut self, before: f64) -> Result<u64> {
        self.delete("DELETE FROM telemetry WHERE timestamp < ?", [before])
    }

    fn delete(&mut self, sql: &str, parameters: impl rusqlite::Params) -> Result<u64> {
        let deleted = self.connection.execute(sql, parameters);
        deleted.map(|rows| rows as u64).map_err(|error| database_error("deleting records", &error))
    }

    pub(super) fn close(self) -> Result<()> {
        self.connection.close().map_err(|(_, error)| database_error("closing the database", &error))
    }
}
