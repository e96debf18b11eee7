//! Batches.
//!
//! What the calls of each batch came to: the reference's per_batch_stats.

use std::ffi::{CString, c_char, c_void};
use std::mem::offset_of;

use super::boundary::{Owning, Sized_, c_string, entry, initialise, release, room_with_owner, struct_out};
use super::error::{tj_error, tj_status};
use super::query::{query_in, tj_query};
use super::store::{store_of, tj_store};
use crate::store::Batch;

/// The calls of one batch_id.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_batch {
    /// The batch; never "". Owned by the tj_batches.
    pub batch_id: *const c_char,
    /// Calls.
    pub total_requests: u64,
    /// Sum of prompt_tokens and completion_tokens.
    pub total_tokens: u64,
    /// Sum of completion_tokens.
    pub completion_tokens: u64,
    /// Calls that ended otherwise than as TJ_OUTCOME_OK.
    pub failed_requests: u64,
    /// Sum of energy_joules, joules.
    pub total_energy_joules: f64,
    /// Energy / prompt and output tokens, joules, over the calls that measured energy. 0.0 over nothing, as in the
    /// reference.
    pub energy_per_token_joules: f64,
    /// Energy / calls, joules, over the calls that measured energy. 0.0 over nothing.
    pub energy_per_request_joules: f64,
    /// The earliest call's timestamp, Unix seconds.
    pub oldest_timestamp: f64,
    /// The latest call's.
    pub newest_timestamp: f64,
    /// Always 0; room for later versions, so that the stride of arrays never changes.
    pub reserved: [u64; 8],
}

/// Batches. Initialise with TJ_BATCHES_INIT; release with tj_batches_free.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_batches {
    /// Set by TJ_BATCHES_INIT.
    pub struct_size: usize,
    /// The batches, by total_requests descending, then by name ascending. NULL if there are none.
    pub batches: *const tj_batch,
    /// How many.
    pub batch_count: usize,
    /// The library's; hands back what the list lives in.
    pub owner: *mut c_void,
}

// SAFETY: repr(C), size first, numbers and pointers only.
unsafe impl Sized_ for tj_batches {
    const INIT: &'static str = "BATCHES";
}

// SAFETY: the owner is where this says, and comes from tj_batch_stats.
unsafe impl Owning for tj_batches {
    type Owner = Batches;
    const OWNER: usize = offset_of!(tj_batches, owner);

    unsafe fn let_go(at: *mut Self) {
        // SAFETY: by the trait's contract; the list comes before the owner.
        unsafe { ((*at).batches, (*at).batch_count) = (std::ptr::null(), 0) }
    }
}

/// Does what TJ_BATCHES_INIT does, for languages without macros. NULL is ignored.
///
/// # Safety
/// `batches` is NULL or points to memory for one `tj_batches`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_batches_init(batches: *mut tj_batches) {
    // SAFETY: the caller's promise is the same.
    unsafe { initialise(batches) }
}

/// Counts the calls that a query selects (NULL: all) by batch. Calls without a batch_id are in none. The query's
/// limit, if it is not 0: only the first so many batches. It reads every record that has a batch_id.
///
/// TJ_OK: *out_batches is filled; release it with tj_batches_free, also before it is filled again.
/// TJ_ERR_INVALID_ARGUMENT: the message names the field, or a struct_size without room for the owner; TJ_ERR_CLOSED;
/// TJ_ERR_FORKED; TJ_ERR_BUSY; TJ_ERR_IO; TJ_ERR_FULL; TJ_ERR_CORRUPT. On failure *out_batches is not written.
///
/// # Safety
/// `store` came from tj_store_open; `query` is NULL or valid; `out_batches` is initialised; `error` is NULL or
/// writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_batch_stats(
    store: *mut tj_store,
    query: *const tj_query,
    out_batches: *mut tj_batches,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked, and `room` is what the caller's struct holds.
    unsafe {
        entry(error, || {
            let store = store_of(store)?;
            let room = room_with_owner(out_batches, "out_batches")?;
            let batches = store.batches(&query_in(query)?.view()?)?;
            let mut out = tj_batches::initial();
            let owner = Box::new(Batches::of(&batches));
            if !owner.batches.is_empty() {
                (out.batches, out.batch_count) = (owner.batches.as_ptr(), owner.batches.len());
            }
            out.owner = Box::into_raw(owner).cast();
            struct_out(&out, out_batches, room);
            Ok(())
        })
    }
}

/// Releases what a filled tj_batches owns. NULL, an initialised one that was never filled, and one that was released
/// before are fine.
///
/// # Safety
/// `batches` is NULL or initialised.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_batches_free(batches: *mut tj_batches) {
    // SAFETY: the caller's promise is the same.
    unsafe { release(batches) }
}

/// What the list lives in.
pub(super) struct Batches {
    batches: Vec<tj_batch>,
    _names: Vec<CString>,
}

impl Batches {
    fn of(batches: &[Batch]) -> Batches {
        let names: Vec<CString> = batches.iter().map(|batch| c_string(&batch.batch_id)).collect();
        let batches = batches.iter().zip(&names).map(|(batch, name)| tj_batch {
            batch_id: name.as_ptr(),
            total_requests: batch.total_requests,
            total_tokens: batch.total_tokens,
            completion_tokens: batch.completion_tokens,
            failed_requests: batch.failed_requests,
            total_energy_joules: batch.total_energy_joules,
            energy_per_token_joules: batch.energy_per_token_joules,
            energy_per_request_joules: batch.energy_per_request_joules,
            oldest_timestamp: batch.oldest,
            newest_timestamp: batch.newest,
            reserved: [0; 8],
        });
        Batches { batches: batches.collect(), _names: names }
    }
}
