//! The store's side of the bus: records that come by it, and calls in flight, which are in the journal while they last.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{CLOSED, Store};
use crate::bus::{Late, OpenCall, Recorder, Told};
use crate::record::Record;
use crate::sync::lock;

impl Recorder for Store {
    fn keep(&self, record: &Record<'_>) {
        let _ = self.record(record); // accounted for in the health
    }

    fn call_began(self: Arc<Self>, call: u64, record: &Record<'_>) -> Option<Box<dyn OpenCall>> {
        self.process.check("the store").ok()?;
        if self.life.fetch_add(1, Ordering::AcqRel) & CLOSED != 0 {
            self.call_is_over();
            return None;
        }
        let slot = self.journal.as_ref().and_then(|journal| journal.begin(call, record));
        Some(Box::new(KeptCall { store: self, call, slot }))
    }
}

/// A call in flight that is this store's.
struct KeptCall {
    store: Arc<Store>,
    call: u64,
    /// Where it is in the journal; `None` if there was no room, and in memory.
    slot: Option<usize>,
}

impl OpenCall for KeptCall {
    fn told(&self, told: &Told) {
        let Some(slot) = self.slot else { return };
        if let Some(journal) = &self.store.journal {
            journal.tell(slot, told);
        }
    }

    fn ends_late(&mut self, record: &Record<'_>, late: &Arc<dyn Late>) {
        if self.store.process.check("the store").is_err() {
            return;
        }
        if let Some(journal) = &self.store.journal {
            self.slot = journal.ends_late(self.slot, self.call, record);
        }
        *lock(&self.store.late) = Some(Arc::clone(late));
    }

    fn ended(mut self: Box<Self>, record: &Record<'_>) {
        if self.store.process.check("the store").is_ok() {
            let _ = self.store.write(record, &mut self.slot); // accounted for in the health
        }
    }
}

impl Drop for KeptCall {
    fn drop(&mut self) {
        if self.store.process.check("the store").is_err() {
            return; // a forked child: the call and its slot are the parent's
        }
        if let Some(slot) = self.slot {
            // The caller goes on without its record; the slot goes on without the call.
            if let Some(journal) = &self.store.journal {
                journal.forget(slot);
            }
        }
        self.store.call_is_over();
    }
}

impl Store {
    fn call_is_over(&self) {
        if self.life.fetch_sub(1, Ordering::AcqRel) == CLOSED | 1 {
            let _ = self.shut();
        }
    }
}
