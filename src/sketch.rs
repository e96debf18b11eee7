//! A mergeable sketch of a distribution: percentiles within 0.8 % of the exact ones, at any number of values.
//!
//! The idea is DDSketch's (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable quantile sketch with
//! relative-error guarantees", VLDB 2019): count values in buckets whose width is proportional to the value. The buckets
//! are HdrHistogram's: 64 linear steps in each power of two, so that a value's bucket is the top of its bit pattern,
//! the same on every machine and without a logarithm. Merging adds counts; it loses nothing.

use crate::error::{Error, ErrorKind, Result};

/// Bits of the mantissa that tell buckets apart: 2^6 buckets in each power of two.
const STEP_BITS: u32 = 6;
const SHIFT: u32 = f64::MANTISSA_DIGITS - 1 - STEP_BITS;
/// Values outside 2^-40 … 2^40 (a picosecond to 30,000 years) count in the outermost buckets.
const SMALLEST: f64 = 1.0 / (1u64 << 40) as f64;
const LARGEST: f64 = (1u64 << 40) as f64;
const OCTAVES: std::ops::RangeInclusive<u32> =
    bucket_of(SMALLEST) >> STEP_BITS..=bucket_of(LARGEST) >> STEP_BITS;

/// The version of a sketch's bytes.
const VERSION: u8 = 1;

/// Counts, exact extremes and sum of a set of positive values, and their percentiles.
#[derive(Debug, Clone, PartialEq)]
pub struct Sketch {
    count: u64,
    min: f64,
    max: f64,
    sum: Sum,
    /// The power of two of `octaves[0]`, counted as the buckets are.
    first: u32,
    octaves: Vec<Octave>,
}

/// The buckets of one power of two.
#[derive(Debug, Clone, PartialEq)]
struct Octave {
    /// A bit for each bucket that is not empty: most are, in most sketches, and nobody need look at them.
    used: u64,
    counts: [u64; Octave::BUCKETS],
}

impl Octave {
    const BUCKETS: usize = 1 << STEP_BITS;
    const EMPTY: Octave = Octave { used: 0, counts: [0; Octave::BUCKETS] };

    /// The buckets in use, in ascending order, and their counts.
    fn each(&self) -> impl Iterator<Item = (u32, u64)> {
        bits(self.used).map(|bucket| (bucket, self.counts[bucket as usize]))
    }
}

/// The places of the bits that are set.
fn bits(mut set: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = set.trailing_zeros();
        set &= set.wrapping_sub(1);
        (bit < 64).then_some(bit)
    })
}

impl Default for Sketch {
    fn default() -> Self {
        Sketch::new()
    }
}

impl Sketch {
    /// An empty sketch. Allocates nothing.
    pub const fn new() -> Self {
        Sketch {
            count: 0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            sum: Sum::ZERO,
            first: 0,
            octaves: Vec::new(),
        }
    }

    /// How many values.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Counts `value` `times` over. Values that are not positive and finite are left out.
    pub fn add(&mut self, value: f64, times: u64) {
        if !(value > 0.0 && value.is_finite()) || times == 0 {
            return;
        }
        self.count += times;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.sum.add(value * times as f64);
        let bucket = bucket_of(value);
        let at = (bucket % Octave::BUCKETS as u32) as usize;
        let octave = self.octave(bucket >> STEP_BITS);
        octave.used |= 1 << at;
        octave.counts[at] += times;
    }

    /// Adds all that `other` counted.
    pub fn merge(&mut self, other: &Sketch) {
        if other.count == 0 {
            return;
        }
        self.count += other.count;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum.merge(other.sum);
        for (number, theirs) in (other.first..).zip(&other.octaves).filter(|(_, theirs)| theirs.used != 0) {
            let mine = self.octave(number);
            mine.used |= theirs.used;
            mine.counts.iter_mut().zip(theirs.counts).for_each(|(mine, theirs)| *mine += theirs);
        }
    }

    /// The octave of that number. Room is made for four at a time, so that a call's tokens soon find all theirs made.
    #[inline]
    fn octave(&mut self, number: u32) -> &mut Octave {
        let at = number.wrapping_sub(self.first) as usize;
        if at < self.octaves.len() {
            return &mut self.octaves[at];
        }
        self.make_room(number)
    }

    #[cold]
    fn make_room(&mut self, number: u32) -> &mut Octave {
        let (low, high) = (number - 1, number + 1);
        if self.octaves.is_empty() {
            (self.first, self.octaves) = (low, vec![Octave::EMPTY; 4]);
        } else if number < self.first {
            let missing = (self.first - low) as usize;
            self.octaves.splice(..0, std::iter::repeat_n(Octave::EMPTY, missing));
            self.first = low;
        } else {
            self.octaves.resize((high - self.first) as usize + 1, Octave::EMPTY);
        }
        &mut self.octaves[(number - self.first) as usize]
    }

    /// The smallest value, exactly; `NAN` if there is none.
    pub fn min(&self) -> f64 {
        if self.count == 0 { f64::NAN } else { self.min }
    }

    /// The largest value, exactly; `NAN` if there is none.
    pub fn max(&self) -> f64 {
        if self.count == 0 { f64::NAN } else { self.max }
    }

    /// The sum, exactly (compensated summation); 0 if there are no values.
    pub fn sum(&self) -> f64 {
        self.sum.value()
    }

    /// The mean, exactly (compensated summation); `NAN` if there are no values.
    pub fn mean(&self) -> f64 {
        if self.count == 0 { f64::NAN } else { self.sum.value() / self.count as f64 }
    }

    /// The quantiles `qs` (ascending, each in 0 … 1), by linear interpolation between closest ranks as numpy and the
    /// reference do; `NAN` if there are no values.
    pub fn quantiles<const N: usize>(&self, qs: [f64; N]) -> [f64; N] {
        if self.count == 0 {
            return [f64::NAN; N];
        }
        let mut walk = Walk { sketch: self, at: 0, upto: 0 };
        qs.map(|q| {
            let rank = q * (self.count - 1) as f64;
            let low = walk.value_at(rank as u64);
            let high = { walk }.value_at((rank as u64 + 1).min(self.count - 1));
            low + (high - low) * rank.fract()
        })
    }

    /// A compact copy for the database; [`Sketch::from_bytes`] reads it, [`Sketch::merge_bytes`] adds it.
    ///
    /// Version byte 1; count, then minimum, maximum and sum as f64 little-endian. Then, for each octave that has counts: its
    /// distance from the one before, and how many of its 64 buckets are in use, one byte. Up to 7: that many bucket numbers,
    /// a byte each; more: a bit for each bucket, 8 bytes; either is followed by the counts of those in use. Most: `0x40` + 1,
    /// 2, 4 or 8, followed by all 64 counts in so many bytes each, little-endian. Other whole numbers are LEB128.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        self.write_to(&mut bytes);
        bytes
    }

    /// Appends what [`Sketch::to_bytes`] gives.
    pub(crate) fn write_to(&self, bytes: &mut Vec<u8>) {
        bytes.push(VERSION);
        put_number(bytes, self.count);
        for figure in [self.min, self.max, self.sum.value()] {
            bytes.extend_from_slice(&figure.to_le_bytes());
        }
        let mut last = 0;
        for (number, octave) in (self.first..).zip(&self.octaves).filter(|(_, octave)| octave.used != 0) {
            put_number(bytes, u64::from(number - last));
            last = number;
            let used = octave.used.count_ones();
            // All counts take more room than those in use, and a tenth of the time to read.
            if used >= MANY {
                let largest = octave.counts.iter().fold(0, |largest, count| largest | count);
                let width = (8 - largest.leading_zeros() as usize / 8).next_power_of_two();
                bytes.push(ALL | width as u8);
                match width {
                    1 => bytes.extend(octave.counts.map(|count| count as u8)),
                    _ => octave.counts.iter().for_each(|count| {
                        bytes.extend_from_slice(&count.to_le_bytes()[..width]);
                    }),
                }
                continue;
            }
            bytes.push(used as u8);
            if used < FEW {
                bytes.extend(bits(octave.used).map(|bucket| bucket as u8));
            } else {
                bytes.extend_from_slice(&octave.used.to_le_bytes());
            }
            octave.each().for_each(|(_, count)| put_number(bytes, count));
        }
    }

    /// Reads [`Sketch::to_bytes`]. Anything else is [`ErrorKind::Corrupt`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Sketch> {
        let mut sketch = Sketch::new();
        sketch.merge_bytes(bytes)?;
        Ok(sketch)
    }

    /// Adds all that the sketch counted that these bytes are of. After [`ErrorKind::Corrupt`] the sum is worthless.
    pub fn merge_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.merge_checked(bytes)
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, "a sketch in the database does not decode"))
    }

    fn merge_checked(&mut self, bytes: &[u8]) -> Option<()> {
        let (&VERSION, mut rest) = bytes.split_first()? else { return None };
        let count = take_number(&mut rest)?;
        let (min, max, sum) = (take_figure(&mut rest)?, take_figure(&mut rest)?, take_figure(&mut rest)?);
        if count == 0 {
            return rest.is_empty().then_some(());
        }
        if !(min > 0.0 && min <= max && max.is_finite()) {
            return None;
        }
        let (mut number, mut total) = (0u32, 0u64);
        while !rest.is_empty() {
            number = number.checked_add(u32::try_from(take_number(&mut rest)?).ok()?)?;
            if !OCTAVES.contains(&number) {
                return None;
            }
            total = total.checked_add(merge_octave(self.octave(number), &mut rest)?)?;
        }
        if total != count {
            return None;
        }
        self.count = self.count.checked_add(count)?;
        self.min = self.min.min(min);
        self.max = self.max.max(max);
        self.sum.add(sum);
        Some(())
    }

    /// Whether both counted the same values, as far as a sketch tells values apart.
    pub(crate) fn is_same(&self, other: &Sketch) -> bool {
        let used = |sketch: &Sketch| -> Vec<(u32, Octave)> {
            let octaves = (sketch.first..).zip(sketch.octaves.iter().cloned());
            octaves.filter(|(_, octave)| octave.used != 0).collect()
        };
        let ends = |sketch: &Sketch| (sketch.count, sketch.min.to_bits(), sketch.max.to_bits());
        ends(self) == ends(other) && used(self) == used(other)
    }

    /// Forgets everything but the room that was made.
    pub(crate) fn clear(&mut self) {
        (self.count, self.min, self.max, self.sum) = (0, f64::INFINITY, f64::NEG_INFINITY, Sum::ZERO);
        for octave in self.octaves.iter_mut().filter(|octave| octave.used != 0) {
            *octave = Octave::EMPTY;
        }
    }
}

/// How an octave's counts are written: below this many by their numbers …
const FEW: u32 = 8;
/// … from this many on all of them …
const MANY: u32 = 32;
/// … which this says.
const ALL: u8 = 0x40;

/// Adds an octave's counts; gives their sum.
fn merge_octave(mine: &mut Octave, bytes: &mut &[u8]) -> Option<u64> {
    let used = take_byte(bytes)?;
    if used & ALL != 0 {
        let width = usize::from(used & !ALL);
        let (counts, rest) = bytes.split_at_checked(width * Octave::BUCKETS)?;
        *bytes = rest;
        return match width {
            1 => add_all(mine, counts, |[byte]: [u8; 1]| u64::from(byte)),
            2 => add_all(mine, counts, |bytes| u64::from(u16::from_le_bytes(bytes))),
            4 => add_all(mine, counts, |bytes| u64::from(u32::from_le_bytes(bytes))),
            8 => add_all(mine, counts, u64::from_le_bytes),
            _ => None,
        };
    }
    let set = if u32::from(used) < FEW {
        let mut set = 0u64;
        for _ in 0..used {
            set |= 1u64.checked_shl(take_byte(bytes)?.into())?;
        }
        set
    } else {
        let (set, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        u64::from_le_bytes(*set)
    };
    if set.count_ones() != u32::from(used) {
        return None;
    }
    mine.used |= set;
    let mut total = 0u64;
    for bucket in bits(set) {
        let count = take_number(bytes)?;
        let mine = &mut mine.counts[bucket as usize];
        *mine = mine.checked_add(count)?;
        total = total.checked_add(count)?;
    }
    Some(total)
}

/// Adds counts of a fixed width to all of an octave's; gives their sum.
fn add_all<const N: usize>(mine: &mut Octave, theirs: &[u8], read: impl Fn([u8; N]) -> u64) -> Option<u64> {
    let mut total = 0u64;
    for (mine, theirs) in mine.counts.iter_mut().zip(theirs.as_chunks::<N>().0) {
        let here = read(*theirs);
        // Wrapping, which lets the compiler do many at once: no recorder lives to see 2^64 values.
        *mine = mine.wrapping_add(here);
        total = total.wrapping_add(here);
    }
    let used = |used, (bucket, count): (usize, &u64)| used | u64::from(*count > 0) << bucket;
    mine.used = mine.counts.iter().enumerate().fold(0, used);
    Some(total)
}

/// The gaps between a call's tokens, as they are at hand: counted by the call itself, or read from where they were kept.
#[derive(Debug, Clone, Copy, Default)]
pub enum Gaps<'a> {
    /// The call was not instrumented.
    #[default]
    Unknown,
    /// A sketch.
    Counted(&'a Sketch),
    /// [`Sketch::to_bytes`].
    Kept(&'a [u8]),
}

impl Gaps<'_> {
    /// Hands the bytes of the sketch to `visit`, if there are any.
    pub(crate) fn with_bytes<T>(self, visit: impl FnOnce(Option<&[u8]>) -> T) -> T {
        match self {
            Gaps::Unknown => visit(None),
            Gaps::Counted(sketch) => visit(Some(&sketch.to_bytes())),
            Gaps::Kept(bytes) => visit(Some(bytes)),
        }
    }
}

/// A walk over the octaves in ascending order.
#[derive(Clone, Copy)]
struct Walk<'a> {
    sketch: &'a Sketch,
    at: usize,
    /// Values in the octaves before `at`.
    upto: u64,
}

impl Walk<'_> {
    /// The value of that rank (from 0, never lower than the one before), to half a bucket; the first and the last exactly.
    fn value_at(&mut self, rank: u64) -> f64 {
        let sketch = self.sketch;
        if rank == 0 {
            return sketch.min;
        }
        if rank == sketch.count - 1 {
            return sketch.max;
        }
        while let Some(octave) = sketch.octaves.get(self.at) {
            let here: u64 = octave.each().map(|(_, count)| count).sum();
            if rank < self.upto + here {
                let mut upto = self.upto;
                for (bucket, count) in octave.each() {
                    upto += count;
                    if rank < upto {
                        let bucket = (sketch.first + self.at as u32) << STEP_BITS | bucket;
                        return middle_of(bucket).clamp(sketch.min, sketch.max);
                    }
                }
            }
            self.upto += here;
            self.at += 1;
        }
        sketch.max
    }
}

const fn bucket_of(value: f64) -> u32 {
    (value.clamp(SMALLEST, LARGEST).to_bits() >> SHIFT) as u32
}

/// The value whose relative error to both ends of the bucket is the same: (u − l) / (u + l) ≤ 1 / 129.
fn middle_of(bucket: u32) -> f64 {
    let low = f64::from_bits(u64::from(bucket) << SHIFT);
    let high = f64::from_bits(u64::from(bucket + 1) << SHIFT);
    2.0 * low * high / (low + high)
}

pub(crate) fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

pub(crate) fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn take_byte(bytes: &mut &[u8]) -> Option<u8> {
    let (byte, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*byte)
}

pub(crate) fn take_figure(bytes: &mut &[u8]) -> Option<f64> {
    let (figure, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(f64::from_le_bytes(*figure))
}

/// A sum with Neumaier's compensation: the error stays that of one addition, whatever the order and number.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sum {
    high: f64,
    low: f64,
}

impl Sum {
    /// Nothing yet.
    pub const ZERO: Sum = Sum { high: 0.0, low: 0.0 };

    /// Adds a value.
    #[inline]
    pub fn add(&mut self, value: f64) {
        let high = self.high + value;
        self.low += if self.high.abs() >= value.abs() {
            (self.high - high) + value
        } else {
            (value - high) + self.high
        };
        self.high = high;
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: Sum) {
        self.add(other.high);
        self.low += other.low;
    }

    /// The sum.
    pub fn value(self) -> f64 {
        self.high + self.low
    }
}

impl From<f64> for Sum {
    fn from(value: f64) -> Self {
        Sum { high: value, low: 0.0 }
    }
}
