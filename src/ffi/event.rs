//! Events.
//!
//! What travels on the bus. An event about a call carries its number, its model and its engine.

use std::ffi::c_char;

use super::record::tj_telemetry_record;
use crate::event::Event;

/// The kinds of events. TJ_EVENT_MASK(kind) is a kind's bit in a mask.
#[repr(C)]
pub enum tj_event_kind {
    /// A call has begun.
    TJ_EVENT_INFERENCE_START = 1,
    /// A call has ended; the event carries its record.
    TJ_EVENT_INFERENCE_END = 2,
    /// A record that is kept.
    TJ_EVENT_TELEMETRY_RECORD = 3,
    /// An energy batch has begun.
    TJ_EVENT_BATCH_START = 4,
    /// An energy batch has ended.
    TJ_EVENT_BATCH_END = 5,
    /// Published by tj_bus_publish.
    TJ_EVENT_CUSTOM = 63,
}

/// Every kind, those of later versions included.
pub const TJ_EVENT_MASK_ALL: u64 = u64::MAX;

/// An event. Everything in it is valid during the callback only; of a tj_polled_event, until that is freed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_event {
    /// The size that the library gave it.
    pub struct_size: usize,
    /// A tj_event_kind.
    pub kind: u32,
    /// Numbers the events of this process, from 1.
    pub sequence: u64,
    /// When it was published, Unix seconds.
    pub timestamp: f64,
    /// TJ_EVENT_CUSTOM: the publisher's name; otherwise the kind's, lower case ("inference_start").
    pub name: *const c_char,
    /// The call's model; "" if it is not about a call.
    pub model_id: *const c_char,
    /// The call's engine; "" if it is not about a call.
    pub engine: *const c_char,
    /// The call (tj_call_id); 0 if it is not about one.
    pub call_id: u64,
    /// TJ_EVENT_TELEMETRY_RECORD and TJ_EVENT_INFERENCE_END: the call's record, unknowns as NAN and TJ_UNKNOWN. Else NULL.
    pub record: *const tj_telemetry_record,
    /// An object, "{}" at least.
    pub data_json: *const c_char,
}

/// An event as C sees it: a `tj_event`, and the NUL-terminated strings that it points to. The pointers in `event` and
/// `record` stay good as long as this lives, wherever it is moved.
pub(super) struct CEvent {
    event: tj_event,
    /// Behind a Box, so that `event.record` can point to it.
    _record: Option<Box<tj_telemetry_record>>,
    _strings: Vec<Box<[u8]>>,
}

// SAFETY: the pointers lead only to memory that this value owns (or to static memory), and nobody writes there.
unsafe impl Send for CEvent {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for CEvent {}

impl CEvent {
    pub(super) fn of(event: &Event<'_>) -> CEvent {
        let texts = [event.name, event.model_id, event.engine, event.data_json];
        let mut strings = Strings::with_room(texts.iter().map(|text| text.len()).sum());
        let record =
            event.record.map(|record| Box::new(tj_telemetry_record::of(record, |text| strings.put(text))));
        let out = tj_event {
            struct_size: size_of::<tj_event>(),
            kind: event.kind as u32,
            sequence: event.sequence,
            timestamp: event.timestamp,
            name: strings.put(event.name),
            model_id: strings.put(event.model_id),
            engine: strings.put(event.engine),
            call_id: event.call_id,
            record: record.as_deref().map_or(std::ptr::null(), std::ptr::from_ref),
            data_json: strings.put(event.data_json),
        };
        CEvent { event: out, _record: record, _strings: strings.blocks }
    }

    pub(super) fn event(&self) -> &tj_event {
        &self.event
    }
}

/// Copies strings into blocks that never move. One block is enough for what room was asked for and a record's usual
/// strings.
pub(super) struct Strings {
    blocks: Vec<Box<[u8]>>,
    used: usize,
}

impl Strings {
    const BLOCK: usize = 512;

    pub(super) fn with_room(room: usize) -> Strings {
        Strings { blocks: vec![vec![0; room + Strings::BLOCK].into()], used: 0 }
    }

    pub(super) fn put(&mut self, text: &str) -> *const c_char {
        if text.is_empty() {
            return c"".as_ptr();
        }
        let needed = text.len() + 1;
        if self.blocks.last().is_none_or(|block| block.len() - self.used < needed) {
            self.blocks.push(vec![0; needed.max(Strings::BLOCK)].into());
            self.used = 0;
        }
        let Some(block) = self.blocks.last_mut() else { return c"".as_ptr() };
        let place = &mut block[self.used..self.used + needed];
        place[..text.len()].copy_from_slice(text.as_bytes()); // the byte after it is 0 already
        self.used += needed;
        place.as_ptr().cast()
    }
}
