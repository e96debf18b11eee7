//! A disk that is full, has turned read-only, is damaged, or holds a database that somebody else does not let go of:
//! nothing is lost, the health tells, and all goes on by itself when the trouble is over.
//!
//! The trouble comes from the kernel and needs no privilege, so that none of this is ever skipped. A limit on the size
//! of files (RLIMIT_FSIZE, set from outside by `prlimit`) makes every write beyond it fail, as on a full disk; a limit of
//! 0 makes every write fail, as on a file system that has turned read-only under its users. So the store under test lives
//! in a process of its own, which does what a test tells it. (`journal.rs` fills a real disk where it can mount one.)

mod support;

#[path = "disk/damaged.rs"]
mod damaged;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use support::{run, scratch};
use tokenjoule::error::{ErrorKind, Result};
use tokenjoule::record::Record;
use tokenjoule::store::{Query, Store, StoreOptions};

// ---- the process with the store -------------------------------------------------------------------------------------

const GUEST: &str = "TJ_TEST_GUEST";
/// The timestamp of the first record; each next one is a second later.
const EPOCH: f64 = 1.75e9;

fn record(store: &Store, id: u64) -> Result<()> {
    let request_id = format!("r{id}");
    let timestamp = EPOCH + id as f64;
    store.record(&Record { model_id: "m", request_id: &request_id, timestamp, ..Record::default() })
}

/// Does what it is told, a line at a time, and answers each with a line. Not a test by itself.
#[test]
fn guest() {
    let Ok(database) = std::env::var(GUEST) else { return };
    let mut store = None::<Arc<Store>>;
    for line in std::io::stdin().lines().map(|line| line.unwrap()) {
        let mut words = line.split(' ');
        let order = words.next().unwrap();
        let mut number = || words.next().unwrap().parse::<u64>().unwrap();
        let answer = if let "open" | "read" = order {
            let options = StoreOptions {
                read_only: order == "read",
                commit_interval_ms: number() as u32,
                busy_timeout_ms: number() as u32,
                ..StoreOptions::default()
            };
            Store::open(&database, &options).map(|opened| {
                store = Some(opened);
                String::new()
            })
        } else {
            let store = store.as_ref().unwrap();
            match order {
                "record" => (number()..number()).try_for_each(|id| record(store, id)).map(|()| String::new()),
                "flush" => store.flush().map(|()| String::new()),
                "count" => store.count().map(|count| count.to_string()),
                "aggregate" => {
                    let query = Query { since: EPOCH + number() as f64, ..Query::default() };
                    store.aggregate(&query).map(|answer| answer.total.call_count.to_string())
                }
                "health" => store.health().map(|health| {
                    let failures = health.busy + health.full + health.corrupt + health.other;
                    let records = [health.recorded, health.committed, health.failed, health.adopted];
                    let numbers = [&records[..], &[failures, health.damaged_journals]].concat();
                    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
                }),
                "close" => store.close().map(|()| String::new()),
                _ => panic!("{line}"),
            }
        };
        let answer =
            answer.map_or_else(|error| format!("! {:?}: {error}", error.kind), |said| format!("= {said}"));
        std::io::stdout().write_all(format!("\n{answer}\n").as_bytes()).unwrap();
    }
}

/// A process with a store, from the outside.
struct Guest {
    process: Child,
    answers: BufReader<ChildStdout>,
}

#[derive(Debug, PartialEq)]
struct Health {
    recorded: u64,
    committed: u64,
    failed: u64,
    adopted: u64,
    /// Of all kinds.
    failures: u64,
    damaged_journals: u64,
}

impl Guest {
    /// A process in which file permissions hold, whoever runs the tests: root has put its power over them down.
    fn start(database: &Path) -> Guest {
        let mut command = Command::new("sh");
        // What writes beyond a limit gets a signal that ends it, unless it ignores that, and then an error.
        let without_power = "setpriv --bounding-set -dac_override,-dac_read_search \
                             --inh-caps -dac_override,-dac_read_search";
        let script = format!("trap '' XFSZ; test $(id -u) = 0 && exec {without_power} \"$@\"; exec \"$@\"");
        command.args(["-c", &script, "guest"]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", "guest", "--nocapture", "--test-threads=1"]).env(GUEST, database);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        Guest { process, answers }
    }

    /// What it answers; an error begins with its kind.
    fn ask(&mut self, order: &str) -> Result<String, String> {
        self.process.stdin.as_mut().unwrap().write_all(format!("{order}\n").as_bytes()).unwrap();
        loop {
            let mut line = String::new();
            assert!(self.answers.read_line(&mut line).unwrap() > 0, "it died of: {order}");
            match line.trim_end_matches('\n').split_at_checked(2) {
                Some(("= ", answer)) => return Ok(answer.to_owned()),
                Some(("! ", error)) => return Err(error.to_owned()),
                _ => (), // the test harness's own
            }
        }
    }

    fn tell(&mut self, order: &str) {
        self.ask(order).unwrap_or_else(|error| panic!("{order}: {error}"));
    }

    fn health(&mut self) -> Health {
        let answer = self.ask("health").unwrap();
        let numbers: Vec<u64> = answer.split(' ').map(|number| number.parse().unwrap()).collect();
        let [recorded, committed, failed, adopted, failures, damaged_journals] = numbers[..] else {
            panic!("{answer}")
        };
        Health { recorded, committed, failed, adopted, failures, damaged_journals }
    }

    /// Waits until the store has failed again to commit, by itself.
    fn fails_again(&mut self) {
        let before = self.health().failures;
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.health().failures == before {
            assert!(Instant::now() < deadline, "it does not try again");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// No file may grow beyond so many bytes, from now on.
    fn limit(&self, bytes: u64) {
        self.set_limit(&bytes.to_string());
    }

    /// There is room again.
    fn unlimit(&self) {
        self.set_limit("unlimited");
    }

    fn set_limit(&self, limit: &str) {
        let pid = self.process.id().to_string();
        run(Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={limit}:")]));
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

// ---- what the tests look at -----------------------------------------------------------------------------------------

fn wal(database: &Path) -> PathBuf {
    format!("{}-wal", database.display()).into()
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

fn journals(database: &Path) -> usize {
    let names = fs::read_dir(database.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_str().unwrap().contains("-tj-")).count()
}

/// How many records are in the database, as another process sees it.
fn rows(database: &Path) -> u64 {
    let connection = Connection::open(database).unwrap();
    connection.query_row("SELECT COUNT(*) FROM telemetry", [], |row| row.get::<_, i64>(0)).unwrap() as u64
}

/// Each of the records 0 … `count` is in the database once, and nothing else is.
fn assert_all_there(database: &Path, count: u64) {
    let connection = Connection::open(database).unwrap();
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let mut statement = connection.prepare("SELECT request_id FROM telemetry").unwrap();
    let ids: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().map(|id| id.unwrap()).collect();
    let expected: BTreeSet<String> = (0..count).map(|id| format!("r{id}")).collect();
    assert_eq!(ids.len() as u64, count, "some are lost, or there twice");
    assert_eq!(ids.into_iter().collect::<BTreeSet<_>>(), expected);
}

/// Waits until so many records are in the database, without anybody asking the store for it.
fn catches_up(database: &Path, count: u64) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while rows(database) < count {
        assert!(Instant::now() < deadline, "it did not catch up by itself: {} of {count}", rows(database));
        std::thread::sleep(Duration::from_millis(10));
    }
}

// ---- full -----------------------------------------------------------------------------------------------------------

#[test]
fn a_disk_without_room_for_the_journal_shows_at_open_and_not_later() {
    let folder = scratch();
    let database = folder.path().join("t.db");
    let mut guest = Guest::start(&database);
    guest.limit(1 << 20);
    let error = guest.ask("open 20 100").unwrap_err();
    assert!(error.starts_with("Full") && error.contains("t.db-tj-"), "{error}");
    assert_eq!(journals(&database), 0, "what it could not make it does not leave behind");
    guest.unlimit();
    guest.tell("open 20 100");
    guest.tell("record 0 10");
    guest.tell("close");
    assert_all_there(&database, 10);
}

#[test]
fn a_disk_without_room_for_the_database_shows_at_open() {
    let folder = scratch();
    let database = folder.path().join("t.db");
    let mut guest = Guest::start(&database);
    guest.limit(0);
    let error = guest.ask("open 20 100").unwrap_err();
    assert!(error.contains("disk I/O error") || error.contains("full"), "{error}");
    guest.unlimit();
    guest.tell("open 20 100");
    guest.tell("close");
}

#[test]
fn on_a_full_disk_records_wait_and_go_on_by_themselves_when_there_is_room() {
    let folder = scratch();
    let database = folder.path().join("t.db");
    let mut guest = Guest::start(&database);
    guest.tell("open 20 100");
    guest.tell("record 0 50");
    guest.tell("flush");
    guest.limit(size(&wal(&database)));
    guest.tell("record 50 1000");
    guest.ask("flush").unwrap_err();
    let health = guest.health();
    assert_eq!((health.recorded, health.committed, health.failed), (1000, 50, 0));
    guest.fails_again();
    assert_eq!(rows(&database), 50, "what was there can be read");
    guest.unlimit();
    catches_up(&database, 1000);
    assert_eq!(guest.health().committed, 1000);
    guest.tell("close");
    assert_all_there(&database, 1000);
    assert_eq!(journals(&database), 0);
}

#[test]
fn what_a_process_recorded_on_a_full_disk_outlives_it() {
    let folder = scratch();
    let database = folder.path().join("t.db");
    let mut guest = Guest::start(&database);
    guest.tell("open 20 100");
    guest.tell("record 0 50");
    guest.tell("flush");
    guest.limit(size(&wal(&database)));
    guest.tell("record 50 100");
    guest.ask("flush").unwrap_err();
    guest.kill();
    let mut next = Guest::start(&database);
    next.tell("open 20 100");
    assert_eq!(next.health().adopted, 50);
    assert_all_there(&database, 100);
}

#[test]
fn a_store_closed_on_a_full_disk_leaves_its_journal_to_the_next() {
    let folder = scratch();
    let database = folder.path().join("t.db");
    let mut guest = Guest::start(&database);
    guest.tell("open 20 100");
    guest.tell("record 0 50");
    guest.tell("flush");
    guest.limit(size(&wal(&database)));
    guest.tell("record 50 100");
    guest.ask("close").unwrap_err();
    assert_eq!(journals(&database), 1);
    // The same process, without a restart.
    guest.unlimit();
    guest.tell("open 20 100");
    assert_eq!(guest.health().adopted, 50);
    guest.tell("close");
    assert_all_there(&database, 100);
    assert_eq!(journals(&database), 0);
}

/// SQLite writes to its log first, and from there, once that is 1,000 pages long, into the database: the checkpoint.
/// Here there is room for the log and none for the database to grow.
#[test]
fn a_disk_that_is_full_at_a_checkpoint_loses_nothing() {
    const PAGES: u64 = 1000 * 4096;
    let folder = scratch();
    let database = folder.path().join("t.db");
    let mut guest = Guest::start(&database);
    guest.tell("open 3600000 100");
    let mut count = 0;
    while size(&database) < PAGES * 3 / 2 {
        guest.tell(&format!("record {count} {}", count + 5000));
        guest.tell("flush");
        count += 5000;
    }
    guest.tell("close");
    let full = size(&database);

    guest.limit(full.max(8 << 20) + (1 << 20)); // the journal has room yet
    guest.tell("open 3600000 100");
    guest.limit(full);
    let stopped = loop {
        guest.tell(&format!("record {count} {}", count + 1000));
        count += 1000;
        assert!(size(&wal(&database)) <= full, "the limit holds");
        assert!(count < 200_000, "a write was refused, and nobody was told");
        if let Err(error) = guest.ask("flush") {
            break error;
        }
    };
    assert!(stopped.starts_with("Io") || stopped.starts_with("Full"), "{stopped}");
    assert!(
        size(&wal(&database)) > PAGES * 5 / 4,
        "the log was due for a checkpoint before it was full itself"
    );
    assert_eq!(size(&database), full);
    let health = guest.health();
    // The commit's failure, and those of the checkpoints before it.
    assert!(health.failed == 0 && health.failures >= 1 && health.committed < health.recorded, "{health:?}");

    guest.unlimit();
    guest.tell("flush");
    let deadline = Instant::now() + Duration::from_secs(10);
    while size(&database) == full {
        assert!(Instant::now() < deadline, "the checkpoint was made up for");
        std::thread::sleep(Duration::from_millis(10));
    }
    guest.tell("close");
    assert_all_there(&database, count);
}

#[test]
fn a_disk_that_is_full_at_the_last_checkpoint_loses_nothing() {
    let folder = scratch();
    let database = folder.path().join("t.db");
    let mut guest = Guest::start(&database);
    guest.tell("open 20 100");
    guest.tell("record 0 2000");
    guest.tell("close");
    let full = size(&database);
    guest.tell("open 20 100");
    guest.limit(full);
    guest.tell("record 2000 2500");
    guest.tell("flush");
    let _ = guest.ask("close"); // all is committed; only the log could not be emptied
    assert_eq!(size(&database), full);
    assert!(size(&wal(&database)) > 0);
    guest.unlimit();
    guest.tell("open 20 100");
    guest.tell("close");
    assert!(size(&database) > full && size(&wal(&database)) == 0);
    assert_all_there(&database, 2500);
}

// ---- read-only ------------------------------------------------------------------------------------------------------

#[test]
fn a_file_system_that_turns_read_only_under_an_open_store_is_waited_for() {
    let folder = scratch();
    let database = folder.path().join("t.db");
    let mut guest = Guest::start(&database);
    guest.tell("open 20 100");
    guest.tell("record 0 50");
    guest.tell("flush");
    guest.limit(0); // not a byte can be written any more
    guest.tell("record 50 1000");
    let error = guest.ask("flush").unwrap_err();
    assert!(error.starts_with("Io"), "{error}");
    let health = guest.health();
    assert_eq!((health.recorded, health.committed, health.failed), (1000, 50, 0));
    guest.fails_again();
    guest.unlimit();
    catches_up(&database, 1000);
    guest.tell("record 1000 1010");
    guest.tell("close");
    assert_all_there(&database, 1010);
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Everything in a folder and its contents.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut contents: Vec<_> = paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    contents.sort();
    contents
}

#[test]
fn a_read_only_folder_is_enough_for_reading_and_refused_for_writing() {
    let folder = scratch();
    let database = folder.path().join("t.db");
    let mut guest = Guest::start(&database);
    guest.tell("open 20 100");
    guest.tell("record 0 10");
    guest.tell("close");
    let before = contents(folder.path());
    set_mode(folder.path(), 0o555);
    let error = guest.ask("open 20 100").unwrap_err();
    assert!(error.starts_with("Io") && error.contains("t.db"), "{error}");
    guest.tell("read 20 100");
    assert_eq!(guest.ask("count").unwrap(), "10");
    let error = Guest::start(&folder.path().join("new.db")).ask("open 20 100").unwrap_err();
    assert!(error.starts_with("Io") && error.contains("new.db"), "{error}");
    set_mode(folder.path(), 0o755);
    assert_eq!(contents(folder.path()), before);
}

#[test]
fn a_read_only_file_is_enough_for_reading_and_refused_for_writing() {
    let folder = scratch();
    let database = folder.path().join("t.db");
    let mut guest = Guest::start(&database);
    guest.tell("open 20 100");
    guest.tell("record 0 10");
    guest.tell("close");
    let before = contents(folder.path());
    set_mode(&database, 0o444);
    let error = guest.ask("open 20 100").unwrap_err();
    assert!(error.starts_with("Io") && error.contains("t.db"), "{error}");
    guest.tell("read 20 100");
    assert_eq!(guest.ask("count").unwrap(), "10");
    assert_eq!(contents(folder.path()), before);
}

/// What is open stays writable; but nothing can be deleted there, the journal neither.
#[test]
fn a_folder_that_turns_read_only_under_an_open_store_repeats_nothing() {
    let folder = scratch();
    let database = folder.path().join("t.db");
    let mut guest = Guest::start(&database);
    guest.tell("open 20 100");
    guest.tell("record 0 50");
    set_mode(folder.path(), 0o555);
    guest.tell("record 50 100");
    let _ = guest.ask("close");
    set_mode(folder.path(), 0o755);
    guest.tell("open 20 100");
    guest.tell("close");
    assert_all_there(&database, 100);
    assert_eq!(journals(&database), 0);
}

// ---- held by another process ----------------------------------------------------------------------------------------

const HOLDER: &str = "TJ_TEST_HOLDER";

/// Holds a database until its input ends. Not a test by itself.
#[test]
fn holder() {
    let Ok(database) = std::env::var(HOLDER) else { return };
    let connection = Connection::open(database).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    std::io::stdout().write_all(b"\nheld\n").unwrap();
    let _ = std::io::stdin().lines().count();
    connection.execute_batch("ROLLBACK").unwrap();
}

/// Holds the database from another process for as long as the value lives.
fn hold(database: &Path) -> Child {
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "holder", "--nocapture", "--test-threads=1"])
        .env(HOLDER, database)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null()) // where it complains that nobody listens any more
        .spawn()
        .unwrap();
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(lines.map(|line| line.unwrap()).any(|line| line == "held"));
    holder
}

/// Ten seconds once, for a store that waits for less and one that waits for longer.
#[test]
fn a_database_that_another_process_holds_for_ten_seconds_is_waited_for() {
    const HELD: Duration = Duration::from_secs(10);
    let folder = scratch();
    let [impatient, patient] = ["impatient", "patient"].map(|name| folder.path().join(format!("{name}.db")));
    let [mut one, mut other] = [&impatient, &patient].map(|database| Guest::start(database));
    one.tell("open 100 1000");
    other.tell("open 100 30000");
    let begin = Instant::now();
    let holders = [&impatient, &patient].map(|database| hold(database));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            one.tell("record 0 1000");
            let error = one.ask("flush").unwrap_err();
            assert!(error.starts_with("Busy"), "{error}");
            let health = one.health();
            assert_eq!((health.recorded, health.committed, health.failed), (1000, 0, 0));
            assert!(health.failures > 0);
            assert!(begin.elapsed() < HELD, "recording and asking did not wait until the database was free");
        });
        scope.spawn(|| {
            other.tell("record 0 1000");
            let told = begin.elapsed();
            assert!(told < HELD / 2, "recording did not wait, but took {told:?}");
            other.tell("flush");
            assert!(begin.elapsed() >= HELD, "the flush did");
            assert_eq!(other.health().failures, 0, "nothing had failed");
        });
        std::thread::sleep(HELD.saturating_sub(begin.elapsed()));
        for mut holder in holders {
            drop(holder.stdin.take());
            holder.wait().unwrap();
        }
    });
    catches_up(&impatient, 1000);
    one.tell("close");
    other.tell("close");
    assert_all_there(&impatient, 1000);
    assert_all_there(&patient, 1000);
}

/// The journal of a dead process cannot be taken over when the store is opened: it is as soon as it can be.
#[test]
fn what_a_dead_process_left_is_taken_over_when_the_database_is_free_again() {
    let folder = scratch();
    let database = folder.path().join("t.db");
    let mut dead = [(); 2].map(|()| Guest::start(&database));
    dead.iter_mut().for_each(|guest| guest.tell("open 3600000 100"));
    dead[0].tell("record 0 50");
    dead[1].tell("record 50 100");
    dead.into_iter().for_each(Guest::kill);
    let mut holder = hold(&database);
    let mut next = Guest::start(&database);
    next.tell("open 20 100");
    next.tell("record 100 150");
    let health = next.health();
    assert_eq!((health.recorded, health.committed, health.adopted), (50, 0, 0));
    assert!(health.failures > 0 && health.damaged_journals == 0, "{health:?}");
    next.fails_again();
    drop(holder.stdin.take());
    holder.wait().unwrap();
    catches_up(&database, 150);
    next.tell("close");
    assert_eq!(journals(&database), 0);
    assert_all_there(&database, 150);
}
