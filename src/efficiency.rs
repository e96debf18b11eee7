//! How well hardware and energy were used: pure functions of numbers.
//!
//! `NAN` comes of what is unknown, and of what cannot be; nothing here is ever infinite. The formulas are the
//! reference's (`flops.py`, `efficiency.py`, `phase_metrics.py`, `steady_state.py`, `batch.py`), which gives 0 where
//! this gives `NAN`.

mod gpus;

pub use gpus::{GpuPeak, gpu_peak};

use crate::error::{Error, Result};
use crate::record::{Record, UNKNOWN, check_figure};

/// Floating-point operations of a call with a KV cache: 2 × parameters × tokens (a multiplication and an addition for
/// each parameter and token). `params` are those that a token meets: of a mixture of experts, the active ones.
pub fn flops(params: f64, prompt_tokens: u64, completion_tokens: u64) -> f64 {
    count(2.0 * extent(params) * all(prompt_tokens, completion_tokens))
}

/// The same without a cache, every token computed again for each that follows: the sum of 2 × parameters × i for i from
/// 1 to n tokens, which is parameters × n × (n + 1).
pub fn flops_uncached(params: f64, prompt_tokens: u64, completion_tokens: u64) -> f64 {
    let tokens = all(prompt_tokens, completion_tokens);
    count(extent(params) * tokens * (tokens + 1.0))
}

/// Bytes of weights read from memory: parameters × bytes for each × steps, each of which reads them all once.
pub fn weight_bytes(params: f64, bytes_per_param: f64, steps: u64) -> f64 {
    count(extent(params) * extent(bytes_per_param) * known(steps))
}

/// Of what so many devices could do in that time, what was done, in percent: MFU of operations, MBU of bytes.
pub fn utilization_pct(done: f64, seconds: f64, peak_per_second: f64, devices: u32) -> f64 {
    let devices = extent(f64::from(devices));
    count(level(done) / extent(seconds) / (extent(peak_per_second) * devices) * 100.0)
}

/// Accuracy (0 to 1) for each joule.
pub fn intelligence_per_joule(accuracy: f64, energy_joules: f64) -> f64 {
    count(level(accuracy) / extent(energy_joules))
}

/// A name is made only for one that is refused.
fn check_element(list: &str, at: usize, figure: f64) -> Result<()> {
    check_figure("", figure).or_else(|_| check_figure(&format!("{list}[{at}]"), figure))
}

/// Of which 0 cannot be.
fn extent(figure: f64) -> f64 {
    if figure > 0.0 && figure.is_finite() { figure } else { f64::NAN }
}

/// Of which 0 can be.
fn level(figure: f64) -> f64 {
    if figure >= 0.0 && figure.is_finite() { figure } else { f64::NAN }
}

/// A result: what overflowed is not known.
fn count(figure: f64) -> f64 {
    if figure.is_finite() { figure } else { f64::NAN }
}

fn known(tokens: u64) -> f64 {
    if tokens == UNKNOWN { f64::NAN } else { tokens as f64 }
}

fn all(prompt_tokens: u64, completion_tokens: u64) -> f64 {
    known(prompt_tokens) + known(completion_tokens)
}

/// One part of a call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Phase {
    /// Joules.
    pub energy_joules: f64,
    /// Its length.
    pub seconds: f64,
    /// Energy / seconds.
    pub mean_power_watts: f64,
    /// Energy / tokens.
    pub energy_per_token_joules: f64,
    /// Prompt tokens, or output tokens.
    pub tokens: u64,
}

impl Phase {
    /// From what was measured; `NAN` and [`UNKNOWN`] for what was not.
    pub fn of(energy_joules: f64, seconds: f64, tokens: u64) -> Phase {
        let (energy_joules, seconds) = (extent(energy_joules), extent(seconds));
        Phase {
            energy_joules,
            seconds,
            mean_power_watts: count(energy_joules / seconds),
            energy_per_token_joules: count(energy_joules / extent(known(tokens))),
            tokens,
        }
    }

    /// A settled record's prefill, up to its first token, and decode, from there on. Energy that was not measured apart
    /// is unknown: it is not split by time.
    pub fn split(record: &Record<'_>) -> (Phase, Phase) {
        let or = |given: f64, otherwise: f64| if given.is_nan() { otherwise } else { given };
        let prefill = or(record.prefill_latency_seconds, record.ttft);
        let decode = or(record.decode_latency_seconds, record.latency_seconds - record.ttft);
        (
            Phase::of(record.prefill_energy_joules, prefill, record.prompt_tokens),
            Phase::of(record.decode_energy_joules, decode, record.completion_tokens),
        )
    }
}

/// When a series of samples counts as steady. The default is the reference's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Steadiness {
    /// So many samples at the beginning are never looked at.
    pub warmup_samples: usize,
    /// The coefficient of variation is that of the last so many samples.
    pub window_size: usize,
    /// Below it, the window is stable.
    pub cv_threshold: f64,
    /// Steady is what was stable so many times running.
    pub min_steady_samples: usize,
}

impl Default for Steadiness {
    fn default() -> Self {
        Steadiness { warmup_samples: 5, window_size: 5, cv_threshold: 0.05, min_steady_samples: 3 }
    }
}

/// What a series of samples came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SteadyState {
    /// How many of the samples were of the warm-up.
    pub warmup_samples: usize,
    /// The sample, from 0, at which the series had become steady.
    pub reached_at: Option<usize>,
    /// Sample standard deviation / mean, over the last window; `NAN` if there is none.
    pub coefficient_of_variation: f64,
    /// The mean of the last window.
    pub mean: f64,
}

impl Steadiness {
    /// Looks at the samples in their order. One that was not measured (`NAN`) makes its windows unstable.
    pub fn detect(&self, samples: &[f64]) -> Result<SteadyState> {
        if self.window_size == 0 {
            return Err(Error::invalid("options.window_size", "is 0"));
        }
        check_figure("options.cv_threshold", self.cv_threshold)?;
        for (at, sample) in samples.iter().enumerate() {
            check_element("samples", at, *sample)?;
        }
        let warmup_samples = samples.len().min(self.warmup_samples);
        let mut state = SteadyState {
            warmup_samples,
            reached_at: None,
            coefficient_of_variation: f64::NAN,
            mean: f64::NAN,
        };
        let windows = samples[warmup_samples..].windows(self.window_size);
        let mut stable = 0;
        for (nth, window) in windows.enumerate() {
            (state.mean, state.coefficient_of_variation) = variation(window);
            stable = if state.coefficient_of_variation < self.cv_threshold { stable + 1 } else { 0 };
            if state.reached_at.is_none() && stable > 0 && stable >= self.min_steady_samples {
                state.reached_at = Some(warmup_samples + nth + self.window_size - 1);
            }
        }
        Ok(state)
    }
}

/// Mean, and sample standard deviation / mean, which is unknown for a mean of 0, and 0 for a single sample.
fn variation(window: &[f64]) -> (f64, f64) {
    let mean = count(window.iter().sum::<f64>() / window.len() as f64);
    let squares: f64 = window.iter().map(|sample| (sample - mean).powi(2)).sum();
    let deviation = if window.len() < 2 { squares } else { (squares / (window.len() - 1) as f64).sqrt() };
    (mean, count(deviation / extent(mean)))
}

/// The energy of requests that were served together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EnergyBatch {
    /// Requests.
    pub total_requests: u64,
    /// Those of them whose own energy was measured.
    pub measured_requests: u64,
    /// Tokens, as far as they are known.
    pub total_tokens: u64,
    /// Joules.
    pub total_energy_joules: f64,
    /// Energy / tokens.
    pub energy_per_token_joules: f64,
    /// Energy / requests.
    pub energy_per_request_joules: f64,
    /// Energy / seconds.
    pub mean_power_watts: f64,
    /// Tokens / seconds.
    pub mean_throughput_tok_per_sec: f64,
}

impl EnergyBatch {
    /// `requests`: the energy (`NAN` or 0: not measured) and the tokens of each. `total_energy_joules`: what was measured
    /// around them all; if it was not (`NAN` or 0), the sum of the requests' own stands for it, and its figures are those
    /// of the requests that measured it.
    pub fn of(
        requests: impl Iterator<Item = (f64, u64)>,
        total_energy_joules: f64,
        seconds: f64,
    ) -> Result<EnergyBatch> {
        check_figure("total_energy_joules", total_energy_joules)?;
        check_figure("seconds", seconds)?;
        let (mut total_requests, mut measured_requests) = (0_u64, 0_u64);
        let (mut energy, mut tokens, mut tokens_measured) = (0.0, 0.0, 0.0); // NAN as soon as one is unknown
        let mut total_tokens = 0_u64;
        for (own_energy, own_tokens) in requests {
            check_element("energy_joules", total_requests as usize, own_energy)?;
            total_requests += 1;
            total_tokens = total_tokens.saturating_add(if own_tokens == UNKNOWN { 0 } else { own_tokens });
            tokens += known(own_tokens);
            if !extent(own_energy).is_nan() {
                measured_requests += 1;
                energy += own_energy;
                tokens_measured += known(own_tokens);
            }
        }
        let whole = extent(total_energy_joules);
        let (energy, of_tokens, of_requests) = if whole.is_nan() {
            (extent(energy), tokens_measured, measured_requests)
        } else {
            (whole, tokens, total_requests)
        };
        Ok(EnergyBatch {
            total_requests,
            measured_requests,
            total_tokens,
            total_energy_joules: energy,
            energy_per_token_joules: count(energy / extent(of_tokens)),
            energy_per_request_joules: count(energy / extent(of_requests as f64)),
            mean_power_watts: count(energy / extent(seconds)),
            mean_throughput_tok_per_sec: count(tokens / extent(seconds)),
        })
    }
}
