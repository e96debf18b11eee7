//! The calls in flight, so that one that its process takes to its grave is on record too.
//!
//! A slot is [`WORDS`] words of the journal's file, changed in place while its call lasts:
//!
//! ```text
//! word 0    0: free. All ones: being filled. Otherwise a call, by its number, with a bit that says that it has ended
//! word 1    where the call's record begins in the ring, once it has ended; 0 before
//! word 2-6  prompt and cached tokens, output tokens, nanoseconds to the first and to the latest token; all ones: unknown
//! word 7    bytes of the record (32 bits) | their CRC-32C (32 bits)
//! word 8…   the record of the call as it began, or as it ended (frame.rs)
//! ```
//!
//! A call ends in this order: its frame is claimed in the ring, word 1 says where, the frame is filled, the slot is freed.
//! So a slot whose frame is whole, or committed already, is a call that has ended, whenever its process dies.
//!
//! A call that has ended and waits for a figure gets a second slot, with its record and the bit, and then the first is
//! freed. Where both are found, the first does not count.

use std::borrow::Borrow;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::bus::Told;

/// One slot.
pub(super) const WORDS: usize = 128;
const HEADER: usize = 8;
const FILLING: u64 = u64::MAX;
/// The bit of word 0 that says that the call has ended: the record is what it came to.
const ENDED: u64 = 1 << 62;
/// The longest record that a slot holds, in bytes.
pub(super) const ROOM: usize = (WORDS - HEADER) * 8;

/// The slots over their words.
pub(super) struct Slots<W> {
    words: W,
    /// Where to look for a free one first.
    next: AtomicU64,
}

/// A call found in a journal.
pub(super) struct Open {
    call: u64,
    /// It had ended, and waited for a figure: the record is all that was known.
    pub(super) has_ended: bool,
    /// Where its record begins in the ring; 0 if it had not ended.
    pub(super) end: u64,
    pub(super) told: Told,
    /// The record of the call as it began; `None` if it is damaged.
    pub(super) record: Option<Vec<u8>>,
}

impl<W: Borrow<[AtomicU64]>> Slots<W> {
    pub(super) fn new(words: W) -> Self {
        Slots { words, next: AtomicU64::new(0) }
    }

    fn slot(&self, at: usize) -> &[AtomicU64] {
        &self.words.borrow()[at * WORDS..][..WORDS]
    }

    fn count(&self) -> usize {
        self.words.borrow().len() / WORDS
    }

    /// Puts a call into a free slot, if there is one. `record` has at most [`ROOM`] bytes.
    pub(super) fn begin(&self, call: u64, record: &[u8]) -> Option<usize> {
        self.put(call, record)
    }

    /// The call, perhaps in a slot already, has ended with that record, but for a figure. Gives its slot from now on: the
    /// same one if there is no other.
    pub(super) fn ends_late(&self, at: Option<usize>, call: u64, record: &[u8]) -> Option<usize> {
        let another = self.put(call | ENDED, record);
        if let (Some(at), Some(_)) = (at, another) {
            self.free(at);
        }
        another.or(at)
    }

    fn put(&self, call: u64, record: &[u8]) -> Option<usize> {
        let first = self.next.fetch_add(1, Ordering::Relaxed) as usize;
        let is_ours = |at: &usize| {
            self.slot(*at)[0].compare_exchange(0, FILLING, Ordering::Acquire, Ordering::Relaxed).is_ok()
        };
        let at = (first..first + self.count()).map(|at| at % self.count()).find(is_ours)?;
        let slot = self.slot(at);
        slot[1..7].iter().for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
        slot[1].store(0, Ordering::Relaxed);
        slot[4].store(0, Ordering::Relaxed);
        let described = (record.len() as u64) << 32 | u64::from(crc32c::crc32c(record));
        slot[7].store(described, Ordering::Relaxed);
        for (word, bytes) in slot[HEADER..].iter().zip(record.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(whole), Ordering::Relaxed);
        }
        slot[0].store(call, Ordering::Release);
        Some(at)
    }

    pub(super) fn tell(&self, at: usize, told: &Told) {
        let told = [told.prompt_tokens, told.cached_tokens, told.output_tokens, told.first, told.latest];
        for (word, number) in self.slot(at)[2..7].iter().zip(told) {
            word.store(number, Ordering::Relaxed);
        }
    }

    /// The call's record will be at `position`.
    pub(super) fn ending(&self, at: usize, position: u64) {
        self.slot(at)[1].store(position, Ordering::Release);
    }

    pub(super) fn free(&self, at: usize) {
        self.slot(at)[0].store(0, Ordering::Release);
    }

    /// Whether no call is in flight.
    pub(super) fn are_free(&self) -> bool {
        (0..self.count()).all(|at| self.slot(at)[0].load(Ordering::Acquire) == 0)
    }

    /// The calls in the journal of a dead process.
    pub(super) fn open_calls(&self) -> Vec<Open> {
        let found = (0..self.count()).filter_map(|at| open(self.slot(at)));
        let mut calls: Vec<Open> = found.collect();
        calls.sort_by_key(|call| (call.call, !call.has_ended));
        calls.dedup_by_key(|call| call.call);
        calls
    }
}

fn open(slot: &[AtomicU64]) -> Option<Open> {
    let word = |at: usize| slot[at].load(Ordering::Acquire);
    let call = word(0);
    if matches!(call, 0 | FILLING) {
        return None;
    }
    let (length, checksum) = ((word(7) >> 32) as usize, word(7) as u32);
    let record = (length <= ROOM).then(|| {
        let mut bytes: Vec<u8> =
            (HEADER..HEADER + length.div_ceil(8)).flat_map(|at| word(at).to_le_bytes()).collect();
        bytes.truncate(length);
        bytes
    });
    let told = Told {
        prompt_tokens: word(2),
        cached_tokens: word(3),
        output_tokens: word(4),
        first: word(5),
        latest: word(6),
    };
    Some(Open {
        call: call & !ENDED,
        has_ended: call & ENDED != 0,
        end: word(1),
        told,
        record: record.filter(|bytes| crc32c::crc32c(bytes) == checksum),
    })
}
