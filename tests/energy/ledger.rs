//! The ledger: what the counters moved is what calls, nobody, and idling got, however calls and readings interleave.

use tokenjoule::energy::Nanos;
use tokenjoule::energy::ledger::{Ledger, Weight};

use super::support::random::Random;

const MS: Nanos = 1_000_000;

fn assert_near(got: f64, expected: f64, what: &str) {
    let tolerance = 1e-9 * expected.abs().max(1.0);
    assert!((got - expected).abs() <= tolerance, "{what}: {got}, expected {expected}");
}

fn device(ledger: &mut Ledger, at: Nanos) -> usize {
    let device = ledger.open(at);
    ledger.set_up(device, true);
    device
}

/// Attributed, unattributed, idle, and what moved.
fn assert_conserved(ledger: &Ledger, device: usize) {
    let totals = ledger.totals(device);
    assert!(totals.attributed >= 0.0 && totals.unattributed >= 0.0 && totals.idle >= 0.0, "{totals:?}");
    let sum = totals.attributed + totals.unattributed + totals.idle;
    assert!((sum - totals.moved).abs() <= 1e-9 * totals.moved.max(1e-9), "{totals:?} sums to {sum}");
}

fn joules(ledger: &mut Ledger, call: u64) -> f64 {
    let shares = ledger.take(call);
    assert!(shares.iter().all(|share| share.joules.is_some()), "{shares:?}");
    shares.iter().filter_map(|share| share.joules).sum()
}

#[test]
fn a_call_gets_its_overlap_and_nobody_gets_the_rest() {
    let mut ledger = Ledger::new(Weight::Equal, false);
    let gpu = device(&mut ledger, 0);
    ledger.begin(1, 25 * MS);
    ledger.settle(gpu, 100 * MS, 40.0); // 400 W, evenly: 10 J before the call, 30 J in it
    ledger.end(1, 150 * MS);
    assert!(!ledger.is_settled(1), "there is no reading from after its end yet");
    ledger.settle(gpu, 200 * MS, 20.0); // 10 J and 10 J
    assert!(ledger.is_settled(1));
    assert_near(joules(&mut ledger, 1), 40.0, "the call");
    assert_near(ledger.totals(gpu).unattributed, 20.0, "nobody");
    assert_conserved(&ledger, gpu);
    assert_eq!(ledger.calls(), 0);
}

#[test]
fn calls_that_run_together_share_and_one_that_runs_alone_gets_all() {
    let mut ledger = Ledger::new(Weight::Equal, false);
    let gpu = device(&mut ledger, 0);
    ledger.begin(1, 0);
    ledger.begin(2, 50 * MS);
    ledger.end(2, 100 * MS);
    ledger.settle(gpu, 100 * MS, 100.0);
    ledger.end(1, 100 * MS);
    assert_near(joules(&mut ledger, 1), 75.0, "50 alone, 25 of 50");
    assert_near(joules(&mut ledger, 2), 25.0, "25 of 50");
}

#[test]
fn by_tokens_a_call_counts_as_one_and_its_tokens() {
    let mut ledger = Ledger::new(Weight::Tokens, false);
    let gpu = device(&mut ledger, 0);
    ledger.begin(1, 0);
    ledger.begin(2, 0);
    ledger.tell(1, Some(0), 8);
    ledger.tell(2, None, 0);
    ledger.settle(gpu, 100 * MS, 100.0);
    ledger.tell(1, Some(0), 8); // none in this stretch
    ledger.settle(gpu, 200 * MS, 100.0);
    ledger.end(1, 200 * MS);
    ledger.end(2, 200 * MS);
    assert_near(joules(&mut ledger, 1), 90.0 + 50.0, "9 of 10, then 1 of 2");
    assert_near(joules(&mut ledger, 2), 10.0 + 50.0, "1 of 10, then 1 of 2");
    assert_conserved(&ledger, gpu);
}

#[test]
fn phases_are_cut_at_the_first_token_not_by_the_share_of_time() {
    let mut ledger = Ledger::new(Weight::Equal, false);
    let gpu = device(&mut ledger, 0);
    ledger.begin(1, 0);
    ledger.settle(gpu, 100 * MS, 60.0); // all of it prompt
    ledger.tell(1, Some(150 * MS), 1);
    ledger.settle(gpu, 200 * MS, 40.0); // half of it
    ledger.settle(gpu, 300 * MS, 10.0);
    ledger.end(1, 300 * MS);
    let share = ledger.take(1)[0];
    assert_near(share.joules.unwrap(), 110.0, "the call");
    assert_near(share.prefill, 80.0, "its prompt"); // by time it would be 55
}

#[test]
fn a_call_that_told_of_no_token_has_no_phases() {
    let mut ledger = Ledger::new(Weight::Equal, false);
    let gpu = device(&mut ledger, 0);
    ledger.begin(1, 0);
    ledger.end(1, 100 * MS);
    ledger.settle(gpu, 100 * MS, 60.0);
    assert!(ledger.take(1)[0].prefill.is_nan());
}

#[test]
fn a_call_shorter_than_a_stretch_is_estimated_and_a_longer_one_is_measured() {
    let mut ledger = Ledger::new(Weight::Equal, false);
    let gpu = device(&mut ledger, 0);
    ledger.begin(1, 10 * MS);
    ledger.begin(2, 10 * MS);
    ledger.end(1, 60 * MS);
    ledger.settle(gpu, 100 * MS, 10.0);
    ledger.end(2, 150 * MS);
    ledger.settle(gpu, 200 * MS, 10.0);
    assert!(ledger.take(1)[0].is_estimated);
    assert!(!ledger.take(2)[0].is_estimated);
}

#[test]
fn time_without_a_call_draws_no_more_than_idling() {
    let mut ledger = Ledger::new(Weight::Equal, false);
    let gpu = device(&mut ledger, 0);
    ledger.settle(gpu, 1000 * MS, 50.0); // 50 W without a call
    assert_near(ledger.idle_watts(gpu), 50.0, "idle");
    ledger.begin(1, 1020 * MS);
    ledger.end(1, 1040 * MS);
    ledger.settle(gpu, 1100 * MS, 12.0); // 4 J of idling in the 80 ms without the call
    assert_near(joules(&mut ledger, 1), 8.0, "the call, not 12 × 20 / 100");
    ledger.begin(2, 1150 * MS);
    ledger.end(2, 1200 * MS);
    ledger.settle(gpu, 1200 * MS, 2.0); // less than idling: evenly
    assert_near(joules(&mut ledger, 2), 1.0, "the second");
    assert_conserved(&ledger, gpu);
}

#[test]
fn idle_power_is_left_out_on_request() {
    let mut ledger = Ledger::new(Weight::Equal, true);
    let gpu = device(&mut ledger, 0);
    ledger.settle(gpu, 1000 * MS, 50.0); // not known yet what idling is
    assert_near(ledger.totals(gpu).unattributed, 50.0, "before it is known");
    ledger.settle(gpu, 2000 * MS, 50.0);
    assert_near(ledger.totals(gpu).idle, 50.0, "known");
    ledger.begin(1, 2000 * MS);
    ledger.end(1, 2100 * MS);
    ledger.settle(gpu, 2100 * MS, 35.0);
    assert_near(joules(&mut ledger, 1), 30.0, "35 less 5 of idling");
    assert_near(ledger.totals(gpu).idle, 55.0, "idle");
    assert_conserved(&ledger, gpu);
}

#[test]
fn a_failed_read_makes_a_longer_stretch_and_a_reset_makes_lost_time() {
    let mut ledger = Ledger::new(Weight::Equal, false);
    let gpu = device(&mut ledger, 0);
    ledger.begin(1, 0);
    ledger.settle(gpu, 300 * MS, 30.0); // two readings failed
    ledger.lose(gpu, 320 * MS); // 20 ms of 400
    ledger.settle(gpu, 400 * MS, 8.0);
    ledger.end(1, 400 * MS);
    assert!(ledger.is_settled(1));
    let share = ledger.take(1)[0];
    assert_near(share.joules.unwrap(), 38.0, "what is known");
    assert!(share.is_estimated);
    assert_eq!(ledger.totals(gpu).lost, 20 * MS);
}

#[test]
fn a_call_of_which_too_little_was_measured_is_unknown_and_its_joules_are_nobodys() {
    let mut ledger = Ledger::new(Weight::Equal, false);
    let gpu = device(&mut ledger, 0);
    ledger.begin(1, 0);
    ledger.settle(gpu, 100 * MS, 10.0);
    ledger.end(1, 150 * MS);
    let share = ledger.take(1)[0]; // two thirds were measured
    assert_eq!(share.joules, None);
    assert_near(ledger.totals(gpu).attributed, 0.0, "attributed");
    assert_conserved(&ledger, gpu);

    // What comes later of its time is nobody's, not another's.
    ledger.begin(2, 100 * MS);
    ledger.end(2, 150 * MS);
    ledger.settle(gpu, 150 * MS, 10.0);
    assert_near(joules(&mut ledger, 2), 5.0, "the other");
    assert_near(ledger.totals(gpu).unattributed, 15.0, "nobody");
    assert_eq!(ledger.calls(), 0);
}

#[test]
fn a_device_that_is_down_when_a_call_begins_is_none_of_its() {
    let mut ledger = Ledger::new(Weight::Equal, false);
    let (gpu, lost) = (device(&mut ledger, 0), device(&mut ledger, 0));
    ledger.set_up(lost, false);
    ledger.begin(1, 0);
    let late = device(&mut ledger, 50 * MS); // nor one that came later
    ledger.end(1, 100 * MS);
    ledger.settle(gpu, 100 * MS, 10.0);
    assert!(ledger.is_settled(1));
    ledger.settle(late, 100 * MS, 5.0);
    assert_near(ledger.totals(late).unattributed, 5.0, "the late one");
    assert_near(joules(&mut ledger, 1), 10.0, "the call");

    ledger.begin(2, 100 * MS);
    ledger.close(gpu); // and nobody waits for one that is gone
    ledger.end(2, 110 * MS);
    ledger.settle(late, 110 * MS, 1.0);
    assert!(ledger.is_settled(2));
    let shares = ledger.take(2);
    assert_eq!((shares[0].joules, shares[1].joules), (None, Some(1.0)));
}

#[test]
fn a_hundred_calls_together_get_what_one_would_have_got() {
    let mut one = Ledger::new(Weight::Equal, false);
    let mut many = Ledger::new(Weight::Equal, false);
    let (alone, shared) = (device(&mut one, 0), device(&mut many, 0));
    let mut random = Random::new(7);
    one.begin(1, 10 * MS);
    (0..100).for_each(|call| many.begin(call, 10 * MS));
    for tick in 1..50 {
        let moved = random.unit() * 30.0;
        one.settle(alone, tick * 20 * MS, moved);
        many.settle(shared, tick * 20 * MS, moved);
    }
    one.end(1, 975 * MS);
    (0..100).for_each(|call| many.end(call, 975 * MS));
    one.settle(alone, 1000 * MS, 20.0);
    many.settle(shared, 1000 * MS, 20.0);
    let expected = joules(&mut one, 1);
    let got: Vec<f64> = (0..100).map(|call| joules(&mut many, call)).collect();
    assert_near(got.iter().sum(), expected, "together");
    assert!(got.iter().all(|joules| (joules - expected / 100.0).abs() < 1e-9 * expected));
}

/// Calls that begin, tell and end at random, on devices that are settled, lose time and fail at random.
fn at_random(seed: u64, weight: Weight, leaves_idle_out: bool) {
    let mut random = Random::new(seed);
    let mut ledger = Ledger::new(weight, leaves_idle_out);
    let devices: Vec<usize> = (0..=random.below(4)).map(|_| device(&mut ledger, 0)).collect();
    let (mut now, mut next) = (0, 0);
    let mut running: Vec<(u64, Nanos, u64)> = Vec::new();
    let mut ended: Vec<u64> = Vec::new();
    let mut given = vec![0.0; devices.len()];
    let mut take = |ledger: &mut Ledger, call: u64| {
        for share in ledger.take(call) {
            let joules = share.joules.unwrap_or(0.0);
            assert!(joules >= 0.0, "seed {seed}: {share:?}");
            assert!(share.prefill.is_nan() || (0.0..=joules.max(share.prefill)).contains(&share.prefill));
            given[share.device] += joules;
        }
    };
    for _ in 0..400 {
        now += random.below(30 * MS);
        match random.below(8) {
            0 | 1 => {
                ledger.begin(next, now);
                running.push((next, now, 0));
                next += 1;
            }
            2 if !running.is_empty() => {
                let at = random.below(running.len() as u64) as usize;
                let (call, _, _) = running.swap_remove(at);
                ledger.end(call, now);
                ended.push(call);
            }
            3 => {
                for (call, begin, tokens) in &mut running {
                    *tokens += random.below(4);
                    let first = (*tokens > 0).then(|| *begin + (now - *begin) / 2);
                    ledger.tell(*call, first, *tokens);
                }
            }
            4 if random.one_in(10) => ledger.lose(devices[0], now),
            5 if random.one_in(10) && !ended.is_empty() => take(&mut ledger, ended.remove(0)), // cannot wait
            _ => {
                for device in &devices {
                    let moved = if random.one_in(6) { 0.0 } else { random.unit() * 20.0 };
                    if !random.one_in(4) {
                        ledger.settle(*device, now, moved); // else the read failed
                    }
                }
                let done: Vec<u64> = ended.iter().copied().filter(|call| ledger.is_settled(*call)).collect();
                ended.retain(|call| !done.contains(call));
                done.into_iter().for_each(|call| take(&mut ledger, call));
            }
        }
        devices.iter().for_each(|device| assert_conserved(&ledger, *device));
    }
    now += MS;
    running.iter().for_each(|(call, _, _)| ledger.end(*call, now));
    devices.iter().for_each(|device| ledger.settle(*device, now, 3.0));
    for call in ended.into_iter().chain(running.into_iter().map(|(call, _, _)| call)) {
        assert!(ledger.is_settled(call), "seed {seed}");
        take(&mut ledger, call);
    }
    assert_eq!(ledger.calls(), 0, "seed {seed}");
    for (device, given) in devices.iter().zip(given) {
        assert_conserved(&ledger, *device);
        assert_near(ledger.totals(*device).attributed, given, &format!("seed {seed}: the calls' joules"));
    }
}

#[test]
fn nothing_is_made_or_lost_under_any_interleaving() {
    for seed in 0..300 {
        let weight = if seed % 2 == 0 { Weight::Equal } else { Weight::Tokens };
        at_random(seed, weight, seed % 3 == 0);
    }
}
