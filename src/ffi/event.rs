//! An event as C sees it: a `tj_event` with the NUL-terminated strings that it points to.

use std::ffi::c_char;

use super::bus::tj_event;
use super::record::tj_telemetry_record;
use crate::event::Event;

/// Owns the strings; the pointers in `event` and `record` stay good as long as this lives, wherever it is moved.
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
        let mut strings = Strings::with_room_for(event);
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

/// Copies strings into blocks that never move. One block is enough but for strings that only a record knows of.
struct Strings {
    blocks: Vec<Box<[u8]>>,
    used: usize,
}

impl Strings {
    const BLOCK: usize = 512;

    fn with_room_for(event: &Event<'_>) -> Strings {
        let room = event.name.len() + event.model_id.len() + event.engine.len() + event.data_json.len();
        Strings { blocks: vec![vec![0; room + Strings::BLOCK].into()], used: 0 }
    }

    fn put(&mut self, text: &str) -> *const c_char {
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
