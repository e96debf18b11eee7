//! A bounded ring of frames in shared memory: many producers, one consumer, no lock.
//!
//! Positions count 64-bit words since the ring was made and never wrap; a word lies at its position modulo the size. A
//! frame begins on a multiple of [`ALIGN`] words:
//!
//! ```text
//! word 0   the frame's own position: written last, it says that the rest is there
//! word 1   kind (8 bits) | payload bytes (24 bits) | checksum of both words and the payload (32 bits)
//! word 2…  payload, little-endian, filled up with zeros
//! ```
//!
//! A producer claims its words by moving `head` on, fills them, and writes word 0. If its process is killed in between,
//! the frame is not there, and whoever salvages the ring finds the next one by going on in steps of [`ALIGN`]: an older
//! lap's words say an older position. What the consumer has taken up to is `tail`; what is before it may be overwritten.

use std::borrow::Borrow;
use std::ops::Range;

use crate::sync::atomic::{AtomicU64, Ordering};

/// Frames begin on multiples of this many words: one cache line.
pub(crate) const ALIGN: u64 = 8;
const HEADER: u64 = 2;
/// The bit of `head` that says that nothing is pushed any more: no room is ever found from there on.
const SEALED: u64 = 1 << 63;
/// The largest payload, in bytes.
pub(crate) const MAX_PAYLOAD: usize = (1 << 24) - 1;

/// The ring over its words, whose number is a power of two.
pub(crate) struct Ring<W> {
    words: W,
    mask: u64,
    /// Mixed into every checksum, so that no other ring's frame passes for one of this.
    seed: u32,
    head: AtomicU64,
    tail: AtomicU64,
}

/// What is at a position.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A frame of this kind; the next one begins at `next`.
    Frame {
        /// As it was pushed.
        kind: u8,
        /// Where the next frame begins.
        next: u64,
    },
    /// A frame that was whole once and is no more.
    Damaged,
    /// A frame that is being written.
    Unfinished,
    /// Nothing was ever pushed here.
    End,
}

/// There is no room until the consumer has taken more, or ever, if the ring is sealed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl<W: Borrow<[AtomicU64]>> Ring<W> {
    /// A ring that begins at `position`, a multiple of the size that no frame in it can show.
    pub(crate) fn new(words: W, seed: u32, position: u64) -> Self {
        let size = words.borrow().len() as u64;
        debug_assert!(
            size.is_power_of_two() && size >= ALIGN && position.is_multiple_of(ALIGN) && position > 0
        );
        Ring { words, mask: size - 1, seed, head: AtomicU64::new(position), tail: AtomicU64::new(position) }
    }

    fn word(&self, position: u64) -> &AtomicU64 {
        &self.words.borrow()[(position & self.mask) as usize]
    }

    /// How many words a payload of so many bytes takes.
    pub(crate) fn words_for(bytes: usize) -> u64 {
        (HEADER + (bytes as u64).div_ceil(8)).next_multiple_of(ALIGN)
    }

    /// How many words there are.
    pub(crate) fn size(&self) -> u64 {
        self.mask + 1
    }

    /// Where the next frame will begin.
    pub(crate) fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire) & !SEALED
    }

    /// Up to where the consumer has taken.
    pub(crate) fn tail(&self) -> u64 {
        self.tail.load(Ordering::Acquire)
    }

    /// From now on every claim is refused. Those made before are still filled.
    pub(crate) fn seal(&self) {
        self.head.fetch_or(SEALED, Ordering::AcqRel);
    }

    /// Whether it was sealed.
    pub(crate) fn is_sealed(&self) -> bool {
        self.head.load(Ordering::Acquire) & SEALED != 0
    }

    /// Claims the words for a frame. The claim must be filled, or the consumer waits for it for ever.
    pub(crate) fn claim(&self, bytes: usize) -> Result<u64, Full> {
        let words = Self::words_for(bytes);
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // A tail that is newer than this head has been moved on by a consumer who saw a newer head, too.
            if (head + words).saturating_sub(self.tail.load(Ordering::Acquire)) > self.size() {
                return Err(Full);
            }
            match self.head.compare_exchange_weak(head, head + words, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Ok(head),
                Err(moved) => head = moved,
            }
        }
    }

    /// Fills a claim.
    pub(crate) fn fill(&self, position: u64, kind: u8, payload: &[u8]) {
        debug_assert!(payload.len() <= MAX_PAYLOAD);
        let described = u64::from(kind) << 56 | (payload.len() as u64) << 32;
        let checksum = self.checksum(position, described, payload);
        // One look at the words, which end and begin again at most once: this is the hot path.
        let (beginning, from) = self.words.borrow().split_at((position & self.mask) as usize);
        let places = &from[HEADER as usize..];
        let (first, rest) = payload.split_at(payload.len().min(places.len() * 8));
        store(places, first);
        store(beginning, rest);
        self.word(position + 1).store(described | u64::from(checksum), Ordering::Relaxed);
        self.word(position).store(position, Ordering::Release);
    }

    /// Claims and fills. Gives the frame's position.
    pub(crate) fn push(&self, kind: u8, payload: &[u8]) -> Result<u64, Full> {
        let position = self.claim(payload.len())?;
        self.fill(position, kind, payload);
        Ok(position)
    }

    /// Reads what is at `position`, where a frame begins, into `payload`. For the one consumer.
    pub(crate) fn read(&self, position: u64, payload: &mut Vec<u8>) -> Found {
        if position == self.head() {
            return Found::End;
        }
        self.salvage(position, payload).unwrap_or(Found::Unfinished)
    }

    /// Reads the frame at `position`; `None` if none was ever finished there. Needs no `head`: for a ring whose process is
    /// dead.
    pub(crate) fn salvage(&self, position: u64, payload: &mut Vec<u8>) -> Option<Found> {
        let is_its = self.word(position).load(Ordering::Acquire) == position;
        is_its.then(|| self.frame(position, position, payload))
    }

    /// Whether the frame of another of these positions is at `place`: somebody moved it there.
    pub(crate) fn is_misplaced(&self, place: u64, positions: Range<u64>, payload: &mut Vec<u8>) -> bool {
        let position = self.word(place).load(Ordering::Acquire);
        positions.contains(&position)
            && position.is_multiple_of(ALIGN)
            && position & self.mask != place & self.mask
            && matches!(self.frame(place, position, payload), Found::Frame { .. })
    }

    /// Reads the frame of `position` at `place`.
    fn frame(&self, place: u64, position: u64, payload: &mut Vec<u8>) -> Found {
        let description = self.word(place + 1).load(Ordering::Relaxed);
        let (described, checksum) = (description & !0xFFFF_FFFF, description as u32);
        let (kind, bytes) = ((description >> 56) as u8, (description >> 32 & 0xFF_FFFF) as usize);
        if Self::words_for(bytes) > self.size() {
            return Found::Damaged;
        }
        payload.clear();
        for at in 0..(bytes as u64).div_ceil(8) {
            let word = self.word(place + HEADER + at).load(Ordering::Relaxed);
            payload.extend_from_slice(&word.to_le_bytes());
        }
        payload.truncate(bytes);
        let is_whole = self.checksum(position, described, payload) == checksum;
        if is_whole { Found::Frame { kind, next: position + Self::words_for(bytes) } } else { Found::Damaged }
    }

    /// Gives the words before `position` back to the producers. For the one consumer.
    pub(crate) fn release(&self, position: u64) {
        self.tail.store(position, Ordering::Release);
    }

    /// The CRC-32C of the payload, begun with what is in the header. A CRC's every beginning leads to another end, so a frame
    /// of another place, kind or length does not pass for this one.
    fn checksum(&self, position: u64, described: u64, payload: &[u8]) -> u32 {
        let header = position.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ described;
        crc32c::crc32c_append(self.seed ^ (header >> 32) as u32 ^ header as u32, payload)
    }
}

/// Stores bytes in words, little-endian, the last one filled up with zeros.
#[inline]
fn store(places: &[AtomicU64], bytes: &[u8]) {
    let (words, rest) = bytes.as_chunks();
    for (place, word) in places.iter().zip(words) {
        place.store(u64::from_le_bytes(*word), Ordering::Relaxed);
    }
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        places[words.len()].store(u64::from_le_bytes(last), Ordering::Relaxed);
    }
}

/// Every interleaving, by loom: `RUSTFLAGS="--cfg loom" cargo test --lib` (part of `make test`).
#[cfg(all(test, loom))]
mod interleavings {
    use std::sync::Arc;

    use loom::thread;

    use super::*;

    /// Room for two frames of one line each.
    const SIZE: usize = 2 * ALIGN as usize;

    fn ring() -> Arc<Ring<Vec<AtomicU64>>> {
        let words = (0..SIZE).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Ring::new(words, 42, SIZE as u64))
    }

    /// Takes the next frame, waiting for a producer in the middle of one.
    fn take(ring: &Ring<Vec<AtomicU64>>) -> Option<u8> {
        let mut payload = Vec::new();
        loop {
            match ring.read(ring.tail(), &mut payload) {
                Found::Frame { kind, next } => {
                    assert_eq!(payload, [kind; 20], "a frame's payload is its own");
                    ring.release(next);
                    return Some(kind);
                }
                Found::End => return None,
                Found::Unfinished => thread::yield_now(),
                Found::Damaged => panic!("a reader saw half a frame"),
            }
        }
    }

    #[test]
    fn each_frame_of_two_producers_is_taken_once_and_whole() {
        loom::model(|| {
            let ring = ring();
            let producers = [1u8, 2].map(|kind| {
                let ring = ring.clone();
                thread::spawn(move || ring.push(kind, &[kind; 20]).unwrap())
            });
            let mut taken: Vec<u8> = take(&ring).into_iter().collect();
            for producer in producers {
                producer.join().unwrap();
            }
            taken.extend(std::iter::from_fn(|| take(&ring)));
            taken.sort_unstable();
            assert_eq!(taken, [1, 2]);
        });
    }

    #[test]
    fn room_is_reused_only_when_it_was_released() {
        loom::model(|| {
            let ring = ring();
            ring.push(1, &[1; 20]).unwrap();
            ring.push(2, &[2; 20]).unwrap();
            assert_eq!(ring.push(3, &[3; 20]), Err(Full));
            let producer = thread::spawn({
                let ring = ring.clone();
                move || ring.push(3, &[3; 20]).is_ok()
            });
            let mut taken: Vec<u8> = take(&ring).into_iter().collect();
            let had_room = producer.join().unwrap();
            taken.extend(std::iter::from_fn(|| take(&ring)));
            assert_eq!(taken, if had_room { vec![1, 2, 3] } else { vec![1, 2] });
        });
    }

    #[test]
    fn what_was_pushed_before_the_seal_is_taken_and_nothing_is_behind_it() {
        loom::model(|| {
            let ring = ring();
            let producer = thread::spawn({
                let ring = ring.clone();
                move || ring.push(1, &[1; 20]).is_ok()
            });
            ring.seal();
            let mut taken: Vec<u8> = take(&ring).into_iter().collect();
            let was_pushed = producer.join().unwrap();
            assert_eq!(ring.push(2, &[2; 20]), Err(Full));
            taken.extend(std::iter::from_fn(|| take(&ring)));
            assert_eq!(taken, if was_pushed { vec![1] } else { vec![] });
        });
    }

    #[test]
    fn whoever_looks_at_any_instant_sees_whole_frames_or_none() {
        loom::model(|| {
            let ring = ring();
            let producers = [1u8, 2].map(|kind| {
                let ring = ring.clone();
                thread::spawn(move || ring.push(kind, &[kind; 20]).unwrap())
            });
            // As after a death: no head to go by.
            let mut payload = Vec::new();
            for position in [SIZE as u64, SIZE as u64 + ALIGN] {
                match ring.salvage(position, &mut payload) {
                    None => (),
                    Some(Found::Frame { kind, .. }) => assert_eq!(payload, [kind; 20]),
                    Some(other) => panic!("{other:?}"),
                }
            }
            for producer in producers {
                producer.join().unwrap();
            }
        });
    }
}
