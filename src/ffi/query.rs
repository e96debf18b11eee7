//! Choosing records.
//!
//! Every question takes a query: which records it is about.

use std::ffi::c_char;

use super::boundary::{Sized_, initialise, optional_string, struct_in};
use crate::error::Result;
use crate::stats::Objectives;
use crate::store::Query;

/// Which records. Zero and NULL in a field leave it open.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_query {
    /// Set by TJ_QUERY_INIT.
    pub struct_size: usize,
    /// Unix seconds: since <= timestamp ...
    pub since: f64,
    /// ... < until. 0: unbounded. An empty range selects nothing.
    pub until: f64,
    /// NULL: any; otherwise exactly this one ("" is one too).
    pub model_id: *const c_char,
    /// NULL: any; otherwise exactly this one.
    pub engine: *const c_char,
    /// NULL: any; otherwise exactly this one.
    pub agent: *const c_char,
    /// NULL: any; otherwise exactly this one.
    pub batch_id: *const c_char,
    /// 1: leave warm-up calls out.
    pub exclude_warmup: u32,
    /// 0: any; n: only records stamped n.
    pub token_counting_version: u32,
    /// 0: all; otherwise the bits (1 << TJ_OUTCOME_...) of those wanted. UINT32_MAX is all, too.
    pub outcome_mask: u32,
    /// 0: all; otherwise only the first n models and the first n engines (the totals are over all), batches or
    /// records.
    pub limit: u32,
    /// Objectives, for goodput; they select nothing. The most seconds to the first token; 0: any ...
    pub max_ttft: f64,
    /// ... the most seconds per output token after the first; 0: any ...
    pub max_tpot: f64,
    /// ... and the most seconds from start to end; 0: any. With an objective a query reads every record in its range.
    pub max_latency: f64,
}

// SAFETY: repr(C), size first, numbers and pointers only.
unsafe impl Sized_ for tj_query {
    const INIT: &'static str = "QUERY";
}

/// Does what TJ_QUERY_INIT does, for languages without macros. NULL is ignored.
///
/// # Safety
/// `query` is NULL or points to memory for one `tj_query`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_query_init(query: *mut tj_query) {
    // SAFETY: the caller's promise is the same.
    unsafe { initialise(query) }
}

/// NULL asks for everything.
///
/// # Safety
/// As for [`struct_in`].
pub(super) unsafe fn query_in(query: *const tj_query) -> Result<tj_query> {
    // SAFETY: by this function's contract.
    if query.is_null() { Ok(tj_query::initial()) } else { unsafe { struct_in(query, "query") } }
}

impl tj_query {
    /// # Safety
    /// Every string is NULL or NUL-terminated and stays as it is for `'a`.
    pub(super) unsafe fn view<'a>(&self) -> Result<Query<'a>> {
        // SAFETY: by this function's contract.
        unsafe {
            Ok(Query {
                since: self.since,
                until: self.until,
                model_id: optional_string(self.model_id, "query.model_id")?,
                engine: optional_string(self.engine, "query.engine")?,
                agent: optional_string(self.agent, "query.agent")?,
                batch_id: optional_string(self.batch_id, "query.batch_id")?,
                exclude_warmup: self.exclude_warmup != 0,
                token_counting_version: self.token_counting_version,
                outcome_mask: self.outcome_mask,
                limit: self.limit as usize,
                objectives: Objectives {
                    ttft: self.max_ttft,
                    tpot: self.max_tpot,
                    latency: self.max_latency,
                },
            })
        }
    }
}
