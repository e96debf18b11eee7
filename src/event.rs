//! What travels on the bus.

use crate::record::Record;

/// The kinds of events. The numbers are the C ABI's; they are also bit positions in a subscription's mask, so below 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum EventKind {
    /// A call has begun.
    InferenceStart = 1,
    /// A call has ended; the event carries its record.
    InferenceEnd = 2,
    /// A record to keep; subscribed stores have it by the time the other subscribers see it.
    TelemetryRecord = 3,
    /// An energy batch has begun.
    BatchStart = 4,
    /// An energy batch has ended.
    BatchEnd = 5,
    /// Whatever the program itself publishes.
    Custom = 63,
}

impl EventKind {
    /// The kind's bit in a subscription's mask.
    pub const fn mask(self) -> u64 {
        1 << self as u32
    }

    /// The kind's name, lower case, as the reference writes it.
    pub const fn name(self) -> &'static str {
        match self {
            EventKind::InferenceStart => "inference_start",
            EventKind::InferenceEnd => "inference_end",
            EventKind::TelemetryRecord => "telemetry_record",
            EventKind::BatchStart => "batch_start",
            EventKind::BatchEnd => "batch_end",
            EventKind::Custom => "custom",
        }
    }
}

/// An event. Everything in it is borrowed for the time of the callback.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// Its kind.
    pub kind: EventKind,
    /// Numbers the events of this process from 1; given by the bus.
    pub sequence: u64,
    /// When it was published, Unix seconds; given by the bus.
    pub timestamp: f64,
    /// The publisher's name for a custom event; otherwise the kind's.
    pub name: &'a str,
    /// The model, for the events of a call; otherwise "".
    pub model_id: &'a str,
    /// The engine, for the events of a call; otherwise "".
    pub engine: &'a str,
    /// The call, for the events of one; otherwise 0.
    pub call_id: u64,
    /// The record, for [`EventKind::TelemetryRecord`] and [`EventKind::InferenceEnd`].
    pub record: Option<&'a Record<'a>>,
    /// A JSON object, `{}` at least.
    pub data_json: &'a str,
}

impl<'a> Event<'a> {
    /// An event of that kind with nothing in it yet.
    pub fn new(kind: EventKind) -> Self {
        Event {
            kind,
            sequence: 0,
            timestamp: 0.0,
            name: kind.name(),
            model_id: "",
            engine: "",
            call_id: 0,
            record: None,
            data_json: "{}",
        }
    }
}
