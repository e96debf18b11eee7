//! The journal: what it holds back while the database cannot be written to, and what it makes of files that are torn,
//! damaged, or none of its own. (`kill.rs` is about death at any instant.)

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

mod support;

use support::{mount, run, scratch, skip};
use tokenjoule::bus::Bus;
use tokenjoule::call::{Call, Report, Start};
use tokenjoule::error::ErrorKind;
use tokenjoule::record::{Outcome, Record};
use tokenjoule::store::{Durability, Overflow, Query, Store, StoreOptions};

const NEVER: u32 = 3_600_000;

/// A store that commits only when asked.
fn patient() -> StoreOptions {
    StoreOptions { commit_interval_ms: NEVER, busy_timeout_ms: 50, ..StoreOptions::default() }
}

fn open(database: &Path, options: StoreOptions) -> Arc<Store> {
    Store::open(database.to_str().unwrap(), &options).unwrap()
}

fn record(store: &Store, id: u64) -> tokenjoule::error::Result<()> {
    let request_id = format!("r{id}");
    store.record(&Record { model_id: "m", request_id: &request_id, prompt_tokens: 1, ..Record::default() })
}

/// The request ids in the database, as another process sees it.
fn committed(database: &Path) -> Vec<String> {
    let connection = rusqlite::Connection::open(database).unwrap();
    let mut statement = connection.prepare("SELECT request_id FROM telemetry ORDER BY id").unwrap();
    let ids = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap);
    ids.collect()
}

fn ids(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|id| format!("r{id}")).collect()
}

fn journals(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().contains("-tj-"))
        .collect();
    paths.sort();
    paths
}

const VICTIM: &str = "TJ_TEST_JOURNAL_VICTIM";

/// Records r0 … r19 without a commit, leaves a call in flight, and dies. Not a test by itself.
#[test]
fn victim() {
    let Ok(database) = std::env::var(VICTIM) else { return };
    let store = open(Path::new(&database), patient());
    (0..20).for_each(|id| record(&store, id).unwrap());
    Bus::global().attach(store.clone());
    let start = Start { model: "m", engine: "e", request_id: "open", agent: "someone", ..Start::default() };
    let mut call = Call::begin(Bus::global(), &start).unwrap();
    call.prompt(100, 60);
    std::thread::sleep(Duration::from_millis(5));
    (0..7).for_each(|_| call.tokens(1));
    std::process::abort();
}

/// A database whose one user died, and the journal that it left.
fn death() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = scratch();
    let database = folder.path().join("dead.db");
    let died = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim", "--test-threads=1"])
        .env(VICTIM, &database)
        .output()
        .unwrap();
    assert!(!died.status.success());
    let [journal] = <[PathBuf; 1]>::try_from(journals(folder.path())).unwrap();
    (folder, database, journal)
}

#[test]
fn whoever_opens_the_database_next_takes_over_what_a_dead_process_left() {
    let (folder, database, _) = death();
    assert!(committed(&database).is_empty());
    let store = open(&database, patient());
    let health = store.health().unwrap();
    assert_eq!((health.adopted, health.damaged_journals), (21, 0), "{:?}", health.last_failure);
    assert_eq!(committed(&database)[..20], ids(0..20));
    store.close().unwrap();
    assert_eq!(journals(folder.path()), Vec::<PathBuf>::new());
}

#[test]
fn the_call_that_was_in_flight_is_on_record_with_its_tokens_so_far() {
    let (_folder, database, _) = death();
    let store = open(&database, patient());
    let query = Query { outcome_mask: 1 << Outcome::Interrupted as u32, ..Query::default() };
    let answer = store.aggregate(&query).unwrap().total;
    assert_eq!((answer.call_count, answer.interrupted_count), (1, 1));
    assert_eq!((answer.prompt_tokens, answer.cached_tokens, answer.prompt_tokens_evaluated), (100, 60, 40));
    assert_eq!(answer.completion_tokens, 7);
    assert!(answer.ttft.count == 1 && (0.005..5.0).contains(&answer.avg_ttft), "{}", answer.avg_ttft);
    assert_eq!(answer.latency.count, 0, "nobody measured its latency");
    let connection = rusqlite::Connection::open(&database).unwrap();
    let sql = "SELECT agent FROM telemetry WHERE request_id = 'open' AND engine = 'e' AND timestamp > 1.7e9";
    assert_eq!(connection.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap(), "someone");
}

#[test]
fn a_journal_is_taken_over_once_also_when_the_taker_dies_before_deleting_it() {
    let (_folder, database, journal) = death();
    let copy = fs::read(&journal).unwrap();
    open(&database, patient()).close().unwrap();
    assert!(!journal.exists());
    // The same file under the same name, and the database's note of it as it was between the commit and the deletion.
    fs::write(&journal, copy).unwrap();
    let name = journal.to_str().unwrap().rsplit('-').next().unwrap().to_owned();
    let connection = rusqlite::Connection::open(&database).unwrap();
    connection.execute("INSERT INTO tokenjoule_journal VALUES (?, ?)", (name, i64::MAX)).unwrap();
    let store = open(&database, patient());
    assert_eq!(store.health().unwrap().adopted, 0);
    assert_eq!(store.count().unwrap(), 21);
    assert!(!journal.exists());
}

#[test]
fn a_living_journal_is_left_alone() {
    let folder = scratch();
    let database = folder.path().join("living.db");
    let one = open(&database, patient());
    record(&one, 0).unwrap();
    let other = open(&database, patient()); // the same process
    record(&other, 1).unwrap();
    assert_eq!(journals(folder.path()).len(), 2);
    assert_eq!(other.health().unwrap().adopted, 0);
    one.close().unwrap();
    other.close().unwrap();
    assert_eq!(committed(&database), ids(0..2));
    assert_eq!(journals(folder.path()).len(), 0);
}

/// How many bytes of the ring a record of the victim's takes.
fn frame_bytes() -> u64 {
    let folder = scratch();
    let store = open(&folder.path().join("one.db"), patient());
    record(&store, 10).unwrap();
    store.health().unwrap().journal_used
}

#[test]
fn a_torn_journal_gives_what_is_whole_in_it() {
    let frame = frame_bytes();
    for keep in [0, 3, 8, 4096, 6000, 600_000, 4096 + 512 * 1024 + 700, 4096 + 512 * 1024 + 4000] {
        let (_folder, database, journal) = death();
        let file = fs::OpenOptions::new().write(true).open(&journal).unwrap();
        file.set_len(keep).unwrap();
        let store = open(&database, patient());
        let count = store.count().unwrap();
        let ring = keep.saturating_sub(4096 + 512 * 1024);
        // Whole records count, and the call in flight where its slot is whole.
        let expected = (ring / frame).min(20) + u64::from(keep > 4096 + 1024);
        assert!(
            count.abs_diff(expected) <= 1,
            "{keep} bytes kept: {count} records, about {expected} expected"
        );
        assert!(record(&store, 99).is_ok());
        store.close().unwrap();
    }
}

#[test]
fn a_flipped_bit_costs_one_record_and_is_reported() {
    let (folder, database, journal) = death();
    let file = fs::OpenOptions::new().read(true).write(true).open(&journal).unwrap();
    let at = 4096 + 512 * 1024 + 5 * frame_bytes() + 100; // in the sixth frame's payload
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    drop(file);
    let store = open(&database, patient());
    let health = store.health().unwrap();
    assert_eq!((health.adopted, health.damaged_journals, health.corrupt), (20, 1, 1));
    let failure = health.last_failure.unwrap().error;
    assert!(failure.kind == ErrorKind::Corrupt && failure.message.contains("1 records"), "{failure}");
    store.close().unwrap();
    // What is damaged is kept for whoever wants to look, and not taken over again.
    let [aside] = <[PathBuf; 1]>::try_from(journals(folder.path())).unwrap();
    assert!(aside.to_str().unwrap().ends_with(".damaged"));
    let store = open(&database, patient());
    assert_eq!((store.count().unwrap(), store.health().unwrap().damaged_journals), (20, 0));
}

/// Where the ring begins in a journal's file.
const RING: u64 = 4096 + 512 * 1024;

#[test]
fn frames_in_another_order_cost_themselves_and_are_reported() {
    let (folder, database, journal) = death();
    let frame = frame_bytes() as usize;
    let mut bytes = fs::read(&journal).unwrap();
    let (first, second) = bytes[RING as usize..][3 * frame..].split_at_mut(4 * frame);
    first[..frame].swap_with_slice(&mut second[..frame]); // r3 and r7
    fs::write(&journal, bytes).unwrap();
    let store = open(&database, patient());
    let health = store.health().unwrap();
    assert_eq!((health.adopted, health.damaged_journals), (19, 1), "{:?}", health.last_failure);
    assert!(health.last_failure.unwrap().error.message.contains("2 records"));
    let left = committed(&database);
    assert!(!left.contains(&"r3".to_owned()) && !left.contains(&"r7".to_owned()));
    store.close().unwrap();
    assert_eq!(journals(folder.path()).len(), 1, "set aside");
}

/// Changes the frame of r5 with `change`, and its checksum with it: what is to hold when somebody means harm.
fn forge(journal: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(journal).unwrap();
    let frame = frame_bytes() as usize;
    let at = RING as usize + 5 * frame;
    let seed = u32::from_le_bytes(bytes[32..36].try_into().unwrap());
    let described = u64::from_le_bytes(bytes[at + 8..at + 16].try_into().unwrap());
    let length = (described >> 32 & 0xFF_FFFF) as usize;
    let checksum = |frame: &[u8], payload: &[u8]| {
        let word = |at: usize| u64::from_le_bytes(frame[at..at + 8].try_into().unwrap());
        let header = word(0).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (word(8) & !0xFFFF_FFFF);
        crc32c::crc32c_append(seed ^ (header >> 32) as u32 ^ header as u32, payload)
    };
    let mut payload = bytes[at + 16..][..length].to_vec();
    assert_eq!(checksum(&bytes[at..], &payload), described as u32, "as the library does it");
    change(&mut payload);
    payload.resize(length, 0);
    bytes[at + 16..][..length].copy_from_slice(&payload);
    let checksum = checksum(&bytes[at..], &payload);
    bytes[at + 8..at + 12].copy_from_slice(&checksum.to_le_bytes());
    fs::write(journal, bytes).unwrap();
}

#[test]
fn a_length_beyond_the_frame_or_the_ring_costs_one_record_and_is_reported() {
    /// The strings of the victim's records, the last thing in their frames: the model, the request, and zeros up to a word.
    const STRINGS: usize = "mr5".len() + 1;
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("a frame longer than the ring", |journal| {
            let file = fs::OpenOptions::new().write(true).open(journal).unwrap();
            file.write_all_at(&[0xFF; 3], RING + 5 * frame_bytes() + 12).unwrap();
        }),
        ("a frame of no length", |journal| {
            let file = fs::OpenOptions::new().write(true).open(journal).unwrap();
            file.write_all_at(&[0; 3], RING + 5 * frame_bytes() + 12).unwrap();
        }),
        ("a string longer than its frame", |journal| {
            forge(journal, |payload| {
                let lengths = payload.len() - STRINGS;
                payload[lengths - 4..lengths].fill(0xFF);
            });
        }),
        ("all ones", |journal| forge(journal, |payload| payload.fill(0xFF))),
    ];
    for (what, damage) in damages {
        let (_folder, database, journal) = death();
        damage(&journal);
        let store = open(&database, patient());
        let health = store.health().unwrap();
        assert_eq!((health.adopted, health.damaged_journals, health.corrupt), (20, 1, 1), "{what}");
        let left = committed(&database);
        assert!(left.contains(&"r4".to_owned()) && !left.contains(&"r5".to_owned()), "{what}: {left:?}");
        record(&store, 99).unwrap();
        store.close().unwrap();
    }
}

/// As after a power cut: the pages of a file come to the disk in any order.
#[test]
fn a_journal_without_its_beginning_is_reported_and_kept() {
    let (folder, database, journal) = death();
    let file = fs::OpenOptions::new().write(true).open(&journal).unwrap();
    file.write_all_at(&[0; 4096], 0).unwrap();
    let before = fs::read(&journal).unwrap();
    let store = open(&database, patient());
    let health = store.health().unwrap();
    assert_eq!(
        (health.adopted, health.damaged_journals, health.corrupt),
        (0, 1, 1),
        "{:?}",
        health.last_failure
    );
    store.close().unwrap();
    assert_eq!(journals(folder.path()), std::slice::from_ref(&journal));
    assert!(fs::read(&journal).unwrap() == before);
    // All of it zeros: nothing had come to the disk, and there is nothing to keep.
    fs::write(&journal, vec![0; before.len()]).unwrap();
    let store = open(&database, patient());
    assert_eq!(store.health().unwrap().damaged_journals, 0);
    store.close().unwrap();
    assert!(journals(folder.path()).is_empty());
}

#[test]
fn what_is_no_journal_is_reported_and_left_as_it_is() {
    let folder = scratch();
    let database = folder.path().join("hostile.db");
    let stray = |name: &str| folder.path().join(format!("hostile.db-tj-{name}"));
    let (garbage, version, header) =
        (stray("0000000000000001"), stray("0000000000000002"), stray("0000000000000003"));
    fs::write(&garbage, [0xAB; 9000]).unwrap();
    let mut words = vec![0u8; 8192];
    words[..8].copy_from_slice(b"TJOURNAL");
    words[8] = 99;
    fs::write(&version, &words).unwrap();
    words[8] = 2;
    words[16] = 77; // a ring of 77 words
    fs::write(&header, &words).unwrap();
    let (directory, fifo, link, alien) = (
        stray("0000000000000004"),
        stray("0000000000000005"),
        stray("0000000000000006"),
        stray("0000000000000007"),
    );
    fs::create_dir(&directory).unwrap();
    run(Command::new("mkfifo").arg(&fifo));
    symlink(&garbage, &link).unwrap();
    let empty = stray("0000000000000008");
    fs::write(&empty, "").unwrap();
    let other_names = [stray("short"), stray("00000000000000zz"), stray("0000000000000001.damaged")];
    other_names.iter().for_each(|path| fs::write(path, "not looked at").unwrap());
    let mut expected = 6;
    fs::write(&alien, &words).unwrap();
    if Command::new("chown").arg("65534").arg(&alien).output().is_ok_and(|output| output.status.success()) {
        expected += 1;
    } else {
        fs::remove_file(&alien).unwrap();
        skip("cannot give a file to another user: that part of the test is left out");
    }

    let before: Vec<_> = journals(folder.path());
    let store = open(&database, patient());
    let health = store.health().unwrap();
    assert_eq!(health.damaged_journals, expected, "{:?}", health.last_failure);
    assert!(health.last_failure.unwrap().error.message.contains("hostile.db-tj-"), "names the file");
    record(&store, 0).unwrap();
    store.close().unwrap();
    let left = journals(folder.path());
    let kept = before.into_iter().filter(|path| *path != empty).collect::<Vec<_>>();
    assert_eq!(left, kept, "nothing was deleted but the empty file");
    assert_eq!(fs::read(&garbage).unwrap(), [0xAB; 9000]);
}

#[test]
fn what_a_process_left_that_died_in_making_a_journal_is_swept() {
    let folder = scratch();
    let half_made = folder.path().join("x.db-tj-0123456789abcdef.new");
    fs::write(&half_made, vec![0; 4096]).unwrap();
    let store = open(&folder.path().join("x.db"), patient());
    assert!(!half_made.exists());
    assert_eq!(store.health().unwrap().damaged_journals, 0);
    store.close().unwrap();
}

#[test]
fn while_another_process_holds_the_database_records_wait_and_then_go_there_by_themselves() {
    let folder = scratch();
    let database = folder.path().join("locked.db");
    let store = open(
        &database,
        StoreOptions { commit_interval_ms: 20, busy_timeout_ms: 30, ..StoreOptions::default() },
    );
    let holder = rusqlite::Connection::open(&database).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begin = Instant::now();
    (0..100).for_each(|id| record(&store, id).unwrap());
    assert!(begin.elapsed() < Duration::from_secs(1), "recording waited for the database");
    assert_eq!(store.flush().unwrap_err().kind, ErrorKind::Busy);
    let health = store.health().unwrap();
    assert_eq!((health.recorded, health.committed), (100, 0));
    assert!(health.busy >= 1 && health.journal_used > 0 && health.failed == 0, "{health:?}");
    assert_eq!(health.last_failure.unwrap().error.kind, ErrorKind::Busy);

    holder.execute_batch("ROLLBACK").unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while committed(&database).len() < 100 {
        assert!(Instant::now() < deadline, "it did not catch up by itself");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(committed(&database), ids(0..100));
    store.flush().unwrap();
    let health = store.health().unwrap();
    assert_eq!((health.committed, health.journal_used), (100, 0));
}

#[test]
fn a_full_journal_refuses_and_counts_or_reports_why_it_cannot_be_emptied() {
    for overflow in [Overflow::Reject, Overflow::Wait] {
        let folder = scratch();
        let database = folder.path().join("full.db");
        let options = StoreOptions { journal_bytes: 64 << 10, overflow, ..patient() };
        let store = open(&database, options);
        let holder = rusqlite::Connection::open(&database).unwrap();
        holder.execute_batch("BEGIN IMMEDIATE").unwrap();
        let mut taken = 0;
        let error = loop {
            match record(&store, taken) {
                Ok(()) => taken += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind, if overflow == Overflow::Reject { ErrorKind::Full } else { ErrorKind::Busy });
        assert!(taken > 50, "{taken}");
        let health = store.health().unwrap();
        assert_eq!((health.recorded, health.failed), (taken, 1));
        holder.execute_batch("ROLLBACK").unwrap();
        // An aggregate empties it, and the store takes records again.
        assert_eq!(store.count().unwrap(), taken);
        record(&store, taken).unwrap();
        store.close().unwrap();
        assert_eq!(committed(&database), ids(0..taken + 1));
    }
}

#[test]
fn a_record_beyond_the_whole_journal_is_refused_by_name() {
    let folder = scratch();
    let store = open(&folder.path().join("small.db"), StoreOptions { journal_bytes: 64 << 10, ..patient() });
    let metadata = format!("{{\"x\":\"{}\"}}", "y".repeat(100_000));
    let error =
        store.record(&Record { model_id: "m", metadata_json: &metadata, ..Record::default() }).unwrap_err();
    assert!(error.kind == ErrorKind::InvalidArgument && error.message.starts_with("record "), "{error}");
    assert_eq!((store.count().unwrap(), store.health().unwrap().refused), (0, 1));
    let metadata = format!("{{\"x\":\"{}\"}}", "y".repeat(50_000));
    store.record(&Record { model_id: "m", metadata_json: &metadata, ..Record::default() }).unwrap();
    assert_eq!(store.count().unwrap(), 1);
    for bytes in [1, 1 << 31] {
        let options = StoreOptions { journal_bytes: bytes, ..patient() };
        let error = Store::open(folder.path().join("x.db").to_str().unwrap(), &options).err().unwrap();
        assert!(error.message.starts_with("options.journal_bytes"), "{error}");
    }
}

#[test]
fn with_power_durability_a_returned_record_is_committed() {
    let folder = scratch();
    let database = folder.path().join("power.db");
    let store = open(&database, StoreOptions { durability: Durability::Power, ..patient() });
    record(&store, 0).unwrap();
    assert_eq!(committed(&database), ids(0..1));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || (0..20).for_each(|id| record(store, 100 * thread + id).unwrap()));
        }
    });
    assert_eq!(committed(&database).len(), 161);

    // Held up by another process, it says so, and the record is not lost: it waits.
    let holder = rusqlite::Connection::open(&database).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(record(&store, 1000).unwrap_err().kind, ErrorKind::Busy);
    let health = store.health().unwrap();
    assert_eq!((health.recorded, health.committed, health.failed), (162, 161, 0));
    holder.execute_batch("ROLLBACK").unwrap();
    store.flush().unwrap();
    assert_eq!(committed(&database).last().unwrap(), "r1000");
}

#[test]
fn on_a_full_disk_records_wait_in_the_journal_and_go_on_when_there_is_room() {
    let folder = scratch();
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    if !mount(&disk, "3m") {
        return; // disk.rs has a limit on the size of files
    }
    let unmount = || run(Command::new("umount").arg("-l").arg(&disk));
    let result = std::panic::catch_unwind(|| {
        let database = disk.join("on-it.db");
        // No room for the journal shows at once, and leaves nothing behind.
        let large = StoreOptions { journal_bytes: 4 << 20, ..patient() };
        let error = Store::open(database.to_str().unwrap(), &large).err().unwrap();
        assert_eq!(error.kind, ErrorKind::Full, "{error}");
        assert!(journals(&disk).is_empty());

        let store = open(&database, StoreOptions { journal_bytes: 1 << 20, ..patient() });
        record(&store, 0).unwrap();
        store.flush().unwrap();
        let ballast = disk.join("ballast");
        let mut filled = fs::File::create(&ballast).unwrap();
        while std::io::Write::write_all(&mut filled, &[1; 4096]).is_ok() {}
        (1..1000).for_each(|id| record(&store, id).unwrap());
        let error = store.flush().unwrap_err();
        assert_eq!(error.kind, ErrorKind::Full, "{error}");
        let health = store.health().unwrap();
        assert!(health.full >= 1 && health.committed == 1 && health.failed == 0, "{health:?}");
        drop(filled);
        fs::remove_file(&ballast).unwrap();
        store.flush().unwrap();
        assert_eq!(committed(&database), ids(0..1000));
        store.close().unwrap();
    });
    unmount();
    result.unwrap();
}

#[test]
fn a_closed_store_leaves_no_journal_and_a_call_in_flight_keeps_it() {
    let folder = scratch();
    let database = folder.path().join("late.db");
    let store = open(&database, patient());
    let bus: &'static Bus = Box::leak(Box::new(Bus::new()));
    bus.attach(store.clone());
    let mut call = Call::begin(bus, &Start { model: "m", request_id: "r0", ..Start::default() }).unwrap();
    store.close().unwrap();
    assert_eq!(record(&store, 1).unwrap_err().kind, ErrorKind::Closed);
    assert_eq!(journals(folder.path()).len(), 1);
    call.end(Outcome::Ok, &Report::default()).unwrap();
    assert_eq!(committed(&database), ids(0..1));
    assert_eq!(journals(folder.path()).len(), 0);
    assert!(Call::begin(bus, &Start { model: "m", ..Start::default() }).is_ok(), "it just goes to nobody");
}

#[test]
fn its_file_is_for_this_user_only() {
    let folder = scratch();
    let store = open(&folder.path().join("private.db"), patient());
    for path in fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()) {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
    }
    store.close().unwrap();
}
