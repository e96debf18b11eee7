//! Opening a database: what is made and for whom, what is refused and left as it was, and what "read only" means.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::SystemTime;

use rusqlite::Connection;
use support::{mount, run, scratch, skip};
use tokenjoule::error::{ErrorKind, Result};
use tokenjoule::record::{Outcome, Record};
use tokenjoule::store::{Query, Store, StoreOptions};

const READ_ONLY: StoreOptions =
    StoreOptions { read_only: true, busy_timeout_ms: 200, journal_bytes: 1 << 20, ..StoreOptions::DEFAULT };

fn open(path: &Path) -> Result<Arc<Store>> {
    Store::open(path.to_str().unwrap(), &StoreOptions { read_only: false, ..READ_ONLY })
}

fn open_read_only(path: &Path) -> Result<Arc<Store>> {
    Store::open(path.to_str().unwrap(), &READ_ONLY)
}

fn record(store: &Store, model: &str) {
    store.record(&Record { model_id: model, latency_seconds: 0.25, ..Record::default() }).unwrap();
}

/// Everything in a folder: names, contents, modes and times.
fn look(folder: &Path) -> BTreeMap<String, (Vec<u8>, u32, SystemTime)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| path.is_file()).map(|path| {
        let metadata = fs::metadata(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, (fs::read(&path).unwrap(), metadata.mode(), metadata.modified().unwrap()))
    });
    files.collect()
}

#[test]
fn what_is_made_is_for_this_user_only() {
    let folder = scratch();
    let path = folder.path().join("new/deep folder/übung.db");
    let store = open(&path).unwrap();
    record(&store, "m");
    store.flush().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    assert_eq!(mode(folder.path().join("new").as_path()), 0o700);
    assert!(look(path.parent().unwrap()).len() >= 3, "the database, its WAL and the journal");
    assert!(look(path.parent().unwrap()).values().all(|(_, mode, _)| mode & 0o077 == 0));
    store.close().unwrap();
    assert_eq!(look(path.parent().unwrap()).keys().collect::<Vec<_>>(), ["übung.db"]);
}

#[test]
fn what_is_no_file_is_refused_without_waiting_for_it() {
    let folder = scratch();
    let fifo = folder.path().join("fifo");
    run(Command::new("mkfifo").arg(&fifo));
    let dangling = folder.path().join("dangling");
    symlink(folder.path().join("nowhere"), &dangling).unwrap();
    for path in [fifo.as_path(), folder.path(), &dangling] {
        for error in [open(path).err().unwrap(), open_read_only(path).err().unwrap()] {
            assert_eq!(error.kind, ErrorKind::Io, "{error}");
            assert!(error.message.contains(path.to_str().unwrap()), "{error}");
        }
    }
    let error = open_read_only(&folder.path().join("missing.db")).err().unwrap();
    assert_eq!(error.kind, ErrorKind::Io, "{error}");
    assert!(!folder.path().join("missing.db").exists());
    assert_eq!(Store::open("", &READ_ONLY).err().unwrap().kind, ErrorKind::InvalidArgument);
    assert_eq!(Store::open(":memory:", &READ_ONLY).err().unwrap().kind, ErrorKind::InvalidArgument);
}

#[test]
fn a_symbolic_link_is_followed_if_it_is_ones_own() {
    let folder = scratch();
    let (real, link) = (folder.path().join("real.db"), folder.path().join("elsewhere/link.db"));
    fs::create_dir(folder.path().join("elsewhere")).unwrap();
    fs::write(&real, "").unwrap();
    symlink(&real, &link).unwrap();
    let store = open(&link).unwrap();
    record(&store, "m");
    store.flush().unwrap();
    assert!(
        look(folder.path()).keys().any(|name| name.starts_with("real.db-tj-")),
        "the journal is beside the file"
    );
    store.close().unwrap();

    if !Command::new("chown")
        .args(["-h", "65534"])
        .arg(&link)
        .output()
        .is_ok_and(|output| output.status.success())
    {
        return skip("cannot give a link to another user");
    }
    let before = look(folder.path());
    assert_eq!(open(&link).err().unwrap().kind, ErrorKind::Io);
    assert_eq!(open_read_only(&link).err().unwrap().kind, ErrorKind::Io);
    assert_eq!(look(folder.path()), before);
}

#[test]
fn what_is_no_telemetry_database_of_this_version_is_refused_and_left_as_it_was() {
    let folder = scratch();
    let path = folder.path().join("x.db");
    let refused = |kind: ErrorKind, says: &str| {
        let before = look(folder.path());
        for error in [open(&path).err().unwrap(), open_read_only(&path).err().unwrap()] {
            assert!(error.kind == kind && error.message.contains(says), "{error:?}");
        }
        assert_eq!(look(folder.path()), before, "{says}");
        fs::remove_file(&path).unwrap();
    };
    fs::write(&path, "this is a letter, and a long one at that".repeat(100)).unwrap();
    refused(ErrorKind::Corrupt, "not a database");

    Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (x); PRAGMA user_version = 2").unwrap();
    refused(ErrorKind::Schema, "version 2");

    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE telemetry (volts REAL, timestamp REAL)")
        .unwrap();
    refused(ErrorKind::Schema, "model_id");
}

#[test]
fn a_database_of_a_newer_version_is_left_as_it_is_byte_for_byte() {
    let folder = scratch();
    let path = folder.path().join("x.db");
    let store = open(&path).unwrap();
    record(&store, "m");
    store.close().unwrap();
    // Its program closed it; or died, so that the newest of it is in the WAL alone.
    let dead = folder.path().join("dead");
    fs::create_dir(&dead).unwrap();
    let newer = Connection::open(&path).unwrap();
    newer.execute_batch("PRAGMA user_version = 1000").unwrap();
    for name in ["x.db", "x.db-wal", "x.db-shm"] {
        fs::copy(folder.path().join(name), dead.join(name)).unwrap();
    }
    newer.close().unwrap();
    assert!(fs::metadata(dead.join("x.db-wal")).unwrap().len() > 0);
    for folder in [folder.path(), &dead] {
        let look = || {
            let mut files = look(folder);
            files.remove("x.db-shm"); // SQLite's locks and index: whoever looks at a WAL needs it
            files
        };
        let before = look();
        for error in
            [open(&folder.join("x.db")).err().unwrap(), open_read_only(&folder.join("x.db")).err().unwrap()]
        {
            assert!(error.kind == ErrorKind::Schema && error.message.contains("1000"), "{error:?}");
        }
        assert!(look() == before, "something has changed");
    }
}

/// The table as the Python reference's first version made it, and a row of it.
const REFERENCE: &str = "
    CREATE TABLE telemetry (
        id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp REAL NOT NULL, model_id TEXT NOT NULL,
        engine TEXT NOT NULL DEFAULT '', agent TEXT NOT NULL DEFAULT '', prompt_tokens INTEGER NOT NULL DEFAULT 0,
        completion_tokens INTEGER NOT NULL DEFAULT 0, total_tokens INTEGER NOT NULL DEFAULT 0,
        latency_seconds REAL NOT NULL DEFAULT 0.0, ttft REAL NOT NULL DEFAULT 0.0,
        cost_usd REAL NOT NULL DEFAULT 0.0, energy_joules REAL NOT NULL DEFAULT 0.0,
        power_watts REAL NOT NULL DEFAULT 0.0, metadata TEXT NOT NULL DEFAULT '{}');
    INSERT INTO telemetry (timestamp, model_id, engine, prompt_tokens, completion_tokens, total_tokens, latency_seconds)
    VALUES (1.75e9, 'old', 'ollama', 10, 20, 30, 2.0), (1.75e9, 'old', 'ollama', 1, 2, 3, 0.0);";

#[test]
fn a_database_of_the_reference_is_taken_over_and_stays_usable_by_it() {
    let folder = scratch();
    let path = folder.path().join("telemetry.db");
    let reference = Connection::open(&path).unwrap();
    reference.execute_batch(REFERENCE).unwrap();
    let store = open(&path).unwrap();
    record(&store, "new");
    store.flush().unwrap();
    // It writes with its own columns while the store is open, and that counts at once.
    let insert = "INSERT INTO telemetry (timestamp, model_id, latency_seconds, metadata) VALUES (1.76e9, 'old', 4.0, '{}')";
    reference.execute_batch(insert).unwrap();
    let answer = store.aggregate(&Query::default()).unwrap();
    assert_eq!((answer.total.call_count, answer.total.total_tokens), (4, 33));
    let old = &answer.per_model[0];
    // In its rows a figure that is not 0 was measured: two of three latencies.
    assert_eq!(
        (old.0.as_str(), old.1.call_count, old.1.latency.count, old.1.avg_latency),
        ("old", 3, 2, 3.0)
    );
    let its_own =
        "SELECT model_id, COUNT(*), SUM(total_tokens), AVG(latency_seconds) FROM telemetry GROUP BY model_id";
    assert_eq!(reference.prepare(its_own).unwrap().query_map([], |_| Ok(())).unwrap().count(), 2);
    store.close().unwrap();

    let columns =
        "SELECT group_concat(name, ' ') FROM (SELECT name FROM pragma_table_info('telemetry') LIMIT 14)";
    let first: String = reference.query_row(columns, [], |row| row.get(0)).unwrap();
    assert!(
        first.starts_with("id timestamp model_id engine agent prompt_tokens completion_tokens"),
        "{first}"
    );
}

#[test]
fn a_new_database_has_the_references_columns_in_its_order() {
    let folder = scratch();
    let path = folder.path().join("telemetry.db");
    open(&path).unwrap().close().unwrap();
    let sql = "SELECT name, type, \"notnull\", dflt_value FROM pragma_table_info('telemetry')";
    let connection = Connection::open(&path).unwrap();
    let mut statement = connection.prepare(sql).unwrap();
    let columns: Vec<(String, String, bool, Option<String>)> = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .unwrap()
        .map(|column| column.unwrap())
        .collect();
    let names: Vec<&str> = columns.iter().map(|column| column.0.as_str()).take(42).collect();
    let expected = "id timestamp model_id engine agent prompt_tokens prompt_tokens_evaluated completion_tokens \
        total_tokens latency_seconds ttft cost_usd energy_joules power_watts gpu_utilization_pct gpu_memory_used_gb \
        gpu_temperature_c throughput_tok_per_sec prefill_latency_seconds decode_latency_seconds energy_method \
        energy_vendor batch_id is_warmup cpu_energy_joules gpu_energy_joules dram_energy_joules tokens_per_joule \
        energy_per_output_token_joules throughput_per_watt prefill_energy_joules decode_energy_joules mean_itl_ms \
        median_itl_ms p90_itl_ms p95_itl_ms p99_itl_ms std_itl_ms is_streaming token_counting_version \
        mining_session_id metadata";
    assert_eq!(names, expected.split_whitespace().collect::<Vec<_>>());
    for (name, kind, is_required, default) in &columns[1..] {
        let is_optional = ["token_counting_version", "mining_session_id", "measured", "token_gaps"]
            .contains(&name.as_str());
        assert_eq!(*is_required, !is_optional, "{name}");
        let has_default =
            default.is_some() || is_optional || ["timestamp", "model_id"].contains(&name.as_str());
        assert!(has_default, "{name}: a program that does not know it must be able to insert");
        assert!(["TEXT", "REAL", "INTEGER", "BLOB"].contains(&kind.as_str()), "{name} {kind}");
    }
}

#[test]
fn reading_changes_nothing_on_disk() {
    let folder = scratch();
    let path = folder.path().join("quiet & odd?#%41 name.db");
    let store = open(&path).unwrap();
    record(&store, "m");
    store.close().unwrap();
    let before = look(folder.path());
    let reader = open_read_only(&path).unwrap();
    assert_eq!(
        (reader.count().unwrap(), reader.aggregate(&Query::default()).unwrap().total.call_count),
        (1, 1)
    );
    for refused in [
        reader.record(&Record { model_id: "m", ..Record::default() }),
        reader.clear().map(drop),
        reader.prune(1.0).map(drop),
    ] {
        assert_eq!(refused.unwrap_err().kind, ErrorKind::ReadOnly);
    }
    assert_eq!(look(folder.path()), before);

    // It sees what others write meanwhile, committed or still in their WAL.
    let writer = open(&path).unwrap();
    record(&writer, "m");
    writer.flush().unwrap();
    assert_eq!(reader.count().unwrap(), 2);
    writer.close().unwrap();
    assert_eq!(reader.count().unwrap(), 2);
    reader.close().unwrap();
}

#[test]
fn the_references_database_is_read_without_being_migrated() {
    let folder = scratch();
    let path = folder.path().join("telemetry.db");
    Connection::open(&path).unwrap().execute_batch(REFERENCE).unwrap();
    let before = look(folder.path());
    let reader = open_read_only(&path).unwrap();
    let query = Query { exclude_warmup: true, outcome_mask: 1 << Outcome::Ok as u32, ..Query::default() };
    let answer = reader.aggregate(&query).unwrap().total;
    assert_eq!((answer.call_count, answer.completion_tokens, answer.latency.count), (2, 22, 1));
    let stamped = Query { token_counting_version: 2, ..Query::default() };
    assert_eq!(reader.aggregate(&stamped).unwrap().total.call_count, 0);
    reader.close().unwrap();
    assert_eq!(look(folder.path()), before);
}

#[test]
fn a_read_only_file_system_is_enough_for_reading() {
    let folder = scratch();
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    if !mount(&disk, "8m") {
        return; // disk.rs has a read-only folder
    }
    let result = std::panic::catch_unwind(|| {
        let path = disk.join("t.db");
        let store = open(&path).unwrap();
        record(&store, "m");
        store.close().unwrap();
        run(Command::new("mount").args(["-o", "remount,ro"]).arg(&disk));
        let reader = open_read_only(&path).unwrap();
        assert_eq!(reader.count().unwrap(), 1);
        let error = open(&path).err().unwrap();
        assert_eq!(error.kind, ErrorKind::Io, "{error}");
    });
    run(Command::new("umount").arg("-l").arg(&disk));
    result.unwrap();
}

#[test]
fn a_relative_path_means_the_folder_in_which_it_was_opened() {
    // A folder of its own for the whole process: so in a process of its own.
    const INNER: &str = "TJ_TEST_CHDIR";
    if std::env::var_os(INNER).is_none() {
        let folder = scratch();
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "a_relative_path_means_the_folder_in_which_it_was_opened", "--nocapture"]);
        run(again.env(INNER, "1").current_dir(folder.path()));
        assert_eq!(look(folder.path()).keys().collect::<Vec<_>>(), ["here.db"]);
        return;
    }
    let store = Store::open("here.db", &StoreOptions::default()).unwrap();
    std::env::set_current_dir("/").unwrap();
    record(&store, "m");
    assert_eq!(store.count().unwrap(), 1);
    store.close().unwrap();
}

/// SQLite takes 504 bytes, less than the system's 4,096: what is longer is refused by name, before anything is made.
#[test]
fn a_path_that_is_too_long_is_refused_by_name() {
    let folder = scratch();
    let of = |bytes: usize| {
        let folder = folder.path().join("d".repeat(200));
        let name = bytes - folder.as_os_str().len() - 1;
        let path = folder.join(format!("{}/{}", "é".repeat(60), "x".repeat(name - 121)));
        assert_eq!(path.as_os_str().len(), bytes);
        path
    };
    let long = of(504);
    let store = open(&long).unwrap();
    record(&store, "m");
    store.close().unwrap();
    assert_eq!(open_read_only(&long).unwrap().count().unwrap(), 1);
    fs::remove_dir_all(folder.path().join("d".repeat(200))).unwrap();

    let name_beyond_the_systems = folder.path().join("n".repeat(256));
    for path in [of(505), folder.path().join("f/".repeat(1000)), folder.path().join("f/".repeat(2048))] {
        for error in [open(&path).err().unwrap(), open_read_only(&path).err().unwrap()] {
            assert!(error.kind == ErrorKind::Io && error.message.contains("504"), "{error}");
        }
    }
    let error = open(&name_beyond_the_systems).err().unwrap();
    assert!(error.kind == ErrorKind::Io && error.message.contains("nnn"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was made");

    // A link to it is no way around.
    let link = folder.path().join("link.db");
    fs::create_dir_all(of(505).parent().unwrap()).unwrap();
    fs::write(of(505), "").unwrap();
    symlink(of(505), &link).unwrap();
    let error = open(&link).err().unwrap();
    assert!(error.kind == ErrorKind::Io && error.message.contains("504"), "{error}");
}

#[test]
fn in_memory_each_store_is_its_own_and_nothing_is_on_disk() {
    let [one, other] = [(); 2].map(|()| Store::open(":memory:", &StoreOptions::default()).unwrap());
    (0..3).for_each(|_| record(&one, "m"));
    one.flush().unwrap();
    assert_eq!((one.count().unwrap(), other.count().unwrap()), (3, 0));
    assert_eq!(one.aggregate(&Query::default()).unwrap().total.call_count, 3);
    let health = one.health().unwrap();
    assert_eq!((health.recorded, health.committed), (3, 3));
    assert_eq!((health.journal_size, health.database_bytes), (0, 0));
    assert_eq!((one.prune(1.0).unwrap(), one.clear().unwrap()), (0, 3));
    one.close().unwrap();
    other.close().unwrap();
    let entries = fs::read_dir(".").unwrap().map(|entry| entry.unwrap().file_name());
    assert!(entries.into_iter().all(|name| !name.to_str().unwrap().contains("memory")));
}
