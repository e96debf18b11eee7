//! Calls while energy is measured, with the real sampler and the real clock. One test at a time: a process has one sampler.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokenjoule::bus::Bus;
use tokenjoule::call::{Call, Report, Start};
use tokenjoule::energy::custom::Custom;
use tokenjoule::energy::source::{Device, Energy as Figure, Kinds, Part, Reading};
use tokenjoule::energy::{Energy, Options};
use tokenjoule::error::ErrorKind;
use tokenjoule::event::EventKind;
use tokenjoule::record::{Outcome, Record};
use tokenjoule::store::{Query, Store, StoreOptions};

use super::fakes::{FakeNvml, gpus, two_sockets};
use super::session::device;
use super::support::scratch;

/// A device that draws so many watts by the real clock, and whose reading can be held up.
pub struct Meter {
    device: Device,
    begun: Instant,
    watts: f64,
    is_open: Mutex<bool>,
    opened: Condvar,
    pub fails: AtomicBool,
    reads: AtomicU64,
}

impl Meter {
    pub fn new(part: Part, watts: f64) -> Arc<Meter> {
        Meter::of(device(part), watts)
    }

    pub fn of(device: Device, watts: f64) -> Arc<Meter> {
        Arc::new(Meter {
            device,
            begun: Instant::now(),
            watts,
            is_open: Mutex::new(true),
            opened: Condvar::new(),
            fails: AtomicBool::new(false),
            reads: AtomicU64::new(0),
        })
    }

    /// Holds up whoever reads it, until it is opened again.
    pub fn hold(&self, holds: bool) {
        *self.is_open.lock().unwrap() = !holds;
        self.opened.notify_all();
    }

    /// Returns when somebody is being held up.
    pub fn until_somebody_waits(&self) {
        let before = self.reads.load(Ordering::SeqCst);
        while self.reads.load(Ordering::SeqCst) == before {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Custom for Meter {
    fn device(&self) -> &Device {
        &self.device
    }

    fn read(&self) -> Option<Reading> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let is_open = self.is_open.lock().unwrap();
        drop(self.opened.wait_while(is_open, |is_open| !*is_open).unwrap());
        if self.fails.load(Ordering::SeqCst) {
            return None;
        }
        Some(Figure::Joules(self.watts * self.begun.elapsed().as_secs_f64()).into())
    }
}

/// Energy for one test: its sources are registered, and gone at the end.
pub struct Sampling {
    registered: Vec<u64>,
    _turn: MutexGuard<'static, ()>,
}

static TURN: Mutex<()> = Mutex::new(());

pub fn options(interval_ms: u64) -> Options {
    Options { interval: Some(Duration::from_millis(interval_ms)), kinds: Kinds::CUSTOM, ..Options::default() }
}

impl Sampling {
    pub fn of(meters: &[&Arc<Meter>]) -> Sampling {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let registered =
            meters.iter().map(|meter| Energy::global().register((*meter).clone()).unwrap()).collect();
        Sampling { registered, _turn: turn }
    }

    pub fn start(meters: &[&Arc<Meter>], interval_ms: u64) -> Sampling {
        let sampling = Sampling::of(meters);
        Energy::global().start(&options(interval_ms)).unwrap();
        sampling
    }
}

impl Drop for Sampling {
    fn drop(&mut self) {
        let _ = Energy::global().stop();
        self.registered.iter().for_each(|number| drop(Energy::global().unregister(*number)));
    }
}

pub fn opened(path: &Path) -> Arc<Store> {
    let store = Store::open(path.to_str().unwrap(), &StoreOptions::default()).unwrap();
    Bus::global().attach(store.clone());
    store
}

pub fn closed(store: &Arc<Store>) {
    Bus::global().detach(store);
    store.close().unwrap();
}

pub fn begin(request: &str) -> Call {
    let start = Start { engine: "e", model: "m", request_id: request, ..Start::default() };
    Call::begin(Bus::global(), &start).unwrap()
}

/// What the tests look at in a record.
#[derive(Debug, Clone)]
pub struct Kept {
    pub request: String,
    pub outcome: Outcome,
    pub tokens: u64,
    pub latency: f64,
    pub joules: f64,
    pub watts: f64,
    pub cpu: f64,
    pub gpu: f64,
    pub prefill: f64,
    pub decode: f64,
    pub tokens_per_joule: f64,
    pub per_token: f64,
    pub per_watt: f64,
    pub throughput: f64,
    pub method: String,
    pub vendor: String,
    pub metadata: String,
}

fn kept(record: &Record<'_>) -> Kept {
    Kept {
        request: record.request_id.to_owned(),
        outcome: record.outcome,
        tokens: record.completion_tokens,
        latency: record.latency_seconds,
        joules: record.energy_joules,
        watts: record.power_watts,
        cpu: record.cpu_energy_joules,
        gpu: record.gpu_energy_joules,
        prefill: record.prefill_energy_joules,
        decode: record.decode_energy_joules,
        tokens_per_joule: record.tokens_per_joule,
        per_token: record.energy_per_output_token_joules,
        per_watt: record.throughput_per_watt,
        throughput: record.throughput_tok_per_sec,
        method: record.energy_method.to_owned(),
        vendor: record.energy_vendor.to_owned(),
        metadata: record.metadata_json.to_owned(),
    }
}

pub fn records(store: &Store) -> Vec<Kept> {
    let mut all = Vec::new();
    store
        .records(&Query::default(), |_, record| {
            all.push(kept(record));
            true
        })
        .unwrap();
    all
}

fn assert_near(got: f64, expected: f64, tolerance: f64) {
    assert!((got - expected).abs() <= tolerance * expected.abs(), "{got}, expected {expected}");
}

#[test]
fn a_call_is_recorded_with_its_energy_and_all_that_follows_from_it() {
    let (cpu, gpu) = (Meter::new(Part::Cpu, 50.0), Meter::new(Part::Gpu, 200.0));
    let _sampling = Sampling::start(&[&cpu, &gpu], 5);
    let folder = scratch();
    let store = opened(&folder.path().join("db"));
    let mut call = begin("1");
    std::thread::sleep(Duration::from_millis(40));
    call.tokens(1);
    std::thread::sleep(Duration::from_millis(40));
    call.tokens(9);
    let report = Report { metadata_json: r#"{"mine":1}"#, finish_reason: "stop", ..Report::default() };
    call.end(Outcome::Ok, &report).unwrap();
    store.flush().unwrap();
    let it = records(&store).remove(0);
    assert_eq!((it.tokens, it.outcome), (10, Outcome::Ok));
    assert_near(it.joules, 250.0 * it.latency, 0.5); // by the clock of a machine that may be busy
    assert_near(it.cpu + it.gpu, it.joules, 1e-9);
    assert_near(it.gpu / it.cpu, 4.0, 0.5);
    assert_near(it.watts, it.joules / it.latency, 1e-9);
    assert_near(it.prefill + it.decode, it.joules, 1e-9);
    assert!(it.prefill > 0.0 && it.decode > 0.0, "{it:?}");
    assert_near(it.tokens_per_joule, 10.0 / it.joules, 1e-9);
    assert_near(it.per_token, it.joules / 10.0, 1e-9);
    assert_near(it.per_watt, it.throughput / it.watts, 1e-9);
    assert_eq!((it.method.as_str(), it.vendor.as_str()), ("hw_counter", "nvidia"));
    assert_eq!(it.metadata, r#"{"tokenjoule.energy_tier":"measured","mine":1}"#);
    closed(&store);
}

#[test]
fn the_end_of_a_call_never_waits_for_a_reading() {
    let gpu = Meter::new(Part::Gpu, 100.0);
    let _sampling = Sampling::start(&[&gpu], 5);
    let folder = scratch();
    let store = opened(&folder.path().join("db"));
    let ends = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&ends);
    let count = move |event: &tokenjoule::event::Event<'_>| {
        assert!(event.record.is_some_and(|record| record.energy_joules.is_nan()));
        counter.fetch_add(1, Ordering::SeqCst);
    };
    let subscription = Bus::global().subscribe(EventKind::InferenceEnd.mask(), count).unwrap();
    gpu.hold(true);
    gpu.until_somebody_waits(); // the sampler is in the middle of a reading that does not return
    for request in ["1", "2"] {
        let mut call = begin(request);
        call.tokens(1);
        call.end(Outcome::Ok, &Report::default()).unwrap();
        drop(call);
    }
    assert_eq!(ends.load(Ordering::SeqCst), 2, "the end is told at once");
    gpu.hold(false);
    store.flush().unwrap();
    assert_eq!(records(&store).len(), 2);
    assert!(records(&store).iter().all(|it| it.joules > 0.0));
    Bus::global().unsubscribe(subscription).unwrap();
    closed(&store);
}

#[test]
fn who_asks_sees_the_calls_that_have_ended() {
    let cpu = Meter::new(Part::Cpu, 100.0);
    let _sampling = Sampling::start(&[&cpu], 60_000); // no reading comes by itself
    let folder = scratch();
    let store = opened(&folder.path().join("db"));
    for number in 1..=5 {
        begin("1").end(Outcome::Ok, &Report::default()).unwrap();
        assert_eq!(store.count().unwrap(), number);
        assert_eq!(store.aggregate(&Query::default()).unwrap().total.call_count, number);
        assert_eq!(records(&store).len() as u64, number);
    }
    assert!(records(&store).iter().all(|it| it.joules > 0.0));
    closed(&store);
}

#[test]
fn a_flush_waits_for_a_counter_that_moves_slowly() {
    struct Slow(Device, Instant);
    impl Custom for Slow {
        fn device(&self) -> &Device {
            &self.0
        }
        fn read(&self) -> Option<Reading> {
            let steps = self.1.elapsed().as_millis() / 50;
            Some(Figure::Count(steps as u64 * 5_000_000).into()) // 100 W in steps of 50 ms
        }
    }
    let slow = Arc::new(Slow(Device { update_period: 0.05, ..device(Part::Gpu) }, Instant::now()));
    let _sampling = Sampling::of(&[]);
    let number = Energy::global().register(slow).unwrap();
    Energy::global().start(&options(10)).unwrap();
    let folder = scratch();
    let store = opened(&folder.path().join("db"));
    let mut call = begin("1");
    std::thread::sleep(Duration::from_millis(120));
    call.end(Outcome::Ok, &Report::default()).unwrap();
    store.flush().unwrap();
    let it = records(&store).remove(0);
    assert_near(it.joules, 100.0 * it.latency, 0.8);
    closed(&store);
    Energy::global().stop().unwrap();
    Energy::global().unregister(number).unwrap();
}

#[test]
fn a_hundred_calls_on_ten_threads_get_what_the_counters_moved() {
    let (cpu, gpu) = (Meter::new(Part::Cpu, 50.0), Meter::new(Part::Gpu, 200.0));
    let _sampling = Sampling::start(&[&cpu, &gpu], 2);
    let folder = scratch();
    let store = opened(&folder.path().join("db"));
    std::thread::scope(|scope| {
        for thread in 0..10_u64 {
            scope.spawn(move || {
                for number in 0..10 {
                    let mut call = begin(&format!("{thread}-{number}"));
                    std::thread::sleep(Duration::from_millis(1 + (thread * 7 + number * 3) % 11));
                    call.tokens(1);
                    std::thread::sleep(Duration::from_millis((thread + number) % 5));
                    call.end(Outcome::Ok, &Report::default()).unwrap();
                }
            });
        }
    });
    Energy::global().stop().unwrap();
    let all = records(&store);
    assert_eq!(all.len(), 100);
    let report = Energy::global().report().unwrap();
    assert!(
        !report.is_running && report.calls == 0 && report.reads > 2 && report.cpu_seconds > 0.0,
        "{report:?}"
    );
    for (number, device) in report.devices.iter().enumerate() {
        let totals = device.totals;
        let of_calls: f64 =
            all.iter().map(|it| if number == 0 { it.cpu } else { it.gpu }).filter(|it| !it.is_nan()).sum();
        assert_near(totals.attributed, of_calls, 1e-9);
        assert_near(totals.attributed + totals.unattributed + totals.idle, totals.moved, 1e-9);
        assert!(totals.attributed > 0.0 && totals.moved > 0.0);
    }
    closed(&store);
}

#[test]
fn a_window_measures_everything_in_it() {
    let (cpu, gpu) = (Meter::new(Part::Cpu, 50.0), Meter::new(Part::Gpu, 200.0));
    let _sampling = Sampling::start(&[&cpu, &gpu], 5);
    let window = Energy::global().begin_window().unwrap();
    let other = Energy::global().begin_window().unwrap();
    std::thread::sleep(Duration::from_millis(60));
    let measured = Energy::global().end_window(window).unwrap();
    assert!(measured.seconds >= 0.06);
    assert_near(measured.parts.sum(), 250.0 * measured.seconds, 0.5);
    assert_near(measured.parts.gpu / measured.parts.cpu, 4.0, 0.5);
    assert!(measured.peak_watts > 0.0 && measured.readings > 0);
    assert_eq!(Energy::global().end_window(window).unwrap_err().kind, ErrorKind::NotFound);
    Energy::global().stop().unwrap();
    assert_eq!(Energy::global().end_window(other).unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(Energy::global().begin_window().unwrap_err().kind, ErrorKind::Closed);
}

#[test]
fn gpus_and_processors_are_measured_together() {
    let (fake, tree) = (FakeNvml::new(&gpus(&[1000, 2000]), &[]), two_sockets());
    let _sampling = Sampling::of(&[]);
    let options = Options {
        interval: Some(Duration::from_millis(5)),
        kinds: Kinds::NVML | Kinds::RAPL | Kinds::HWMON,
        nvml_path: Some(fake.path().to_owned()),
        powercap_root: tree.path().to_str().unwrap().to_owned(),
        drm_root: "/nowhere".to_owned(),
        hwmon_root: "/nowhere".to_owned(),
        ..Options::default()
    };
    let energy = Energy::global();
    let (devices, missing) = energy.sources(Some(&options)).unwrap();
    assert_eq!((devices.len(), missing.len(), missing[0].kind), (6, 1, "hwmon"));
    energy.start(&options).unwrap();
    assert_eq!(energy.sources(None).unwrap(), (devices, missing));
    let folder = scratch();
    let store = opened(&folder.path().join("db"));
    let mut call = begin("1");
    std::thread::sleep(Duration::from_millis(5));
    fake.say(&gpus(&[4000, 4000]));
    tree.zone("intel-rapl/intel-rapl:1", "package-1", 4_000_000);
    tree.zone("intel-rapl/intel-rapl:0/intel-rapl:0:2", "dram", 2_500_000);
    call.end(Outcome::Ok, &Report::default()).unwrap();
    energy.stop().unwrap();
    let report = energy.report().unwrap();
    let moved: Vec<f64> = report.devices.iter().map(|device| device.totals.moved).collect();
    let expected = [3.0, 2.0, 0.0, 0.5, 1.0, 0.0];
    moved
        .iter()
        .zip(expected)
        .for_each(|(moved, expected)| assert!((moved - expected).abs() < 1e-9, "{moved}"));
    let it = records(&store).remove(0);
    assert!(it.joules <= 6.5 + 1e-9 && it.vendor == "nvidia" && it.method == "hw_counter", "{it:?}");
    assert_eq!(fake.log(), "init\nshutdown\ninit\nshutdown\n");
    closed(&store);
}
