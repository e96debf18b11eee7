//! A record as bytes: the numbers in the order of `with_record_fields!`, the lengths of the strings, the strings, zeros up
//! to a whole word.

use crate::error::{Error, ErrorKind, Result};
use crate::record::{Outcome, Record, with_record_fields};
use crate::sketch::Gaps;

/// The bytes of a record: on the stack, unless its strings are long.
pub(crate) struct Buffer {
    short: Aligned,
    used: usize,
    /// Instead of `short`, if that is too short.
    long: Vec<u8>,
}

/// Bytes whose checksum is quickly made: of whole words.
#[repr(align(8))]
struct Aligned([u8; Buffer::SHORT]);

impl Buffer {
    const SHORT: usize = 640;

    pub(crate) fn new() -> Buffer {
        Buffer { short: Aligned([0; Buffer::SHORT]), used: 0, long: Vec::new() }
    }

    /// Room for exactly so many bytes, all of them zero.
    #[inline]
    fn room(&mut self, bytes: usize) -> &mut [u8] {
        self.used = bytes;
        if bytes <= Buffer::SHORT {
            return &mut self.short.0[..bytes];
        }
        self.long = vec![0; bytes];
        &mut self.long
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        if self.used <= Buffer::SHORT { &self.short.0[..self.used] } else { &self.long }
    }
}

/// Reads what [`Buffer`] took.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn figure(&mut self) -> Option<f64> {
        self.take().map(f64::from_le_bytes)
    }

    fn length(&mut self) -> Option<usize> {
        self.take().map(|length| u32::from_le_bytes(length) as usize)
    }

    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self, length: usize) -> Option<&'a str> {
        std::str::from_utf8(self.bytes(length)?).ok()
    }
}

macro_rules! implement_frame {
    (texts: $($text:ident)*; counts: $($count:ident = $c:literal),*; levels: $($level:ident = $l:literal),*;
     extents: $($extent:ident = $e:literal),*; flags: $($flag:ident)*;) => {
        const NUMBERS: usize = 2
            + [$(stringify!($count)),*].len() + [$(stringify!($level)),*].len() + [$(stringify!($extent)),*].len()
            + [$(stringify!($flag)),*].len();
        /// The strings, the metadata and the sketch of the gaps.
        const TEXTS: usize = [$(stringify!($text)),*].len() + 2;

        #[inline]
        fn put_numbers(record: &Record<'_>, bytes: &mut [u8; NUMBERS * 8]) {
            let mut words = bytes.as_chunks_mut().0.iter_mut();
            let mut put = |number: u64| {
                if let Some(word) = words.next() {
                    *word = number.to_le_bytes();
                }
            };
            put(record.timestamp.to_bits());
            put(u64::from(record.token_counting_version) << 32 | u64::from(record.outcome as u32));
            $(put(record.$count);)*
            $(put(record.$level.to_bits());)*
            $(put(record.$extent.to_bits());)*
            $(put(u64::from(record.$flag));)*
        }

        fn texts<'a>(record: &'a Record<'_>, gaps: &'a [u8]) -> [&'a [u8]; TEXTS] {
            [$(record.$text.as_bytes(),)* record.metadata_json.as_bytes(), gaps]
        }

        fn read<'a>(reader: &mut Reader<'a>) -> Option<(Record<'a>, &'a [u8])> {
            let timestamp = reader.figure()?;
            let stamps = reader.number()?;
            let mut record = Record {
                timestamp,
                token_counting_version: (stamps >> 32) as u32,
                outcome: Outcome::from_number(stamps as u32)?,
                ..Record::default()
            };
            $(record.$count = reader.number()?;)*
            $(record.$level = reader.figure()?;)*
            $(record.$extent = reader.figure()?;)*
            $(record.$flag = reader.number()? != 0;)*
            let mut lengths = [0; TEXTS];
            for length in &mut lengths {
                *length = reader.length()?;
            }
            let mut lengths = lengths.into_iter();
            $(record.$text = reader.text(lengths.next()?)?;)*
            record.metadata_json = reader.text(lengths.next()?)?;
            let gaps = reader.bytes(lengths.next()?)?;
            Some((record, gaps))
        }
    };
}
with_record_fields!(implement_frame);

/// Writes a record: numbers of 8 bytes, lengths of 4, and the strings one behind the other.
pub(crate) fn encode(record: &Record<'_>, buffer: &mut Buffer) {
    record.token_gaps.with_bytes(|gaps| encode_with(record, gaps.unwrap_or_default(), buffer));
}

#[inline]
fn encode_with(record: &Record<'_>, gaps: &[u8], buffer: &mut Buffer) {
    let texts = texts(record, gaps);
    let length = NUMBERS * 8 + TEXTS * 4 + texts.iter().map(|text| text.len()).sum::<usize>();
    // Filled up to whole words.
    let room = buffer.room(length.next_multiple_of(8));
    let Some((first, rest)) = room.split_first_chunk_mut() else { return };
    put_numbers(record, first);
    let (lengths, mut rest) = rest.split_at_mut(TEXTS * 4);
    for (to, text) in lengths.as_chunks_mut().0.iter_mut().zip(texts) {
        *to = (text.len() as u32).to_le_bytes();
        if !text.is_empty() {
            let (to, behind) = rest.split_at_mut(text.len());
            to.copy_from_slice(text);
            rest = behind;
        }
    }
}

/// Reads a record.
pub(crate) fn decode(bytes: &[u8]) -> Result<Record<'_>> {
    let damaged = || Error::new(ErrorKind::Corrupt, "a record in the journal does not decode");
    let (mut record, gaps) = read(&mut Reader(bytes)).ok_or_else(damaged)?;
    if !gaps.is_empty() {
        record.token_gaps = Gaps::Kept(gaps);
    }
    record.settle(); // here rather than when it is recorded: the caller need not wait for it
    Ok(record)
}
