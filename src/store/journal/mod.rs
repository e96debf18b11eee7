//! The journal: a record is in this file, which outlives its process, before `tj_record` returns.
//!
//! One file for each process and store, beside the database: `<database>-tj-<16 hex digits>`. It is made whole when the
//! store is opened, mapped, and locked as long as its process lives. Whoever opens the database next takes over the
//! journals whose lock is free: what is in them goes into the database, and they are deleted.
//!
//! Format, version 2. All numbers are 64-bit words, little-endian; the file is memory, so a process of the other byte order
//! finds another magic number and leaves it alone.
//!
//! ```text
//! word 0     "TJOURNAL"
//! word 1     version (2)
//! word 2     words in the ring, a power of two
//! word 3     words in the slots
//! word 4     the seed of the ring's checksums (32 bits)
//! word 512   slots: the calls in flight (slots.rs)
//! behind     ring: records (ring.rs, frame.rs), its first position being the ring's size
//! ```
//!
//! How far the ring has been taken over into the database is in the database (`tokenjoule_journal`), written in the same
//! transaction as the rows: so nothing is lost, and nothing comes twice.

mod file;
pub(super) mod frame;
mod ring;
mod slots;

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::bus::Told;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Outcome, Record, UNKNOWN};
use crate::sketch::Gaps;
use crate::sync::lock;
use file::{Identity, Locked, Map, Part};
use frame::Buffer;
use ring::{Found, Full, Ring};
use slots::Slots;

const MAGIC: u64 = u64::from_le_bytes(*b"TJOURNAL");
const VERSION: u64 = 2;
const HEADER: usize = 512;
const SLOTS: usize = 512;
/// Behind the name of a journal that is being made.
const MAKING: &str = ".new";
/// The only kind of frame there is yet.
const RECORD: u8 = 1;
/// The smallest and the largest ring, in bytes.
const RING_BYTES: std::ops::RangeInclusive<u64> = 64 << 10..=1 << 30;

/// A journal of this process.
pub(crate) struct Journal {
    path: PathBuf,
    name: String,
    ring: Ring<Part>,
    slots: Slots<Part>,
    map: Arc<Map>,
    /// `None`: given up.
    locked: Mutex<Option<Locked>>,
}

impl Journal {
    /// Makes a journal beside the database with a ring of at least so many bytes.
    pub(crate) fn create(database: &Path, bytes: u64) -> Result<Journal> {
        if !RING_BYTES.contains(&bytes) {
            let what = format!("is {bytes}; a journal has {} to {}", RING_BYTES.start(), RING_BYTES.end());
            return Err(Error::invalid("options.journal_bytes", what));
        }
        let ring_words = (bytes.next_power_of_two() / 8) as usize;
        let slot_words = SLOTS * slots::WORDS;
        let words = HEADER + slot_words + ring_words;
        loop {
            let name = format!("{:016x}", random());
            // Made under another name, because whoever finds it unlocked under its own takes its process for dead.
            let (path, making) = (beside(database, &name), beside(database, &(name.clone() + MAKING)));
            let failed = |error: std::io::Error| {
                let _ = fs::remove_file(&making);
                super::fault::io(&path, &error)
            };
            let locked = match Locked::create(&making, words as u64 * 8) {
                Ok(Some(locked)) => locked,
                Ok(None) => continue,
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(super::fault::io(&path, &error)),
            };
            let map = Arc::new(Map::new(locked.file(), words).map_err(failed)?);
            let seed = random() as u32;
            let header = Part::new(&map, 0, HEADER);
            let header: &[AtomicU64] = std::borrow::Borrow::borrow(&header);
            let description = [MAGIC, VERSION, ring_words as u64, slot_words as u64, seed.into()];
            for (word, value) in header.iter().zip(description).rev() {
                word.store(value, Ordering::Release); // the magic number last
            }
            match fs::rename(&making, &path) {
                Ok(()) => (),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue, // swept before it was locked
                Err(error) => return Err(failed(error)),
            }
            return Ok(Journal {
                slots: Slots::new(Part::new(&map, HEADER, slot_words)),
                ring: Ring::new(Part::new(&map, HEADER + slot_words, ring_words), seed, ring_words as u64),
                path,
                name,
                map,
                locked: Mutex::new(Some(locked)),
            });
        }
    }

    /// Its name in the database.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where the next record will begin.
    pub(crate) fn head(&self) -> u64 {
        self.ring.head()
    }

    /// Up to where records have been given back.
    pub(crate) fn tail(&self) -> u64 {
        self.ring.tail()
    }

    /// From now on it takes no more records: [`Journal::append`] finds no room.
    pub(crate) fn seal(&self) {
        self.ring.seal();
    }

    /// Whether it was sealed.
    pub(crate) fn is_sealed(&self) -> bool {
        self.ring.is_sealed()
    }

    /// Bytes in use, and bytes there are.
    pub(crate) fn usage(&self) -> (u64, u64) {
        ((self.ring.head() - self.ring.tail()) * 8, self.ring.size() * 8)
    }

    /// Time to commit, lest a producer must wait.
    pub(crate) fn is_half_full(&self) -> bool {
        self.ring.head() - self.ring.tail() > self.ring.size() / 2
    }

    /// Appends a record; `None` if there is no room until records have been released. An error if there never will be.
    pub(crate) fn append(&self, record: &Record<'_>) -> Result<Option<u64>> {
        let mut buffer = Buffer::new();
        frame::encode(record, &mut buffer);
        self.check_size(buffer.bytes())?;
        match self.ring.push(RECORD, buffer.bytes()) {
            Ok(position) => Ok(Some(position)),
            Err(Full) => Ok(None),
        }
    }

    fn check_size(&self, bytes: &[u8]) -> Result<()> {
        let fits =
            bytes.len() <= ring::MAX_PAYLOAD && Ring::<Part>::words_for(bytes.len()) <= self.ring.size();
        if fits {
            return Ok(());
        }
        let what =
            format!("takes {} bytes, more than the whole journal of {}", bytes.len(), self.ring.size() * 8);
        Err(Error::invalid("record", what))
    }

    /// Hands the record at `position` to `visit` and gives where the next one begins; `None` if there is none.
    pub(crate) fn read<T>(
        &self,
        position: u64,
        buffer: &mut Vec<u8>,
        visit: impl FnOnce(&Record<'_>) -> T,
    ) -> Option<(u64, Result<T>)> {
        loop {
            match self.ring.read(position, buffer) {
                Found::Frame { next, .. } => {
                    return Some((next, frame::decode(buffer).map(|record| visit(&record))));
                }
                Found::End => return None,
                // Somebody wrote to the file: where the next record begins is anyone's guess.
                Found::Damaged => return Some((self.ring.head(), Err(damaged(&self.path)))),
                Found::Unfinished => std::thread::yield_now(), // its producer is copying a few hundred bytes
            }
        }
    }

    /// Gives back the records before `position`, which are committed.
    pub(crate) fn release(&self, position: u64) {
        self.ring.release(position);
    }

    /// Puts a call that begins into the journal; gives its slot, if there was a free one.
    pub(crate) fn begin(&self, call: u64, record: &Record<'_>) -> Option<usize> {
        let mut buffer = Buffer::new();
        frame::encode(record, &mut buffer);
        if buffer.bytes().len() > slots::ROOM {
            // What an operator looks for first, as far as it fits.
            let short = |text: &'_ str| text[..text.floor_char_boundary(128)].to_owned();
            let (model_id, engine, request_id) =
                (short(record.model_id), short(record.engine), short(record.request_id));
            let shortened = Record {
                timestamp: record.timestamp,
                model_id: &model_id,
                engine: &engine,
                request_id: &request_id,
                is_warmup: record.is_warmup,
                ..Record::default()
            };
            buffer = Buffer::new();
            frame::encode(&shortened, &mut buffer);
        }
        self.slots.begin(call, buffer.bytes())
    }

    /// What the call in that slot has told so far.
    pub(crate) fn tell(&self, slot: usize, told: &Told) {
        self.slots.tell(slot, told);
    }

    /// The call, in that slot if it has one, has ended with that record, but for a figure: if its process dies now, this
    /// is its record.
    /// Gives its slot from now on.
    pub(crate) fn ends_late(&self, slot: Option<usize>, call: u64, record: &Record<'_>) -> Option<usize> {
        let bare = Record { token_gaps: Gaps::Unknown, metadata_json: "{}", ..*record };
        for record in [record, &bare] {
            let mut buffer = Buffer::new();
            frame::encode(record, &mut buffer);
            if buffer.bytes().len() <= slots::ROOM {
                return self.slots.ends_late(slot, call, buffer.bytes());
            }
        }
        slot // too long: it would be an interrupted one
    }

    /// Ends the call in that slot with its record; as [`Journal::append`].
    pub(crate) fn end(&self, slot: usize, record: &Record<'_>) -> Result<Option<u64>> {
        let mut buffer = Buffer::new();
        frame::encode(record, &mut buffer);
        self.check_size(buffer.bytes())?;
        let Ok(position) = self.ring.claim(buffer.bytes().len()) else { return Ok(None) };
        self.slots.ending(slot, position);
        self.ring.fill(position, RECORD, buffer.bytes());
        self.slots.free(slot);
        Ok(Some(position))
    }

    /// Gives up the call in that slot: its record went elsewhere, or cannot be kept.
    pub(crate) fn forget(&self, slot: usize) {
        self.slots.free(slot);
    }

    /// Deletes the file. It was sealed, and everything in it is committed. Gives whether nobody will find anything in it
    /// again.
    #[allow(unsafe_code)] // the journal's mapping
    pub(crate) fn remove(&self) -> bool {
        debug_assert!(self.ring.is_sealed() && self.slots.are_free());
        let is_gone = lock(&self.locked).as_ref().is_none_or(|locked| remove(&self.path, locked));
        // SAFETY: words are used between a claim and the end of its filling, by the consumer on its way to the last claim,
        // and for calls in flight. There are no claims any more, since it was sealed; all that were made are filled and
        // consumed, since everything is committed; and the calls have ended.
        unsafe { self.map.unmap() };
        is_gone
    }

    /// Gives the file up, for whoever opens the database next.
    pub(crate) fn unlock(&self) {
        drop(lock(&self.locked).take());
    }
}

/// A journal whose process is dead, locked by this one.
pub(crate) struct Stray {
    path: PathBuf,
    name: String,
    locked: Locked,
    ring: Ring<Vec<AtomicU64>>,
    slots: Slots<Vec<AtomicU64>>,
}

/// The names of the journals beside a database.
pub(crate) fn names_beside(database: &Path) -> Vec<String> {
    names_ending(database, "")
}

fn names_ending(database: &Path, end: &str) -> Vec<String> {
    let (Some(folder), Some(file)) = (database.parent(), database.file_name()) else { return Vec::new() };
    let prefix = format!("{}-tj-", file.to_string_lossy());
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let name_of = |entry: fs::DirEntry| {
        let file = entry.file_name();
        let name = file.to_str()?.strip_prefix(&prefix)?.strip_suffix(end)?;
        (name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| name.to_owned())
    };
    entries.flatten().filter_map(name_of).collect()
}

/// Deletes what processes left that died in making a journal: nothing was in it.
pub(crate) fn sweep(database: &Path) {
    for name in names_ending(database, MAKING) {
        let path = beside(database, &(name + MAKING));
        let is_ours =
            fs::symlink_metadata(&path).is_ok_and(|file| file.is_file() && file.uid() == crate::os::user());
        if is_ours
            && let Ok(file) = open_quietly(&path)
            && let Ok(Some(_locked)) = Locked::lock(file)
        {
            let _ = fs::remove_file(&path);
        }
    }
}

fn open_quietly(path: &Path) -> std::io::Result<fs::File> {
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
}

fn beside(database: &Path, name: &str) -> PathBuf {
    let mut path = OsString::from(database);
    path.push("-tj-");
    path.push(name);
    path.into()
}

impl Stray {
    /// Takes the journal of that name if its process is dead. `None` if it is alive, or another has taken it. An error if
    /// it is no journal that this version reads; it is left as it is.
    pub(crate) fn take(database: &Path, name: &str) -> Result<Option<Stray>> {
        let path = beside(database, name);
        let io = |error: &std::io::Error| super::fault::io(&path, error);
        let refuse = |what: &str| Error::new(ErrorKind::Corrupt, format!("{}: {what}", path.display()));
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(&error)),
        };
        let kind = metadata.file_type();
        if kind.is_symlink() {
            return Err(refuse("is a symbolic link, not a journal"));
        }
        if !kind.is_file() {
            return Err(refuse("is not a regular file, so no journal"));
        }
        if metadata.uid() != crate::os::user() {
            return Err(refuse("belongs to another user"));
        }
        if file::is_locked_here(Identity::of(&metadata)) {
            return Ok(None);
        }
        let file = match open_quietly(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(&error)),
        };
        let Some(locked) = Locked::lock(file).map_err(|error| io(&error))? else { return Ok(None) };
        // Another may have taken it over and deleted it between the opening and the lock.
        match fs::symlink_metadata(&path) {
            Ok(metadata) if Identity::of(&metadata) == locked.identity() => (),
            _ => return Ok(None),
        }

        let limit = (HEADER + SLOTS * slots::WORDS) as u64 * 8 + RING_BYTES.end();
        let mut bytes = Vec::new();
        let mut file = locked.file();
        (&mut file).take(limit + 1).read_to_end(&mut bytes).map_err(|error| io(&error))?;
        let words: Vec<u64> = bytes
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()))
            .collect();
        if words.len() < HEADER || words[0] != MAGIC {
            // Emptied where it could not be deleted; or nothing of it had come to the disk before a power cut.
            if bytes.iter().all(|byte| *byte == 0) {
                let _ = fs::remove_file(&path);
                return Ok(None);
            }
            return Err(refuse("is not a journal"));
        }
        if words[1] != VERSION {
            let what = format!("has version {}; this library reads version {VERSION}", words[1]);
            return Err(Error { kind: ErrorKind::Schema, ..refuse(&what) });
        }
        let (ring_words, slot_words, seed) = (words[2], words[3], words[4] as u32);
        let is_plausible = ring_words.is_power_of_two()
            && RING_BYTES.contains(&(ring_words * 8))
            && slot_words == (SLOTS * slots::WORDS) as u64;
        if !is_plausible {
            return Err(refuse("has a damaged header"));
        }
        // A file that was cut short is read as if zeros followed: what is whole in it is taken.
        let mut words = words.into_iter().map(AtomicU64::new);
        let mut part = |count: u64| -> Vec<AtomicU64> {
            let mut part: Vec<AtomicU64> = words.by_ref().take(count as usize).collect();
            part.resize_with(count as usize, AtomicU64::default);
            part
        };
        part(HEADER as u64);
        let slots = Slots::new(part(slot_words));
        let ring = Ring::new(part(ring_words), seed, ring_words);
        Ok(Some(Stray { path, name: name.to_owned(), locked, ring, slots }))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Hands every record that is not committed yet to `visit`, those of calls that never ended included. `committed` is
    /// the position that the database says, if it has one. Gives how many things were damaged.
    pub(crate) fn salvage(
        &self,
        committed: Option<u64>,
        mut visit: impl FnMut(&Record<'_>) -> Result<()>,
    ) -> Result<u64> {
        let begin = committed.unwrap_or(self.ring.size());
        let end = begin.saturating_add(self.ring.size());
        let mut buffer = Vec::new();
        let mut damaged = 0;
        let mut at = begin;
        while at < end {
            match self.ring.salvage(at, &mut buffer) {
                Some(Found::Frame { next, .. }) => {
                    match frame::decode(&buffer) {
                        Ok(record) => visit(&record)?,
                        Err(_) => damaged += 1,
                    }
                    at = next;
                }
                found => {
                    let is_damage = found.is_some() || self.ring.is_misplaced(at, begin..end, &mut buffer);
                    damaged += u64::from(is_damage);
                    at += ring::ALIGN;
                }
            }
        }
        for call in self.slots.open_calls() {
            let has_ended = call.end != 0
                && (call.end < begin
                    || matches!(self.ring.salvage(call.end, &mut buffer), Some(Found::Frame { .. })));
            if has_ended {
                continue;
            }
            match call.record.as_deref().map(frame::decode) {
                Some(Ok(record)) if call.has_ended => visit(&record)?,
                Some(Ok(record)) => visit(&as_interrupted(&record, &call.told))?,
                _ => damaged += 1,
            }
        }
        Ok(damaged)
    }

    /// Deletes the file. Everything in it is committed. Gives whether nobody will find anything in it again.
    pub(crate) fn remove(self) -> bool {
        remove(&self.path, &self.locked)
    }

    /// Keeps the file under a name by which nobody takes it over again: all that is whole in it is committed, and somebody
    /// may want to look at the rest. Gives whether that worked.
    pub(crate) fn set_aside(self) -> bool {
        let mut aside = self.path.clone().into_os_string();
        aside.push(".damaged");
        fs::rename(&self.path, aside).is_ok()
    }
}

/// Deletes a journal of which everything is committed. Where nothing can be deleted, as in a folder that has become
/// read-only, it is emptied, or whoever opens the database next would take it over again. Nobody uses its mapping any
/// more.
fn remove(path: &Path, locked: &Locked) -> bool {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => locked.file().set_len(0).is_ok(),
        _ => true,
    }
}

/// The record of a call that its process took to its grave: what it was, and its tokens so far.
fn as_interrupted<'a>(record: &Record<'a>, told: &Told) -> Record<'a> {
    let known = |count: u64| if count > i64::MAX as u64 { UNKNOWN } else { count };
    let has_begun = told.output_tokens > 0;
    Record {
        outcome: Outcome::Interrupted,
        prompt_tokens: known(told.prompt_tokens),
        cached_tokens: known(told.cached_tokens),
        prompt_tokens_evaluated: match (known(told.prompt_tokens), known(told.cached_tokens)) {
            (UNKNOWN, _) | (_, UNKNOWN) => UNKNOWN,
            (prompt, cached) => prompt.saturating_sub(cached),
        },
        completion_tokens: if has_begun { known(told.output_tokens) } else { UNKNOWN },
        ttft: if has_begun && told.first != UNKNOWN { told.first as f64 / 1e9 } else { f64::NAN },
        is_streaming: has_begun,
        ..*record
    }
}

fn damaged(path: &Path) -> Error {
    Error::new(ErrorKind::Corrupt, format!("{}: a record in the journal is damaged", path.display()))
}

fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
