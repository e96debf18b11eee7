//! Where records live: one SQLite database, and a journal beside it for what is on its way there.
//!
//! ```text
//! record ──→ journal ──(writer: a thread, or whoever cannot wait for it)──→ rows ──(now and then)──→ rollups
//!                                                                             ╰──────────┬─────────────╯
//!                                                                                      query
//! ```
//!
//! [`Store::record`] returns when the record is in the journal, which outlives the process; whoever opens the database
//! next takes over the journals of dead processes. Questions are read through a connection of their own (SQLite's WAL
//! mode), after what this process has recorded was committed: from rollups, and from the rows that these do not hold.

mod calls;
mod checkpoint;
mod commit;
mod fault;
mod health;
mod inherited;
mod journal;
mod key;
mod open;
mod options;
mod query;
mod records;
mod retention;
mod rollup;
mod row;
mod schema;
mod verify;
mod writer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use rusqlite::Connection;

pub use health::{Failure, Health};
pub use options::{Durability, Overflow, StoreOptions};
pub use query::{Query, Step};
pub use records::Batch;
pub use verify::Difference;

use crate::bus::Late;
use crate::error::{Error, ErrorKind, Result};
use crate::os::{Process, wall_clock};
use crate::record::{Record, check_figure};
use crate::stats::Aggregate;
use crate::sync::lock;
use checkpoint::Checkpointer;
use commit::Committer;
use health::Tally;
use inherited::Inside;
use journal::Journal;
use open::Reader;
use records::{Order, Reading};
use writer::Writer;

/// A database of calls.
pub struct Store {
    process: Process,
    options: StoreOptions,
    /// `None`: in memory.
    path: Option<PathBuf>,
    /// The calls in flight, and [`CLOSED`].
    life: AtomicU64,
    /// `None`: in memory, or opened for queries only. Sealed when the store is shut.
    journal: Option<Journal>,
    /// `None`: opened for queries only, or shut.
    writer: Mutex<Option<Writer>>,
    /// `None`: in memory, where the writer's connection is the only one, or shut.
    reader: Mutex<Option<Reader>>,
    committer: OnceLock<Committer>,
    /// The connection of the checkpointer; `None`: in memory, opened for queries only, or shut.
    checkpoints: Mutex<Option<Connection>>,
    checkpointer: OnceLock<Checkpointer>,
    /// Who has the rest of calls of ours that have ended.
    late: Mutex<Option<Arc<dyn Late>>>,
    tally: Tally,
}

/// The bit of [`Store::life`] that says that the store was closed. It is shut when the last call in flight has ended.
const CLOSED: u64 = 1 << 63;

impl Store {
    /// Opens the database at `path`, making it and missing folders, or a private one for ":memory:". What dead processes
    /// left in their journals is taken over first.
    pub fn open(path: &str, options: &StoreOptions) -> Result<Arc<Store>> {
        let process = Process::current(); // before anything that a fork could tear
        inherited::close(path)?;
        let opening = commit::opening();
        let _inside = Inside::enter();
        if options.max_age_seconds.is_nan() {
            return Err(Error::invalid("options.max_age_seconds", "is NaN; 0 means no limit"));
        }
        check_figure("options.max_age_seconds", options.max_age_seconds)?;
        let mut opened = open::open(path, options)?;
        let tally = Tally::default();
        let journal = match (&opened.path, &mut opened.writer) {
            (Some(path), Some(writer)) => {
                commit::adopt(path, writer, &tally);
                let journal = Journal::create(path, options.journal_bytes)?;
                writer.begin(&journal);
                Some(journal)
            }
            _ => None,
        };
        drop(opening);
        let checkpoints = match (&opened.path, &journal) {
            (Some(path), Some(_)) => Some(checkpoint::connect(path)?),
            _ => None,
        };
        let has_journal = journal.is_some();
        let store = Arc::new(Store {
            process,
            options: *options,
            path: opened.path,
            life: AtomicU64::new(0),
            journal,
            writer: Mutex::new(opened.writer),
            reader: Mutex::new(opened.reader),
            committer: OnceLock::new(),
            checkpoints: Mutex::new(checkpoints),
            checkpointer: OnceLock::new(),
            late: Mutex::new(None),
            tally,
        });
        inherited::note(&store);
        if has_journal {
            let committer = Committer::start(&store, options.commit_interval_ms)?;
            let _ = store.committer.set(committer);
            let _ = store.checkpointer.set(Checkpointer::start(Arc::downgrade(&store))?);
        }
        Ok(store)
    }

    /// Closes the store; later uses are [`ErrorKind::Closed`]. Calls in flight keep the database open until they have
    /// ended and been recorded.
    pub fn close(&self) -> Result<()> {
        self.process.check("the store")?;
        self.hurry(true);
        match self.life.fetch_or(CLOSED, Ordering::AcqRel) {
            0 => self.shut(),
            before if before & CLOSED != 0 => Err(closed()),
            _calls_in_flight => Ok(()),
        }
    }

    fn shut(&self) -> Result<()> {
        if let Some(committer) = self.committer.get() {
            committer.stop();
        }
        if let Some(journal) = &self.journal {
            journal.seal();
        }
        let committed = self.commit_all();
        if let Some(checkpointer) = self.checkpointer.get() {
            checkpointer.stop();
        }
        let _inside = Inside::enter();
        drop(lock(&self.checkpoints).take());
        // The writer's connection last: the last one to go checkpoints, and the reader's could not.
        drop(lock(&self.reader).take());
        let Some(writer) = lock(&self.writer).take() else { return committed };
        // A journal that could not be committed stays, for whoever opens the database next.
        let closed = writer.close(self.journal.as_ref().filter(|_| committed.is_ok()));
        if let Some(journal) = &self.journal {
            journal.unlock();
        }
        committed.and(closed)
    }

    /// Returns when everything recorded so far is committed.
    pub fn flush(&self) -> Result<()> {
        self.check_open()?;
        self.hurry(true);
        self.commit_all()
    }

    /// Records one call.
    pub fn record(&self, record: &Record<'_>) -> Result<()> {
        match self.check_writable() {
            Ok(()) => self.write(record, &mut None),
            Err(error) => {
                if error.kind != ErrorKind::Forked {
                    self.tally.failed(&error);
                }
                Err(error)
            }
        }
    }

    /// `slot`: the record ends the call that is in that slot of the journal. Taken when the slot is free again.
    fn write(&self, record: &Record<'_>, slot: &mut Option<usize>) -> Result<()> {
        record.check().map_err(|refusal| self.refused(refusal))?;
        let now = if record.timestamp == 0.0 { wall_clock() } else { 0.0 };
        let dated = Record { timestamp: now, ..*record };
        let position = match self.keep(if now > 0.0 { &dated } else { record }, slot) {
            Ok(position) => position,
            Err(error) => {
                match error.kind {
                    ErrorKind::InvalidArgument => self.tally.refused(&error),
                    _ => self.tally.failed(&error),
                }
                return Err(error);
            }
        };
        self.tally.recorded();
        match position {
            Some(position) if self.options.durability == Durability::Power => self.commit_past(position),
            _ => Ok(()),
        }
    }

    /// Gives the record's position in the journal, if that is where it is.
    fn keep(&self, record: &Record<'_>, slot: &mut Option<usize>) -> Result<Option<u64>> {
        loop {
            let Some(journal) = &self.journal else {
                let settled = record.settled(wall_clock)?;
                self.with_writer(|writer| writer.insert(&settled))?;
                self.tally.committed(1);
                return Ok(None);
            };
            let appended = match *slot {
                Some(slot) => journal.end(slot, record)?,
                None => journal.append(record)?,
            };
            match appended {
                Some(position) => {
                    *slot = None;
                    if journal.is_half_full() {
                        self.wake_committer();
                    }
                    return Ok(Some(position));
                }
                None if journal.is_sealed() => return Err(closed()),
                None if self.options.overflow == Overflow::Reject => {
                    self.wake_committer();
                    return Err(Error::new(ErrorKind::Full, "the journal is full"));
                }
                None => self.commit_from(journal, journal.head())?,
            }
        }
    }

    /// Counts a record that was refused, for that reason.
    pub(crate) fn refused(&self, refusal: Error) -> Error {
        if self.process.check("the store").is_ok() {
            self.tally.refused(&refusal);
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
        self.hurry(true);
        self.commit_all()?;
        self.with_writer(|writer| writer.clear())
    }

    /// Deletes the records from before `before`, Unix seconds, or, if their rollups are to be kept, from before the hour that
    /// it is in; gives how many there were.
    pub fn prune(&self, before: f64) -> Result<u64> {
        self.check_writable()?;
        if before.is_nan() {
            return Err(Error::invalid("before", "is NaN"));
        }
        check_figure("before", before)?;
        self.commit_all()?;
        self.with_writer(|writer| writer.prune(before, self.options.keep_rollups))
    }

    /// Answers a query. Sees every record that this process recorded before.
    pub fn aggregate(&self, query: &Query<'_>) -> Result<Aggregate> {
        self.check_open()?;
        query.check()?;
        self.with_reader(|connection| query::aggregate(connection, query))
    }

    /// Answers a query for each step of `step` seconds in its range, which begins and ends where the records do if it is
    /// not bounded; begins, then, at a multiple of `step`.
    pub fn series(&self, query: &Query<'_>, step: f64) -> Result<Vec<Step>> {
        self.check_open()?;
        query.check()?;
        self.with_reader(|connection| query::series(connection, query, step))
    }

    /// Hands the records that a query selects to `visit`, each with its id, the oldest first, until that says `false`; at
    /// most `limit` of them. Those recorded after it began are not among them. Nothing is locked meanwhile: `visit` may use
    /// the store.
    pub fn records(&self, query: &Query<'_>, visit: impl FnMut(i64, &Record<'_>) -> bool) -> Result<()> {
        self.read_records(Order::OldestFirst, query, visit)
    }

    /// As [`Store::records`], the newest first.
    pub fn recent(&self, query: &Query<'_>, visit: impl FnMut(i64, &Record<'_>) -> bool) -> Result<()> {
        self.read_records(Order::NewestFirst, query, visit)
    }

    fn read_records(
        &self,
        order: Order,
        query: &Query<'_>,
        mut visit: impl FnMut(i64, &Record<'_>) -> bool,
    ) -> Result<()> {
        self.check_open()?;
        query.check()?;
        self.hurry(false);
        self.commit_all()?;
        let mut reading = Reading::new(order, query);
        while let Some(page) = self.read(|connection| reading.next(connection, query))? {
            if !page.each(&mut visit)? {
                break;
            }
        }
        Ok(())
    }

    /// The batches that a query selects records of, by number of calls descending, then by name; at most `limit`.
    pub fn batches(&self, query: &Query<'_>) -> Result<Vec<Batch>> {
        self.check_open()?;
        query.check()?;
        self.with_reader(|connection| records::batches(connection, query))
    }

    /// Checks the database, and that the rollups say what the rows say. Hands what does not to `report` when all has
    /// been checked, and gives how many such things there were: it should be none. Reads every record several times.
    pub fn verify(&self, report: impl FnMut(&Difference)) -> Result<u64> {
        self.check_open()?;
        // Not while it reads: `report` may use the store, and what is read may have to be read again.
        let differences = self.with_reader(verify::verify)?;
        differences.iter().for_each(report);
        Ok(differences.len() as u64)
    }

    /// Folds all rows into the rollups, as the store does by itself little by little. `progress` gets how many rows are
    /// done and how many there are to do, and stops it with `false`: what is done stays done. Gives how many are left.
    pub fn fold(&self, mut progress: impl FnMut(u64, u64) -> bool) -> Result<u64> {
        self.check_writable()?;
        self.commit_all()?;
        let mut left = self.with_writer(Writer::waiting_rows)?;
        let all = left;
        while left > 0 && progress(all.saturating_sub(left), all.max(left)) {
            left = self.with_writer(Writer::step_rollups)?;
        }
        if left == 0 {
            progress(all, all);
        }
        Ok(left)
    }

    /// What has become of the records, and what the database holds. Never waits for the database. Works on a closed
    /// store, too, as far as there is anything to say.
    pub fn health(&self) -> Result<Health> {
        self.process.check("the store")?;
        let mut health = self.tally.health();
        let journal = self.journal.as_ref().filter(|journal| !journal.is_sealed());
        (health.journal_used, health.journal_size) = journal.map(Journal::usage).unwrap_or_default();
        health.database_bytes = self.path.as_ref().map_or(0, |path| open::bytes_of(path));
        let held = self.read(|database| Ok((query::span(database)?, rollup::waiting(database).unwrap_or(0))));
        let unknown = ((f64::NAN, f64::NAN), 0);
        ((health.oldest, health.newest), health.rollups_waiting) = held.unwrap_or(unknown);
        Ok(health)
    }

    /// An error if the store cannot be used.
    pub fn check_open(&self) -> Result<()> {
        self.process.check("the store")?;
        if self.life.load(Ordering::Acquire) & CLOSED != 0 { Err(closed()) } else { Ok(()) }
    }

    /// An error if the store cannot be written to.
    pub fn check_writable(&self) -> Result<()> {
        self.check_open()?;
        if self.options.read_only {
            return Err(Error::new(ErrorKind::ReadOnly, "the store was opened with read_only"));
        }
        Ok(())
    }

    /// Does a step of what is to be done beside recording. Gives whether there is more to do right away.
    fn look_after(&self) -> bool {
        let done = self.with_writer(|writer| {
            let is_behind = writer.keep_rollups()?;
            let gone = writer.retain(&self.options, wall_clock())?;
            self.tally.pruned(gone);
            Ok(is_behind || gone > 0)
        });
        done.inspect_err(|error| self.tally.failure(error)).unwrap_or(false)
    }

    fn with_writer<T>(&self, use_it: impl FnOnce(&mut Writer) -> Result<T>) -> Result<T> {
        let mut writer = lock(&self.writer);
        let _inside = Inside::enter();
        use_it(writer.as_mut().ok_or_else(closed)?)
    }

    /// Has the calls recorded that have ended and wait for a figure; if it `waits`, all of them.
    fn hurry(&self, waits: bool) {
        let late = lock(&self.late).clone();
        if let Some(late) = late {
            late.hurry(waits);
        }
    }

    /// Reads what is in the database, with what this process recorded before.
    fn with_reader<T>(&self, use_it: impl FnMut(&Connection) -> Result<T>) -> Result<T> {
        self.hurry(false);
        self.commit_all()?;
        self.read(use_it)
    }

    /// Reads what is in the database.
    fn read<T>(&self, mut use_it: impl FnMut(&Connection) -> Result<T>) -> Result<T> {
        // One moment for all that it reads.
        let mut at_once = |connection: &Connection| {
            let _snapshot = connection
                .unchecked_transaction()
                .map_err(|error| fault::database("beginning to read", &error))?;
            use_it(connection)
        };
        let mut reader = lock(&self.reader);
        if let Some(reader) = reader.as_mut() {
            let _inside = Inside::enter();
            return reader.read(at_once);
        }
        drop(reader);
        self.with_writer(|writer| {
            while writer.keep_rollups()? {}
            at_once(writer.connection())
        })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if self.process.check("the store").is_ok() {
            let _ = self.shut();
            return;
        }
        // A forked child: all of this is the parent's. Closing a connection here would take the parent's locks away.
        if let Ok(writer) = self.writer.get_mut() {
            std::mem::forget(writer.take());
        }
        if let Ok(reader) = self.reader.get_mut() {
            std::mem::forget(reader.take());
        }
        std::mem::forget(self.journal.take());
        if let Ok(checkpoints) = self.checkpoints.get_mut() {
            std::mem::forget(checkpoints.take());
        }
        std::mem::forget((self.committer.take(), self.checkpointer.take()));
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the store is closed")
}
