//! Nothing is lost, and nothing comes twice, when a recording process is killed at any instant: in recording, in
//! committing, in taking over what the one before it left.
//!
//! The test program runs itself as the victim, which tells through a pipe of each record whose `record` has returned, of
//! each call begun and of each ended.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokenjoule::bus::Bus;
use tokenjoule::call::{Call, Report, Start};
use tokenjoule::record::{Outcome, Record};
use tokenjoule::store::{Store, StoreOptions};

const VICTIM: &str = "TJ_TEST_VICTIM";

/// A small journal and a short interval: most instants are in the middle of something.
fn options() -> StoreOptions {
    StoreOptions { journal_bytes: 64 << 10, commit_interval_ms: 2, ..StoreOptions::default() }
}

/// One line in one write, so that lines of several threads do not mix and none is half told.
fn tell(what: &str) {
    let _ = std::io::stdout().write_all(format!("{what}\n").as_bytes());
}

/// Records from four threads until it is killed. Not a test by itself: without the variable it has nothing to do.
#[test]
fn victim() {
    let Ok(task) = std::env::var(VICTIM) else { return };
    let (database, prefix) = task.split_once('|').unwrap();
    let store = Store::open(database, &options()).unwrap();
    Bus::global().attach(store.clone());
    let number = Arc::new(AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (store, number) = (&store, &number);
            scope.spawn(move || {
                loop {
                    let id = format!("{prefix}-{}", number.fetch_add(1, Ordering::Relaxed));
                    if thread < 3 {
                        let record = Record {
                            model_id: "m",
                            engine: "e",
                            request_id: &id,
                            prompt_tokens: 7,
                            latency_seconds: 0.5,
                            ..Record::default()
                        };
                        store.record(&record).unwrap();
                        tell(&format!("R {id}"));
                    } else {
                        let start = Start { model: "m", engine: "e", request_id: &id, ..Start::default() };
                        let mut call = Call::begin(Bus::global(), &start).unwrap();
                        tell(&format!("B {id}"));
                        call.prompt(11, 4);
                        (0..3).for_each(|_| call.tokens(1));
                        call.end(Outcome::Ok, &Report::default()).unwrap();
                        tell(&format!("E {id}"));
                    }
                }
            });
        }
    });
}

fn spawn(database: &Path, prefix: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim", "--nocapture", "--test-threads=1"])
        .env(VICTIM, format!("{}|{prefix}", database.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What a victim told before it died.
#[derive(Default)]
struct Told {
    recorded: BTreeSet<String>,
    begun: BTreeSet<String>,
    ended: BTreeSet<String>,
}

impl Told {
    fn hear(&mut self, lines: impl Iterator<Item = String>) {
        for line in lines {
            let Some((kind, id)) = line.split_once(' ') else { continue };
            let set = match kind {
                "R" => &mut self.recorded,
                "B" => &mut self.begun,
                "E" => &mut self.ended,
                _ => continue, // the test harness's own
            };
            set.insert(id.to_owned());
        }
    }
}

/// The outcomes of each request in the database.
fn rows(database: &Path) -> BTreeMap<String, Vec<u32>> {
    let connection = rusqlite::Connection::open(database).unwrap();
    let mut statement = connection.prepare("SELECT request_id, outcome FROM telemetry").unwrap();
    let mut rows = BTreeMap::<String, Vec<u32>>::new();
    let pairs = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    for (id, outcome) in pairs.map(Result::unwrap) {
        rows.entry(id).or_default().push(outcome);
    }
    rows
}

fn check(told: &Told, rows: &BTreeMap<String, Vec<u32>>, when: &str) {
    for (id, outcomes) in rows {
        assert_eq!(outcomes.len(), 1, "{when}: {id} is there {} times", outcomes.len());
    }
    for id in &told.recorded {
        assert!(rows.contains_key(id), "{when}: {id} had been recorded and is lost");
    }
    for id in &told.begun {
        let Some(outcome) = rows.get(id).map(|outcomes| outcomes[0]) else {
            panic!("{when}: call {id} had begun and is lost");
        };
        let is_right = match (told.ended.contains(id), outcome) {
            (_, 0) => true, // its end may have been untold
            (has_ended, 4) => !has_ended,
            _ => false,
        };
        assert!(is_right, "{when}: call {id} has outcome {outcome}");
    }
}

fn kill_rounds(rounds: u64, writers: usize, delays: &[u64]) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let database = folder.path().join("killed.db");
    let mut told = Told::default();
    let mut interrupted = 0;
    for round in 0..rounds {
        let victims: Vec<_> =
            (0..writers).map(|writer| spawn(&database, &format!("{round}.{writer}"))).collect();
        let delay = delays[round as usize % delays.len()] + round * 7 % 5;
        std::thread::sleep(Duration::from_millis(delay));
        for mut victim in victims {
            victim.kill().unwrap();
            let lines = BufReader::new(victim.stdout.take().unwrap()).split(b'\n').map_while(Result::ok);
            told.hear(lines.map(|line| String::from_utf8_lossy(&line).into_owned()));
            victim.wait().unwrap();
        }
        // Every other round leaves the journals to the next victim, which may be killed while it takes them over.
        if round % 2 == 1 || round + 1 == rounds {
            let store = Store::open(database.to_str().unwrap(), &options()).unwrap();
            let health = store.health().unwrap();
            assert_eq!(health.damaged_journals, 0, "round {round}: {:?}", health.last_failure);
            store.close().unwrap();
            let rows = rows(&database);
            check(&told, &rows, &format!("round {round}"));
            interrupted = rows.values().filter(|outcomes| outcomes[0] == 4).count();
            let left: Vec<_> = std::fs::read_dir(folder.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| name.contains("-tj-"))
                .collect();
            assert!(left.is_empty(), "round {round}: journals left behind: {left:?}");
        }
    }
    // The test saw what it is about.
    assert!(told.recorded.len() as u64 > rounds * 10, "only {} records", told.recorded.len());
    assert!(interrupted > 0, "no call was ever interrupted");
}

/// From "before it has opened the database" to "in the thick of it".
const ANY: [u64; 8] = [0, 3, 6, 9, 12, 20, 35, 60];

#[test]
fn killed_at_any_instant() {
    kill_rounds(200, 1, &ANY);
}

#[test]
fn killed_at_any_instant_with_two_writers() {
    kill_rounds(50, 2, &ANY);
}

#[test]
fn killed_while_four_open_the_database_and_take_over_what_others_left() {
    kill_rounds(60, 4, &[2, 4, 8, 14, 30]);
}
