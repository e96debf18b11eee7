//! Efficiency held against the reference's own way of computing it, on series and numbers drawn at random.
//!
//! `tests/c/efficiency.c` has the cases that were worked out by hand.

mod support;

use support::random::Random;
use tokenjoule::efficiency::{
    EnergyBatch, Steadiness, flops, flops_uncached, gpu_peak, utilization_pct, weight_bytes,
};

/// `SteadyStateDetector.record`, sample by sample: whether, and at which sample, it says that the series is steady.
fn reference_detects(samples: &[f64], how: &Steadiness) -> Option<usize> {
    let mut consecutive = 0;
    let mut reached = None;
    for seen in 1..=samples.len() {
        if seen <= how.warmup_samples || reached.is_some() {
            continue;
        }
        let after_warmup = &samples[how.warmup_samples..seen];
        if after_warmup.len() < how.window_size {
            continue;
        }
        let window = &after_warmup[after_warmup.len() - how.window_size..];
        let mean = window.iter().sum::<f64>() / window.len() as f64;
        if mean == 0.0 {
            consecutive = 0;
            continue;
        }
        let squares: f64 = window.iter().map(|it| (it - mean) * (it - mean)).sum();
        let cv = if window.len() > 1 { (squares / (window.len() - 1) as f64).sqrt() / mean } else { 0.0 };
        consecutive = if cv < how.cv_threshold { consecutive + 1 } else { 0 };
        if consecutive >= how.min_steady_samples {
            reached = Some(seen - 1);
        }
    }
    reached
}

#[test]
fn steady_states_are_those_of_the_reference() {
    let mut random = Random::new(42);
    let mut reached = 0;
    for _ in 0..2000 {
        let how = Steadiness {
            warmup_samples: random.next() as usize % 8,
            window_size: 1 + random.next() as usize % 6,
            cv_threshold: random.between(0.01, 0.3),
            min_steady_samples: 1 + random.next() as usize % 4,
        };
        let spread = random.between(0.0, 60.0);
        let samples: Vec<f64> = (0..random.next() % 30)
            .map(|_| {
                if random.next().is_multiple_of(9) {
                    0.0
                } else {
                    random.between(100.0 - spread, 100.0 + spread)
                }
            })
            .collect();
        let found = how.detect(&samples).unwrap();
        assert_eq!(found.reached_at, reference_detects(&samples, &how), "{how:?} of {samples:?}");
        assert_eq!(found.warmup_samples, samples.len().min(how.warmup_samples));
        reached += u32::from(found.reached_at.is_some());
    }
    assert!((200..1800).contains(&reached), "{reached}: the samples test nothing");
    let impossible = Steadiness { window_size: 0, ..Steadiness::default() };
    assert!(impossible.detect(&[1.0]).unwrap_err().message.contains("window_size"));
}

/// `compute_efficiency`: rates first, in units of 10^9 and 10^12.
#[test]
fn utilisation_is_that_of_the_reference() {
    let mut random = Random::new(7);
    for _ in 0..1000 {
        let (params_b, bytes_per_param) = (random.between(0.1, 400.0), random.between(0.5, 4.0));
        let (peak_tflops, peak_gb) = (random.between(10.0, 2000.0), random.between(100.0, 8000.0));
        let (tokens, seconds) = (1 + random.next() % 5000, random.between(0.1, 100.0));
        let gpus = 1 + (random.next() % 8) as u32;
        let per_second = tokens as f64 / seconds;
        let mfu = 2.0 * params_b * 1e9 * per_second / (peak_tflops * 1e12 * f64::from(gpus)) * 100.0;
        let mbu = params_b * 1e9 * bytes_per_param * per_second / 1e9 / (peak_gb * f64::from(gpus)) * 100.0;
        let params = params_b * 1e9;
        let near = |ours: f64, its: f64| assert!((ours - its).abs() <= 1e-12 * its, "{ours} and {its}");
        near(utilization_pct(flops(params, 0, tokens), seconds, peak_tflops * 1e12, gpus), mfu);
        let bytes = weight_bytes(params, bytes_per_param, tokens);
        near(utilization_pct(bytes, seconds, peak_gb * 1e9, gpus), mbu);
        let n = tokens as f64;
        near(flops_uncached(params, tokens, 0), params * n * (n + 1.0));
    }
}

/// `EnergyBatch.sample` without a monitor, where every request measured its energy.
#[test]
fn batches_are_those_of_the_reference() {
    let mut random = Random::new(11);
    for _ in 0..200 {
        let requests: Vec<(f64, u64)> = (0..1 + random.next() % 20)
            .map(|_| (random.between(0.1, 500.0), 1 + random.next() % 4000))
            .collect();
        let seconds = random.between(0.1, 60.0);
        let energy: f64 = requests.iter().map(|(energy, _)| energy).sum();
        let tokens: u64 = requests.iter().map(|(_, tokens)| tokens).sum();
        let batch = EnergyBatch::of(requests.iter().copied(), f64::NAN, seconds).unwrap();
        assert_eq!((batch.total_requests, batch.total_tokens), (requests.len() as u64, tokens));
        let near = |ours: f64, its: f64| assert!((ours - its).abs() <= 1e-12 * its, "{ours} and {its}");
        near(batch.total_energy_joules, energy);
        near(batch.energy_per_token_joules, energy / tokens as f64);
        near(batch.energy_per_request_joules, energy / requests.len() as f64);
        near(batch.mean_power_watts, energy / seconds);
        near(batch.mean_throughput_tok_per_sec, tokens as f64 / seconds);
    }
}

/// The reference finds "L4" in "L40S", and gives a 4090 and an L4 the rate of their FP32 units for BF16.
#[test]
fn peaks_are_not_those_of_another_gpu() {
    let bf16 = |name: &str| gpu_peak(name).map(|peak| peak.bf16_flops / 1e12);
    assert_eq!(bf16("NVIDIA L40S"), Some(362.05));
    assert_eq!(bf16("NVIDIA L4"), Some(121.0));
    assert_eq!(bf16("NVIDIA GeForce RTX 4090"), Some(165.2));
    assert_eq!(bf16("NVIDIA GeForce RTX 4090 Laptop GPU"), None);
}
