//! Calls, step by step.
//!
//! For engines whose loop cannot be turned inside out (continuous batching, server slots): begin a call, tell of its
//! tokens as they come, end it, free it. One thread at a time uses a call, but for tj_call_cancel, tj_call_cancelled and
//! tj_call_id, which any thread may use until it is freed. Durations are by the monotonic clock.

use std::cell::RefCell;
use std::ffi::{c_char, c_void};
use std::sync::Arc;

use super::boundary::{entry, handle, infallible, not_null, string, struct_in, write_out};
use super::error::{tj_error, tj_status};
use super::record::outcome;
use super::request::{tj_generate_request, tj_generate_result};
use crate::bus::Bus;
use crate::call::{Call, Canceller, Report, Start};
use crate::error::{Error, Result};

/// A call in flight.
pub struct tj_call {
    /// What other threads may touch …
    canceller: Arc<Canceller>,
    /// … and what only one at a time may: a RefCell makes a breach of that rule an error instead of a data race's victim.
    call: RefCell<Call>,
    /// tj_instrumented_generate's: the engine may not free it.
    is_lent: bool,
}

pub(super) fn begin(start: &Start<'_>, is_lent: bool) -> Result<Box<tj_call>> {
    let call = Call::begin(Bus::global(), start)?;
    Ok(Box::new(tj_call { canceller: call.canceller(), call: RefCell::new(call), is_lent }))
}

impl tj_call {
    fn with_call<T>(&self, use_it: impl FnOnce(&mut Call) -> Result<T>) -> Result<T> {
        let in_use =
            |_| Error::invalid("call", "is in use by another thread, or by the event that it is publishing");
        use_it(&mut *self.call.try_borrow_mut().map_err(in_use)?)
    }

    /// The end of an engine callback that returned `code`.
    pub(super) fn finish(&self, code: i32, report: &Report<'_>, ignored: Vec<String>) -> Result<()> {
        self.with_call(|call| call.finish(code, report, ignored))
    }
}

/// Begins a call: publishes TJ_EVENT_INFERENCE_START and starts the clock. The call belongs to the stores that are
/// subscribed now. `engine_id` NULL: "". Of `request` the messages, temperature, max_tokens and extra_json are only checked.
///
/// TJ_OK: *out_call is a call; free it with tj_call_free. TJ_ERR_INVALID_ARGUMENT: the message names the field; *out_call is
/// not written and nothing was published.
///
/// # Safety
/// `engine_id` is NULL or NUL-terminated; `request` is valid; `out_call` is writable; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_call_begin(
    engine_id: *const c_char,
    request: *const tj_generate_request,
    out_call: *mut *mut tj_call,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked.
    unsafe {
        entry(error, || {
            let engine = string(engine_id, "engine_id")?;
            let request = struct_in(request, "request")?;
            not_null(out_call, "out_call")?;
            let call = begin(&request.view(engine)?, false)?;
            write_out(out_call, Box::into_raw(call));
            Ok(())
        })
    }
}

/// For the functions that cannot fail: a NULL or ended call, and one that another thread is using, are left alone.
///
/// # Safety
/// `call` is NULL or came from this library and was not freed.
unsafe fn tell(call: *mut tj_call, use_it: impl FnOnce(&mut Call)) {
    infallible((), || {
        // SAFETY: by this function's contract.
        let call = unsafe { handle(call, "call") };
        let _ = call.and_then(|call| {
            call.with_call(|call| {
                use_it(call);
                Ok(())
            })
        });
    });
}

/// Tells the length of the whole prompt, and how much of it came from a cache, as soon as it is known. TJ_UNKNOWN for
/// either. NULL, and a call that has ended, are ignored.
///
/// # Safety
/// `call` is NULL or a call that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_call_prompt(call: *mut tj_call, prompt_tokens: u64, cached_tokens: u64) {
    // SAFETY: the caller's promise is the same.
    unsafe { tell(call, |call| call.prompt(prompt_tokens, cached_tokens)) }
}

/// Tells that `count` more output tokens exist as of now. The first call gives TTFT; the gap to each later one, divided by
/// its `count`, is the inter-token latency of each of its tokens. Reads the clock once, and allocates only where a gap is of
/// another order of magnitude than those before it. 0, NULL, and a call that has ended, are ignored. On a GPU call it after
/// the device was synchronised (in llama.cpp: after sampling).
///
/// # Safety
/// `call` is NULL or a call that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_call_tokens(call: *mut tj_call, count: u32) {
    // SAFETY: the caller's promise is the same.
    unsafe { tell(call, |call| call.tokens(count)) }
}

/// Tells of a step of speculative decoding: so many tokens proposed, so many of them accepted. Steps add up. NULL, and a
/// call that has ended, are ignored.
///
/// # Safety
/// `call` is NULL or a call that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_call_draft(call: *mut tj_call, proposed: u32, accepted: u32) {
    // SAFETY: the caller's promise is the same.
    unsafe { tell(call, |call| call.draft(proposed, accepted)) }
}

/// Asks the engine to stop. From any thread; NULL is ignored. The engine sees it through tj_call_cancelled.
///
/// # Safety
/// `call` is NULL or a call that is not freed before this returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_call_cancel(call: *mut tj_call) {
    // SAFETY: as the caller promises; only the part that any thread may touch is touched.
    let _ = unsafe { handle(call, "call") }.map(|call| call.canceller.cancel());
}

/// Has the call been asked to stop? From any thread; false for NULL. `call` is a tj_call; it is a void pointer so that the
/// function fits where llama.cpp wants a ggml_abort_callback.
///
/// # Safety
/// `call` is NULL or a call that is not freed before this returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_call_cancelled(call: *mut c_void) -> bool {
    // SAFETY: as the caller promises; only the part that any thread may touch is touched.
    unsafe { handle(call.cast::<tj_call>(), "call") }.is_ok_and(|call| call.canceller.is_cancelled())
}

/// The number that the call's events carry as call_id; 0 for NULL. From any thread.
///
/// # Safety
/// `call` is NULL or a call that is not freed before this returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_call_id(call: *const tj_call) -> u64 {
    // SAFETY: as the caller promises; only the part that any thread may touch is touched.
    unsafe { handle(call, "call") }.map_or(0, |call| call.canceller.id())
}

/// Ends a call: publishes TJ_EVENT_INFERENCE_END, hands the record to the call's stores, and publishes
/// TJ_EVENT_TELEMETRY_RECORD; while energy is measured (tj_energy_start), the latter two follow in the background. `outcome`
/// is a tj_outcome; `result` is what the engine itself knows, and may be NULL.
///
/// TJ_OK; TJ_ERR_INVALID_ARGUMENT: the message names the field, and the call goes on; TJ_ERR_CLOSED: it has ended before, and
/// nothing was recorded; TJ_ERR_FORKED. Stores that could not record show it in tj_store_health.
///
/// # Safety
/// `call` is a call that was not freed; `result` is NULL or valid; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_call_end(
    call: *mut tj_call,
    outcome: u32,
    result: *const tj_generate_result,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked.
    unsafe {
        entry(error, || {
            let call = handle(call, "call")?;
            let outcome = self::outcome("outcome", outcome)?;
            let report = if result.is_null() {
                Report::default()
            } else {
                struct_in(result, "result")?.view(&mut |_, error| Err(error))?
            };
            call.with_call(|call| call.end(outcome, &report))
        })
    }
}

/// Frees a call. Always needed after tj_call_begin, and the last use of the handle; NULL is fine. A call without an end is
/// recorded as TJ_OUTCOME_ABANDONED first. A call that tj_instrumented_generate lent to an engine is left alone.
///
/// # Safety
/// `call` is NULL or a call that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_call_free(call: *mut tj_call) {
    // SAFETY: as the caller promises; a call that is not lent came out of its Box in tj_call_begin.
    unsafe {
        if handle(call, "call").is_ok_and(|call| !call.is_lent) {
            infallible((), || drop(Box::from_raw(call)));
        }
    }
}
