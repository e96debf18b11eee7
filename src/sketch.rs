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
const BUCKETS: std::ops::RangeInclusive<u32> = bucket_of(SMALLEST)..=bucket_of(LARGEST);

/// The versions of a sketch's bytes.
const SPARSE: u8 = 1;
const DENSE: u8 = 2;

/// Counts, exact extremes and sum of a set of positive values, and their percentiles.
#[derive(Debug, Clone, PartialEq)]
pub struct Sketch {
    count: u64,
    min: f64,
    max: f64,
    sum: Sum,
    /// The bucket of `counts[0]`.
    first: u32,
    counts: Vec<u64>,
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
            counts: Vec::new(),
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
        let at = self.room_for(bucket, bucket);
        self.counts[at] += times;
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
        let at = self.room_for(other.first, other.first + other.counts.len() as u32 - 1);
        for (mine, theirs) in self.counts[at..].iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
    }

    /// Makes the window of buckets reach from `low` to `high`; gives the place of `low` in it. Grows by a quarter of a
    /// thousand buckets at a time (four powers of two), so that a call's tokens soon find all their room made.
    fn room_for(&mut self, low: u32, high: u32) -> usize {
        const GROWTH: u32 = 256;
        let end = self.first + self.counts.len() as u32;
        if !self.counts.is_empty() && self.first <= low && high < end {
            return (low - self.first) as usize;
        }
        let (first, end) = if self.counts.is_empty() {
            let span = high - low + 1;
            let margin = GROWTH.saturating_sub(span) / 2;
            (low.saturating_sub(margin), high + 1 + margin)
        } else {
            let first = if low < self.first { low.saturating_sub(GROWTH / 2) } else { self.first };
            (first, if high < end { end } else { high + 1 + GROWTH / 2 })
        };
        let mut wider = vec![0; (end - first) as usize];
        if !self.counts.is_empty() {
            let at = (self.first - first) as usize;
            wider[at..at + self.counts.len()].copy_from_slice(&self.counts);
        }
        (self.first, self.counts) = (first, wider);
        (low - first) as usize
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
            let high = Walk { ..walk }.value_at((rank as u64 + 1).min(self.count - 1));
            low + (high - low) * rank.fract()
        })
    }

    /// A compact copy for the database; [`Sketch::from_bytes`] reads it, [`Sketch::merge_bytes`] adds it.
    ///
    /// A version byte; count, then minimum, maximum and sum as f64 little-endian; then the buckets. Version 1: a pair for
    /// each bucket in use: its distance from the one before, and its count. Version 2, if that is shorter: the first bucket,
    /// how many there are, the bytes of a count (1, 2, 4 or 8), and every count. Whole numbers are LEB128, counts of
    /// version 2 little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        self.write_to(&mut bytes);
        bytes
    }

    /// Appends what [`Sketch::to_bytes`] gives.
    pub(crate) fn write_to(&self, bytes: &mut Vec<u8>) {
        let version = bytes.len();
        bytes.push(SPARSE);
        put_number(bytes, self.count);
        for figure in [self.min, self.max, self.sum.value()] {
            bytes.extend_from_slice(&figure.to_le_bytes());
        }
        let buckets = bytes.len();
        let (mut last, mut begin, mut end, mut largest) = (0, usize::MAX, 0, 0);
        for (at, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let bucket = self.first + at as u32;
            put_number(bytes, u64::from(bucket - last));
            put_number(bytes, *count);
            (last, begin, end, largest) = (bucket, begin.min(at), at + 1, largest.max(*count));
        }
        let width = match largest {
            0..=0xFF => 1,
            0x100..=0xFFFF => 2,
            0x1_0000..=0xFFFF_FFFF => 4,
            _ => 8,
        };
        let used = self.counts.get(begin..end).unwrap_or_default();
        if 6 + used.len() * width < bytes.len() - buckets {
            bytes.truncate(buckets);
            bytes[version] = DENSE;
            put_number(bytes, u64::from(self.first) + begin as u64);
            put_number(bytes, used.len() as u64);
            bytes.push(width as u8);
            used.iter().for_each(|count| bytes.extend_from_slice(&count.to_le_bytes()[..width]));
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
        let (&version, mut rest) = bytes.split_first()?;
        let count = take_number(&mut rest)?;
        let (min, max, sum) = (take_figure(&mut rest)?, take_figure(&mut rest)?, take_figure(&mut rest)?);
        if count == 0 {
            return rest.is_empty().then_some(());
        }
        if !(min > 0.0 && min <= max && max.is_finite()) {
            return None;
        }
        let total = match version {
            SPARSE => self.merge_sparse(rest)?,
            DENSE => self.merge_dense(rest)?,
            _ => return None,
        };
        if total != count {
            return None;
        }
        self.count = self.count.checked_add(count)?;
        self.min = self.min.min(min);
        self.max = self.max.max(max);
        self.sum.add(sum);
        Some(())
    }

    fn merge_sparse(&mut self, mut rest: &[u8]) -> Option<u64> {
        let (mut bucket, mut total) = (0u32, 0u64);
        while !rest.is_empty() {
            bucket = bucket.checked_add(u32::try_from(take_number(&mut rest)?).ok()?)?;
            if !BUCKETS.contains(&bucket) {
                return None;
            }
            let here = take_number(&mut rest)?;
            total = total.checked_add(here)?;
            let at = self.room_for(bucket, bucket);
            self.counts[at] = self.counts[at].checked_add(here)?;
        }
        Some(total)
    }

    fn merge_dense(&mut self, mut rest: &[u8]) -> Option<u64> {
        let first = u32::try_from(take_number(&mut rest)?).ok()?;
        let used = u32::try_from(take_number(&mut rest)?).ok()?;
        let (&width, rest) = rest.split_first()?;
        let last = first.checked_add(used.checked_sub(1)?)?;
        if !BUCKETS.contains(&first)
            || !BUCKETS.contains(&last)
            || rest.len() != used as usize * width as usize
        {
            return None;
        }
        let at = self.room_for(first, last);
        let mine = &mut self.counts[at..][..used as usize];
        match width {
            1 => add_counts(mine, rest, |[byte]: [u8; 1]| u64::from(byte)),
            2 => add_counts(mine, rest, |bytes| u64::from(u16::from_le_bytes(bytes))),
            4 => add_counts(mine, rest, |bytes| u64::from(u32::from_le_bytes(bytes))),
            8 => add_counts(mine, rest, u64::from_le_bytes),
            _ => None,
        }
    }

    /// Whether both counted the same values, as far as a sketch tells values apart.
    pub(crate) fn is_same(&self, other: &Sketch) -> bool {
        let used = |sketch: &Sketch| -> Vec<(u32, u64)> {
            (sketch.first..).zip(sketch.counts.iter().copied()).filter(|(_, count)| *count > 0).collect()
        };
        let ends = |sketch: &Sketch| (sketch.count, sketch.min.to_bits(), sketch.max.to_bits());
        ends(self) == ends(other) && used(self) == used(other)
    }

    /// Forgets everything but the room that was made.
    pub(crate) fn clear(&mut self) {
        (self.count, self.min, self.max, self.sum) = (0, f64::INFINITY, f64::NEG_INFINITY, Sum::ZERO);
        self.counts.fill(0);
    }
}

/// Adds counts of a fixed width; gives their sum.
fn add_counts<const N: usize>(mine: &mut [u64], theirs: &[u8], read: impl Fn([u8; N]) -> u64) -> Option<u64> {
    let mut total = 0u64;
    for (mine, theirs) in mine.iter_mut().zip(theirs.as_chunks::<N>().0) {
        let here = read(*theirs);
        // Wrapping, which lets the compiler do many at once: no recorder lives to see 2^64 values.
        *mine = mine.wrapping_add(here);
        total = total.wrapping_add(here);
    }
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

/// A walk over the buckets in ascending order.
struct Walk<'a> {
    sketch: &'a Sketch,
    at: usize,
    /// Values in the buckets before `at`.
    upto: u64,
}

impl Walk<'_> {
    /// The value of that rank (from 0), to half a bucket; the first and the last exactly.
    fn value_at(&mut self, rank: u64) -> f64 {
        let sketch = self.sketch;
        if rank == 0 {
            return sketch.min;
        }
        if rank == sketch.count - 1 {
            return sketch.max;
        }
        while let Some(count) = sketch.counts.get(self.at) {
            if rank < self.upto + count {
                return middle_of(sketch.first + self.at as u32).clamp(sketch.min, sketch.max);
            }
            self.upto += count;
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
