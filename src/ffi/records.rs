//! Reading records.
//!
//! One by one, as they were recorded, unknowns as NAN and TJ_UNKNOWN. A callback gets them, on the calling thread,
//! with no lock held: it may use the store. Records made after the reading began are not part of it; of records that
//! are deleted meanwhile some hundred may still be.

use std::ffi::c_void;

use super::boundary::entry;
use super::error::{tj_error, tj_status};
use super::event::Strings;
use super::query::{query_in, tj_query};
use super::record::tj_telemetry_record;
use super::store::{store_of, tj_store};
use crate::error::{Error, Result};
use crate::record::Record;
use crate::store::{Query, Store};

/// Gets a record and its id, the column `id` of the table `telemetry`. Returns 0 to go on; anything else is the end.
/// The record and its strings are valid until it returns. It must not unwind (no C++ exception, no longjmp) into the
/// library.
pub type tj_record_fn = Option<
    unsafe extern "C" fn(record: *const tj_telemetry_record, record_id: i64, user_data: *mut c_void) -> i32,
>;

/// Calls `fn` for each record that a query selects (NULL: all), the oldest timestamp first, equal ones by id. The
/// query's limit, if it is not 0: for so many at most. Objectives select nothing.
///
/// TJ_OK: there are no more, the limit is reached, or `fn` wanted no more. TJ_ERR_INVALID_ARGUMENT: the message names
/// the field, or `fn` is NULL: it was not called. TJ_ERR_CLOSED: the store is closed, or `fn` closed it: it was not
/// called again. TJ_ERR_FORKED; TJ_ERR_BUSY; TJ_ERR_IO; TJ_ERR_FULL; TJ_ERR_CORRUPT: it may have been called for some
/// records.
///
/// # Safety
/// `store` came from tj_store_open; `query` is NULL or valid; `fn` may be called with `user_data`; `error` is NULL or
/// writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_records_each(
    store: *mut tj_store,
    query: *const tj_query,
    r#fn: tj_record_fn,
    user_data: *mut c_void,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked.
    unsafe {
        entry(error, || {
            read(store, query, r#fn, user_data, |store, query, visit| store.records(query, visit))
        })
    }
}

/// As tj_records_each, the newest first: with a limit, the last calls.
///
/// TJ_OK, TJ_ERR_INVALID_ARGUMENT, TJ_ERR_CLOSED, TJ_ERR_FORKED, TJ_ERR_BUSY, TJ_ERR_IO, TJ_ERR_FULL, TJ_ERR_CORRUPT:
/// as there.
///
/// # Safety
/// As for tj_records_each.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_records_recent(
    store: *mut tj_store,
    query: *const tj_query,
    r#fn: tj_record_fn,
    user_data: *mut c_void,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked.
    unsafe {
        entry(error, || read(store, query, r#fn, user_data, |store, query, visit| store.recent(query, visit)))
    }
}

type Visit<'v> = &'v mut dyn FnMut(i64, &Record<'_>) -> bool;

/// # Safety
/// As for tj_records_each.
unsafe fn read(
    store: *const tj_store,
    query: *const tj_query,
    callback: tj_record_fn,
    user_data: *mut c_void,
    read: impl FnOnce(&Store, &Query<'_>, Visit<'_>) -> Result<()>,
) -> Result<()> {
    // SAFETY: by this function's contract; NULL is checked.
    let (store, query) = unsafe { (store_of(store)?, query_in(query)?) };
    let callback = callback.ok_or_else(|| Error::invalid("fn", "is NULL"))?;
    let mut still_open = Ok(());
    let mut visit = |id: i64, record: &Record<'_>| {
        let mut strings = Strings::with_room(record.metadata_json.len());
        let record = tj_telemetry_record::of(record, |text| strings.put(text));
        // SAFETY: the caller vouched for the callback; record and strings live until it returns.
        if unsafe { callback(&record, id, user_data) } != 0 {
            return false;
        }
        still_open = store.check_open(); // the callback may have closed it
        still_open.is_ok()
    };
    // SAFETY: by this function's contract.
    read(store, &unsafe { query.view()? }, &mut visit)?;
    still_open
}
