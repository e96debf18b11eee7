//! The sketch behind every percentile: within 1 % of the exact one, mergeable without loss, and the same after a journey
//! through the database.

use tokenjoule::sketch::{Sketch, Sum};

const QUANTILES: [f64; 7] = [0.0, 0.25, 0.5, 0.9, 0.95, 0.99, 1.0];

fn exact(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = q * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[rank.floor() as usize], sorted[rank.ceil() as usize]);
    low + (high - low) * rank.fract()
}

fn sketch_of(values: &[f64]) -> Sketch {
    let mut sketch = Sketch::new();
    values.iter().for_each(|value| sketch.add(*value, 1));
    sketch
}

/// Sets that tell a good sketch from a bad one: few values, equal ones, far apart, at the edges of buckets.
fn sets() -> Vec<Vec<f64>> {
    let mut state = 7u64;
    let mut unit = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    vec![
        vec![3.7],
        vec![1.0, 100.0],
        vec![0.5; 1000],
        (1..=64).map(|n| 1.0 + f64::from(n) / 64.0).collect(), // each at the edge of a bucket
        (0..10_000).map(|_| (unit() * 20.0 - 10.0).exp()).collect(),
        (0..999).map(|_| 1e-9 + unit() * 1e-9).collect(),
        (0..100).map(|n| f64::from(n) * 1e7 + 1.0).collect(),
    ]
}

#[test]
fn percentiles_are_within_one_percent_and_the_ends_exact() {
    for values in sets() {
        let sketch = sketch_of(&values);
        for (q, got) in QUANTILES.into_iter().zip(sketch.quantiles(QUANTILES)) {
            let exact = exact(&values, q);
            let bound = if q == 0.0 || q == 1.0 { 0.0 } else { 0.008 * exact };
            assert!(
                (got - exact).abs() <= bound,
                "quantile {q} of {} values: {got}, exactly {exact}",
                values.len()
            );
        }
        assert_eq!(sketch.count(), values.len() as u64);
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        assert!((sketch.mean() - mean).abs() <= 1e-12 * mean);
    }
}

#[test]
fn nothing_measured_is_nan_and_impossible_values_are_left_out() {
    let mut sketch = Sketch::new();
    for value in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        sketch.add(value, 1);
    }
    sketch.add(1.0, 0);
    assert_eq!(sketch.count(), 0);
    assert!(sketch.min().is_nan() && sketch.max().is_nan() && sketch.mean().is_nan());
    assert!(sketch.quantiles([0.5])[0].is_nan());
}

#[test]
fn merging_loses_nothing() {
    for values in sets() {
        let whole = sketch_of(&values);
        let mut merged = Sketch::new();
        for part in values.chunks(values.len().div_ceil(3)) {
            merged.merge(&sketch_of(part));
            merged.merge(&Sketch::new());
        }
        assert_eq!(merged.count(), whole.count());
        assert_eq!(merged.quantiles(QUANTILES), whole.quantiles(QUANTILES));
        assert!((merged.sum() - whole.sum()).abs() <= 1e-15 * whole.sum());
    }
}

#[test]
fn counting_a_value_many_times_is_adding_it_as_often() {
    let (mut once, mut often) = (Sketch::new(), Sketch::new());
    for (value, times) in [(0.02, 5), (0.5, 1), (3.0, 7)] {
        once.add(value, times);
        (0..times).for_each(|_| often.add(value, 1));
    }
    assert_eq!(once.quantiles(QUANTILES), often.quantiles(QUANTILES));
    assert!((once.sum() - often.sum()).abs() < 1e-12);
}

#[test]
fn values_out_of_range_keep_their_count_and_the_exact_ends() {
    let sketch = sketch_of(&[1e-300, 1.0, 1e300]);
    assert_eq!((sketch.count(), sketch.min(), sketch.max()), (3, 1e-300, 1e300));
    let median = sketch.quantiles([0.5])[0];
    assert!((median - 1.0).abs() < 0.008, "{median}");
}

#[test]
fn it_survives_the_database_and_damage_is_noticed() {
    for values in sets().into_iter().chain([vec![]]) {
        let sketch = sketch_of(&values);
        let bytes = sketch.to_bytes();
        let back = Sketch::from_bytes(&bytes).unwrap();
        assert_eq!(back.count(), sketch.count());
        if !values.is_empty() {
            assert_eq!(back.quantiles(QUANTILES), sketch.quantiles(QUANTILES));
            assert_eq!((back.min(), back.max(), back.mean()), (sketch.min(), sketch.max(), sketch.mean()));
        }
        assert!(Sketch::from_bytes(&bytes[..bytes.len() - 1]).is_err() || values.is_empty());
        let mut newer = bytes.clone();
        newer[0] = 3;
        assert!(Sketch::from_bytes(&newer).is_err());
        // No damage may panic, or make a sketch that counts something else than it says.
        for at in 0..bytes.len().min(400) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            if let Ok(sketch) = Sketch::from_bytes(&damaged) {
                let _ = sketch.quantiles(QUANTILES);
            }
        }
    }
    assert!(Sketch::from_bytes(&[]).is_err());
}

#[test]
fn a_sum_keeps_what_a_plain_one_loses() {
    let mut sum = Sum::ZERO;
    for value in [1.0, 1e100, 1.0, -1e100] {
        sum.add(value);
    }
    assert_eq!(sum.value(), 2.0); // a plain sum is 0
    let mut thousandths = Sum::ZERO;
    (0..1_000_000).for_each(|_| thousandths.add(0.001));
    assert!((thousandths.value() - 1000.0).abs() < 1e-10);
}
