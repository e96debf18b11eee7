//! The C contract, by topic: the programs in `tests/c` hold the library to what `include/tokenjoule.h` promises, as C11,
//! as C++17, and under valgrind. A failed check is named on stderr by its file, line and promise.

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use rusqlite::types::Value;
use support::{compile, have, library, outcome, root, run, scratch};

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
    AGGREGATE = "aggregate", BUS = "bus", CALL = "call", CONVENTIONS = "conventions", EVENT = "event", FORK = "fork",
    GENERATE = "generate", OUTPUTS = "outputs", QUEUE = "queue", RECORD = "record", STRUCTS = "structs"
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
    aggregate: AGGREGATE, bus: BUS, call: CALL, conventions: CONVENTIONS, event: EVENT, fork: FORK, generate: GENERATE,
    outputs: OUTPUTS, queue: QUEUE, record: RECORD, structs: STRUCTS
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
    aggregate: AGGREGATE, bus: BUS, call: CALL, conventions: CONVENTIONS, event: EVENT, generate: GENERATE,
    outputs: OUTPUTS, queue: QUEUE, record: RECORD, structs: STRUCTS
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
        let is_sized = fields[0].1 == "struct_size" && name != "tj_event"; // events are the library's
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
