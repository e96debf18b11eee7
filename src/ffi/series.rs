//! Aggregating over time.
//!
//! The answer of tj_aggregate for each step of a range, one behind the other: what a chart shows. Asking once for
//! 1,000 steps is much cheaper than asking 1,000 times.

use std::ffi::c_void;
use std::mem::offset_of;

use super::aggregate::{Lists, tj_aggregated_stats, totals};
use super::boundary::{Owning, Sized_, entry, initialise, release, room_with_owner, struct_out};
use super::error::{tj_error, tj_status};
use super::query::{query_in, tj_query};
use super::store::{store_of, tj_store};
use crate::store::Step;

/// One step of a series.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_series_step {
    /// Unix seconds: since <= timestamp ...
    pub since: f64,
    /// ... < until.
    pub until: f64,
    /// What tj_aggregate answers about it. The series': it goes with tj_series_free, and is not to be freed itself.
    pub stats: *const tj_aggregated_stats,
    /// Always 0; room for later versions, so that the stride of arrays never changes.
    pub reserved: [u64; 4],
}

/// The steps of a range. Initialise with TJ_SERIES_INIT; release with tj_series_free.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_series {
    /// Set by TJ_SERIES_INIT.
    pub struct_size: usize,
    /// The steps, the earliest first, without gaps: steps without calls are among them. NULL if there are none.
    pub steps: *const tj_series_step,
    /// How many steps.
    pub step_count: usize,
    /// The library's; hands back what the steps live in.
    pub owner: *mut c_void,
}

// SAFETY: repr(C), size first, numbers and pointers only.
unsafe impl Sized_ for tj_series {
    const INIT: &'static str = "SERIES";
}

// SAFETY: the owner is where this says, and comes from tj_aggregate_series.
unsafe impl Owning for tj_series {
    type Owner = Steps;
    const OWNER: usize = offset_of!(tj_series, owner);

    unsafe fn let_go(at: *mut Self) {
        // SAFETY: by the trait's contract; the list comes before the owner.
        unsafe { ((*at).steps, (*at).step_count) = (std::ptr::null(), 0) }
    }
}

/// Does what TJ_SERIES_INIT does, for languages without macros. NULL is ignored.
///
/// # Safety
/// `series` is NULL or points to memory for one `tj_series`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_series_init(series: *mut tj_series) {
    // SAFETY: the caller's promise is the same.
    unsafe { initialise(series) }
}

/// Answers a query (NULL: everything) for each step of `step_seconds` in its range. The first step begins at the
/// query's since; if that is unbounded, at the last multiple of step_seconds that is not after the first record. The
/// last step is cut short by the query's until; if that is unbounded, it is the one with the last record in it. The
/// first and the last record are those of the database, whatever else the query asks for. Its limit is each step's.
///
/// TJ_OK: *out_series is filled; release it with tj_series_free, also before it is filled again. A store without
/// records, asked without both bounds, and an empty range have no steps. TJ_ERR_INVALID_ARGUMENT: the message names
/// the field; `step_seconds` is not positive and finite, or the range has more than 10,000 steps of it; or a
/// struct_size without room for the owner. TJ_ERR_CLOSED; TJ_ERR_FORKED; TJ_ERR_BUSY; TJ_ERR_IO; TJ_ERR_FULL;
/// TJ_ERR_CORRUPT. On failure *out_series is not written.
///
/// # Safety
/// `store` came from tj_store_open; `query` is NULL or valid; `out_series` is initialised; `error` is NULL or
/// writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_aggregate_series(
    store: *mut tj_store,
    query: *const tj_query,
    step_seconds: f64,
    out_series: *mut tj_series,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked, and `room` is what the caller's struct holds.
    unsafe {
        entry(error, || {
            let store = store_of(store)?;
            let room = room_with_owner(out_series, "out_series")?;
            let steps = store.series(&query_in(query)?.view()?, step_seconds)?;
            let mut out = tj_series::initial();
            let owner = Box::new(Steps::of(&steps));
            if !owner.steps.is_empty() {
                (out.steps, out.step_count) = (owner.steps.as_ptr(), owner.steps.len());
            }
            out.owner = Box::into_raw(owner).cast();
            struct_out(&out, out_series, room);
            Ok(())
        })
    }
}

/// Releases what a filled tj_series owns, the statistics of its steps included. NULL, an initialised one that was
/// never filled, and one that was released before are fine.
///
/// # Safety
/// `series` is NULL or initialised.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_series_free(series: *mut tj_series) {
    // SAFETY: the caller's promise is the same.
    unsafe { release(series) }
}

/// What the steps live in. None of these lists grows or shrinks once others point into it.
pub(super) struct Steps {
    steps: Vec<tj_series_step>,
    _stats: Vec<tj_aggregated_stats>,
    _lists: Vec<Lists>,
}

impl Steps {
    fn of(answers: &[Step]) -> Steps {
        let lists: Vec<Lists> = answers.iter().map(|step| Lists::of(&step.answer)).collect();
        let stats: Vec<tj_aggregated_stats> = answers.iter().zip(&lists).map(shown).collect();
        let steps = answers.iter().zip(&stats).map(|(step, stats)| tj_series_step {
            since: step.since,
            until: step.until,
            stats,
            reserved: [0; 4],
        });
        Steps { steps: steps.collect(), _stats: stats, _lists: lists }
    }
}

fn shown((step, lists): (&Step, &Lists)) -> tj_aggregated_stats {
    let mut stats = totals(&step.answer);
    lists.show(&mut stats);
    stats
}
