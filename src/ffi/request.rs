//! Requests and results.
//!
//! What is asked of an engine, and what the engine has to say about it.

use std::ffi::{c_char, c_void};

use super::boundary::{Sized_, initialise, not_null, string};
use crate::call::{Report, Start};
use crate::error::{Error, ErrorKind, Result};
use crate::record::{MAX_METADATA, check_json_object};

/// One message of a conversation. NULL means "".
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_message {
    /// "system", "user", "assistant" ...
    pub role: *const c_char,
    /// The text.
    pub content: *const c_char,
}

/// What is asked of an engine. Strings: NULL means ""; everything stays the caller's.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_generate_request {
    /// Set by TJ_GENERATE_REQUEST_INIT.
    pub struct_size: usize,
    /// The model. Required, not empty.
    pub model: *const c_char,
    /// The conversation; NULL if message_count is 0.
    pub messages: *const tj_message,
    /// How many messages.
    pub message_count: usize,
    /// As given: this library does not judge it.
    pub temperature: f64,
    /// As given.
    pub max_tokens: u32,
    /// Engine-specific keywords, a JSON object (at most 1 MiB). NULL: {}.
    pub extra_json: *const c_char,
    /// Goes into the record, as do the following strings: who asks.
    pub agent: *const c_char,
    /// The batch that the call belongs to.
    pub batch_id: *const c_char,
    /// "chat", "text_completion", "embeddings" ...
    pub operation: *const c_char,
    /// The request.
    pub request_id: *const c_char,
    /// The conversation.
    pub session_id: *const c_char,
    /// The trace ...
    pub trace_id: *const c_char,
    /// ... and the span in it.
    pub span_id: *const c_char,
    /// 1: a warm-up call.
    pub is_warmup: u32,
}

/// What the engine has to say about a call it served. The engine fills it, and it goes back to the caller untouched. In
/// every field 0, NULL, NAN and TJ_UNKNOWN all mean "not given". What is given wins over what the library observed, field
/// by field.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_generate_result {
    /// Set by TJ_GENERATE_RESULT_INIT; for an engine callback, by the library.
    pub struct_size: usize,
    /// The answer. The engine's memory: the engine says how long it lives.
    pub content: *const c_char,
    /// Tokens of the whole prompt, the cached part included.
    pub prompt_tokens: u64,
    /// Prompt tokens that were really processed. Not given: prompt_tokens - cached_tokens where both are known.
    pub prompt_tokens_evaluated: u64,
    /// Output tokens. Not given: as many as tj_call_tokens told.
    pub completion_tokens: u64,
    /// Prompt tokens that came from a cache.
    pub cached_tokens: u64,
    /// Output tokens that were reasoning.
    pub reasoning_tokens: u64,
    /// Tokens that speculative decoding proposed ...
    pub draft_tokens: u64,
    /// ... and those of them that were accepted.
    pub draft_accepted_tokens: u64,
    /// Time to first token, seconds. Not given: the time of the first tj_call_tokens.
    pub ttft: f64,
    /// US dollars.
    pub cost_usd: f64,
    /// Seconds that the call waited before the engine began.
    pub queue_seconds: f64,
    /// Seconds spent on the prompt. Not given: TTFT.
    pub prefill_seconds: f64,
    /// Seconds spent on the output after its first token. Not given: latency - TTFT.
    pub decode_seconds: f64,
    /// "stop", "length" ...
    pub finish_reason: *const c_char,
    /// The class of the error, for a call that failed. Not given: "engine_code_N" for a callback that returned N
    /// without having been cancelled.
    pub error_type: *const c_char,
    /// A JSON object for the record.
    pub metadata_json: *const c_char,
    /// Whatever the engine wants its caller to have.
    pub user_data: *mut c_void,
}

// SAFETY: repr(C), size first, numbers and pointers only.
unsafe impl Sized_ for tj_generate_request {
    const INIT: &'static str = "GENERATE_REQUEST";
}

// SAFETY: repr(C), size first, numbers and pointers only.
unsafe impl Sized_ for tj_generate_result {
    const INIT: &'static str = "GENERATE_RESULT";
}

/// Does what TJ_GENERATE_REQUEST_INIT does, for languages without macros. NULL is ignored.
///
/// # Safety
/// `request` is NULL or points to memory for one `tj_generate_request`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_generate_request_init(request: *mut tj_generate_request) {
    // SAFETY: the caller's promise is the same.
    unsafe { initialise(request) }
}

/// Does what TJ_GENERATE_RESULT_INIT does, for languages without macros. NULL is ignored.
///
/// # Safety
/// `result` is NULL or points to memory for one `tj_generate_result`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_generate_result_init(result: *mut tj_generate_result) {
    // SAFETY: the caller's promise is the same.
    unsafe { initialise(result) }
}

impl tj_generate_request {
    /// What the core needs of the request. Every string is looked at, those of the messages too.
    ///
    /// # Safety
    /// Every string is NULL or NUL-terminated; `messages` has `message_count` elements.
    pub(super) unsafe fn view<'a>(&self, engine: &'a str) -> Result<Start<'a>> {
        // SAFETY: by this function's contract.
        unsafe {
            if self.message_count > 0 {
                not_null(self.messages, "request.messages")?;
                for (at, message) in
                    std::slice::from_raw_parts(self.messages, self.message_count).iter().enumerate()
                {
                    string(message.role, "role").map_err(|error| in_message(at, error))?;
                    string(message.content, "content").map_err(|error| in_message(at, error))?;
                }
            }
            check_json_object(
                "request.extra_json",
                string(self.extra_json, "request.extra_json")?,
                MAX_METADATA,
            )?;
            Ok(Start {
                engine,
                model: string(self.model, "request.model")?,
                agent: string(self.agent, "request.agent")?,
                batch_id: string(self.batch_id, "request.batch_id")?,
                operation: string(self.operation, "request.operation")?,
                request_id: string(self.request_id, "request.request_id")?,
                session_id: string(self.session_id, "request.session_id")?,
                trace_id: string(self.trace_id, "request.trace_id")?,
                span_id: string(self.span_id, "request.span_id")?,
                is_warmup: self.is_warmup != 0,
                message_count: self.message_count as u64,
            })
        }
    }
}

fn in_message(at: usize, error: Error) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("request.messages[{at}].{error}"))
}

impl tj_generate_result {
    /// What the core needs of the result. A string that is not UTF-8 goes to `on_bad`, which either makes the whole an
    /// error or lets it pass as not given.
    ///
    /// # Safety
    /// Every string is NULL or NUL-terminated and stays as it is for `'a`.
    pub(super) unsafe fn view<'a>(
        &self,
        on_bad: &mut dyn FnMut(&str, Error) -> Result<()>,
    ) -> Result<Report<'a>> {
        let mut text = |text: *const c_char, field: &str| {
            // SAFETY: by this function's contract.
            unsafe { string(text, field) }.or_else(|error| {
                let error = Error::new(error.kind, format!("result.{}", error.message));
                on_bad(field, error).map(|()| "")
            })
        };
        Ok(Report {
            finish_reason: text(self.finish_reason, "finish_reason")?,
            error_type: text(self.error_type, "error_type")?,
            metadata_json: text(self.metadata_json, "metadata_json")?,
            prompt_tokens: self.prompt_tokens,
            prompt_tokens_evaluated: self.prompt_tokens_evaluated,
            completion_tokens: self.completion_tokens,
            cached_tokens: self.cached_tokens,
            reasoning_tokens: self.reasoning_tokens,
            draft_tokens: self.draft_tokens,
            draft_accepted_tokens: self.draft_accepted_tokens,
            ttft: self.ttft,
            cost_usd: self.cost_usd,
            queue_seconds: self.queue_seconds,
            prefill_seconds: self.prefill_seconds,
            decode_seconds: self.decode_seconds,
        })
    }
}
