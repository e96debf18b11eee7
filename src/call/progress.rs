//! What a call has told of itself so far, and the figures that follow from it. Knows no clock: times come in.

use super::Report;
use crate::record::{Record, UNKNOWN};
use crate::sketch::Sketch;

/// A call's tokens and the gaps between them.
#[derive(Debug)]
pub(super) struct Progress {
    prompt_tokens: u64,
    cached_tokens: u64,
    output_tokens: u64,
    drafted: Option<(u64, u64)>,
    /// Nanoseconds from the start of the call to the first and to the latest token event.
    first: Option<u64>,
    latest: u64,
    gaps: Sketch,
    spread: Spread,
}

impl Default for Progress {
    fn default() -> Self {
        Progress {
            prompt_tokens: UNKNOWN,
            cached_tokens: UNKNOWN,
            output_tokens: 0,
            drafted: None,
            first: None,
            latest: 0,
            gaps: Sketch::new(),
            spread: Spread::default(),
        }
    }
}

impl Progress {
    pub(super) fn prompt(&mut self, prompt_tokens: u64, cached_tokens: u64) {
        // A count that no record may hold is no count.
        let settle = |count: u64| if count > i64::MAX as u64 { UNKNOWN } else { count };
        (self.prompt_tokens, self.cached_tokens) = (settle(prompt_tokens), settle(cached_tokens));
    }

    pub(super) fn draft(&mut self, proposed: u32, accepted: u32) {
        let (all_proposed, all_accepted) = self.drafted.unwrap_or_default();
        self.drafted = Some((all_proposed + u64::from(proposed), all_accepted + u64::from(accepted)));
    }

    /// `count` tokens, `at` nanoseconds after the start. The gap since the event before is shared among them.
    pub(super) fn tokens(&mut self, at: u64, count: u32) {
        self.output_tokens += u64::from(count);
        if self.first.is_none() {
            self.first = Some(at);
        } else {
            // No two events are at the same time; a coarse clock may say so.
            let gap_ms = at.saturating_sub(self.latest).max(1) as f64 / 1e6 / f64::from(count);
            self.gaps.add(gap_ms, count.into());
            self.spread.add(gap_ms, count.into());
        }
        self.latest = at;
    }

    /// The figures of the call, had it ended `latency` seconds after its start. What the engine reports wins, field by
    /// field; what neither gives stays unknown.
    pub(super) fn record<'a>(&'a self, latency: f64, report: &Report<'a>) -> Record<'a> {
        let observed_output = if self.first.is_some() { self.output_tokens } else { UNKNOWN };
        let prompt_tokens = given_count(report.prompt_tokens, self.prompt_tokens);
        let cached_tokens = given_count(report.cached_tokens, self.cached_tokens);
        let evaluated = if prompt_tokens == UNKNOWN || cached_tokens == UNKNOWN {
            UNKNOWN
        } else {
            prompt_tokens.saturating_sub(cached_tokens)
        };
        let completion_tokens = given_count(report.completion_tokens, observed_output);
        let (proposed, accepted) = self.drafted.unwrap_or((UNKNOWN, UNKNOWN));
        let ttft = given(report.ttft, self.first.map_or(f64::NAN, |first| first as f64 / 1e9));
        let [median, p90, p95, p99] = self.gaps.quantiles([0.5, 0.9, 0.95, 0.99]);
        Record {
            prompt_tokens,
            prompt_tokens_evaluated: given_count(report.prompt_tokens_evaluated, evaluated),
            completion_tokens,
            cached_tokens,
            reasoning_tokens: given_count(report.reasoning_tokens, UNKNOWN),
            draft_tokens: given_count(report.draft_tokens, proposed),
            draft_accepted_tokens: given_count(report.draft_accepted_tokens, accepted),
            latency_seconds: latency,
            ttft,
            cost_usd: given(report.cost_usd, f64::NAN),
            queue_seconds: given(report.queue_seconds, f64::NAN),
            throughput_tok_per_sec: match completion_tokens {
                UNKNOWN => f64::NAN,
                tokens => positive(tokens as f64 / latency),
            },
            prefill_latency_seconds: given(report.prefill_seconds, ttft),
            decode_latency_seconds: given(report.decode_seconds, positive(latency - ttft)),
            mean_itl_ms: self.gaps.mean(),
            median_itl_ms: median,
            p90_itl_ms: p90,
            p95_itl_ms: p95,
            p99_itl_ms: p99,
            std_itl_ms: self.spread.sample_deviation(),
            is_streaming: self.first.is_some(),
            finish_reason: report.finish_reason,
            error_type: report.error_type,
            metadata_json: report.metadata_json,
            token_gaps: Some(&self.gaps).filter(|gaps| gaps.count() > 0),
            ..Record::default()
        }
    }
}

fn given_count(reported: u64, observed: u64) -> u64 {
    if reported == 0 || reported == UNKNOWN { observed } else { reported }
}

fn given(reported: f64, observed: f64) -> f64 {
    if reported == 0.0 || reported.is_nan() { observed } else { reported }
}

/// A finite figure above 0, or `NAN`.
fn positive(figure: f64) -> f64 {
    if figure > 0.0 && figure.is_finite() { figure } else { f64::NAN }
}

/// Standard deviation in one pass, with weights (Welford, Technometrics 4 (1962); West, CACM 22 (1979)).
#[derive(Debug, Default)]
struct Spread {
    count: u64,
    mean: f64,
    squares: f64,
}

impl Spread {
    fn add(&mut self, value: f64, times: u64) {
        self.count += times;
        let from_mean = value - self.mean;
        self.mean += from_mean * times as f64 / self.count as f64;
        self.squares += times as f64 * from_mean * (value - self.mean);
    }

    /// `NAN` for fewer than two values.
    fn sample_deviation(&self) -> f64 {
        if self.count < 2 { f64::NAN } else { (self.squares / (self.count - 1) as f64).max(0.0).sqrt() }
    }
}
