//! Instrumented generation.
//!
//! An engine is one callback. tj_instrumented_generate publishes TJ_EVENT_INFERENCE_START, calls it, and publishes
//! TJ_EVENT_INFERENCE_END and TJ_EVENT_TELEMETRY_RECORD, whatever the engine returned. Prompts and answers pass through by
//! pointer; they are never stored. While energy is measured, the record follows in the background (see Energy, below). An engine whose loop cannot be turned inside out uses tj_call_begin instead, below.

use std::ffi::{c_char, c_void};

use super::boundary::{Sized_, entry, initialise, room_out, string, struct_in, struct_out};
use super::call::{begin, tj_call};
use super::error::{tj_error, tj_status};
use super::request::{tj_generate_request, tj_generate_result};
use crate::error::Error;

/// An engine: fills `result` and returns 0, or returns its own error code. `call` is for tj_call_prompt, tj_call_tokens,
/// tj_call_draft, tj_call_cancel and tj_call_cancelled; it is the library's, and valid until the callback returns (another
/// thread must not use it after that). `request` is a copy of the caller's struct with the caller's pointers in it. The
/// callback must not unwind (no C++ exception, no longjmp) into the library.
pub type tj_generate_fn = Option<
    unsafe extern "C" fn(
        engine_data: *mut c_void,
        request: *const tj_generate_request,
        call: *mut tj_call,
        result: *mut tj_generate_result,
    ) -> i32,
>;

/// An engine and its name.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_engine {
    /// Set by TJ_ENGINE_INIT.
    pub struct_size: usize,
    /// Goes into the record as `engine`. NULL: "".
    pub engine_id: *const c_char,
    /// Required.
    pub generate: tj_generate_fn,
    /// Handed to generate as it is.
    pub engine_data: *mut c_void,
}

// SAFETY: repr(C), size first, pointers and a nullable function pointer only.
unsafe impl Sized_ for tj_engine {
    const INIT: &'static str = "ENGINE";
}

/// Does what TJ_ENGINE_INIT does, for languages without macros. NULL is ignored.
///
/// # Safety
/// `engine` is NULL or points to memory for one `tj_engine`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_engine_init(engine: *mut tj_engine) {
    // SAFETY: the caller's promise is the same.
    unsafe { initialise(engine) }
}

/// Calls the engine and tells the bus what it cost. The call belongs to the stores that are subscribed when it begins. A
/// figure in the engine's result that cannot be (negative, infinite, a count above 2^63, text that is no UTF-8) counts as
/// not given and is named in the record's metadata under "tokenjoule.ignored": telemetry never breaks a generation.
///
/// TJ_OK: the engine returned 0, and *out_result is what it filled in. TJ_ERR_ENGINE: it returned something else, which is
/// in error->engine_code; the call is recorded as TJ_OUTCOME_ERROR, or as TJ_OUTCOME_CANCELLED after tj_call_cancel.
/// TJ_ERR_INVALID_ARGUMENT: the engine was not called and nothing was published. On failure *out_result is not written.
///
/// # Safety
/// `engine` and `request` are valid; `out_result` is initialised; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_instrumented_generate(
    engine: *const tj_engine,
    request: *const tj_generate_request,
    out_result: *mut tj_generate_result,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked, and `room` is what the caller's struct holds.
    unsafe {
        entry(error, || {
            let engine = struct_in(engine, "engine")?;
            let generate = engine.generate.ok_or_else(|| Error::invalid("engine.generate", "is NULL"))?;
            let request = struct_in(request, "request")?;
            let room = room_out(out_result, "out_result")?;
            let engine_id = string(engine.engine_id, "engine.engine_id")?;

            let mut call = begin(&request.view(engine_id)?, true)?;
            let mut result = tj_generate_result::initial();
            let code = generate(engine.engine_data, &raw const request, &raw mut *call, &raw mut result);

            let mut ignored = Vec::new();
            let report = result.view(&mut |field: &str, _| {
                ignored.push(field.to_owned());
                Ok(())
            })?;
            call.finish(code, &report, ignored)?;
            struct_out(&result, out_result, room);
            Ok(())
        })
    }
}
