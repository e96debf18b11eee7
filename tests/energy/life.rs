//! The sampler's life: started, stopped, asked, killed, at any moment of a call's.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use tokenjoule::bus::Bus;
use tokenjoule::call::Report;
use tokenjoule::energy::custom::Custom;
use tokenjoule::energy::source::{Device, Energy as Figure, Part, Reading};
use tokenjoule::energy::{Energy, Options};
use tokenjoule::error::ErrorKind;
use tokenjoule::event::EventKind;
use tokenjoule::record::Outcome;
use tokenjoule::store::{Store, StoreOptions};

use super::calls::{Meter, Sampling, begin, closed, opened, options, records};
use super::session::device;
use super::support::scratch;

#[test]
fn a_store_that_is_closed_first_has_its_calls() {
    let cpu = Meter::new(Part::Cpu, 100.0);
    let _sampling = Sampling::start(&[&cpu], 60_000);
    let folder = scratch();
    let path = folder.path().join("db");
    let store = opened(&path);
    let mut ended = begin("ended");
    ended.end(Outcome::Ok, &Report::default()).unwrap();
    let mut running = begin("running");
    closed(&store);
    running.end(Outcome::Ok, &Report::default()).unwrap();
    Energy::global().stop().unwrap();
    drop(store);
    let again = Store::open(path.to_str().unwrap(), &StoreOptions::default()).unwrap();
    let requests: Vec<(String, Outcome)> =
        records(&again).into_iter().map(|it| (it.request, it.outcome)).collect();
    assert_eq!(requests, [("ended".to_owned(), Outcome::Ok), ("running".to_owned(), Outcome::Ok)]);
    assert_eq!(again.health().unwrap().adopted, 0, "nothing was left behind");
}

#[test]
fn starting_and_stopping_twice_and_during_calls_is_defined() {
    let cpu = Meter::new(Part::Cpu, 100.0);
    let _sampling = Sampling::of(&[&cpu]);
    let energy = Energy::global();
    let folder = scratch();
    let store = opened(&folder.path().join("db"));
    let mut before = begin("before the start");
    energy.start(&options(5)).unwrap();
    assert_eq!(energy.start(&options(5)).unwrap_err().kind, ErrorKind::Busy);
    before.end(Outcome::Ok, &Report::default()).unwrap();
    let mut most = begin("most of it");
    std::thread::sleep(Duration::from_millis(400));
    energy.stop().unwrap();
    assert_eq!(energy.stop().unwrap_err().kind, ErrorKind::Closed);
    most.end(Outcome::Ok, &Report::default()).unwrap();
    assert_eq!(store.count().unwrap(), 2, "nobody waits for a sampler that has stopped");
    begin("after the stop").end(Outcome::Ok, &Report::default()).unwrap();

    energy.start(&options(5)).unwrap();
    let begun = Instant::now();
    let mut little = begin("little of it");
    energy.stop().unwrap();
    std::thread::sleep(begun.elapsed().max(Duration::from_millis(30)));
    little.end(Outcome::Ok, &Report::default()).unwrap();

    energy.start(&options(5)).unwrap(); // a call of a run that is over
    let of_this = begin("abandoned");
    drop(of_this);
    energy.stop().unwrap();
    let all = records(&store);
    let joules = |request: &str| all.iter().find(|it| it.request == request).unwrap().joules;
    assert!(joules("before the start").is_nan() && joules("after the stop").is_nan());
    assert!(joules("most of it") > 0.0);
    assert!(joules("little of it").is_nan(), "less than nine tenths were measured");
    assert!(joules("abandoned") > 0.0);
    assert_eq!(all.len(), 5);
    closed(&store);
}

#[test]
fn a_subscriber_may_do_what_it_likes() {
    let cpu = Meter::new(Part::Cpu, 100.0);
    let _sampling = Sampling::start(&[&cpu], 5);
    let folder = scratch();
    let store = opened(&folder.path().join("db"));
    let (asked, weak) = (Arc::new(Mutex::new(Vec::new())), Arc::downgrade(&store));
    let note = Arc::clone(&asked);
    let told = move |event: &tokenjoule::event::Event<'_>| {
        let Some(store) = Weak::upgrade(&weak) else { return };
        let has_energy = event.record.is_some_and(|record| record.energy_joules > 0.0);
        store.flush().unwrap();
        note.lock().unwrap().push((store.count().unwrap(), has_energy));
        Energy::global().report().unwrap();
        let _ = Energy::global().stop(); // on the sampler's own thread
    };
    let subscription = Bus::global().subscribe(EventKind::TelemetryRecord.mask(), told).unwrap();
    begin("1").end(Outcome::Ok, &Report::default()).unwrap();
    while asked.lock().unwrap().is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
    Bus::global().unsubscribe(subscription).unwrap(); // waits until it has returned
    assert_eq!(*asked.lock().unwrap(), [(1, true)], "kept before it is told");
    assert!(!Energy::global().report().unwrap().is_running);
    closed(&store);
}

#[test]
fn a_source_can_come_and_go_and_fail_while_the_sampler_runs() {
    let (cpu, gpu) = (Meter::new(Part::Cpu, 100.0), Meter::new(Part::Gpu, 100.0));
    let _sampling = Sampling::start(&[&cpu], 5);
    let energy = Energy::global();
    let folder = scratch();
    let store = opened(&folder.path().join("db"));
    let number = energy.register(gpu.clone()).unwrap();
    let run = |request: &str| {
        let mut call = begin(request);
        std::thread::sleep(Duration::from_millis(20));
        call.end(Outcome::Ok, &Report::default()).unwrap();
        store.flush().unwrap();
        records(&store).pop().unwrap()
    };
    let both = run("both");
    assert!(both.cpu > 0.0 && both.gpu > 0.0);
    gpu.fails.store(true, Ordering::SeqCst);
    let failing = run("failing");
    assert!(failing.cpu > 0.0 && failing.gpu.is_nan() && failing.joules.is_nan(), "{failing:?}");
    assert_eq!(failing.metadata, r#"{"tokenjoule.energy_tier":"unknown"}"#);
    energy.unregister(number).unwrap();
    assert_eq!(Arc::strong_count(&gpu), 1, "let go");
    assert_eq!(energy.unregister(number).unwrap_err().kind, ErrorKind::NotFound);
    let without = run("without");
    assert!(without.cpu > 0.0 && without.gpu.is_nan() && without.joules == without.cpu);
    let report = energy.report().unwrap();
    assert!(report.devices[1].is_gone && report.devices[1].failures > 0 && !report.devices[0].is_gone);
    closed(&store);
}

#[test]
fn inside_of_a_source_the_sampler_is_refused_and_the_rest_works() {
    struct Busy(Device, AtomicU64);
    impl Custom for Busy {
        fn device(&self) -> &Device {
            &self.0
        }
        fn read(&self) -> Option<Reading> {
            let energy = Energy::global();
            let refused = [
                energy.stop().err(),
                energy.start(&Options::default()).err(),
                energy.begin_window().err(),
                energy.end_window(1).err(),
                energy.unregister(1).err(),
                energy.sources(None).err(),
            ];
            let kinds = refused.iter().flatten().filter(|error| error.kind == ErrorKind::Busy);
            self.1.store(kinds.count() as u64, Ordering::SeqCst);
            begin("inside").end(Outcome::Ok, &Report::default()).unwrap();
            Some(Figure::Watts(10.0).into())
        }
    }
    let busy = Arc::new(Busy(device(Part::Other), AtomicU64::new(0)));
    let _sampling = Sampling::of(&[]);
    let number = Energy::global().register(busy.clone()).unwrap();
    Energy::global().start(&options(5)).unwrap();
    while Energy::global().report().unwrap().reads < 5 {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(busy.1.load(Ordering::SeqCst), 6);
    Energy::global().stop().unwrap();
    Energy::global().unregister(number).unwrap();
}

// ---- The process dies ----

const VICTIM: &str = "TJ_TEST_ENERGY_VICTIM";

/// Ends a call whose energy never comes, says so, and waits to be killed. By itself it does nothing.
#[test]
fn victim() {
    let Ok(path) = std::env::var(VICTIM) else { return };
    let gpu = Meter::new(Part::Gpu, 100.0);
    let _sampling = Sampling::start(&[&gpu], 5);
    let _store = opened(Path::new(&path));
    let mut open = begin("open");
    open.tokens(2);
    gpu.hold(true);
    gpu.until_somebody_waits();
    for (request, metadata) in
        [("ended", r#"{"a":1}"#.to_owned()), ("long", format!(r#"{{"a":"{}"}}"#, "x".repeat(2000)))]
    {
        let mut call = begin(request);
        call.prompt(11, 4);
        call.tokens(3);
        let report = Report { finish_reason: "stop", metadata_json: &metadata, ..Report::default() };
        call.end(Outcome::Error, &report).unwrap();
    }
    println!("ready");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_call_that_has_ended_survives_the_death_of_its_process_without_its_energy() {
    use std::io::{BufRead, BufReader};
    let folder = scratch();
    let path = folder.path().join("db");
    let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "life::victim", "--nocapture"])
        .env(VICTIM, &path)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("ready")));
    victim.kill().unwrap();
    victim.wait().unwrap();
    let store = Store::open(path.to_str().unwrap(), &StoreOptions::default()).unwrap();
    let mut all = records(&store);
    all.sort_by(|one, other| one.request.cmp(&other.request));
    let seen: Vec<(&str, Outcome, u64, bool)> =
        all.iter().map(|it| (it.request.as_str(), it.outcome, it.tokens, it.latency > 0.0)).collect();
    let expected = [
        ("ended", Outcome::Error, 3, true),
        ("long", Outcome::Error, 3, true),
        ("open", Outcome::Interrupted, 2, false),
    ];
    assert_eq!(seen, expected);
    assert!(all.iter().all(|it| it.joules.is_nan()));
    assert_eq!((all[0].metadata.as_str(), all[1].metadata.as_str()), (r#"{"a":1}"#, "{}"));
}
