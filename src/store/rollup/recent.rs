//! Records remembered, as far as a tally looks at them.

use std::ops::Range;

use crate::error::Result;
use crate::sketch::Gaps;
use crate::stats::{Sample, Tally};

/// What is remembered of some records, in a few hundred bytes each.
#[derive(Default)]
pub(in crate::store) struct Recent {
    pub(in crate::store) samples: Vec<Kept>,
    /// The bytes of their token gaps.
    gaps: Vec<u8>,
}

/// A record remembered.
pub(in crate::store) struct Kept {
    pub(in crate::store) time: f64,
    /// A place among [`Keys`](crate::store::key::Keys).
    pub(in crate::store) key: u32,
    /// Its gaps are in [`Recent::gaps`].
    pub(super) sample: Sample<'static>,
    gaps: Range<usize>,
}

impl Recent {
    /// A few megabytes.
    pub(super) const MOST: usize = 8192;
    const MOST_BYTES: usize = 4 << 20;

    pub(in crate::store) fn push(&mut self, time: f64, key: u32, sample: &Sample<'_>) {
        let begin = self.gaps.len();
        sample.gaps.with_bytes(|bytes| self.gaps.extend_from_slice(bytes.unwrap_or_default()));
        let Sample { outcome, counts, figures, .. } = *sample;
        let sample = Sample { outcome, counts, figures, gaps: Gaps::Unknown };
        self.samples.push(Kept { time, key, sample, gaps: begin..self.gaps.len() });
    }

    pub(super) fn is_full(&self) -> bool {
        self.samples.len() >= Recent::MOST || self.gaps.len() >= Recent::MOST_BYTES
    }

    /// Counts one of them.
    pub(in crate::store) fn add_to(&self, tally: &mut Tally, kept: &Kept) -> Result<()> {
        let gaps = match &self.gaps[kept.gaps.clone()] {
            [] => Gaps::Unknown,
            bytes => Gaps::Kept(bytes),
        };
        tally.add_sample(&Sample { gaps, ..kept.sample })
    }
}
