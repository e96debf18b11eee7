//! Statistics of calls: per model, per engine and in all.
//!
//! A [`Tally`] counts records and merges with others of its kind, so that a question can be answered from parts; its
//! [`Statistics`] are what a caller gets. Averages and distributions are over the calls that measured the value.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::record::{Outcome, Record, UNKNOWN};
use crate::sketch::{Sketch, Sum};

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

/// Writes [`Tally`] over the lists of its token counts, means and sketches.
macro_rules! tally {
    (counts: $($count:ident)*; means: $($mean:ident)*; sketches: $($sketch:ident)*;) => {
        /// Counts records of a group. Merging two gives what counting all their records would have.
        #[derive(Debug, Clone, Default)]
        pub struct Tally {
            calls: u64,
            outcomes: [u64; Outcome::ALL.len()],
            $($count: u64,)*
            $($mean: Mean,)*
            $($sketch: Sketch,)*
            token_gaps: Sketch,
        }

        impl Tally {
            /// Counts a record.
            pub fn add(&mut self, record: &Record<'_>) {
                self.calls += 1;
                self.outcomes[record.outcome as usize] += 1;
                $(if record.$count != UNKNOWN { self.$count = self.$count.saturating_add(record.$count); })*
                $(self.$mean.add(record.$mean);)*
                $(self.$sketch.add(record.$sketch, 1);)*
                if let Some(gaps) = record.token_gaps {
                    self.token_gaps.merge(gaps);
                }
            }

            /// Counts all that `other` counted.
            pub fn merge(&mut self, other: &Tally) {
                self.calls += other.calls;
                for (mine, theirs) in self.outcomes.iter_mut().zip(other.outcomes) {
                    *mine += theirs;
                }
                $(self.$count = self.$count.saturating_add(other.$count);)*
                $(self.$mean.merge(other.$mean);)*
                $(self.$sketch.merge(&other.$sketch);)*
                self.token_gaps.merge(&other.token_gaps);
            }
        }
    };
}
tally! {
    counts: total_tokens prompt_tokens prompt_tokens_evaluated completion_tokens cached_tokens;
    means: cost_usd energy_joules gpu_utilization_pct throughput_tok_per_sec tokens_per_joule
           energy_per_output_token_joules throughput_per_watt prefill_energy_joules decode_energy_joules
           mean_itl_ms median_itl_ms p95_itl_ms;
    sketches: latency_seconds ttft;
}

impl Tally {
    /// The group's statistics.
    pub fn statistics(&self) -> Statistics {
        let or_zero = |mean: f64| if mean.is_nan() { 0.0 } else { mean };
        Statistics {
            call_count: self.calls,
            total_tokens: self.total_tokens,
            prompt_tokens: self.prompt_tokens,
            prompt_tokens_evaluated: self.prompt_tokens_evaluated,
            completion_tokens: self.completion_tokens,
            cached_tokens: self.cached_tokens,
            error_count: self.outcomes[Outcome::Error as usize],
            cancelled_count: self.outcomes[Outcome::Cancelled as usize],
            interrupted_count: self.outcomes[Outcome::Interrupted as usize],
            total_latency: self.latency_seconds.sum(),
            avg_latency: or_zero(self.latency_seconds.mean()),
            total_cost: self.cost_usd.sum.value(),
            avg_ttft: or_zero(self.ttft.mean()),
            total_energy_joules: self.energy_joules.sum.value(),
            avg_gpu_utilization_pct: self.gpu_utilization_pct.value(),
            avg_throughput_tok_per_sec: self.throughput_tok_per_sec.value(),
            avg_tokens_per_joule: self.tokens_per_joule.value(),
            avg_energy_per_output_token_joules: self.energy_per_output_token_joules.value(),
            avg_throughput_per_watt: self.throughput_per_watt.value(),
            total_prefill_energy_joules: self.prefill_energy_joules.sum.value(),
            total_decode_energy_joules: self.decode_energy_joules.sum.value(),
            avg_mean_itl_ms: self.mean_itl_ms.value(),
            avg_median_itl_ms: self.median_itl_ms.value(),
            avg_p95_itl_ms: self.p95_itl_ms.value(),
            latency: (&self.latency_seconds).into(),
            ttft: (&self.ttft).into(),
            itl_ms: (&self.token_gaps).into(),
        }
    }
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
}

/// The tallies of each model on each engine.
#[derive(Debug, Default)]
pub struct Cells(HashMap<String, HashMap<String, Tally>>);

impl Cells {
    /// The tally of that model on that engine.
    pub fn cell(&mut self, model: &str, engine: &str) -> &mut Tally {
        // Looked up before it is inserted, so that the strings are copied once a cell and not once a record.
        if !self.0.get(model).is_some_and(|engines| engines.contains_key(engine)) {
            self.0.entry(model.to_owned()).or_default().entry(engine.to_owned()).or_default();
        }
        let cell = self.0.get_mut(model).and_then(|engines| engines.get_mut(engine));
        cell.expect("it was there or has just been inserted")
    }

    /// Merges the cells into an answer; of the lists only the first `limit` entries (0: all).
    pub fn aggregate(&self, limit: usize) -> Aggregate {
        let mut total = Tally::default();
        let mut by_model: HashMap<&str, Tally> = HashMap::new();
        let mut by_engine: HashMap<&str, Tally> = HashMap::new();
        for (model, engines) in &self.0 {
            let of_model = by_model.entry(model).or_default();
            for (engine, tally) in engines {
                of_model.merge(tally);
                by_engine.entry(engine).or_default().merge(tally);
            }
            total.merge(of_model);
        }
        Aggregate {
            total: total.statistics(),
            per_model: in_order(by_model, limit),
            per_engine: in_order(by_engine, limit),
        }
    }
}

fn in_order(groups: HashMap<&str, Tally>, limit: usize) -> Vec<(String, Statistics)> {
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by(|(a_name, a), (b_name, b)| (Reverse(a.calls), *a_name).cmp(&(Reverse(b.calls), *b_name)));
    groups.truncate(if limit == 0 { usize::MAX } else { limit });
    groups.into_iter().map(|(name, tally)| (name.to_owned(), tally.statistics())).collect()
}
