//! Looking after a store.
//!
//! A store looks after itself; this is for looking at it, and for what it does not do unasked.
//!
//! Beside the records lie rollups: summaries of the records of each minute, ten minutes, hour, day, 32 days and of all
//! time, where there are enough of them. Questions are answered from these, and from the records at the ends of a range,
//! so that their cost does not grow with the number of records. The store brings them up to date by itself as records come, whoever
//! wrote or changed them; those of a database that had none are made in the background, a few thousand records at a
//! time. Until then a question reads the records instead: an answer is slower without rollups, and never another.

use std::ffi::{CString, c_char, c_void};

use super::boundary::{Sized_, c_string, entry, initialise, number_out, room_out, struct_out};
use super::error::{tj_error, tj_status};
use super::store::{store_of, tj_store};
use crate::store::Difference;

/// What has become of the records handed to a store in this process, and what the database holds.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_health {
    /// Set by TJ_HEALTH_INIT.
    pub struct_size: usize,
    /// Records taken, by tj_record and from the bus.
    pub recorded: u64,
    /// Those of them that are in the database.
    pub committed: u64,
    /// Those that wait in the journal.
    pub waiting: u64,
    /// Records that did not pass validation (TJ_ERR_INVALID_ARGUMENT).
    pub refused: u64,
    /// Records that were valid and could not be taken. For a record from the bus this is the only place that shows
    /// it.
    pub failed: u64,
    /// Failures of recording and of committing, by kind: TJ_ERR_BUSY. A failed commit loses nothing: what is in the
    /// journal is tried again.
    pub failures_busy: u64,
    /// TJ_ERR_FULL.
    pub failures_full: u64,
    /// TJ_ERR_CORRUPT.
    pub failures_corrupt: u64,
    /// All others.
    pub failures_other: u64,
    /// Records taken over from the journals of dead processes when this store was opened.
    pub adopted: u64,
    /// Journals of dead processes that could not be taken over whole. They are still there, under the database's
    /// name.
    pub damaged_journals: u64,
    /// Records that this store deleted by itself, because of max_age_seconds and max_bytes.
    pub pruned: u64,
    /// Records that are not in the rollups yet, at most. Up to 1,000 always may be; a question reads them
    /// one by one.
    pub rollups_waiting: u64,
    /// Bytes of the journal in use; 0 for a store without one.
    pub journal_used: u64,
    /// Bytes of the journal.
    pub journal_size: u64,
    /// Bytes of the database and its WAL; 0 in memory.
    pub database_bytes: u64,
    /// The earliest timestamp in the database, Unix seconds; NAN if it is empty.
    pub oldest_timestamp: f64,
    /// The latest.
    pub newest_timestamp: f64,
    /// The status of the latest refusal or failure; TJ_OK if there was none.
    pub last_status: tj_status,
    /// Always 0.
    pub reserved: u32,
    /// When that was, Unix seconds; 0 if there was none.
    pub last_failure_time: f64,
    /// Its message, NUL-terminated UTF-8; empty if there was none.
    pub last_message: [c_char; 504],
}

// SAFETY: repr(C), size first, numbers only.
unsafe impl Sized_ for tj_health {
    const INIT: &'static str = "HEALTH";
}

/// Does what TJ_HEALTH_INIT does, for languages without macros. NULL is ignored.
///
/// # Safety
/// `health` is NULL or points to memory for one `tj_health`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_health_init(health: *mut tj_health) {
    // SAFETY: the caller's promise is the same.
    unsafe { initialise(health) }
}

/// Tells what has become of the records handed to this store, what the database holds, and the latest failure. Works
/// on a closed store as well, as far as there is anything to tell.
///
/// TJ_OK: *out_health is filled; nothing in it needs freeing. TJ_ERR_INVALID_ARGUMENT; TJ_ERR_FORKED.
///
/// # Safety
/// `store` came from tj_store_open; `out_health` is initialised; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_store_health(
    store: *mut tj_store,
    out_health: *mut tj_health,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked, and `room` is what the caller's struct holds.
    unsafe {
        entry(error, || {
            let room = room_out(out_health, "out_health")?;
            let health = store_of(store)?.health()?;
            let mut out = tj_health::initial();
            out.recorded = health.recorded;
            out.committed = health.committed;
            out.waiting = health.recorded.saturating_sub(health.committed);
            out.refused = health.refused;
            out.failed = health.failed;
            out.failures_busy = health.busy;
            out.failures_full = health.full;
            out.failures_corrupt = health.corrupt;
            out.failures_other = health.other;
            out.adopted = health.adopted;
            out.damaged_journals = health.damaged_journals;
            out.pruned = health.pruned;
            out.rollups_waiting = health.rollups_waiting;
            out.journal_used = health.journal_used;
            out.journal_size = health.journal_size;
            out.database_bytes = health.database_bytes;
            out.oldest_timestamp = health.oldest;
            out.newest_timestamp = health.newest;
            if let Some(failure) = &health.last_failure {
                let shown = tj_error::of(&failure.error);
                out.last_status = shown.status;
                out.last_failure_time = failure.time;
                out.last_message = shown.message;
            }
            struct_out(&out, out_health, room);
            Ok(())
        })
    }
}

/// Deletes every record, and every rollup. Records go away by this, by tj_store_prune, and by the options
/// max_age_seconds and max_bytes; in no other way.
///
/// TJ_OK: *out_deleted is how many there were; TJ_ERR_INVALID_ARGUMENT: NULL; TJ_ERR_READ_ONLY; TJ_ERR_CLOSED;
/// TJ_ERR_FORKED; TJ_ERR_BUSY; TJ_ERR_FULL; TJ_ERR_IO; TJ_ERR_CORRUPT. On failure every record is still there.
///
/// # Safety
/// `store` came from tj_store_open; `out_deleted` is writable; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_store_clear(
    store: *mut tj_store,
    out_deleted: *mut u64,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked.
    unsafe { entry(error, || number_out(out_deleted, "out_deleted", || store_of(store)?.clear())) }
}

/// Deletes the records whose timestamp is before `before` (Unix seconds). In a store that was opened with
/// keep_rollups it deletes only those from before the hour that `before` lies in (3600 s; it is rounded down), and
/// what tj_aggregate and tj_aggregate_series say of whole hours stays as it was.
///
/// TJ_OK: *out_deleted is how many there were; TJ_ERR_INVALID_ARGUMENT: NULL, or `before` NaN, infinite or negative;
/// the rest as for tj_store_clear.
///
/// # Safety
/// `store` came from tj_store_open; `out_deleted` is writable; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_store_prune(
    store: *mut tj_store,
    before: f64,
    out_deleted: *mut u64,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked.
    unsafe { entry(error, || number_out(out_deleted, "out_deleted", || store_of(store)?.prune(before))) }
}

/// A rollup that does not say what its records say. Everything in it is valid during the callback only.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_difference {
    /// The size that the library gave it.
    pub struct_size: usize,
    /// The time that the rollup is of, Unix seconds: since <= timestamp ...
    pub since: f64,
    /// ... < until. Both are infinite for all time.
    pub until: f64,
    /// The calls that it is of: their model, ...
    pub model_id: *const c_char,
    /// ... engine ...
    pub engine: *const c_char,
    /// ... and agent.
    pub agent: *const c_char,
    /// The figure: "calls", "outcomes", "token_gaps", or the name of a field of tj_telemetry_record.
    pub what: *const c_char,
    /// What the records say: how many there are, how many of them measured it, or their sum.
    pub expected: f64,
    /// What the rollup says.
    pub found: f64,
}

/// Gets a difference. It must not unwind (no C++ exception, no longjmp) into the library.
pub type tj_difference_fn =
    Option<unsafe extern "C" fn(difference: *const tj_difference, user_data: *mut c_void)>;

/// Learns how many of `total` records are done, and of the end by `done` == `total`. Returns 0 to go on; anything
/// else stops. It must not unwind (no C++ exception, no longjmp) into the library.
pub type tj_progress_fn = Option<unsafe extern "C" fn(done: u64, total: u64, user_data: *mut c_void) -> i32>;

/// Checks the database: by SQLite's own quick check first, then each rollup against its records. A rollup should
/// never differ; if one does, that is a fault of this library, or somebody has changed it. `fn` may be NULL; it gets
/// what differs when all has been checked, the first figure of each rollup's model, engine, agent and so on, on the
/// calling thread, with no lock held. Reads every record several times; others can record meanwhile.
///
/// TJ_OK: *out_differences is how many there are: 0, it is hoped. TJ_ERR_INVALID_ARGUMENT: NULL; TJ_ERR_CORRUPT: the
/// database does not pass SQLite's check, or a rollup cannot be read; TJ_ERR_CLOSED; TJ_ERR_FORKED; TJ_ERR_BUSY;
/// TJ_ERR_FULL; TJ_ERR_IO. On failure `fn` was not called.
///
/// # Safety
/// `store` came from tj_store_open; `fn` is NULL or may be called with `user_data`; `out_differences` is writable;
/// `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_store_verify(
    store: *mut tj_store,
    r#fn: tj_difference_fn,
    user_data: *mut c_void,
    out_differences: *mut u64,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked, and a difference's strings live until the callback returns.
    unsafe {
        let report = |difference: &Difference| {
            if let Some(callback) = r#fn {
                let names = Names::of(difference);
                callback(&names.difference(difference), user_data);
            }
        };
        entry(error, || number_out(out_differences, "out_differences", || store_of(store)?.verify(report)))
    }
}

/// The strings of a difference.
struct Names {
    model_id: CString,
    engine: CString,
    agent: CString,
    what: CString,
}

impl Names {
    fn of(it: &Difference) -> Names {
        Names {
            model_id: c_string(&it.model_id),
            engine: c_string(&it.engine),
            agent: c_string(&it.agent),
            what: c_string(it.what),
        }
    }

    fn difference(&self, it: &Difference) -> tj_difference {
        tj_difference {
            struct_size: size_of::<tj_difference>(),
            since: it.since,
            until: it.until,
            model_id: self.model_id.as_ptr(),
            engine: self.engine.as_ptr(),
            agent: self.agent.as_ptr(),
            what: self.what.as_ptr(),
            expected: it.expected,
            found: it.found,
        }
    }
}

/// Brings the rollups up to date now, a few thousand records at a time, instead of leaving it to the store: before a
/// first look at a database with many records that has none yet, say. `progress` may be NULL; it is called on the
/// calling thread before each step and at the end, with no lock held: it may use the store. What is done stays done;
/// after a stop, or a failure, the store goes on by itself, and calling this again goes on as well.
///
/// TJ_OK: *out_left is how many records are still not in the rollups: 0, unless `progress` stopped it.
/// TJ_ERR_INVALID_ARGUMENT: NULL; TJ_ERR_READ_ONLY; TJ_ERR_CLOSED; TJ_ERR_FORKED; TJ_ERR_BUSY; TJ_ERR_FULL;
/// TJ_ERR_IO; TJ_ERR_CORRUPT.
///
/// # Safety
/// `store` came from tj_store_open; `progress` is NULL or may be called with `user_data`; `out_left` is writable;
/// `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_store_rollup(
    store: *mut tj_store,
    progress: tj_progress_fn,
    user_data: *mut c_void,
    out_left: *mut u64,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked.
    unsafe {
        let goes_on = |done, total| progress.is_none_or(|progress| progress(done, total, user_data) == 0);
        entry(error, || number_out(out_left, "out_left", || store_of(store)?.fold(goes_on)))
    }
}
