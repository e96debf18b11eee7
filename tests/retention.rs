//! Letting old records go: by hand, by age and by size; and what the rollups keep of them.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rusqlite::Connection;
use support::scratch;
use tokenjoule::record::Record;
use tokenjoule::stats::Aggregate;
use tokenjoule::store::{Query, Store, StoreOptions};

const HOUR: f64 = 3600.0;
/// The start of an hour.
const BEGIN: f64 = 1_699_999_200.0;

fn open(path: &Path, options: StoreOptions) -> Arc<Store> {
    Store::open(path.to_str().unwrap(), &options).unwrap()
}

fn keeping() -> StoreOptions {
    StoreOptions { keep_rollups: true, ..StoreOptions::default() }
}

fn record(store: &Store, timestamp: f64, number: u32) {
    let model_id = ["tiny", "small", "large"][number as usize % 3];
    let latency_seconds = 0.25 + f64::from(number % 97);
    let (ttft, energy_joules) = (latency_seconds / 8.0, f64::from(number % 13));
    let prompt_tokens = number.into();
    let it = Record {
        timestamp,
        model_id,
        prompt_tokens,
        latency_seconds,
        ttft,
        energy_joules,
        ..Record::default()
    };
    store.record(&it).unwrap();
}

/// One call a minute for ten hours, and half an hour of them.
fn ten_hours_and_a_half(store: &Store) {
    (0..630).for_each(|minute| record(store, BEGIN + f64::from(minute) * 60.0, minute));
}

fn everything(store: &Store) -> Aggregate {
    store.aggregate(&Query::default()).unwrap()
}

fn between(store: &Store, since: f64, until: f64) -> Aggregate {
    store.aggregate(&Query { since, until, ..Query::default() }).unwrap()
}

/// Whether two answers are the same: counts and ends exactly, sums and percentiles as exactly as they can be.
fn assert_same(one: &Aggregate, other: &Aggregate) {
    let close = |one: f64, other: f64| {
        assert!(
            (one - other).abs() <= 1e-9 * one.abs() || (one.is_nan() && other.is_nan()),
            "{one}, {other}"
        );
    };
    let (mine, theirs) = (&one.total, &other.total);
    assert_eq!((mine.call_count, mine.total_tokens), (theirs.call_count, theirs.total_tokens));
    close(mine.total_energy_joules, theirs.total_energy_joules);
    for (mine, theirs) in [(&mine.latency, &theirs.latency), (&mine.ttft, &theirs.ttft)] {
        assert_eq!((mine.count, mine.min, mine.max), (theirs.count, theirs.min, theirs.max));
        close(mine.mean, theirs.mean);
        close(mine.p50, theirs.p50);
        close(mine.p90, theirs.p90);
        close(mine.p95, theirs.p95);
        close(mine.p99, theirs.p99);
    }
    let calls = |of: &Aggregate| {
        of.per_model.iter().map(|(name, stats)| (name.clone(), stats.call_count)).collect::<Vec<_>>()
    };
    assert_eq!(calls(one), calls(other));
}

/// Waits until something is so, up to ten seconds.
fn comes_true(what: impl Fn() -> bool) -> bool {
    let begin = Instant::now();
    while !what() {
        if begin.elapsed() > Duration::from_secs(10) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

fn now() -> f64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64()
}

// ---- By hand ----

#[test]
fn without_keep_rollups_what_is_pruned_is_forgotten() {
    let folder = scratch();
    for path in [Path::new(":memory:"), &folder.path().join("telemetry.db")] {
        let store = open(path, StoreOptions::default());
        ten_hours_and_a_half(&store);
        let before = BEGIN + 4.5 * HOUR; // in the middle of an hour
        let rest = between(&store, before, 0.0);
        assert_eq!(store.prune(before).unwrap(), 270);
        assert_eq!(store.count().unwrap(), 360);
        assert_same(&everything(&store), &rest);
        assert_eq!(between(&store, BEGIN, before).total.call_count, 0);
        assert_eq!(store.verify(|difference| panic!("{difference:?}")).unwrap(), 0);
        store.close().unwrap();
    }
}

#[test]
fn with_keep_rollups_every_answer_about_whole_hours_stays() {
    let folder = scratch();
    for path in [Path::new(":memory:"), &folder.path().join("telemetry.db")] {
        let store = open(path, keeping());
        ten_hours_and_a_half(&store);
        let hours = |from: u32, to: u32| (BEGIN + f64::from(from) * HOUR, BEGIN + f64::from(to) * HOUR);
        let ranges =
            [(0, 1), (0, 4), (2, 3), (3, 4), (1, 9), (4, 10), (3, 11)].map(|(from, to)| hours(from, to));
        let ask = || ranges.map(|(since, until)| between(&store, since, until));
        let of_tiny = || store.aggregate(&Query { model_id: Some("tiny"), ..Query::default() }).unwrap();
        let steps = || {
            store.series(&Query { since: BEGIN, until: hours(0, 10).1, ..Query::default() }, HOUR).unwrap()
        };
        let (whole, parts, tiny, series) = (everything(&store), ask(), of_tiny(), steps());

        // Rounded down to the hour.
        assert_eq!(store.prune(BEGIN + 4.5 * HOUR).unwrap(), 240);
        assert_eq!(store.count().unwrap(), 390);
        assert_eq!(store.prune(BEGIN + 4.99 * HOUR).unwrap(), 0);
        let same_as_before = || {
            assert_same(&everything(&store), &whole);
            assert_same(&of_tiny(), &tiny);
            parts.iter().zip(ask()).for_each(|(before, now)| assert_same(before, &now));
            series.iter().zip(steps()).for_each(|(before, now)| assert_same(&before.answer, &now.answer));
        };
        same_as_before();
        // A part of an hour whose records are gone: the hours that begin in the range.
        assert_eq!(between(&store, BEGIN + 60.0, BEGIN + 1.5 * HOUR).total.call_count, 60);
        assert_eq!(between(&store, BEGIN + 60.0, BEGIN + 0.5 * HOUR).total.call_count, 0);
        assert_eq!(store.verify(|difference| panic!("{difference:?}")).unwrap(), 0);

        // And once more, later; and without a record left.
        assert_eq!(store.prune(BEGIN + 8.0 * HOUR).unwrap(), 240);
        same_as_before();
        assert_eq!(store.prune(BEGIN + 11.0 * HOUR).unwrap(), 150);
        assert_eq!(store.count().unwrap(), 0);
        same_as_before();

        assert_eq!(store.clear().unwrap(), 0);
        assert_eq!(everything(&store).total.call_count, 0, "clearing deletes these summaries, too");
        store.close().unwrap();
    }
}

#[test]
fn what_is_kept_is_kept_when_the_database_is_opened_again() {
    let folder = scratch();
    let path = folder.path().join("telemetry.db");
    let store = open(&path, keeping());
    ten_hours_and_a_half(&store);
    let whole = everything(&store);
    store.prune(BEGIN + 5.0 * HOUR).unwrap();
    store.close().unwrap();
    let store = open(&path, StoreOptions::default());
    assert_same(&everything(&store), &whole);
    record(&store, BEGIN + HOUR, 0); // into the time whose records are gone
    assert_eq!(everything(&store).total.call_count, whole.total.call_count + 1);
    // By a store that does not keep them, it all goes.
    store.prune(BEGIN + 11.0 * HOUR).unwrap();
    assert_eq!(everything(&store).total.call_count, 0);
    store.close().unwrap();
}

// ---- By age ----

#[test]
fn records_that_are_too_old_go_by_themselves() {
    let folder = scratch();
    let store = open(
        &folder.path().join("telemetry.db"),
        StoreOptions { max_age_seconds: 60.0, ..StoreOptions::default() },
    );
    let now = now();
    (0..5000).for_each(|n| record(&store, now - 100.0 - f64::from(n), n)); // more than go at once
    (0..10).for_each(|n| record(&store, now, n));
    assert!(comes_true(|| store.count().unwrap() == 10), "{} are left", store.count().unwrap());
    let health = store.health().unwrap();
    assert_eq!((health.pruned, health.oldest, health.recorded), (5000, now, 5010));
    assert!(health.last_failure.is_none(), "{health:?}");
    assert_eq!(everything(&store).total.call_count, 10);
    assert_eq!(store.verify(|difference| panic!("{difference:?}")).unwrap(), 0);
    store.close().unwrap();
}

#[test]
fn what_goes_by_age_can_stay_in_the_rollups() {
    let folder = scratch();
    let options = StoreOptions { max_age_seconds: HOUR, ..keeping() };
    let store = open(&folder.path().join("telemetry.db"), options);
    let hour = (now() / HOUR).floor() * HOUR;
    (0..300).for_each(|n| record(&store, hour - 4.0 * HOUR + f64::from(n), n));
    record(&store, hour, 0);
    assert!(comes_true(|| store.count().unwrap() == 1), "{} are left", store.count().unwrap());
    assert_eq!(store.health().unwrap().pruned, 300);
    assert_eq!(everything(&store).total.call_count, 301);
    assert_eq!(between(&store, hour - 4.0 * HOUR, hour - 3.0 * HOUR).total.call_count, 300);
    assert_eq!(store.verify(|difference| panic!("{difference:?}")).unwrap(), 0);
    store.close().unwrap();
}

#[test]
fn without_limits_nothing_goes() {
    let folder = scratch();
    let options = StoreOptions { commit_interval_ms: 10, ..StoreOptions::default() };
    let store = open(&folder.path().join("telemetry.db"), options);
    (0..100).for_each(|n| record(&store, 1.0 + f64::from(n), n));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!((store.count().unwrap(), store.health().unwrap().pruned), (100, 0));
    store.close().unwrap();
}

// ---- By size ----

#[test]
fn the_oldest_go_while_the_database_is_too_large() {
    let folder = scratch();
    let path = folder.path().join("telemetry.db");
    let max_bytes = 2 << 20;
    let store = open(&path, StoreOptions { max_bytes, commit_interval_ms: 10, ..StoreOptions::default() });
    let database = Connection::open(&path).unwrap();
    let used = || {
        let number =
            |name: &str| database.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, u32>(0));
        let number = |name: &str| u64::from(number(name).unwrap());
        (number("page_count") - number("freelist_count")) * number("page_size")
    };
    let mut largest = 0;
    for n in 0..40_000 {
        record(&store, BEGIN + f64::from(n), n);
        if n % 1000 == 0 {
            store.flush().unwrap();
            largest = largest.max(used());
        }
    }
    assert!(comes_true(|| used() <= max_bytes), "{} bytes are used", used());
    assert!(largest < 8 << 20, "{largest} bytes were used meanwhile");
    let (count, health) = (store.count().unwrap(), store.health().unwrap());
    assert!(count > 1000 && count < 40_000, "{count} are left");
    assert_eq!(health.pruned, 40_000 - count);
    // The newest are those that are left.
    assert_eq!((health.oldest, health.newest), (BEGIN + 40_000.0 - count as f64, BEGIN + 39_999.0));
    assert_eq!(everything(&store).total.call_count, count);
    store.close().unwrap();
}
