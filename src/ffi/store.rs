//! Recording.
//!
//! A store is one SQLite database. Open it once, record into it from any thread, close it at the end.

use std::ffi::c_char;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::boundary::{
    Sized_, entry, handle, initialise, not_null, number_out, string, struct_in, struct_view, write_out,
};
use super::error::{tj_error, tj_status};
use super::record::tj_telemetry_record;
use crate::bus::Bus;
use crate::error::{Error, Result};
use crate::store::{Durability, Overflow, Store, StoreOptions};

/// A database of calls. Any thread, any time, until it is closed; a handle that was closed answers TJ_ERR_CLOSED.
pub struct tj_store {
    store: Arc<Store>,
    /// Never read: it keeps the handles reachable, so that leak checkers see what they are.
    _older: *mut tj_store,
}

/// The values of tj_store_options.durability.
#[repr(C)]
pub enum tj_durability {
    /// A tj_record that returned survives SIGKILL and the OOM killer.
    TJ_DURABILITY_PROCESS = 0,
    /// A tj_record that returned survives a power cut: its commit is on the disk.
    TJ_DURABILITY_POWER = 1,
}

/// The values of tj_store_options.overflow.
#[repr(C)]
pub enum tj_overflow {
    /// A full journal makes tj_record commit what is in it first. While the database cannot be written to, tj_record then
    /// returns why (TJ_ERR_BUSY after the busy timeout, TJ_ERR_FULL, TJ_ERR_IO).
    TJ_OVERFLOW_WAIT = 0,
    /// A full journal makes tj_record return TJ_ERR_FULL; the refused record is counted.
    TJ_OVERFLOW_REJECT = 1,
}

/// How to open a store. Zero in a field is its default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_store_options {
    /// Set by TJ_STORE_OPTIONS_INIT.
    pub struct_size: usize,
    /// 1: open an existing database for queries only; nothing on disk changes.
    pub read_only: u32,
    /// A tj_durability.
    pub durability: u32,
    /// A tj_overflow.
    pub overflow: u32,
    /// Milliseconds to wait for another process that holds the database. 0: 5000.
    pub busy_timeout_ms: u32,
    /// Milliseconds that a record may wait in the journal before other processes can see it. 0: 100. This process's own
    /// questions see it at once.
    pub commit_interval_ms: u32,
    /// Bytes of the journal, 64 KiB to 1 GiB, rounded up to a power of two. 0: 8 MiB. A record that is larger than the whole
    /// journal is refused.
    pub journal_bytes: u64,
    /// Records that are older than this many seconds are deleted, little by little. 0: never. Not in memory.
    pub max_age_seconds: f64,
    /// While the database uses more bytes than this, the oldest records are deleted, little by little. 0: never. The room
    /// is used again; the file does not shrink. Not in memory.
    pub max_bytes: u64,
    /// 1: what tj_aggregate says of records that are deleted by age, by size or by tj_store_prune stays, percentiles
    /// included. Whole hours are deleted, then, and where records are gone a query's ends count whole hours: those that
    /// begin in its range. tj_store_clear deletes these summaries, too.
    pub keep_rollups: u32,
    /// Set it to 0.
    pub reserved: u32,
}

// SAFETY: repr(C), size first, numbers only.
unsafe impl Sized_ for tj_store_options {
    const INIT: &'static str = "STORE_OPTIONS";
}

/// Does what TJ_STORE_OPTIONS_INIT does, for languages without macros. NULL is ignored.
///
/// # Safety
/// `options` is NULL or points to memory for one `tj_store_options`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_store_options_init(options: *mut tj_store_options) {
    // SAFETY: the caller's promise is the same.
    unsafe { initialise(options) }
}

/// Opens the database at `path`, making it and missing folders (files 0600, folders 0700), or, with ":memory:", a
/// private one in memory. `options` NULL: all defaults. A database of the Python reference is taken over in place and
/// stays usable by it. Beside the database lies the store's journal, which its close deletes; what processes that died
/// left in theirs is taken over first (tj_health says how much).
///
/// TJ_OK: *out_store is a store; close it with tj_store_close.
/// TJ_ERR_INVALID_ARGUMENT; TJ_ERR_IO: cannot be opened or made, or a symbolic link that another user owns;
/// TJ_ERR_BUSY; TJ_ERR_FULL: no room for the database or its journal; TJ_ERR_CORRUPT: not a database, or a damaged one;
/// TJ_ERR_SCHEMA: written by a newer version, or its table `telemetry` is another program's; TJ_ERR_FORKED: in a forked
/// child, if a thread was inside a store at the moment of the fork (fork first, or exec). In all these cases *out_store is
/// not written, and what was in the file is as it was.
///
/// # Safety
/// `path` is NUL-terminated; `options` is NULL or valid; `out_store` and `error` are writable (`error` may be NULL).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_store_open(
    path: *const c_char,
    options: *const tj_store_options,
    out_store: *mut *mut tj_store,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: the pointers are as the caller promises, and are checked for NULL before use.
    unsafe {
        entry(error, || {
            not_null(path, "path")?;
            not_null(out_store, "out_store")?;
            let options = if options.is_null() {
                StoreOptions::default()
            } else {
                options_of(&struct_in(options, "options")?)?
            };
            let store = Store::open(string(path, "path")?, &options)?;
            write_out(out_store, keep(store));
            Ok(())
        })
    }
}

/// A closed handle answers TJ_ERR_CLOSED instead of being a wild pointer: the few bytes of a handle are kept, in this
/// list, until the process ends. A list without a lock: a fork must not leave the child one that is taken.
fn keep(store: Arc<Store>) -> *mut tj_store {
    static NEWEST: AtomicPtr<tj_store> = AtomicPtr::new(std::ptr::null_mut());
    let mut handle = Box::new(tj_store { store, _older: std::ptr::null_mut() });
    loop {
        handle._older = NEWEST.load(Ordering::Relaxed);
        let newest = &raw mut *handle;
        if NEWEST.compare_exchange(handle._older, newest, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            return Box::into_raw(handle);
        }
    }
}

fn options_of(options: &tj_store_options) -> Result<StoreOptions> {
    let unknown =
        |field: &str, value: u32| Err(Error::invalid(field, format!("is {value}; not a known value")));
    if options.reserved != 0 {
        return unknown("options.reserved", options.reserved);
    }
    let default = StoreOptions::default();
    Ok(StoreOptions {
        read_only: match options.read_only {
            0 => false,
            1 => true,
            other => return unknown("options.read_only", other),
        },
        durability: match options.durability {
            0 => Durability::Process,
            1 => Durability::Power,
            other => return unknown("options.durability", other),
        },
        overflow: match options.overflow {
            0 => Overflow::Wait,
            1 => Overflow::Reject,
            other => return unknown("options.overflow", other),
        },
        busy_timeout_ms: non_zero_or(options.busy_timeout_ms, default.busy_timeout_ms),
        commit_interval_ms: non_zero_or(options.commit_interval_ms, default.commit_interval_ms),
        journal_bytes: if options.journal_bytes == 0 { default.journal_bytes } else { options.journal_bytes },
        max_age_seconds: options.max_age_seconds,
        max_bytes: options.max_bytes,
        keep_rollups: match options.keep_rollups {
            0 => false,
            1 => true,
            other => return unknown("options.keep_rollups", other),
        },
    })
}

fn non_zero_or(value: u32, default: u32) -> u32 {
    if value == 0 { default } else { value }
}

/// The store behind a handle.
///
/// # Safety
/// `store` is NULL or came from tj_store_open.
pub(super) unsafe fn store_of<'a>(store: *const tj_store) -> Result<&'a Arc<Store>> {
    // SAFETY: handles are kept for the life of the process.
    Ok(&unsafe { handle(store, "store") }?.store)
}

/// Commits what was recorded and closes the store; its subscription to the bus ends. A call that is still in flight
/// keeps the database open until it has ended, and is recorded. NULL is fine. The last use of the handle: no other
/// thread may be using it.
///
/// TJ_OK; TJ_ERR_CLOSED: it was closed before; TJ_ERR_FORKED: nothing but memory was freed; TJ_ERR_IO, TJ_ERR_FULL,
/// TJ_ERR_BUSY: the last commit failed. It is closed in every case.
///
/// # Safety
/// `store` is NULL or came from tj_store_open; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_store_close(store: *mut tj_store, error: *mut tj_error) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked.
    unsafe {
        entry(error, || {
            if store.is_null() {
                return Ok(());
            }
            let store = store_of(store)?;
            Bus::global().detach(store);
            store.close()
        })
    }
}

/// Returns when everything recorded so far is committed.
///
/// TJ_OK; TJ_ERR_INVALID_ARGUMENT: NULL; TJ_ERR_CLOSED; TJ_ERR_FORKED; TJ_ERR_IO, TJ_ERR_FULL, TJ_ERR_BUSY.
///
/// # Safety
/// `store` came from tj_store_open; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_store_flush(store: *mut tj_store, error: *mut tj_error) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked.
    unsafe { entry(error, || store_of(store)?.flush()) }
}

/// Records one call. When it returns TJ_OK the record survives the death of the process (see tj_durability): it is in the
/// journal, and in the database within commit_interval_ms, or as soon as this process asks it anything.
///
/// TJ_OK; TJ_ERR_INVALID_ARGUMENT: the message names the field; TJ_ERR_READ_ONLY; TJ_ERR_CLOSED; TJ_ERR_FORKED;
/// TJ_ERR_BUSY; TJ_ERR_FULL; TJ_ERR_IO. On failure nothing was recorded, and tj_store_health counts it. One exception: under
/// TJ_DURABILITY_POWER the last three can mean that the record is in the journal and not on the disk yet. It will be, by
/// itself, and counts as recorded (tj_health.waiting): do not record it again.
///
/// # Safety
/// `store` came from tj_store_open; `record` is valid, its strings NUL-terminated; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_record(
    store: *mut tj_store,
    record: *const tj_telemetry_record,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked.
    unsafe {
        entry(error, || {
            let store = store_of(store)?;
            let mut completed = None;
            match struct_view(record, "record", &mut completed).and_then(|record| record.view()) {
                Ok(record) => store.record(&record),
                Err(refusal) => Err(store.refused(refusal)),
            }
        })
    }
}

/// Counts the records in the database, whoever wrote them. Sees the caller's own at once.
///
/// TJ_OK: *out_count is the number; TJ_ERR_INVALID_ARGUMENT: NULL; TJ_ERR_CLOSED; TJ_ERR_FORKED; TJ_ERR_BUSY;
/// TJ_ERR_FULL; TJ_ERR_IO; TJ_ERR_CORRUPT.
///
/// # Safety
/// `store` came from tj_store_open; `out_count` is writable; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_store_count(
    store: *mut tj_store,
    out_count: *mut u64,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked.
    unsafe { entry(error, || number_out(out_count, "out_count", || store_of(store)?.count())) }
}

/// From now on every TJ_EVENT_TELEMETRY_RECORD on the bus, and every call begun, is recorded in this store, until
/// tj_store_unsubscribe or tj_store_close. Subscribing twice is the same as once. A store that cannot record never breaks
/// the caller's generation: tj_store_health counts the failure.
///
/// TJ_OK; TJ_ERR_INVALID_ARGUMENT: NULL; TJ_ERR_READ_ONLY; TJ_ERR_CLOSED; TJ_ERR_FORKED.
///
/// # Safety
/// `store` came from tj_store_open; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_store_subscribe(store: *mut tj_store, error: *mut tj_error) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked.
    unsafe {
        entry(error, || {
            let store = store_of(store)?;
            store.check_writable()?;
            Bus::global().attach(store.clone());
            Ok(())
        })
    }
}

/// Ends tj_store_subscribe. Calls begun before still go to this store when they end. A store that is not subscribed is
/// fine.
///
/// TJ_OK; TJ_ERR_INVALID_ARGUMENT: NULL; TJ_ERR_CLOSED; TJ_ERR_FORKED.
///
/// # Safety
/// `store` came from tj_store_open; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_store_unsubscribe(store: *mut tj_store, error: *mut tj_error) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked.
    unsafe {
        entry(error, || {
            let store = store_of(store)?;
            store.check_open()?;
            Bus::global().detach(store);
            Ok(())
        })
    }
}
