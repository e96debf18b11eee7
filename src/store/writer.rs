//! What writes to the database: journal → rows, in batches, and the rollups behind them.

use rusqlite::{Connection, TransactionBehavior};

use super::fault;
use super::journal::{Journal, Stray};
use super::rollup::Folder;
use super::row::Inserting;
use crate::error::{Error, Result};
use crate::record::Record;

/// The most records of one transaction: enough that the commit's own cost is lost among them, and few enough that a
/// batch's pages stay in SQLite's cache and other processes get their turn.
const BATCH: u64 = 1000;

/// So many rows are folded into the rollups at once. A question reads those that wait for it one by one, a millisecond for
/// a thousand; each time they are folded in, some hundred kilobytes of cells may be written anew.
const MANY: u64 = 1000;

/// The position of a journal that is in the database whole.
const ADOPTED: u64 = i64::MAX as u64;

/// The connection that writes.
pub(super) struct Writer {
    connection: Connection,
    folder: Folder,
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
        Writer { connection, folder: Folder::default(), position: 0, buffer: Vec::new() }
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
        self.within("recording", |connection, folder| {
            let inserted = Inserting::new(connection)
                .and_then(|mut inserting| insert(connection, &mut inserting, folder, record));
            inserted.map_err(|error| fault::database("recording", &error))
        })
    }

    /// Runs `work` in a transaction, which is committed if it succeeds. What is known of the rollups is up to date in it.
    pub(super) fn within<T>(
        &mut self,
        doing: &str,
        work: impl FnOnce(&Connection, &mut Folder) -> Result<T>,
    ) -> Result<T> {
        let during = |error| fault::database(doing, &error);
        let folder = &mut self.folder;
        let attempt = || {
            let transaction =
                self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(during)?;
            folder.look(&transaction).map_err(during)?;
            let done = work(&transaction, folder)?;
            transaction.commit().map_err(during)?;
            Ok(done)
        };
        let result = attempt();
        if result.is_err() {
            self.folder.doubt();
        }
        result
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
        let mut buffer = std::mem::take(&mut self.buffer);
        while self.position < upto {
            let begin = self.position;
            let rejected = &mut written.rejected;
            let (at, rows) = self.within("committing the journal", |connection, folder| {
                let (mut at, mut rows) = (begin, 0);
                let mut inserting = Inserting::new(connection).map_err(during)?;
                for _ in 0..BATCH {
                    let insert = |record: &Record<'_>| insert(connection, &mut inserting, folder, record);
                    let Some((next, result)) = journal.read(at, &mut buffer, insert) else { break };
                    match result {
                        Ok(Ok(())) => rows += 1,
                        Ok(Err(error)) if is_transient(&error) => return Err(during(error)),
                        Ok(Err(error)) => rejected.push(during(error)),
                        Err(damaged) => rejected.push(damaged),
                    }
                    at = next;
                }
                if at > begin {
                    set_position(connection, journal.name(), at).map_err(during)?;
                }
                if folder.is_full() {
                    folder.fold(connection)?;
                }
                Ok((at, rows))
            })?;
            if at == begin {
                break;
            }
            self.position = at;
            journal.release(at);
            written.rows += rows;
        }
        self.buffer = buffer;
        Ok(written)
    }

    /// Takes over what a dead process left, once: its records and the position behind them in one transaction. Gives how
    /// many records there were, and how much was damaged.
    pub(super) fn adopt(&mut self, stray: Stray) -> Result<(u64, u64)> {
        let during = |error| fault::database("taking over a journal", &error);
        let (rows, damaged) = self.within("taking over a journal", |connection, folder| {
            let committed = position_of(connection, stray.name()).map_err(during)?;
            if committed == Some(ADOPTED) {
                return Ok((0, 0));
            }
            let (mut rows, mut rejected) = (0, 0);
            let mut inserting = Inserting::new(connection).map_err(during)?;
            let damaged = stray.salvage(committed, |record| {
                match insert(connection, &mut inserting, folder, record) {
                    Ok(()) => rows += 1,
                    Err(error) if is_transient(&error) => return Err(during(error)),
                    Err(_) => rejected += 1,
                }
                Ok(())
            })?;
            set_position(connection, stray.name(), ADOPTED).map_err(during)?;
            Ok((rows, damaged + rejected))
        })?;
        let name = stray.name().to_owned();
        let is_gone = if damaged == 0 { stray.remove() } else { stray.set_aside() };
        if is_gone {
            // If this fails, a journal is remembered that is no more.
            let _ = forget(&self.connection, &name);
        }
        Ok((rows, damaged))
    }

    pub(super) fn clear(&mut self) -> Result<u64> {
        self.within("deleting records", |connection, folder| {
            let deleted = delete(connection, "DELETE FROM telemetry", [])?;
            folder.clear(connection)?;
            Ok(deleted)
        })
    }

    /// Brings the rollups a step further, if it is time to. Gives whether there is more to do right away.
    pub(super) fn keep_rollups(&mut self) -> Result<bool> {
        let during = |error| fault::database("looking after the rollups", &error);
        self.folder.look(&self.connection).map_err(during)?;
        if !self.folder.is_stale() && self.folder.waiting() < MANY {
            return Ok(false);
        }
        self.step_rollups().map(|_| self.folder.is_stale() || self.folder.waiting() >= MANY)
    }

    /// How many rows are to be folded into the rollups, at most.
    pub(super) fn waiting_rows(&mut self) -> Result<u64> {
        let during = |error| fault::database("looking after the rollups", &error);
        self.folder.look(&self.connection).map_err(during)?;
        Ok(self.folder.waiting() + u64::from(self.folder.is_stale()))
    }

    /// Brings the rollups a step further, whether it is time to or not. Gives how many rows are still to be folded in.
    pub(super) fn step_rollups(&mut self) -> Result<u64> {
        self.within("looking after the rollups", |connection, folder| {
            if !folder.is_stale() || !folder.repair(connection)? {
                folder.fold(connection)?;
            }
            Ok(folder.waiting() + u64::from(folder.is_stale()))
        })
    }

    /// Closes the connection. `journal`: it is empty, and goes.
    pub(super) fn close(self, journal: Option<&Journal>) -> Result<()> {
        let during = |error| fault::database("closing the database", &error);
        if let Some(journal) = journal
            && journal.remove()
        {
            // If this fails, as on a full disk, a journal is remembered that is no more.
            let _ = forget(&self.connection, journal.name());
        }
        self.connection.close().map_err(|(_, error)| during(error))
    }
}

fn insert(
    connection: &Connection,
    inserting: &mut Inserting<'_>,
    folder: &mut Folder,
    record: &Record<'_>,
) -> rusqlite::Result<()> {
    inserting.insert(record)?;
    folder.inserted(connection, connection.last_insert_rowid(), record)
}

fn delete(connection: &Connection, sql: &str, parameters: impl rusqlite::Params) -> Result<u64> {
    let deleted = connection.execute(sql, parameters);
    deleted.map(|rows| rows as u64).map_err(|error| fault::database("deleting records", &error))
}

fn set_position(connection: &Connection, name: &str, position: u64) -> rusqlite::Result<()> {
    let sql = "INSERT INTO tokenjoule_journal (name, position) VALUES (?, ?)
               ON CONFLICT (name) DO UPDATE SET position = excluded.position";
    connection.prepare_cached(sql)?.execute((name, position as i64)).map(drop)
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
