//! What has become of the records.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, ErrorKind};
use crate::os::wall_clock;
use crate::sync::lock;

/// What has become of the records handed to a store in this process, and what the database holds.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// Records taken.
    pub recorded: u64,
    /// Those of them that are in the database. The others wait in the journal.
    pub committed: u64,
    /// Records that did not pass validation.
    pub refused: u64,
    /// Records that were valid and could not be taken.
    pub failed: u64,
    /// Failures of recording and of committing, by kind: the database was held by another process …
    pub busy: u64,
    /// … the disk, or the journal, was full …
    pub full: u64,
    /// … something was damaged …
    pub corrupt: u64,
    /// … and all others.
    pub other: u64,
    /// Records taken over from the journals of dead processes.
    pub adopted: u64,
    /// Journals of dead processes that could not be taken over whole.
    pub damaged_journals: u64,
    /// Records that went because of the store's limits of age and size.
    pub pruned: u64,
    /// Records that are not in the rollups yet, at most: each question reads them one by one.
    pub rollups_waiting: u64,
    /// Bytes of the journal in use; 0 for a store without one.
    pub journal_used: u64,
    /// Bytes of the journal.
    pub journal_size: u64,
    /// Bytes of the database and its WAL; 0 in memory.
    pub database_bytes: u64,
    /// The earliest record's timestamp, Unix seconds; `NAN` if there is none, or it cannot be read now.
    pub oldest: f64,
    /// The latest record's timestamp.
    pub newest: f64,
    /// The latest refusal or failure.
    pub last_failure: Option<Failure>,
}

/// Something that went wrong, and when.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What.
    pub error: Error,
    /// When, Unix seconds.
    pub time: f64,
}

/// Keeps the part of a store's health that only this process knows.
#[derive(Default)]
pub(super) struct Tally {
    recorded: AtomicU64,
    committed: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    adopted: AtomicU64,
    damaged_journals: AtomicU64,
    pruned: AtomicU64,
    failures: Mutex<Failures>,
    /// Journals of dead processes that are yet to be taken over, by their names.
    waiting_journals: Mutex<Vec<String>>,
}

#[derive(Default, Clone)]
struct Failures {
    busy: u64,
    full: u64,
    corrupt: u64,
    other: u64,
    last: Option<Failure>,
}

impl Tally {
    pub(super) fn recorded(&self) {
        self.recorded.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn committed(&self, records: u64) {
        self.committed.fetch_add(records, Ordering::Relaxed);
    }

    pub(super) fn refused(&self, error: &Error) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        lock(&self.failures).last = Some(Failure::now(error));
    }

    pub(super) fn failed(&self, error: &Error) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.failure(error);
    }

    pub(super) fn adopted(&self, records: u64) {
        self.adopted.fetch_add(records, Ordering::Relaxed);
    }

    pub(super) fn pruned(&self, records: u64) {
        self.pruned.fetch_add(records, Ordering::Relaxed);
    }

    pub(super) fn damaged_journal(&self, error: &Error) {
        self.damaged_journals.fetch_add(1, Ordering::Relaxed);
        self.failure(error);
    }

    pub(super) fn waiting_journal(&self, name: String) {
        lock(&self.waiting_journals).push(name);
    }

    pub(super) fn take_waiting_journals(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.waiting_journals))
    }

    /// Something failed, and no record was lost by it.
    pub(super) fn failure(&self, error: &Error) {
        let mut failures = lock(&self.failures);
        *match error.kind {
            ErrorKind::Busy => &mut failures.busy,
            ErrorKind::Full => &mut failures.full,
            ErrorKind::Corrupt => &mut failures.corrupt,
            _ => &mut failures.other,
        } += 1;
        failures.last = Some(Failure::now(error));
    }

    pub(super) fn health(&self) -> Health {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Failures { busy, full, corrupt, other, last } = lock(&self.failures).clone();
        Health {
            recorded: read(&self.recorded),
            committed: read(&self.committed),
            refused: read(&self.refused),
            failed: read(&self.failed),
            busy,
            full,
            corrupt,
            other,
            adopted: read(&self.adopted),
            damaged_journals: read(&self.damaged_journals),
            pruned: read(&self.pruned),
            last_failure: last,
            oldest: f64::NAN,
            newest: f64::NAN,
            ..Health::default()
        }
    }
}

impl Failure {
    fn now(error: &Error) -> Failure {
        Failure { error: error.clone(), time: wall_clock() }
    }
}
