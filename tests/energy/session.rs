//! From readings to calls: counters that wrap, reset, freeze, step back, fail and move slowly, by a simulated clock.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokenjoule::energy::Nanos;
use tokenjoule::energy::counter::{Counter, Movement};
use tokenjoule::energy::figures::Tier;
use tokenjoule::energy::ledger::Weight;
use tokenjoule::energy::session::{Event, Finish, PATIENCE, Session, Told};
use tokenjoule::energy::source::{Device, Energy, Part, Reading};

use super::support::random::Random;

const MS: Nanos = 1_000_000;
/// Of an Intel package: 65,532.610987 J.
const RAPL_RANGE: u64 = 65_532_610_987;

pub fn device(part: Part) -> Device {
    Device {
        kind: "custom",
        name: "simulated".to_owned(),
        vendor: if part == Part::Gpu { "nvidia" } else { "cpu_rapl" }.to_owned(),
        method: if part == Part::Gpu { "hw_counter" } else { "rapl" }.to_owned(),
        part,
        update_period: 0.0,
        joules_per_count: 1e-6,
        wraps_at: None,
    }
}

fn assert_near(got: f64, expected: f64) {
    assert!((got - expected).abs() <= 1e-9 * expected.abs().max(1e-9), "{got}, expected {expected}");
}

// ---- The counter ----

fn moved(counter: &mut Counter, at: Nanos, count: u64) -> Movement {
    counter.read(at, Energy::Count(count)).unwrap()
}

#[test]
fn a_counter_wraps_at_its_range() {
    let mut counter = Counter::new(&Device { wraps_at: Some(RAPL_RANGE), ..device(Part::Cpu) });
    assert_eq!(moved(&mut counter, 0, RAPL_RANGE - 3_000_000), Movement::Begins);
    let Movement::Joules(joules) = moved(&mut counter, 100 * MS, 2_000_000) else { panic!() };
    assert_near(joules, 5.0);
    let Movement::Joules(joules) = moved(&mut counter, 200 * MS, 2_500_000) else { panic!() };
    assert_near(joules, 0.5);
}

#[test]
fn a_step_back_that_is_no_wrap_is_a_reset() {
    let mut counter = Counter::new(&device(Part::Gpu));
    moved(&mut counter, 0, 5_000_000);
    assert_eq!(moved(&mut counter, 100 * MS, 1_000_000), Movement::Lost);
    let Movement::Joules(joules) = moved(&mut counter, 200 * MS, 3_000_000) else { panic!() };
    assert_near(joules, 2.0); // from the new counter on

    // One that can wrap, but would have drawn 400 kW to get there.
    let mut counter = Counter::new(&Device { wraps_at: Some(RAPL_RANGE), ..device(Part::Cpu) });
    moved(&mut counter, 0, 30_000_000_000);
    assert_eq!(moved(&mut counter, 100 * MS, 5_000_000_000), Movement::Lost);
}

#[test]
fn a_counter_that_stands_is_no_news_until_it_has_stood_for_three_periods() {
    let mut counter = Counter::new(&Device { update_period: 0.1, ..device(Part::Gpu) });
    moved(&mut counter, 0, 1000);
    assert_eq!(moved(&mut counter, 100 * MS, 1000), Movement::Nothing);
    assert_eq!(moved(&mut counter, 250 * MS, 1000), Movement::Nothing);
    let Movement::Joules(joules) = moved(&mut counter, 260 * MS, 2_001_000) else { panic!() };
    assert_near(joules, 2.0);
    assert_near(counter.period(), 0.26);
    assert_eq!(moved(&mut counter, 600 * MS, 2_001_000), Movement::Joules(0.0)); // it draws nothing
}

#[test]
fn power_is_integrated_by_the_trapezoid_and_not_over_a_long_gap() {
    let mut counter = Counter::new(&device(Part::Gpu));
    assert_eq!(counter.read(0, Energy::Watts(100.0)), Some(Movement::Begins));
    let Some(Movement::Joules(joules)) = counter.read(500 * MS, Energy::Watts(300.0)) else { panic!() };
    assert_near(joules, 100.0);
    assert_eq!(counter.read(6000 * MS, Energy::Watts(300.0)), Some(Movement::Lost));
    assert_eq!(counter.read(6001 * MS, Energy::Watts(-1.0)), None);
    assert_eq!(counter.read(6001 * MS, Energy::Watts(f64::NAN)), None);
    assert_eq!(counter.read(6001 * MS, Energy::Watts(f64::INFINITY)), None);
}

#[test]
fn joules_as_a_number_count_like_counts() {
    let mut counter = Counter::new(&device(Part::Other));
    assert_eq!(counter.read(0, Energy::Joules(7.5)), Some(Movement::Begins));
    assert_eq!(counter.read(100 * MS, Energy::Joules(9.0)), Some(Movement::Joules(1.5)));
    assert_eq!(counter.read(200 * MS, Energy::Joules(1.0)), Some(Movement::Lost));
    assert_eq!(counter.read(300 * MS, Energy::Joules(f64::NAN)), None);
    assert_eq!(counter.read(400 * MS, Energy::Watts(1.0)), Some(Movement::Lost), "another kind of figure");
}

// ---- The session ----

pub fn begin<W>(session: &mut Session<W>, call: u64, at: Nanos) -> Arc<Told> {
    let told = Arc::new(Told::default());
    session.apply([Event::Begin { call, at, told: told.clone() }]);
    told
}

fn end(session: &mut Session<u64>, call: u64, at: Nanos) {
    session.apply([Event::End { call, at, waiting: call }]);
}

fn watts(watts: f64) -> Option<Reading> {
    Some(Energy::Watts(watts).into())
}

fn micro(count: u64) -> Option<Reading> {
    Some(Energy::Count(count).into())
}

#[test]
fn a_call_gets_its_parts_its_phases_and_its_gauges() {
    let mut session = Session::new(Weight::Equal, false);
    let (cpu, gpu) = (session.open(&device(Part::Cpu), 0), session.open(&device(Part::Gpu), 0));
    let dram = session.open(&device(Part::Dram), 0);
    let with = |count, utilization_pct, memory_gb, temperature_c| {
        Some(Reading { utilization_pct, memory_gb, temperature_c, ..Energy::Count(count).into() })
    };
    let tick = |session: &mut Session<u64>, at, counts: [u64; 3], gauges: (f64, f64, f64)| {
        session.read(cpu, at, micro(counts[0]));
        session.read(gpu, at, with(counts[1], gauges.0, gauges.1, gauges.2));
        session.read(dram, at, micro(counts[2]));
        session.finish(at, true, Finish::Settled)
    };
    tick(&mut session, 0, [1000, 1000, 1000], (0.0, 0.0, 0.0));
    let told = begin(&mut session, 5, 0);
    tick(&mut session, 100 * MS, [2_001_000, 10_001_000, 501_000], (80.0, 6.0, 50.0));
    told.first.store(100 * MS, Relaxed);
    told.tokens.store(1, Relaxed);
    end(&mut session, 5, 200 * MS);
    let done = tick(&mut session, 200 * MS, [3_001_000, 15_001_000, 1_001_000], (90.0, 7.0, 60.0));
    let (call, energy) = &done[0];
    assert_eq!((*call, energy.tier), (5, Tier::Measured));
    assert_near(energy.joules, 3.0 + 15.0 + 1.0);
    assert_near(energy.parts.cpu, 3.0);
    assert_near(energy.parts.gpu, 15.0);
    assert_near(energy.parts.dram, 1.0);
    assert!(energy.parts.other.is_nan());
    assert_near(energy.prefill_joules, 2.0 + 10.0 + 0.5);
    assert_near(energy.decode_joules, 1.0 + 5.0 + 0.5);
    assert_near(energy.utilization_pct, 80.0); // what was read while it ran
    assert_near(energy.memory_gb, 6.0);
    assert_eq!((energy.vendor.as_str(), energy.method.as_str()), ("nvidia", "hw_counter"));
}

#[test]
fn a_call_waits_for_the_next_reading_and_then_for_a_counter_that_moves_slowly() {
    let mut session = Session::new(Weight::Equal, false);
    let gpu = session.open(&Device { update_period: 0.1, ..device(Part::Gpu) }, 0);
    session.read(gpu, 0, micro(1));
    begin(&mut session, 1, 10 * MS);
    end(&mut session, 1, 120 * MS);
    assert!(session.finish(130 * MS, false, Finish::Settled).is_empty());
    session.read(gpu, 140 * MS, micro(1)); // it will move yet
    assert!(session.finish(140 * MS, false, Finish::Settled).is_empty());
    session.read(gpu, 150 * MS, micro(1_500_001));
    let done = session.finish(150 * MS, false, Finish::Settled);
    assert_near(done[0].1.joules, 1.1); // 110 of 150 ms
    assert_eq!(done[0].1.tier, Tier::Estimated);
}

#[test]
fn a_device_that_is_lost_makes_unknown_what_it_had_a_part_in_and_nothing_else() {
    let mut session = Session::new(Weight::Equal, false);
    let (cpu, gpu) = (session.open(&device(Part::Cpu), 0), session.open(&device(Part::Gpu), 0));
    session.read(cpu, 0, micro(0));
    session.read(gpu, 0, micro(0));
    begin(&mut session, 1, 0);
    session.read(cpu, 100 * MS, micro(1_000_000));
    session.read(gpu, 100 * MS, None);
    end(&mut session, 1, 100 * MS);
    assert!(session.finish(100 * MS, false, Finish::Settled).is_empty(), "the GPU may come back");
    let later = 100 * MS + PATIENCE + 1;
    session.read(cpu, later, micro(2_000_000));
    session.read(gpu, later, None);
    let done = session.finish(later, false, Finish::Settled);
    let energy = &done[0].1;
    assert!(energy.joules.is_nan() && energy.parts.gpu.is_nan() && energy.tier == Tier::Unknown);
    assert_near(energy.parts.cpu, 1.0);
    assert_eq!(energy.vendor, "cpu_rapl");

    // From now on it is no part of calls.
    begin(&mut session, 2, later);
    end(&mut session, 2, later + 100 * MS);
    session.read(cpu, later + 100 * MS, micro(4_000_000));
    session.read(gpu, later + 100 * MS, None);
    let done = session.finish(later + 100 * MS, false, Finish::Settled);
    assert_near(done[0].1.joules, 2.0);
    assert_eq!(done[0].1.tier, Tier::Measured);

    // It comes back: what it moved meanwhile is nobody's.
    session.read(gpu, later + 200 * MS, micro(9_000_000));
    let totals: Vec<_> = session.devices().map(|(_, totals)| totals).collect();
    assert_near(totals[gpu].unattributed, 9.0);
}

#[test]
fn a_window_measures_all_that_moves_in_it() {
    let mut session: Session<u64> = Session::new(Weight::Equal, false);
    let (cpu, gpu) = (session.open(&device(Part::Cpu), 0), session.open(&device(Part::Gpu), 0));
    let tick = |session: &mut Session<u64>, at, cpu_count, gpu_watts| {
        session.read(cpu, at, micro(cpu_count));
        session.read(gpu, at, watts(gpu_watts));
        session.finish(at, true, Finish::Settled);
    };
    tick(&mut session, 0, 0, 100.0);
    tick(&mut session, 100 * MS, 5_000_000, 100.0);
    session.begin_window(9, 100 * MS);
    tick(&mut session, 200 * MS, 6_000_000, 300.0);
    tick(&mut session, 300 * MS, 8_000_000, 100.0);
    let measured = session.end_window(9, 300 * MS).unwrap();
    assert_near(measured.parts.cpu, 3.0);
    assert_near(measured.parts.gpu, 40.0);
    assert_near(measured.parts.sum(), 43.0);
    assert_near(measured.peak_watts, 310.0);
    assert_near(measured.seconds, 0.2);
    assert_eq!(measured.readings, 2);
    assert!(session.end_window(9, 300 * MS).is_none());
}

/// A simulated device, and what a reader of it must come to.
struct Simulated {
    device: Device,
    /// What it has drawn, µJ.
    true_count: u64,
    /// What its counter shows, since it last moved.
    shown: u64,
    offset: u64,
    moves_at: Nanos,
    frozen_until: Nanos,
    failing_until: Nanos,
    read_before: Option<u64>,
    expected: f64,
    resets: u32,
}

impl Simulated {
    fn new(random: &mut Random) -> Simulated {
        let update_period = [0.0, 0.001, 0.02, 0.1][random.below(4) as usize];
        let wraps_at = random.one_in(2).then_some(RAPL_RANGE / 1000);
        let device = Device { update_period, wraps_at, ..device(Part::Cpu) };
        let offset = random.below(1 << 40);
        Simulated {
            device,
            true_count: 0,
            shown: 0,
            offset,
            moves_at: 0,
            frozen_until: 0,
            failing_until: 0,
            read_before: None,
            expected: 0.0,
            resets: 0,
        }
    }

    fn value(&self, count: u64) -> u64 {
        let value = count + self.offset;
        self.device.wraps_at.map_or(value, |range| value % range)
    }

    fn run(&mut self, random: &mut Random, from: Nanos, to: Nanos) {
        self.true_count += (to - from) / 1000 * random.below(400); // up to 400 W
        if random.one_in(60) {
            self.frozen_until = to + random.below(600 * MS);
        }
        if random.one_in(40) {
            self.failing_until = to + random.below(300 * MS);
        }
        if to >= self.moves_at && to >= self.frozen_until {
            self.shown = self.true_count;
            self.moves_at = to + (self.device.update_period * 1e9) as Nanos;
        }
        let can_tell = self.read_before.is_some_and(|before| before > 1_000_000_000 && before != u64::MAX);
        if can_tell && self.device.wraps_at.is_none() && random.one_in(60) {
            // The driver was loaded anew: it counts from 0. Whoever reads it next learns nothing of what was.
            (self.offset, self.true_count, self.shown) = (0, 0, 0);
            self.read_before = Some(u64::MAX);
            self.resets += 1;
        }
    }

    fn read(&mut self, now: Nanos) -> Option<Reading> {
        if now < self.failing_until {
            return None;
        }
        let value = self.value(self.shown);
        if let Some(before) = self.read_before
            && before != u64::MAX
        {
            let step = match value.checked_sub(before) {
                Some(step) => step,
                None => self.device.wraps_at.unwrap() - before + value,
            };
            self.expected += step as f64 * 1e-6;
        }
        self.read_before = Some(value);
        micro(value)
    }
}

#[test]
fn nothing_is_made_or_lost_whatever_the_counters_do() {
    let mut resets = 0;
    for seed in 0..150 {
        let mut random = Random::new(seed + 1000);
        let mut session: Session<u64> = Session::new(Weight::Equal, seed % 4 == 0);
        let mut all: Vec<Simulated> = (0..=random.below(3)).map(|_| Simulated::new(&mut random)).collect();
        for it in &all {
            session.open(&it.device, 0);
        }
        let (mut now, mut next) = (0, 0);
        let mut running = Vec::new();
        let mut attributed = 0.0;
        for _ in 0..600 {
            let before = now;
            now += MS + random.below(59 * MS);
            all.iter_mut().for_each(|it| it.run(&mut random, before, now));
            if random.one_in(3) {
                running.push((next, begin(&mut session, next, now - MS / 2)));
                next += 1;
            }
            if random.one_in(3) && !running.is_empty() {
                let (call, _) = running.swap_remove(random.below(running.len() as u64) as usize);
                end(&mut session, call, now - MS / 3);
            }
            for (device, it) in all.iter_mut().enumerate() {
                let reading = it.read(now);
                session.read(device, now, reading);
            }
            let finish = if random.one_in(50) { Finish::ALL } else { Finish::Settled };
            for (_, energy) in session.finish(now, false, finish) {
                let known = [energy.parts.cpu, energy.joules].into_iter().find(|joules| !joules.is_nan());
                assert!(known.unwrap_or(0.0) >= 0.0);
                attributed += known.unwrap_or(0.0);
            }
            for (it, (_, totals)) in all.iter().zip(session.devices()) {
                let missing = it.expected - totals.moved;
                assert!(
                    missing.abs() <= 1e-9 * it.expected.max(1.0),
                    "seed {seed}: {} of {totals:?}",
                    it.expected
                );
                let sum = totals.attributed + totals.unattributed + totals.idle;
                assert!(
                    (sum - totals.moved).abs() <= 1e-9 * totals.moved.max(1.0),
                    "seed {seed}: {totals:?}"
                );
            }
        }
        assert!(attributed > 0.0, "seed {seed}");
        resets += all.iter().map(|it| it.resets).sum::<u32>();
    }
    assert!(resets > 50, "{resets}");
}

// ---- What the sampler goes by ----

#[test]
fn the_interval_can_follow_counters_that_move_slowly_and_one_that_could_wrap() {
    let mut session: Session<u64> = Session::new(Weight::Equal, false);
    let slow = session.open(&Device { update_period: 0.5, ..device(Part::Gpu) }, 0);
    for tick in 0..50 {
        session.read(slow, tick * 100 * MS, micro(tick / 5 * 1_000_000));
    }
    assert!((session.quickest_period() - 0.5).abs() < 0.01, "{}", session.quickest_period());
    assert!(session.quickest_wrap().is_infinite());

    // One that moves from read to read says nothing of how slow the sampler may be.
    let quick = session.open(&Device { wraps_at: Some(RAPL_RANGE), ..device(Part::Cpu) }, 0);
    (0..5).for_each(|tick| session.read(quick, tick * 100 * MS, micro(tick * 1000)));
    assert!(session.quickest_period().is_nan());
    assert!((session.quickest_wrap() - 65_532.6 / 500.0).abs() < 0.1, "as if it drew 500 W");
    session.read(quick, 600 * MS, micro(400_000_000)); // 2 kW
    assert!(session.quickest_wrap() < 40.0);
    session.close(quick);
    assert!(!session.quickest_period().is_nan());
}
