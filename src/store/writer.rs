//! What writes to the database: journal → rows, in batches.

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::journal::{Journal, Stray};
use super::{fault, row};
use crate::error::{Error, Result};
use crate::record::Record;

/// The most records of one transaction: enough that the commit's own cost is lost among them, and few enough that a
/// batch's pages stay in SQLite's cache and other processes get their turn.
const BATCH: u64 = 1000;

/// The position of a journal that is in the database whole.
const ADOPTED: u64 = i64::MAX as u64;

/// The connection that writes.
pub(super) struct Writer {
    connection: Connection,
    /// Up to where the journal has been committed.
    position: u64,
    buffer: Vec<u8>,
}

/// What became of a batch.
#[derive(Default)]
pub(super) struct Written {
    /// Rows that are committed.
    pub(super) rows: u64,
    /// Records that no database takes, and why: they are left out, or they would hold up all others for ever.
    pub(super) rejected: Vec<Error>,
}

impl Writer {
    pub(super) fn new(connection: Connection) -> Writer {
        Writer { connection, position: 0, buffer: Vec::new() }
    }

    /// For a store in memory, whose only connection this is.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn into_connection(self) -> Connection {
        self.connection
    }

    /// Inserts a settled record and commits it.
    pub(super) fn insert(&mut self, record: &Record<'_>) -> Result<()> {
        insert(&self.connection, record).map_err(|error| fault::database("recording", &error))
    }

    /// From now on [`Writer::commit`] empties this journal, which is new.
    pub(super) fn begin(&mut self, journal: &Journal) {
        self.position = journal.tail();
    }

    /// Up to where the journal has been committed.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Commits what is in the journal before `upto`, a batch at a time, each batch with the position that it reaches. On
    /// failure what has not been committed is still in the journal.
    pub(super) fn commit(&mut self, journal: &Journal, upto: u64) -> Result<Written> {
        let during = |error| fault::database("committing the journal", &error);
        let mut written = Written::default();
        while self.position < upto {
            let transaction =
                self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(during)?;
            let mut at = self.position;
            let mut rows = 0;
            for _ in 0..BATCH {
                let insert = |record: &Record<'_>| insert(&transaction, record);
                let Some((next, result)) = journal.read(at, &mut self.buffer, insert) else { break };
                match result {
                    Ok(Ok(())) => rows += 1,
                    Ok(Err(error)) if is_transient(&error) => return Err(during(error)),
                    Ok(Err(error)) => written.rejected.push(during(error)),
                    Err(damaged) => written.rejected.push(damaged),
                }
                at = next;
            }
            if at == self.position {
                break;
            }
            set_position(&transaction, journal.name(), at).map_err(during)?;
            transaction.commit().map_err(during)?;
            self.position = at;
            journal.release(at);
            written.rows += rows;
        }
        Ok(written)
    }

    /// Takes over what a dead process left, once: its records and the position behind them in one transaction. Gives how
    /// many records there were, and how much was damaged.
    pub(super) fn adopt(&mut self, stray: Stray) -> Result<(u64, u64)> {
        let during = |error| fault::database("taking over a journal", &error);
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(during)?;
        let committed = position_of(&transaction, stray.name()).map_err(during)?;
        let (mut rows, mut damaged) = (0, 0);
        if committed != Some(ADOPTED) {
            damaged = stray.salvage(committed, |record| {
                insert(&transaction, record).map_err(during)?;
                rows += 1;
                Ok(())
            })?;
            set_position(&transaction, stray.name(), ADOPTED).map_err(during)?;
            transaction.commit().map_err(during)?;
        } else {
            drop(transaction);
        }
        let name = stray.name().to_owned();
        if damaged == 0 {
            stray.remove();
        } else {
            stray.set_aside();
        }
        forget(&self.connection, &name).map_err(during)?;
        Ok((rows, damaged))
    }

    pub(super) fn clear(&mut self) -> Result<u64> {
        self.delete("DELETE FROM telemetry", [])
    }

    pub(super) fn prune(&mut self, before: f64) -> Result<u64> {
        self.delete("DELETE FROM telemetry WHERE timestamp < ?", [before])
    }

    fn delete(&mut self, sql: &str, parameters: impl rusqlite::Params) -> Result<u64> {
        let deleted = self.connection.execute(sql, parameters);
        deleted.map(|rows| rows as u64).map_err(|error| fault::database("deleting records", &error))
    }

    /// Closes the connection. `journal`: it is empty, and goes.
    pub(super) fn close(self, journal: Option<&Journal>) -> Result<()> {
        let during = |error| fault::database("closing the database", &error);
        if let Some(journal) = journal {
            journal.remove();
            forget(&self.connection, journal.name()).map_err(during)?;
        }
        self.connection.close().map_err(|(_, error)| during(error))
    }
}

fn insert(connection: &Connection, record: &Record<'_>) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(row::INSERT)?;
    row::bind(&mut insert, record)?;
    insert.raw_execute().map(drop)
}

fn set_position(transaction: &Transaction<'_>, name: &str, position: u64) -> rusqlite::Result<()> {
    let sql = "INSERT INTO tokenjoule_journal (name, position) VALUES (?, ?)
               ON CONFLICT (name) DO UPDATE SET position = excluded.position";
    transaction.prepare_cached(sql)?.execute((name, position as i64)).map(drop)
}

fn position_of(connection: &Connection, name: &str) -> rusqlite::Result<Option<u64>> {
    use rusqlite::OptionalExtension;
    let sql = "SELECT position FROM tokenjoule_journal WHERE name = ?";
    connection.query_row(sql, [name], |row| row.get::<_, i64>(0).map(|position| position as u64)).optional()
}

/// Forgets the position of a journal whose file is gone.
fn forget(connection: &Connection, name: &str) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM tokenjoule_journal WHERE name = ?", [name]).map(drop)
}

/// Whether the same record may be stored later: the fault is not its own.
fn is_transient(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::*;
    !matches!(
        error.sqlite_error_code(),
        Some(TooBig | ConstraintViolation | TypeMismatch | ParameterOutOfRange)
    )
}
