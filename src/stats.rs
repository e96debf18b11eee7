//! Statistics of calls: per model, per engine and in all.
//!
//! A [`Tally`] counts records and merges with others of its kind, so that a question can be answered from parts; its
//! [`Statistics`] are what a caller gets. Averages and distributions are over the calls that measured the value.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::error::{Error, ErrorKind, Result};
use crate::record::{self, Outcome, Record, UNKNOWN};
use crate::sketch::{Gaps, Sketch, Sum, put_number, take_figure, take_number};

/// How a value is distributed over the calls (or tokens) that measured it. All `NAN` where `count` is 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distribution {
    /// How many values.
    pub count: u64,
    /// The smallest, exactly.
    pub min: f64,
    /// The largest, exactly.
    pub max: f64,
    /// The mean, exactly.
    pub mean: f64,
    /// The median, within 1 %.
    pub p50: f64,
    /// 90th percentile, within 1 %.
    pub p90: f64,
    /// 95th percentile, within 1 %.
    pub p95: f64,
    /// 99th percentile, within 1 %.
    pub p99: f64,
}

impl From<&Sketch> for Distribution {
    fn from(sketch: &Sketch) -> Self {
        let [p50, p90, p95, p99] = sketch.quantiles([0.5, 0.9, 0.95, 0.99]);
        Distribution {
            count: sketch.count(),
            min: sketch.min(),
            max: sketch.max(),
            mean: sketch.mean(),
            p50,
            p90,
            p95,
            p99,
        }
    }
}

/// What is known of a group of calls. An average over nothing is 0.0, as in the reference; its distribution says `NAN`.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // each field is the sum, mean or distribution of the record's field of that name
pub struct Statistics {
    pub call_count: u64,
    pub total_tokens: u64,
    pub prompt_tokens: u64,
    pub prompt_tokens_evaluated: u64,
    pub completion_tokens: u64,
    pub cached_tokens: u64,
    pub error_count: u64,
    pub cancelled_count: u64,
    pub interrupted_count: u64,
    pub total_latency: f64,
    pub avg_latency: f64,
    pub total_cost: f64,
    pub avg_ttft: f64,
    pub total_energy_joules: f64,
    pub avg_gpu_utilization_pct: f64,
    pub avg_throughput_tok_per_sec: f64,
    pub avg_tokens_per_joule: f64,
    pub avg_energy_per_output_token_joules: f64,
    pub avg_throughput_per_watt: f64,
    pub total_prefill_energy_joules: f64,
    pub total_decode_energy_joules: f64,
    pub avg_mean_itl_ms: f64,
    pub avg_median_itl_ms: f64,
    pub avg_p95_itl_ms: f64,
    pub latency: Distribution,
    pub ttft: Distribution,
    pub itl_ms: Distribution,
}

/// A sum and how many values went into it.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    sum: Sum,
    count: u64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        if !value.is_nan() {
            self.sum.add(value);
            self.count += 1;
        }
    }

    fn merge(&mut self, other: Mean) {
        self.sum.merge(other.sum);
        self.count += other.count;
    }

    fn value(self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum.value() / self.count as f64 }
    }
}

/// Writes down what a [`Tally`] takes from a record. The order is that of the bytes in the database's rollups: a change of
/// it makes them others.
macro_rules! with_tallied_fields {
    ($visit:ident) => {
        $visit! {
            counts: prompt_tokens prompt_tokens_evaluated completion_tokens total_tokens cached_tokens;
            means: cost_usd energy_joules gpu_utilization_pct throughput_tok_per_sec tokens_per_joule
                   energy_per_output_token_joules throughput_per_watt prefill_energy_joules decode_energy_joules
                   mean_itl_ms median_itl_ms p95_itl_ms;
            sketches: latency_seconds ttft;
        }
    };
}
pub(crate) use with_tallied_fields;

macro_rules! implement_sample {
    (counts: $($count:ident)*; means: $($mean:ident)*; sketches: $($sketch:ident)*;) => {
        #[allow(non_camel_case_types)]
        enum Count { $($count),* }
        #[allow(non_camel_case_types, dead_code)]
        enum Figure { $($mean,)* $($sketch),* }
        const COUNTS: usize = [$(stringify!($count)),*].len();
        const MEANS: usize = [$(stringify!($mean)),*].len();
        const SKETCHES: usize = [$(stringify!($sketch)),*].len();
        const COUNT_NAMES: [&str; COUNTS] = [$(stringify!($count)),*];
        const FIGURE_NAMES: [&str; MEANS + SKETCHES] = [$(stringify!($mean),)* $(stringify!($sketch)),*];

        impl<'a> From<&Record<'a>> for Sample<'a> {
            fn from(record: &Record<'a>) -> Self {
                Sample {
                    outcome: record.outcome,
                    counts: [$(record.$count),*],
                    figures: [$(record.$mean,)* $(record.$sketch),*],
                    gaps: record.token_gaps,
                }
            }
        }
    };
}
with_tallied_fields!(implement_sample);

/// What a [`Tally`] takes from a record: [`UNKNOWN`] and `NAN` for what was not measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample<'a> {
    pub(crate) outcome: Outcome,
    pub(crate) counts: [u64; COUNTS],
    pub(crate) figures: [f64; MEANS + SKETCHES],
    pub(crate) gaps: Gaps<'a>,
}

impl Default for Sample<'_> {
    fn default() -> Self {
        (&Record::default()).into()
    }
}

impl Sample<'_> {
    /// Prompt and output tokens, 0 for what was not measured.
    pub(crate) fn tokens(&self) -> (u64, u64) {
        let known = |which: Count| Some(self.counts[which as usize]).filter(|count| *count != UNKNOWN);
        (known(Count::prompt_tokens).unwrap_or(0), known(Count::completion_tokens).unwrap_or(0))
    }

    /// Joules; `NAN` if they were not measured.
    pub(crate) fn energy_joules(&self) -> f64 {
        self.figures[Figure::energy_joules as usize]
    }

    /// Whether the call ended well and is known to have met every objective.
    pub(crate) fn meets(&self, objectives: &Objectives) -> bool {
        let latency = self.figures[Figure::latency_seconds as usize];
        let ttft = self.figures[Figure::ttft as usize];
        let output = self.counts[Count::completion_tokens as usize];
        // No token came after another: nothing was late.
        let has_gaps = output == UNKNOWN || output >= 2;
        let tpot = if has_gaps { record::tpot(latency, ttft, output) } else { 0.0 };
        let met = |figure: f64, objective: f64| objective == 0.0 || figure <= objective;
        self.outcome == Outcome::Ok
            && met(ttft, objectives.ttft)
            && met(tpot, objectives.tpot)
            && met(latency, objectives.latency)
    }
}

/// What a good call keeps to, seconds each; 0 for whatever it likes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Objectives {
    /// Time to first token.
    pub ttft: f64,
    /// Time per output token after the first.
    pub tpot: f64,
    /// From start to end.
    pub latency: f64,
}

impl Objectives {
    /// Whether there is any.
    pub fn are_set(&self) -> bool {
        *self != Objectives::default()
    }
}

/// Counts records of a group. Merging two gives what counting all their records would have.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    calls: u64,
    outcomes: [u64; Outcome::ALL.len()],
    counts: [u64; COUNTS],
    means: [Mean; MEANS],
    sketches: [Sketch; SKETCHES],
    token_gaps: Sketch,
}

impl Tally {
    /// Counts a record.
    pub fn add(&mut self, record: &Record<'_>) -> Result<()> {
        self.add_sample(&record.into())
    }

    pub(crate) fn add_sample(&mut self, sample: &Sample<'_>) -> Result<()> {
        self.calls += 1;
        self.outcomes[sample.outcome as usize] += 1;
        for (mine, count) in self.counts.iter_mut().zip(sample.counts) {
            if count != UNKNOWN {
                *mine = mine.saturating_add(count);
            }
        }
        let (means, extents) = sample.figures.split_at(MEANS);
        self.means.iter_mut().zip(means).for_each(|(mine, figure)| mine.add(*figure));
        self.sketches.iter_mut().zip(extents).for_each(|(mine, figure)| mine.add(*figure, 1));
        match sample.gaps {
            Gaps::Unknown => Ok(()),
            Gaps::Counted(gaps) => {
                self.token_gaps.merge(gaps);
                Ok(())
            }
            Gaps::Kept(bytes) => self.token_gaps.merge_bytes(bytes),
        }
    }

    /// Counts all that `other` counted.
    pub fn merge(&mut self, other: &Tally) {
        self.calls += other.calls;
        self.outcomes.iter_mut().zip(other.outcomes).for_each(|(mine, theirs)| *mine += theirs);
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine = mine.saturating_add(theirs);
        }
        self.means.iter_mut().zip(other.means).for_each(|(mine, theirs)| mine.merge(theirs));
        self.sketches.iter_mut().zip(&other.sketches).for_each(|(mine, theirs)| mine.merge(theirs));
        self.token_gaps.merge(&other.token_gaps);
    }

    /// How many records.
    pub(crate) fn calls(&self) -> u64 {
        self.calls
    }

    /// Forgets everything but the room that was made.
    pub(crate) fn clear(&mut self) {
        (self.calls, self.outcomes, self.counts) = Default::default();
        self.means = Default::default();
        self.sketches.iter_mut().chain([&mut self.token_gaps]).for_each(Sketch::clear);
    }
}

// ---- as bytes --------------------------------------------------------------------------------------------------------

/// The bytes of a tally whose records all ended the same way, as the rollups hold them: calls and token counts (LEB128);
/// a bit for each mean that has values, two bytes, and for each such mean how many values (0: as many as calls) and their
/// sum; then the sketches, each behind its length. [`Tally::merge_bytes`] reads them.
impl Tally {
    pub(crate) fn write_to(&self, bytes: &mut Vec<u8>) {
        put_number(bytes, self.calls);
        self.counts.iter().for_each(|count| put_number(bytes, *count));
        let used = |mean: &&Mean| mean.count > 0;
        let mask = (0..MEANS).filter(|at| self.means[*at].count > 0).fold(0u16, |mask, at| mask | 1 << at);
        bytes.extend_from_slice(&mask.to_le_bytes());
        for mean in self.means.iter().filter(used) {
            put_number(bytes, if mean.count == self.calls { 0 } else { mean.count });
            bytes.extend_from_slice(&mean.sum.value().to_le_bytes());
        }
        for sketch in self.sketches.iter().chain([&self.token_gaps]) {
            // The length is nearly always one byte of two; where it is not, the sketch moves along.
            let at = bytes.len();
            if sketch.count() > 0 {
                sketch.write_to(bytes);
            }
            let length = bytes.len() - at;
            put_number(bytes, length as u64);
            let behind = bytes.len() - at - length;
            bytes[at..].rotate_right(behind);
        }
    }

    /// Counts what a tally counted whose bytes these are, and whose calls all ended as `outcome`. After
    /// [`ErrorKind::Corrupt`] the sum is worthless.
    pub(crate) fn merge_bytes(&mut self, mut bytes: &[u8], outcome: Outcome) -> Result<()> {
        self.merge_checked(&mut bytes, outcome)
            .filter(|()| bytes.is_empty())
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, "a rollup in the database does not decode"))
    }

    fn merge_checked(&mut self, bytes: &mut &[u8], outcome: Outcome) -> Option<()> {
        let calls = take_number(bytes)?;
        self.calls = self.calls.checked_add(calls)?;
        self.outcomes[outcome as usize] += calls;
        for mine in &mut self.counts {
            *mine = mine.saturating_add(take_number(bytes)?);
        }
        let (mask, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        let mut mask = u16::from_le_bytes(*mask);
        while mask != 0 {
            let mean = self.means.get_mut(mask.trailing_zeros() as usize)?;
            mask &= mask - 1;
            let count = take_number(bytes)?;
            mean.count = mean.count.checked_add(if count == 0 { calls } else { count })?;
            mean.sum.add(take_figure(bytes)?);
        }
        for sketch in self.sketches.iter_mut().chain([&mut self.token_gaps]) {
            let length = usize::try_from(take_number(bytes)?).ok()?;
            let (its, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            if length > 0 {
                sketch.merge_bytes(its).ok()?;
            }
        }
        Some(())
    }

    /// Where two tallies of the same records differ: in what, and the two figures. Counts must be the same, sums are the
    /// same to 1e-9.
    pub(crate) fn difference(&self, other: &Tally) -> Option<(&'static str, f64, f64)> {
        let differs = |what: &'static str, mine: u64, theirs: u64| {
            (mine != theirs).then_some((what, mine as f64, theirs as f64))
        };
        let sums = |what: &'static str, mine: f64, theirs: f64| {
            let same = (mine - theirs).abs() <= 1e-9 * mine.abs().max(theirs.abs());
            (!same && mine.to_bits() != theirs.to_bits()).then_some((what, mine, theirs))
        };
        let mut counts = COUNT_NAMES.iter().zip(self.counts.iter().zip(other.counts));
        let mut means = FIGURE_NAMES.iter().zip(self.means.iter().zip(other.means));
        let mine = self.sketches.iter().chain([&self.token_gaps]);
        let theirs = other.sketches.iter().chain([&other.token_gaps]);
        let names = FIGURE_NAMES[MEANS..].iter().chain(&["token_gaps"]);
        let mut outcomes = self.outcomes.iter().zip(other.outcomes);
        differs("calls", self.calls, other.calls)
            .or_else(|| outcomes.find_map(|(mine, theirs)| differs("outcomes", *mine, theirs)))
            .or_else(|| counts.find_map(|(&what, (mine, theirs))| differs(what, *mine, theirs)))
            .or_else(|| {
                means.find_map(|(&what, (mine, theirs))| {
                    differs(what, mine.count, theirs.count)
                        .or_else(|| sums(what, mine.sum.value(), theirs.sum.value()))
                })
            })
            .or_else(|| {
                names.zip(mine.zip(theirs)).find_map(|(&what, (mine, theirs))| {
                    differs(what, mine.count(), theirs.count())
                        .or_else(|| sums(what, mine.sum(), theirs.sum()))
                        .or_else(|| (!mine.is_same(theirs)).then_some((what, mine.mean(), theirs.mean())))
                })
            })
    }
}

impl Tally {
    /// The group's statistics.
    pub fn statistics(&self) -> Statistics {
        let or_zero = |mean: f64| if mean.is_nan() { 0.0 } else { mean };
        let count = |which: Count| self.counts[which as usize];
        let sum = |which: Figure| self.means[which as usize].sum.value();
        let mean = |which: Figure| self.means[which as usize].value();
        let [latency, ttft] = &self.sketches;
        Statistics {
            call_count: self.calls,
            total_tokens: count(Count::total_tokens),
            prompt_tokens: count(Count::prompt_tokens),
            prompt_tokens_evaluated: count(Count::prompt_tokens_evaluated),
            completion_tokens: count(Count::completion_tokens),
            cached_tokens: count(Count::cached_tokens),
            error_count: self.outcomes[Outcome::Error as usize],
            cancelled_count: self.outcomes[Outcome::Cancelled as usize],
            interrupted_count: self.outcomes[Outcome::Interrupted as usize],
            total_latency: latency.sum(),
            avg_latency: or_zero(latency.mean()),
            total_cost: sum(Figure::cost_usd),
            avg_ttft: or_zero(ttft.mean()),
            total_energy_joules: sum(Figure::energy_joules),
            avg_gpu_utilization_pct: mean(Figure::gpu_utilization_pct),
            avg_throughput_tok_per_sec: mean(Figure::throughput_tok_per_sec),
            avg_tokens_per_joule: mean(Figure::tokens_per_joule),
            avg_energy_per_output_token_joules: mean(Figure::energy_per_output_token_joules),
            avg_throughput_per_watt: mean(Figure::throughput_per_watt),
            total_prefill_energy_joules: sum(Figure::prefill_energy_joules),
            total_decode_energy_joules: sum(Figure::decode_energy_joules),
            avg_mean_itl_ms: mean(Figure::mean_itl_ms),
            avg_median_itl_ms: mean(Figure::median_itl_ms),
            avg_p95_itl_ms: mean(Figure::p95_itl_ms),
            latency: latency.into(),
            ttft: ttft.into(),
            itl_ms: (&self.token_gaps).into(),
        }
    }
}

/// How many calls met every objective.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goodput {
    /// Calls.
    pub calls: u64,
    /// Those of them that did.
    pub good: u64,
    /// Good calls per second of the time asked about; where that is not bounded, of the time from the first call's timestamp
    /// to the last's. `NAN` if that is none.
    pub per_second: f64,
}

/// The answer to a query: all its calls together, and by model and by engine. The lists are ordered by `call_count`
/// descending, then by name ascending.
#[derive(Debug, Clone, PartialEq)]
pub struct Aggregate {
    /// All calls.
    pub total: Statistics,
    /// By model.
    pub per_model: Vec<(String, Statistics)>,
    /// By engine.
    pub per_engine: Vec<(String, Statistics)>,
    /// For a query with objectives.
    pub goodput: Option<Goodput>,
}

/// The tallies of each model on each engine.
#[derive(Debug, Default)]
pub struct Cells {
    places: HashMap<String, HashMap<String, usize>>,
    tallies: Vec<Tally>,
}

impl Cells {
    /// Where the tally of that model on that engine is.
    pub fn place(&mut self, model: &str, engine: &str) -> usize {
        if let Some(place) = self.places.get(model).and_then(|engines| engines.get(engine)) {
            return *place;
        }
        let place = self.tallies.len();
        self.tallies.push(Tally::default());
        self.places.entry(model.to_owned()).or_default().insert(engine.to_owned(), place);
        place
    }

    /// The tally at a [`Cells::place`].
    pub fn tally(&mut self, place: usize) -> &mut Tally {
        &mut self.tallies[place]
    }

    /// Merges the cells into an answer; of the lists only the first `limit` entries (0: all).
    pub fn aggregate(&self, limit: usize) -> Aggregate {
        let mut total = Tally::default();
        let mut by_model: HashMap<&str, Tally> = HashMap::new();
        let mut by_engine: HashMap<&str, Tally> = HashMap::new();
        for (model, engines) in &self.places {
            for (engine, place) in engines {
                let tally = &self.tallies[*place];
                if tally.calls > 0 {
                    by_model.entry(model).or_default().merge(tally);
                    by_engine.entry(engine).or_default().merge(tally);
                }
            }
        }
        by_engine.values().for_each(|tally| total.merge(tally));
        Aggregate {
            total: total.statistics(),
            per_model: in_order(by_model, limit),
            per_engine: in_order(by_engine, limit),
            goodput: None,
        }
    }
}

fn in_order(groups: HashMap<&str, Tally>, limit: usize) -> Vec<(String, Statistics)> {
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by(|(a_name, a), (b_name, b)| (Reverse(a.calls), *a_name).cmp(&(Reverse(b.calls), *b_name)));
    groups.truncate(if limit == 0 { usize::MAX } else { limit });
    groups.into_iter().map(|(name, tally)| (name.to_owned(), tally.statistics())).collect()
}
