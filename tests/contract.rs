//! The C contract, by topic: the programs in `tests/c` hold the library to what `include/tokenjoule.h` promises, as C11,
//! as C++17, and under valgrind. A failed check is named on stderr by its file, line and promise.

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use rusqlite::config::DbConfig;
use rusqlite::types::Value;
use support::{compile, have, library, outcome, root, run, scratch};
use tokenjoule::store::{Store, StoreOptions};

/// A program in `tests/c`, compiled once in this run of the tests.
struct Program {
    name: &'static str,
    c: OnceLock<PathBuf>,
    cpp: OnceLock<PathBuf>,
}

macro_rules! programs {
    ($($constant:ident = $name:literal),*) => {
        $(static $constant: Program = Program { name: $name, c: OnceLock::new(), cpp: OnceLock::new() };)*
    };
}
programs! {
    AGGREGATE = "aggregate", BATCH = "batch", BUS = "bus", CALL = "call", CONVENTIONS = "conventions", COST = "cost",
    EFFICIENCY = "efficiency", ENERGY = "energy", EVENT = "event", FORK = "fork", GENERATE = "generate",
    GOODPUT = "goodput", OUTPUTS = "outputs", QUEUE = "queue", RECORD = "record", RECORDS = "records",
    SERIES = "series", STRUCTS = "structs", UPKEEP = "upkeep"
}

impl Program {
    fn c(&self) -> &Path {
        self.c.get_or_init(|| self.built(&source(self.name), "c"))
    }

    /// The same as C++: a file that includes it.
    fn cpp(&self) -> &Path {
        self.cpp.get_or_init(|| {
            let folder = scratch();
            let wrapper = folder.path().join(format!("{}.cpp", self.name));
            std::fs::write(&wrapper, format!("#include {:?}\n", source(self.name))).unwrap();
            self.built(&wrapper, "cpp")
        })
    }

    /// Beside the library that it is linked to. Put there by renaming: another run of the tests may be using the one
    /// that is there.
    fn built(&self, source: &Path, language: &str) -> PathBuf {
        let folder = library().with_file_name("contract");
        std::fs::create_dir_all(&folder).unwrap();
        let fresh = tempfile::tempdir_in(&folder).unwrap();
        let program = folder.join(format!("{}-{language}", self.name));
        std::fs::rename(compile(source, fresh.path(), &[]), &program).unwrap();
        program
    }

    fn holds(&self) {
        succeeds_in_silence(Command::new(self.c()).arg(scratch().path()));
    }

    fn holds_as_cpp(&self) {
        succeeds_in_silence(Command::new(self.cpp()).arg(scratch().path()));
    }

    /// No error, and no block that nobody points to any more.
    fn is_clean_under_valgrind(&self) {
        if have("valgrind", &["--version"]) {
            let mut valgrind = Command::new("valgrind");
            valgrind.args(["--quiet", "--fair-sched=yes", "--error-exitcode=9", "--leak-check=full"]);
            valgrind
                .args(["--show-leak-kinds=definite,indirect", "--errors-for-leak-kinds=definite,indirect"]);
            succeeds_in_silence(valgrind.arg(self.c()).arg("--quick").arg(scratch().path()));
        }
    }
}

/// "Nothing is printed": what is on stderr is a failed check, or the library's.
fn succeeds_in_silence(command: &mut Command) {
    let output = outcome(command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{command:?}\nended with {}\n{said}", output.status);
}

fn source(name: &str) -> PathBuf {
    root().join("tests/c").join(name).with_extension("c")
}

macro_rules! topics {
    ($($topic:ident: $program:ident),*) => {$(
        mod $topic {
            #[test]
            fn holds() {
                super::$program.holds();
            }

            #[test]
            fn holds_as_cpp() {
                super::$program.holds_as_cpp();
            }
        }
    )*};
}
topics! {
    aggregate: AGGREGATE, batch: BATCH, bus: BUS, call: CALL, conventions: CONVENTIONS, cost: COST,
    efficiency: EFFICIENCY, energy: ENERGY, event: EVENT, fork: FORK, generate: GENERATE, goodput: GOODPUT,
    outputs: OUTPUTS, queue: QUEUE, record: RECORD, records: RECORDS,
    series: SERIES, structs: STRUCTS, upkeep: UPKEEP
}

macro_rules! clean_under_valgrind {
    ($($topic:ident: $program:ident),*) => {
        mod clean_under_valgrind {
            $(#[test]
            fn $topic() {
                super::$program.is_clean_under_valgrind();
            })*
        }
    };
}
// Not fork: a child ends by _exit, with everything still in use.
clean_under_valgrind! {
    aggregate: AGGREGATE, batch: BATCH, bus: BUS, call: CALL, conventions: CONVENTIONS, cost: COST,
    efficiency: EFFICIENCY, energy: ENERGY, event: EVENT,
    generate: GENERATE, goodput: GOODPUT, outputs: OUTPUTS, queue: QUEUE, record: RECORD, records: RECORDS,
    series: SERIES, structs: STRUCTS, upkeep: UPKEEP
}

// ---- The conventions are for all: what the header declares, and what the programs say they have tested ----

/// Words of C, each with what follows it up to the next separator: `const char *path` is ("const char *", "path").
fn declarations(list: &str, separator: char) -> Vec<(String, String)> {
    let split = |declared: &str| {
        let declared = declared.split('[').next().unwrap_or_default().trim();
        let at = declared.rfind([' ', '*', '\n'])? + 1;
        Some((declared[..at].replace("struct ", "").trim().to_owned(), declared[at..].to_owned()))
    };
    list.split(separator).filter_map(split).collect()
}

struct Header {
    /// Each function with its parameters.
    functions: Vec<(String, Vec<(String, String)>)>,
    /// Each struct with its fields.
    structs: Vec<(String, Vec<(String, String)>)>,
}

fn header() -> Header {
    let text = run(Command::new("cc").args(["-E", "-P", "-x", "c"]).arg(root().join("include/tokenjoule.h")));
    let ours = &text[text.find("typedef enum tj_status_code").unwrap()..];
    let mut structs = Vec::new();
    let mut rest = String::new();
    let mut parts = ours.split('{');
    let mut before = parts.next().unwrap();
    rest += before;
    for part in parts {
        let (body, after) = part.split_once('}').unwrap();
        if let Some((_, name)) = before.rsplit_once("typedef struct ") {
            structs.push((name.trim().to_owned(), declarations(body, ';')));
        }
        rest += after;
        before = after;
    }
    let functions = rest.split(';').map(str::trim).filter(|statement| !statement.starts_with("typedef"));
    let functions = functions.filter_map(|function| {
        let (result, parameters) = function.split_once('(')?;
        let name = result.split([' ', '*', '\n']).next_back()?;
        Some((name.to_owned(), declarations(parameters.trim_end_matches(')'), ',')))
    });
    Header { functions: functions.collect(), structs }
}

#[test]
fn no_function_struct_or_field_is_left_out_of_the_conventions() {
    let Header { functions, structs } = header();
    assert!(functions.len() >= 40 && structs.len() >= 15, "{} and {}", functions.len(), structs.len());
    let mut expected = BTreeSet::new();
    for (function, parameters) in &functions {
        for (kind, name) in parameters {
            if kind.contains('*') || kind.ends_with("_fn") {
                expected.insert(format!("null {function}.{name}"));
            }
            if name.starts_with("out_") {
                expected.insert(format!("untouched {function}.{name}"));
            }
            if kind == "const char *" {
                expected.insert(format!("utf8 {function}.{name}"));
            }
        }
    }
    for (name, fields) in &structs {
        let is_the_librarys = ["tj_event", "tj_difference", "tj_energy_reading"].contains(&name.as_str());
        let is_sized = fields[0].1 == "struct_size" && !is_the_librarys;
        if is_sized {
            expected.insert(format!("sized {name}"));
            expected.insert(format!("init {name}"));
        }
        let pointer = format!("const {name} *");
        let goes_in =
            functions.iter().flat_map(|(_, parameters)| parameters).any(|(kind, _)| *kind == pointer);
        if goes_in || name == "tj_message" {
            let texts = fields.iter().filter(|(kind, _)| kind == "const char *");
            expected.extend(texts.map(|(_, field)| format!("utf8 {name}.{field}")));
        }
    }
    expected.remove("utf8 tj_generate_result.content"); // the engine's, and nobody's business

    let mut tested = BTreeSet::new();
    for program in [&CONVENTIONS, &OUTPUTS, &STRUCTS] {
        let output = outcome(Command::new(program.c()).arg(scratch().path())); // fails by itself if it fails
        tested.extend(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned));
    }
    let missing: Vec<_> = expected.difference(&tested).collect();
    let unknown: Vec<_> = tested.difference(&expected).collect();
    assert!(missing.is_empty(), "in the header, and not tested: {missing:#?}");
    assert!(unknown.is_empty(), "tested, and not in the header: {unknown:#?}");
}

// ---- Programs that need somebody else ----

#[test]
fn every_field_of_a_record_is_kept() {
    let folder = scratch();
    let path = folder.path().join("telemetry.db");
    let printed = run(Command::new(RECORD.c()).arg("--store").arg(&path));
    let expected: Vec<(&str, &str)> = printed.lines().map(|line| line.split_once(' ').unwrap()).collect();

    let (_, fields) = header().structs.into_iter().find(|(name, _)| name == "tj_telemetry_record").unwrap();
    let fields = fields.into_iter().map(|(_, field)| field).filter(|field| field != "struct_size");
    let fields = fields.map(|field| if field == "metadata_json" { "metadata".to_owned() } else { field });
    let columns = expected.iter().map(|(column, _)| (*column).to_owned());
    assert_eq!(columns.collect::<BTreeSet<_>>(), fields.collect::<BTreeSet<_>>());

    let database = rusqlite::Connection::open(path).unwrap();
    for (column, expected) in expected {
        let sql = format!("SELECT {column} FROM telemetry");
        let kept: Vec<Value> = database
            .prepare(&sql)
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let wanted = match kept[..] {
            [Value::Real(_)] => Value::Real(expected.parse().unwrap()),
            [Value::Integer(_)] => Value::Integer(expected.parse().unwrap()),
            _ => Value::Text(expected.to_owned()),
        };
        assert_eq!(kept, [wanted], "{column}");
    }
}

/// Locks and unlocks a program's database when it asks for it.
fn with_a_locker(command: &mut Command, database: &Path) {
    let mut program = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut answers = program.stdin.take().unwrap();
    let mut locker = None;
    for wish in BufReader::new(program.stdout.take().unwrap()).lines() {
        match wish.unwrap().as_str() {
            "lock" => {
                let connection = rusqlite::Connection::open(database).unwrap();
                connection.execute_batch("BEGIN IMMEDIATE").unwrap();
                locker = Some(connection);
            }
            "unlock" => locker.take().unwrap().execute_batch("ROLLBACK").unwrap(),
            other => panic!("{other}"),
        }
        writeln!(answers, "done").unwrap();
    }
    let status = program.wait().unwrap();
    assert!(status.success(), "{command:?} ended with {status}; it says why on stderr");
}

#[test]
fn a_locked_database_breaks_no_generation() {
    let folder = scratch();
    let path = folder.path().join("telemetry.db");
    with_a_locker(Command::new(CALL.c()).arg("--locked").arg(&path), &path);
}

/// A database of the library's with rows that another program has put there, one a second from the first.
fn with_foreign_rows(path: &Path, rows: u32) -> rusqlite::Connection {
    drop(Store::open(path.to_str().unwrap(), &StoreOptions::default()).unwrap());
    let database = rusqlite::Connection::open(path).unwrap();
    let sql = "WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < ? - 1)
               INSERT INTO telemetry (timestamp, model_id, engine, agent, prompt_tokens, latency_seconds)
               SELECT 1699999200 + n, 'm', 'e', 'a', 10, 0.5 FROM n";
    assert_eq!(database.execute(sql, [rows]).unwrap(), rows as usize);
    database
}

#[test]
fn making_rollups_can_be_stopped_and_goes_on() {
    let folder = scratch();
    for mode in ["--rollup", "--background"] {
        let path = folder.path().join(mode);
        drop(with_foreign_rows(&path, 25_000));
        succeeds_in_silence(Command::new(UPKEEP.c()).arg(mode).arg(&path));
    }
}

/// What `tj_store_verify` says: its differences, and behind them its status and how many they are.
fn verified(path: &Path) -> Vec<String> {
    let output = outcome(Command::new(UPKEEP.c()).arg("--verify").arg(path));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{}: {said}", output.status);
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// The rollups of the minute, the ten minutes, the hour, the day, the 32 days and of all time that the first row is in.
const ROLLUPS: [&str; 6] = [
    "1699999200 1699999260",
    "1699999200 1699999800",
    "1699999200 1700002800",
    "1699920000 1700006400",
    "1697587200 1700352000",
    "-inf inf",
];

#[test]
fn what_was_tampered_with_is_found() {
    let folder = scratch();
    let path = folder.path().join("telemetry.db");
    let database = with_foreign_rows(&path, 100);
    let store = Store::open(path.to_str().unwrap(), &StoreOptions::default()).unwrap();
    store.fold(|_, _| true).unwrap();
    store.close().unwrap();
    assert_eq!(verified(&path), ["TJ_OK 0"]);

    // Behind the back of the triggers that note every change.
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).unwrap();
    let said = |sql: &str, differs: &str, in_minute: &str| {
        database.execute_batch(sql).unwrap();
        let expected = ROLLUPS.iter().zip([in_minute, differs, differs, differs, differs, differs]);
        let mut expected: Vec<String> =
            expected.map(|(times, differs)| format!("{times} m e a {differs}")).collect();
        expected.push("TJ_OK 6".to_owned());
        assert_eq!(verified(&path), expected, "{sql}");
    };
    let change = "UPDATE telemetry SET prompt_tokens = prompt_tokens + 5 WHERE id = 7";
    said(change, "prompt_tokens 1005 1000", "prompt_tokens 605 600");
    said("DELETE FROM telemetry WHERE id = 7", "calls 99 100", "calls 59 60");

    database.execute_batch("UPDATE tokenjoule_rollup SET cells = x'ff'").unwrap();
    assert_eq!(verified(&path), ["TJ_ERR_CORRUPT 0"]);
}

#[test]
fn a_damaged_database_fails_the_quick_check() {
    let folder = scratch();
    let path = folder.path().join("telemetry.db");
    let database = with_foreign_rows(&path, 100);
    let number = |sql: &str| database.query_row(sql, [], |row| row.get::<_, u32>(0)).unwrap();
    let page = number("SELECT rootpage FROM sqlite_schema WHERE name = 'telemetry_by_batch'");
    let size = number("PRAGMA page_size");
    drop(database); // the last one out: everything is in the file itself
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0xA5; 64], u64::from((page - 1) * size)).unwrap();
    assert_eq!(verified(&path), ["TJ_ERR_CORRUPT 0"]);
}
