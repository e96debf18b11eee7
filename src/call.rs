//! A call's life: begin → prompt → tokens → end → record.
//!
//! While energy is measured, the record of a call that has ended waits in the background until its energy is known (late.rs);
//! otherwise it is kept before the end returns.

mod describe;
mod late;
mod progress;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Map, Value};

use crate::bus::{Bus, OpenCall};
use crate::cost;
use crate::energy::{Energy, Ticket};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, EventKind};
use crate::os::{Process, monotonic_ns, wall_clock};
use crate::record::{MAX_METADATA, MAX_STRING, Outcome, Record, UNKNOWN, check_figure, check_json_object};
use late::LateRecord;
use progress::Progress;

/// What is known of a call when it begins.
#[derive(Debug, Clone, Copy, Default)]
pub struct Start<'a> {
    /// The engine.
    pub engine: &'a str,
    /// The model. Required.
    pub model: &'a str,
    /// Who asks.
    pub agent: &'a str,
    /// The batch that the call belongs to.
    pub batch_id: &'a str,
    /// `chat`, `text_completion` …
    pub operation: &'a str,
    /// The request.
    pub request_id: &'a str,
    /// The conversation.
    pub session_id: &'a str,
    /// The trace …
    pub trace_id: &'a str,
    /// … and the span in it.
    pub span_id: &'a str,
    /// A warm-up call.
    pub is_warmup: bool,
    /// How many messages; for subscribers.
    pub message_count: u64,
}

impl Start<'_> {
    fn texts(&self) -> [(&'static str, &str); 9] {
        [
            ("engine_id", self.engine),
            ("request.model", self.model),
            ("request.agent", self.agent),
            ("request.batch_id", self.batch_id),
            ("request.operation", self.operation),
            ("request.request_id", self.request_id),
            ("request.session_id", self.session_id),
            ("request.trace_id", self.trace_id),
            ("request.span_id", self.span_id),
        ]
    }

    fn check(&self) -> Result<()> {
        if self.model.is_empty() {
            return Err(Error::invalid("request.model", "is required and must not be empty"));
        }
        match self.texts().into_iter().find(|(_, text)| text.len() > MAX_STRING) {
            None => Ok(()),
            Some((field, text)) => {
                Err(Error::invalid(field, format!("has {} bytes; at most {MAX_STRING} fit", text.len())))
            }
        }
    }
}

/// What the engine itself knows of a call at its end. 0, "", `NAN` and [`UNKNOWN`] all mean "not given"; what is given
/// wins over what was observed, field by field.
#[derive(Debug, Clone, Copy, Default)]
pub struct Report<'a> {
    /// The whole prompt, the cached part included.
    pub prompt_tokens: u64,
    /// Prompt tokens that were really processed.
    pub prompt_tokens_evaluated: u64,
    /// Output tokens.
    pub completion_tokens: u64,
    /// Prompt tokens from a cache.
    pub cached_tokens: u64,
    /// Output tokens that were reasoning.
    pub reasoning_tokens: u64,
    /// Tokens proposed by speculative decoding …
    pub draft_tokens: u64,
    /// … and those of them that were accepted.
    pub draft_accepted_tokens: u64,
    /// Time to first token, seconds.
    pub ttft: f64,
    /// US dollars.
    pub cost_usd: f64,
    /// Seconds waited before the engine began.
    pub queue_seconds: f64,
    /// Seconds spent on the prompt.
    pub prefill_seconds: f64,
    /// Seconds spent on the output after its first token.
    pub decode_seconds: f64,
    /// `stop`, `length` …
    pub finish_reason: &'a str,
    /// The class of the error.
    pub error_type: &'a str,
    /// A JSON object for the record.
    pub metadata_json: &'a str,
}

/// A report's parts by kind, each with its name in the C result.
macro_rules! report_parts {
    ($report:expr, $visit_count:expr, $visit_figure:expr, $visit_text:expr) => {
        report_parts!(@each $report, $visit_count; prompt_tokens prompt_tokens_evaluated completion_tokens
            cached_tokens reasoning_tokens draft_tokens draft_accepted_tokens);
        report_parts!(@each $report, $visit_figure; ttft cost_usd queue_seconds prefill_seconds decode_seconds);
        report_parts!(@each $report, $visit_text; finish_reason error_type metadata_json);
    };
    (@each $report:expr, $visit:expr; $($field:ident)*) => {
        $($visit(concat!("result.", stringify!($field)), &mut $report.$field);)*
    };
}

impl Report<'_> {
    /// Takes out what no record may hold, handing each such part's name and fault to `on_bad`.
    fn take_out_bad(&mut self, mut on_bad: impl FnMut(Error)) {
        let mut bad = Vec::new();
        report_parts!(
            self,
            |field, count: &mut u64| if *count > i64::MAX as u64 && *count != UNKNOWN {
                bad.push(Error::invalid(field, format!("is {count}; a count is below 2^63")));
                *count = UNKNOWN;
            },
            |field, figure: &mut f64| if let Err(fault) = check_figure(field, *figure) {
                bad.push(fault);
                *figure = f64::NAN;
            },
            |field, text: &mut &str| {
                let is_json = field == "result.metadata_json";
                let limit = if is_json { MAX_METADATA } else { MAX_STRING };
                if text.len() > limit {
                    bad.push(Error::invalid(field, format!("has {} bytes; at most {limit} fit", text.len())));
                    *text = "";
                } else if is_json && let Err(fault) = check_json_object(field, text, limit) {
                    bad.push(fault);
                    *text = "";
                }
            }
        );
        bad.into_iter().for_each(&mut on_bad);
    }
}

/// Asks a call to stop, from any thread.
#[derive(Debug)]
pub struct Canceller {
    id: u64,
    is_cancelled: AtomicBool,
}

impl Canceller {
    /// The call's number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Asks the engine to stop.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Release);
    }

    /// Has it been asked?
    pub fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Acquire)
    }
}

/// A call in flight. Dropped without an end, it is recorded as [`Outcome::Abandoned`].
pub struct Call {
    bus: &'static Bus,
    process: Process,
    canceller: Arc<Canceller>,
    /// With the stores that were subscribed when the call began: the record is theirs.
    kept_by: Vec<Box<dyn OpenCall>>,
    head: Head,
    /// [`monotonic_ns`].
    started: u64,
    progress: Progress,
    /// While its energy is measured.
    ticket: Option<Ticket>,
    is_ended: bool,
}

impl Call {
    /// Begins a call: publishes [`EventKind::InferenceStart`] and starts the clock.
    pub fn begin(bus: &'static Bus, start: &Start<'_>) -> Result<Call> {
        static LAST_ID: AtomicU64 = AtomicU64::new(0);
        start.check()?;
        let id = LAST_ID.fetch_add(1, Ordering::Relaxed) + 1;
        let mut call = Call {
            bus,
            process: Process::current(),
            canceller: Arc::new(Canceller { id, is_cancelled: AtomicBool::new(false) }),
            kept_by: Vec::new(),
            head: Head { id, texts: Texts::of(start), is_warmup: start.is_warmup, timestamp: wall_clock() },
            started: monotonic_ns(),
            progress: Progress::default(),
            ticket: None,
            is_ended: false,
        };
        let record = call.head.record(Record::default());
        let takers = bus.recorders();
        call.kept_by = takers.iter().filter_map(|taker| taker.clone().call_began(id, &record)).collect();
        if bus.has_subscribers(EventKind::InferenceStart) {
            call.head.notify(bus, EventKind::InferenceStart, None, &describe::start(start));
        }
        call.ticket = Energy::global().begin(id);
        call.started = monotonic_ns(); // what stores and subscribers took is not the engine's
        Ok(call)
    }

    /// The call's number, which its events carry.
    pub fn id(&self) -> u64 {
        self.canceller.id
    }

    /// Lets other threads ask the call to stop.
    pub fn canceller(&self) -> Arc<Canceller> {
        self.canceller.clone()
    }

    /// The length of the whole prompt and of its cached part, as soon as they are known; [`UNKNOWN`] for either.
    pub fn prompt(&mut self, prompt_tokens: u64, cached_tokens: u64) {
        self.progress.prompt(prompt_tokens, cached_tokens);
        self.tell_recorders();
    }

    /// `count` more output tokens exist as of now. The first gives TTFT.
    pub fn tokens(&mut self, count: u32) {
        if !self.is_ended && count > 0 {
            let at = self.elapsed_ns();
            self.progress.tokens(at, count);
            if let Some(ticket) = &self.ticket {
                ticket.tokens(at, count);
            }
            self.tell_recorders();
        }
    }

    /// A step of speculative decoding.
    pub fn draft(&mut self, proposed: u32, accepted: u32) {
        self.progress.draft(proposed, accepted);
    }

    /// Ends the call. A bad report is refused, naming the field, and the call goes on.
    pub fn end(&mut self, outcome: Outcome, report: &Report<'_>) -> Result<()> {
        self.check_running()?;
        let mut report = *report;
        let mut fault = None;
        report.take_out_bad(|bad| {
            fault.get_or_insert(bad);
        });
        match fault {
            Some(fault) => Err(fault),
            None => self.conclude(outcome, &report),
        }
    }

    /// Ends the call as an engine left it that returned `code`. What cannot be in its report is left out, and named in
    /// the record's metadata together with `ignored`, the fields that the caller left out already. Only the engine's
    /// own error is an error here. An engine that ended its call itself has had its say.
    pub(crate) fn finish(&mut self, code: i32, report: &Report<'_>, mut ignored: Vec<String>) -> Result<()> {
        let mut report = *report;
        report.take_out_bad(|bad| {
            let field = bad.message.split(' ').next().unwrap_or_default();
            ignored.push(field.trim_start_matches("result.").to_owned());
        });
        let metadata = with_ignored(report.metadata_json, ignored);
        report.metadata_json = metadata.as_deref().unwrap_or(report.metadata_json);

        let (outcome, error_type) = match code {
            0 => (Outcome::Ok, String::new()),
            _ if self.canceller.is_cancelled() => (Outcome::Cancelled, String::new()),
            code => (Outcome::Error, format!("engine_code_{code}")),
        };
        if report.error_type.is_empty() {
            report.error_type = &error_type;
        }
        let engine = if code == 0 { String::new() } else { self.head.texts.get(Text::Engine).to_owned() };
        match self.check_running().and_then(|()| self.conclude(outcome, &report)) {
            Err(error) if error.kind != ErrorKind::Closed => return Err(error),
            _ => (),
        }
        if code == 0 {
            return Ok(());
        }
        let how = match outcome {
            Outcome::Cancelled => "was cancelled and",
            _ => "failed: it",
        };
        let message = format!("engine {engine:?} {how} returned {code}");
        Err(Error { engine_code: code, ..Error::new(ErrorKind::Engine, message) })
    }

    #[inline]
    fn elapsed_ns(&self) -> u64 {
        monotonic_ns().saturating_sub(self.started)
    }

    fn check_running(&self) -> Result<()> {
        self.process.check("the call")?;
        if self.is_ended {
            return Err(Error::new(ErrorKind::Closed, format!("call {} has ended already", self.id())));
        }
        Ok(())
    }

    /// The one place where a call ends.
    fn conclude(&mut self, outcome: Outcome, report: &Report<'_>) -> Result<()> {
        let latency = self.elapsed_ns() as f64 / 1e9;
        self.is_ended = true;
        let mut kept_by = std::mem::take(&mut self.kept_by);
        let record = Record { outcome, ..self.head.record(self.progress.record(latency, report)) };
        let mut record = record.settled(wall_clock)?;
        let mut metadata = String::new();
        if self.ticket.is_none() {
            cost::complete(&mut record, &mut metadata);
        }
        let data = if self.bus.has_subscribers(EventKind::InferenceEnd) {
            describe::end(&record)
        } else {
            String::new()
        };
        let data = if data.is_empty() { "{}" } else { &data };
        self.head.notify(self.bus, EventKind::InferenceEnd, Some(&record), data);
        if let Some(ticket) = self.ticket.take() {
            let late = ticket.late();
            kept_by.iter_mut().for_each(|keeper| keeper.ends_late(&record, &late));
            let (head, progress) = (std::mem::take(&mut self.head), std::mem::take(&mut self.progress));
            ticket
                .end(Box::new(LateRecord::new(self.bus, head, progress, latency, outcome, report, kept_by)));
            return Ok(());
        }
        for keeper in kept_by {
            keeper.ended(&record);
        }
        self.head.notify(self.bus, EventKind::TelemetryRecord, Some(&record), "{}");
        Ok(())
    }

    fn tell_recorders(&self) {
        if !self.kept_by.is_empty() && self.process == Process::current() {
            let told = self.progress.told();
            self.kept_by.iter().for_each(|keeper| keeper.told(&told));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.check_running().is_ok() {
            let _ = self.conclude(Outcome::Abandoned, &Report::default());
        }
    }
}

/// Runs an engine as one call and tells the bus what it cost. `engine` gives its error code (0: done) and what it knows;
/// a code other than 0 comes back as [`ErrorKind::Engine`], and a panic goes on after the call was recorded as failed.
pub fn instrumented_generate<'r>(
    start: &Start<'_>,
    engine: impl FnOnce(&mut Call) -> (i32, Report<'r>),
) -> Result<Report<'r>> {
    let mut call = Call::begin(Bus::global(), start)?;
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| engine(&mut call))) {
        Ok((code, report)) => call.finish(code, &report, Vec::new()).map(|()| report),
        Err(panic) => {
            let _ = call.end(Outcome::Error, &Report { error_type: "panic", ..Report::default() });
            std::panic::resume_unwind(panic)
        }
    }
}

/// The metadata with the names of what was left out, or `None` if nothing was.
fn with_ignored(metadata_json: &str, ignored: Vec<String>) -> Option<String> {
    if ignored.is_empty() {
        return None;
    }
    let mut metadata: Map<String, Value> = match metadata_json {
        "" => Map::new(),
        json => serde_json::from_str(json).ok()?, // nested deeper than a value can be built: kept as it is
    };
    metadata.insert("tokenjoule.ignored".to_owned(), ignored.into());
    Some(Value::Object(metadata).to_string()).filter(|metadata| metadata.len() <= MAX_METADATA)
}

/// What is known of a call from the start.
#[derive(Default)]
struct Head {
    id: u64,
    texts: Texts,
    is_warmup: bool,
    timestamp: f64,
}

impl Head {
    /// `figures`, with what was known of the call from the start.
    fn record<'a>(&'a self, figures: Record<'a>) -> Record<'a> {
        Record {
            timestamp: self.timestamp,
            model_id: self.texts.get(Text::Model),
            engine: self.texts.get(Text::Engine),
            agent: self.texts.get(Text::Agent),
            batch_id: self.texts.get(Text::Batch),
            operation: self.texts.get(Text::Operation),
            request_id: self.texts.get(Text::Request),
            session_id: self.texts.get(Text::Session),
            trace_id: self.texts.get(Text::Trace),
            span_id: self.texts.get(Text::Span),
            is_warmup: self.is_warmup,
            ..figures
        }
    }

    fn notify(&self, bus: &Bus, kind: EventKind, record: Option<&Record<'_>>, data_json: &str) {
        bus.notify(Event {
            model_id: self.texts.get(Text::Model),
            engine: self.texts.get(Text::Engine),
            call_id: self.id,
            record,
            data_json,
            ..Event::new(kind)
        });
    }
}

/// A call's strings, in one allocation.
#[derive(Default)]
struct Texts {
    text: Box<str>,
    ends: [usize; 9],
}

/// The order of [`Start::texts`].
#[derive(Clone, Copy)]
enum Text {
    Engine,
    Model,
    Agent,
    Batch,
    Operation,
    Request,
    Session,
    Trace,
    Span,
}

impl Texts {
    fn of(start: &Start<'_>) -> Texts {
        let texts = start.texts();
        let mut text = String::with_capacity(texts.iter().map(|(_, text)| text.len()).sum());
        let ends = texts.map(|(_, part)| {
            text.push_str(part);
            text.len()
        });
        Texts { text: text.into(), ends }
    }

    fn get(&self, which: Text) -> &str {
        let at = which as usize;
        let begin = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.text[begin..self.ends[at]]
    }
}
