//! What a call has told of itself so far, and the figures that follow from it. Knows no clock: times come in.

use super::Report;
use crate::bus::Told;
use crate::record::{Record, UNKNOWN};
use crate::sketch::{Gaps, Sketch};

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

    /// What a recorder keeps of a call that its process may take to its grave.
    pub(super) fn told(&self) -> Told {
        Told {
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            output_tokens: self.output_tokens,
            first: self.first.unwrap_or(UNKNOWN),
            latest: if self.first.is_some() { self.latest } else { UNKNOWN },
        }
    }

    /// `count` tokens, `at` nanoseconds after the start. The gap since the event before is shared among them.
    pub(super) fn tokens(&mut self, at: u64, count: u32) {
        self.output_tokens += u64::from(count);
        if self.first.is_none() {
            self.first = Some(at);
        } else {
            // No two events are at the same time; a coarse clock may say so.
            let all_ms = at.saturating_sub(self.latest).max(1) as f64 / 1e6;
            let gap_ms = if count == 1 { all_ms } else { all_ms / f64::from(count) };
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
            token_gaps: if self.gaps.count() > 0 { Gaps::Counted(&self.gaps) } else { Gaps::Unknown },
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

/// Standard deviation in one pass, without a division for each value: sums of the distances from the first value, and of
/// their squares (Chan, Golub, LeVeque: "Algorithms for computing the sample variance", American Statistician 37 (1983),
/// shifted data). A call's gaps are near enough to each other for that.
#[derive(Debug, Default)]
struct Spread {
    count: u64,
    first: f64,
    distances: f64,
    squares: f64,
}

impl Spread {
    #[inline]
    fn add(&mut self, value: f64, times: u64) {
        if self.count == 0 {
            self.first = value;
        }
        self.count += times;
        let distance = value - self.first;
        let weighed = distance * times as f64;
        self.distances += weighed;
        self.squares += weighed * distance;
    }

    /// `NAN` for fewer than two values.
    fn sample_deviation(&self) -> f64 {
        if self.count < 2 {
            return f64::NAN;
        }
        let count = self.count as f64;
        ((self.squares - self.distances * self.distances / count) / (count - 1.0)).max(0.0).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn within(got: f64, expected: f64, relative: f64) {
        assert!((got - expected).abs() <= relative * expected.abs(), "{got}, expected {expected}");
    }

    fn gaps(record: &Record<'_>) -> u64 {
        match record.token_gaps {
            Gaps::Counted(gaps) => gaps.count(),
            _ => 0,
        }
    }

    /// A call of which the engine said nothing: what was observed.
    fn observed(progress: &Progress, latency: f64) -> Record<'_> {
        progress.record(latency, &Report::default())
    }

    #[test]
    fn ttft_is_the_first_token_and_gaps_are_shared_among_the_tokens_of_an_event() {
        let mut progress = Progress::default();
        progress.tokens(250 * MS, 3); // the first event has no gap, whatever its count
        progress.tokens(270 * MS, 1); // 20 ms
        progress.tokens(300 * MS, 2); // 15 ms, twice
        progress.tokens(370 * MS, 1); // 70 ms
        let record = observed(&progress, 0.4);
        assert_eq!(record.completion_tokens, 7);
        within(record.ttft, 0.25, 1e-12);
        // By hand over 15, 15, 20, 70: mean 30, median 17.5, p90 = 20 + 0.7 × 50 = 55, s² = (225 + 225 + 100 + 1600) / 3.
        within(record.mean_itl_ms, 30.0, 1e-12);
        within(record.median_itl_ms, 17.5, 0.01);
        within(record.p90_itl_ms, 55.0, 0.01);
        within(record.p95_itl_ms, 20.0 + 0.85 * 50.0, 0.01);
        within(record.p99_itl_ms, 20.0 + 0.97 * 50.0, 0.01);
        within(record.std_itl_ms, (2150.0_f64 / 3.0).sqrt(), 1e-12);
        assert_eq!(gaps(&record), 4);
        assert!(record.is_streaming);
    }

    #[test]
    fn phases_and_rates_leave_the_first_token_out() {
        let mut progress = Progress::default();
        (0..5).for_each(|token| progress.tokens(100 * MS + token * 50 * MS, 1));
        let record = observed(&progress, 0.3);
        within(record.prefill_latency_seconds, 0.1, 1e-12);
        within(record.decode_latency_seconds, 0.2, 1e-12);
        within(record.throughput_tok_per_sec, 5.0 / 0.3, 1e-12);
        within(record.tpot(), 0.2 / 4.0, 1e-12);
        within(record.decode_tok_per_sec(), 4.0 / 0.2, 1e-12);
    }

    #[test]
    fn what_nobody_told_is_unknown() {
        let progress = Progress::default();
        let record = observed(&progress, 0.3);
        for count in [
            record.prompt_tokens,
            record.prompt_tokens_evaluated,
            record.completion_tokens,
            record.cached_tokens,
            record.reasoning_tokens,
            record.draft_tokens,
            record.draft_accepted_tokens,
        ] {
            assert_eq!(count, UNKNOWN);
        }
        for figure in [
            record.ttft,
            record.cost_usd,
            record.queue_seconds,
            record.throughput_tok_per_sec,
            record.prefill_latency_seconds,
            record.decode_latency_seconds,
            record.mean_itl_ms,
            record.std_itl_ms,
            record.tpot(),
            record.decode_tok_per_sec(),
        ] {
            assert!(figure.is_nan());
        }
        assert!(!record.is_streaming && gaps(&record) == 0);
        assert_eq!(record.latency_seconds, 0.3);
    }

    #[test]
    fn one_token_has_a_ttft_and_no_gap() {
        let mut progress = Progress::default();
        progress.tokens(80 * MS, 1);
        let record = observed(&progress, 0.08);
        within(record.ttft, 0.08, 1e-12);
        assert!(record.mean_itl_ms.is_nan() && record.std_itl_ms.is_nan() && record.tpot().is_nan());
        assert!(record.decode_latency_seconds.is_nan(), "no decode: {}", record.decode_latency_seconds);
    }

    #[test]
    fn equal_gaps_have_no_spread_and_a_clock_that_stands_still_does_no_harm() {
        let mut progress = Progress::default();
        (0..4).for_each(|token| progress.tokens(10 * MS + token * 8 * MS, 1));
        assert_eq!(observed(&progress, 1.0).std_itl_ms, 0.0);

        let mut frozen = Progress::default();
        (0..4).for_each(|_| frozen.tokens(10 * MS, 1));
        frozen.tokens(9 * MS, 1); // even backwards
        let record = observed(&frozen, 0.01);
        assert_eq!(gaps(&record), 4);
        assert!(record.mean_itl_ms > 0.0 && record.mean_itl_ms < 1e-5);
    }

    #[test]
    fn the_cached_part_is_not_evaluated() {
        let mut progress = Progress::default();
        progress.prompt(100, 64);
        assert_eq!(observed(&progress, 1.0).prompt_tokens_evaluated, 36);
        progress.prompt(100, UNKNOWN);
        assert_eq!(observed(&progress, 1.0).prompt_tokens_evaluated, UNKNOWN);
        progress.prompt(10, 64); // a contradiction is not a wrap-around
        assert_eq!(observed(&progress, 1.0).prompt_tokens_evaluated, 0);
        progress.prompt(1 << 63, 0); // no count
        assert_eq!(observed(&progress, 1.0).prompt_tokens, UNKNOWN);
    }

    #[test]
    fn what_the_engine_reports_wins_field_by_field() {
        let mut progress = Progress::default();
        progress.prompt(100, 50);
        progress.draft(8, 3);
        progress.draft(8, 5);
        progress.tokens(100 * MS, 1);
        progress.tokens(150 * MS, 1);
        let observed = observed(&progress, 0.2);
        assert_eq!((observed.draft_tokens, observed.draft_accepted_tokens), (16, 8));

        let report = Report { completion_tokens: 9, ttft: 0.05, ..Report::default() };
        let record = progress.record(0.2, &report);
        assert_eq!((record.completion_tokens, record.prompt_tokens), (9, 100));
        within(record.ttft, 0.05, 1e-12);
        within(record.prefill_latency_seconds, 0.05, 1e-12); // follows the TTFT that won
        within(record.throughput_tok_per_sec, 45.0, 1e-12);
        within(record.mean_itl_ms, 50.0, 1e-12); // observed all the same

        let nothing = Report {
            prompt_tokens: UNKNOWN,
            ttft: f64::NAN,
            cost_usd: 0.0,
            decode_seconds: f64::NAN,
            ..Report::default()
        };
        let record = progress.record(0.2, &nothing);
        assert_eq!(record.prompt_tokens, 100);
        within(record.ttft, 0.1, 1e-12);
        assert!(record.cost_usd.is_nan());
    }

    #[test]
    fn a_long_call_has_the_percentiles_of_all_its_tokens() {
        let mut progress = Progress::default();
        let mut at = 50 * MS;
        progress.tokens(at, 1);
        let gaps: Vec<u64> = (0..5000).map(|n| MS / 2 + (n * 7919 % 5000) * 1000).collect();
        for gap in &gaps {
            at += gap;
            progress.tokens(at, 1);
        }
        let mut sorted: Vec<f64> = gaps.iter().map(|gap| *gap as f64 / 1e6).collect();
        sorted.sort_by(f64::total_cmp);
        let exact = |q: f64| sorted[(q * 4999.0).round() as usize];
        let record = observed(&progress, at as f64 / 1e9);
        within(record.median_itl_ms, exact(0.5), 0.01);
        within(record.p95_itl_ms, exact(0.95), 0.01);
        within(record.p99_itl_ms, exact(0.99), 0.01);
    }
}
