//! Many processes, one database: all may record at once, and a record whose `tj_record` returned is there exactly once,
//! whatever becomes of the process. The processes are `tests/c/recorder.c`.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rusqlite::Connection;
use support::{compile, root, scratch};
use tokenjoule::store::{Query, Store, StoreOptions};

fn recorder(into: &Path) -> PathBuf {
    compile(&root().join("tests/c/recorder.c"), into, &[])
}

fn start(recorder: &Path, database: &Path, arguments: &[&str]) -> Child {
    let mut command = Command::new(recorder);
    command.arg(database).args(arguments).stdout(Stdio::piped());
    command.spawn().unwrap()
}

/// Opens the database as the next user would, who adopts what the dead left behind; then looks at what is there.
fn request_ids(database: &Path) -> BTreeMap<String, u64> {
    let store = Store::open(database.to_str().unwrap(), &StoreOptions::default()).unwrap();
    store.flush().unwrap();
    let counted = store.count().unwrap();
    let aggregated = store.aggregate(&Query::default()).unwrap().total.call_count;
    store.close().unwrap();

    let database = Connection::open(database).unwrap();
    let check: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let mut select = database.prepare("SELECT request_id, COUNT(*) FROM telemetry GROUP BY 1").unwrap();
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64))).unwrap();
    let ids: BTreeMap<String, u64> = rows.map(Result::unwrap).collect();
    assert_eq!(ids.values().sum::<u64>(), counted);
    assert_eq!(aggregated, counted);
    ids
}

fn assert_once_each(ids: &BTreeMap<String, u64>) {
    let repeated: Vec<_> = ids.iter().filter(|(_, times)| **times != 1).collect();
    assert!(repeated.is_empty(), "recorded more than once: {repeated:?}");
}

#[test]
fn four_processes_of_eight_threads_record_into_one_database() {
    let folder = scratch();
    let recorder = recorder(folder.path());
    let database = folder.path().join("telemetry.db");
    let (threads, count) = (8, 60);
    let children: Vec<Child> = ["a", "b", "c", "d"]
        .map(|name| start(&recorder, &database, &[name, &threads.to_string(), &count.to_string()]))
        .into();
    for mut child in children {
        assert!(child.wait().unwrap().success(), "a recorder failed; it says why on stderr");
    }
    let ids = request_ids(&database);
    assert_once_each(&ids);
    let expected: BTreeSet<String> = ["a", "b", "c", "d"]
        .iter()
        .flat_map(|name| (0..threads).map(move |thread| (name, thread)))
        .flat_map(|(name, thread)| (0..count).map(move |n| format!("{name}-{thread}-{n}")))
        .collect();
    assert_eq!(ids.into_keys().collect::<BTreeSet<_>>(), expected);
}

/// Kills a process some time after its first record, and gives the records that it has told of.
fn kill_after(child: &mut Child, time: Duration) -> BTreeSet<String> {
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut told = String::new();
    output.read_line(&mut told).unwrap();
    let reader = std::thread::spawn(move || {
        output.read_to_string(&mut told).unwrap();
        told
    });
    std::thread::sleep(time);
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
    // The pipe holds whole lines: each is one write, and short.
    reader.join().unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_record_that_returned_survives_sigkill_once() {
    let folder = scratch();
    let recorder = recorder(folder.path());
    let database = folder.path().join("telemetry.db");
    let threads = 4;
    let mut told = BTreeSet::new();
    let rounds = 6;
    for round in 0..rounds {
        let name = format!("round{round}");
        let mut child = start(&recorder, &database, &[&name, &threads.to_string(), "1000000000", "--tell"]);
        told.extend(kill_after(&mut child, Duration::from_millis(20 + 37 * round)));
    }
    assert!(told.len() > 100, "only {} records were made before the process was killed", told.len());
    let ids = request_ids(&database);
    assert_once_each(&ids);
    let lost: Vec<_> = told.iter().filter(|id| !ids.contains_key(*id)).collect();
    assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), told.len());
    // A thread that was killed between its record and its line leaves one more.
    assert!(ids.len() <= told.len() + threads * rounds as usize, "{} of {}", ids.len(), told.len());
}

#[test]
fn the_death_of_one_process_harms_no_other() {
    let folder = scratch();
    let recorder = recorder(folder.path());
    let database = folder.path().join("telemetry.db");
    let mut survivor = start(&recorder, &database, &["survivor", "4", "1000", "--tell"]);
    let mut output = survivor.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut told = String::new();
        output.read_to_string(&mut told).unwrap();
        told.lines().count()
    });
    let mut told = BTreeSet::new();
    for round in 0..4 {
        let name = format!("victim{round}");
        let mut victim = start(&recorder, &database, &[&name, "4", "1000000000", "--tell"]);
        told.extend(kill_after(&mut victim, Duration::from_millis(50)));
    }
    assert!(survivor.wait().unwrap().success());
    assert_eq!(reader.join().unwrap(), 4000);
    let ids = request_ids(&database);
    assert_once_each(&ids);
    assert_eq!(ids.keys().filter(|id| id.starts_with("survivor-")).count(), 4000);
    assert!(told.iter().all(|id| ids.contains_key(id)));
}

/// The one that made the file fails to open it, after the other has recorded into it.
#[test]
fn a_failed_open_takes_nothing_of_another_process_away() {
    let folder = scratch();
    let database = folder.path().join("telemetry.db");
    let first = compile(&root().join("tests/c/second.c"), folder.path(), &[]);
    support::run(Command::new(first).arg(&database).arg(recorder(folder.path())));
    assert_eq!(request_ids(&database).len(), 10);
}

/// "TJ_OUTCOME_INTERRUPTED: the process died in the middle of the call."
#[test]
fn a_call_that_its_process_did_not_survive_is_recorded_as_interrupted() {
    let folder = scratch();
    let recorder = recorder(folder.path());
    let database = folder.path().join("telemetry.db");
    let mut child = start(&recorder, &database, &["the-call", "--call"]);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "begun\n");
    child.kill().unwrap();
    child.wait().unwrap();

    assert_eq!(request_ids(&database), BTreeMap::from([("the-call".to_owned(), 1)]));
    let database = Connection::open(&database).unwrap();
    let sql = "SELECT outcome, prompt_tokens, completion_tokens, model_id, engine FROM telemetry";
    let call = database
        .query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)));
    assert_eq!(call, Ok((4, 12, 5, "model".to_owned(), "engine".to_owned())));
}
