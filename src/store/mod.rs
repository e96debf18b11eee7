//! Where records live: one SQLite database.
//!
//! [`Store::record`] commits a record before it returns, one transaction each, so that the death of the process takes
//! none. The writer holds the one connection that writes; questions are read through another, so that neither waits for
//! the other (SQLite's WAL mode).

mod open;
mod query;
mod row;
mod schema;
mod writer;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rusqlite::Connection;

pub use query::Query;

use crate::bus::Recorder;
use crate::error::{Error, ErrorKind, Result};
use crate::os::{Process, wall_clock};
use crate::record::{Record, check_figure};
use crate::stats::Aggregate;
use crate::sync::lock;
use open::Reader;
use writer::Writer;

/// What a returned [`Store::record`] survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// The death of the process.
    #[default]
    Process,
    /// A power cut.
    Power,
}

/// What a full journal does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// Makes [`Store::record`] wait.
    #[default]
    Wait,
    /// Makes it return [`ErrorKind::Full`].
    Reject,
}

/// How to open a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreOptions {
    /// For queries only; nothing on disk changes.
    pub read_only: bool,
    /// What a record survives.
    pub durability: Durability,
    /// What a full journal does. There is none yet: every record is committed at once.
    pub overflow: Overflow,
    /// How long to wait for another process that holds the database.
    pub busy_timeout_ms: u32,
    /// How long a record may wait before other processes see it. Every record is committed at once.
    pub commit_interval_ms: u32,
    /// The journal's size.
    pub journal_bytes: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            read_only: false,
            durability: Durability::Process,
            overflow: Overflow::Wait,
            busy_timeout_ms: 5000,
            commit_interval_ms: 100,
            journal_bytes: 8 << 20,
        }
    }
}

/// What has become of the records handed to a store in this process.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// Records taken.
    pub recorded: u64,
    /// Records that did not pass validation.
    pub refused: u64,
    /// Records that were valid and could not be stored.
    pub failed: u64,
    /// The latest refusal or failure.
    pub last_failure: Option<Failure>,
}

/// A record that was not stored, and why.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Why.
    pub error: Error,
    /// When, Unix seconds.
    pub time: f64,
}

/// A database of calls.
pub struct Store {
    process: Process,
    /// The calls in flight, and [`CLOSED`].
    life: AtomicU64,
    /// `None`: opened for queries only, or shut.
    writer: Mutex<Option<Writer>>,
    /// `None`: in memory, where the writer's connection is the only one, or shut.
    reader: Mutex<Option<Reader>>,
    is_read_only: bool,
    health: Mutex<Health>,
}

/// The bit of [`Store::life`] that says that the store was closed. It is shut when the last call in flight has ended.
const CLOSED: u64 = 1 << 63;

impl Store {
    /// Opens the database at `path`, making it and missing folders, or a private one for ":memory:".
    pub fn open(path: &str, options: &StoreOptions) -> Result<Arc<Store>> {
        let process = Process::current(); // before anything that a fork could tear
        let (writer, reader) = open::open(path, options)?;
        Ok(Arc::new(Store {
            process,
            life: AtomicU64::new(0),
            writer: Mutex::new(writer),
            reader: Mutex::new(reader),
            is_read_only: options.read_only,
            health: Mutex::default(),
        }))
    }

    /// Closes the store; later uses are [`ErrorKind::Closed`]. Calls in flight keep the database open until they have
    /// ended and been recorded.
    pub fn close(&self) -> Result<()> {
        self.process.check("the store")?;
        match self.life.fetch_or(CLOSED, Ordering::AcqRel) {
            0 => self.shut(),
            before if before & CLOSED != 0 => Err(closed()),
            _calls_in_flight => Ok(()),
        }
    }

    fn shut(&self) -> Result<()> {
        // The writer's connection last: the last one to go checkpoints, and the reader's could not.
        drop(lock(&self.reader).take());
        lock(&self.writer).take().map_or(Ok(()), Writer::close)
    }

    /// Returns when everything recorded so far is committed.
    pub fn flush(&self) -> Result<()> {
        self.check_open() // and it is: each record is committed before `record` returns
    }

    /// Records one call.
    pub fn record(&self, record: &Record<'_>) -> Result<()> {
        self.check_writable()?;
        self.write(record)
    }

    fn write(&self, record: &Record<'_>) -> Result<()> {
        let settled = record.settled(wall_clock).map_err(|refusal| self.refused(refusal))?;
        let result = self.with_writer(|writer| writer.insert(&settled));
        let mut health = lock(&self.health);
        match &result {
            Ok(()) => health.recorded += 1,
            Err(error) => {
                health.failed += 1;
                health.last_failure = Some(Failure { error: error.clone(), time: wall_clock() });
            }
        }
        result
    }

    /// Counts a record that was refused, for that reason.
    pub(crate) fn refused(&self, refusal: Error) -> Error {
        if self.process.check("the store").is_ok() {
            let mut health = lock(&self.health);
            health.refused += 1;
            health.last_failure = Some(Failure { error: refusal.clone(), time: wall_clock() });
        }
        refusal
    }

    /// How many records the database holds.
    pub fn count(&self) -> Result<u64> {
        self.check_open()?;
        self.with_reader(query::count)
    }

    /// Deletes every record; gives how many there were.
    pub fn clear(&self) -> Result<u64> {
        self.check_writable()?;
        self.with_writer(|writer| writer.clear())
    }

    /// Deletes the records from before `before`, Unix seconds; gives how many there were.
    pub fn prune(&self, before: f64) -> Result<u64> {
        self.check_writable()?;
        if before.is_nan() {
            return Err(Error::invalid("before", "is NaN"));
        }
        check_figure("before", before)?;
        self.with_writer(|writer| writer.prune(before))
    }

    /// Answers a query. Sees every record that this process recorded before.
    pub fn aggregate(&self, query: &Query<'_>) -> Result<Aggregate> {
        self.check_open()?;
        query.check()?;
        self.with_reader(|connection| query::aggregate(connection, query))
    }

    /// What has become of the records. Works on a closed store, too.
    pub fn health(&self) -> Result<Health> {
        self.process.check("the store")?;
        Ok(lock(&self.health).clone())
    }

    /// An error if the store cannot be used.
    pub fn check_open(&self) -> Result<()> {
        self.process.check("the store")?;
        if self.life.load(Ordering::Acquire) & CLOSED != 0 { Err(closed()) } else { Ok(()) }
    }

    /// An error if the store cannot be written to.
    pub fn check_writable(&self) -> Result<()> {
        self.check_open()?;
        if self.is_read_only {
            return Err(Error::new(ErrorKind::ReadOnly, "the store was opened with read_only"));
        }
        Ok(())
    }

    fn with_writer<T>(&self, use_it: impl FnOnce(&mut Writer) -> Result<T>) -> Result<T> {
        use_it(lock(&self.writer).as_mut().ok_or_else(closed)?)
    }

    fn with_reader<T>(&self, mut use_it: impl FnMut(&Connection) -> Result<T>) -> Result<T> {
        if let Some(reader) = lock(&self.reader).as_mut() {
            return reader.read(use_it);
        }
        self.with_writer(|writer| use_it(writer.connection()))
    }
}

impl Recorder for Store {
    fn keep(&self, record: &Record<'_>) {
        let _ = self.record(record); // accounted for in the health
    }

    fn call_began(&self) -> bool {
        if self.life.fetch_add(1, Ordering::AcqRel) & CLOSED == 0 {
            return true;
        }
        self.call_is_over();
        false
    }

    fn call_ended(&self, record: &Record<'_>) {
        if self.process.check("the store").is_ok() {
            let _ = self.write(record); // accounted for in the health
            self.call_is_over();
        }
    }
}

impl Store {
    fn call_is_over(&self) {
        if self.life.fetch_sub(1, Ordering::AcqRel) == CLOSED | 1 {
            let _ = self.shut();
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if self.process.check("the store").is_ok() {
            let _ = self.shut();
            return;
        }
        // A forked child: the connections are the parent's. Closing one here would take the parent's locks away.
        if let Ok(writer) = self.writer.get_mut() {
            std::mem::forget(writer.take());
        }
        if let Ok(reader) = self.reader.get_mut() {
            std::mem::forget(reader.take());
        }
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the store is closed")
}

/// What SQLite says, in the house's words. `doing` completes "while …".
fn database_error(doing: &str, error: &rusqlite::Error) -> Error {
    use rusqlite::ErrorCode::*;
    let kind = match error.sqlite_error_code() {
        Some(DatabaseBusy | DatabaseLocked) => ErrorKind::Busy,
        Some(DiskFull) => ErrorKind::Full,
        Some(DatabaseCorrupt | NotADatabase) => ErrorKind::Corrupt,
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("while {doing}: {error}"))
}
