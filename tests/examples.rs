//! The programs in `examples/` compile without a warning, run clean under valgrind, and record what they say.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::{Connection, Row};
use support::{compile, have, root, run, scratch};

fn example(name: &str, into: &Path) -> PathBuf {
    compile(&root().join("examples").join(name), into, &[])
}

/// Runs an example with a database in `folder`, and gives what it printed and that database.
fn run_with_database(name: &str, folder: &Path) -> (String, Connection) {
    let database = folder.join("telemetry.db");
    let printed = run(Command::new(example(name, folder)).arg(&database));
    (printed, Connection::open(database).unwrap())
}

fn rows<T>(database: &Connection, sql: &str, read: impl Fn(&Row<'_>) -> rusqlite::Result<T>) -> Vec<T> {
    let mut select = database.prepare(sql).unwrap();
    select.query_map([], |row| read(row)).unwrap().collect::<Result<_, _>>().unwrap()
}

/// No error, and no block that nobody points to any more.
fn runs_clean_under_valgrind(name: &str) {
    if !have("valgrind", &["--version"]) {
        return;
    }
    let folder = scratch();
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--quiet", "--error-exitcode=9", "--leak-check=full"]);
    valgrind.args(["--show-leak-kinds=definite,indirect", "--errors-for-leak-kinds=definite,indirect"]);
    run(valgrind.arg(example(name, folder.path())).arg(folder.path().join("telemetry.db")));
}

#[test]
fn the_quickstart_fits_on_a_page() {
    let lines = std::fs::read_to_string(root().join("examples/quickstart.c")).unwrap().lines().count();
    assert!(lines <= 80, "examples/quickstart.c has {lines} lines; the header promises 80");
}

#[test]
fn the_quickstart_records_three_calls() {
    let folder = scratch();
    let (printed, database) = run_with_database("quickstart.c", folder.path());

    let calls = rows(
        &database,
        "SELECT model_id, prompt_tokens, completion_tokens, finish_reason FROM telemetry ORDER BY id",
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
    );
    let call = |model: &str, output, reason: &str| (model.to_owned(), 5, output, reason.to_owned());
    assert_eq!(calls, [call("small", 8, "stop"), call("small", 4, "length"), call("large", 8, "stop")]);

    let well_timed = "SELECT count(*) FROM telemetry WHERE engine = 'quickstart' AND outcome = 0
                      AND ttft >= 0.002 AND ttft + (completion_tokens - 1) * 0.002 <= latency_seconds
                      AND median_itl_ms >= 2 AND is_streaming = 1";
    assert_eq!(rows::<i64>(&database, well_timed, |row| row.get(0)), [3]);

    let (answers, table) = printed.split_once("\n\n").expect("the answers, and then the table");
    let answer = "A joule is one watt for one second.";
    assert_eq!(answers, format!("small: {answer}\nsmall: A joule is one \nlarge: {answer}"));
    let cells: Vec<Vec<&str>> = table.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        cells.iter().map(|row| &row[..4]).collect::<Vec<_>>(),
        [["small", "2", "10", "12"], ["large", "1", "5", "8"]]
    );
    assert!(cells.iter().flatten().skip(1).all(|cell| cell.parse() != Ok(0.0)), "{table}");
}

#[test]
fn the_slots_end_in_every_way_that_a_call_can_end() {
    let folder = scratch();
    let (printed, database) = run_with_database("begin_end.c", folder.path());

    let calls = rows(
        &database,
        "SELECT request_id, outcome, prompt_tokens, cached_tokens, completion_tokens, draft_tokens,
                draft_accepted_tokens FROM telemetry ORDER BY timestamp, id",
        |row| {
            let id: String = row.get(0)?;
            let number = |at| row.get::<_, i64>(at);
            Ok((id, [number(1)?, number(2)?, number(3)?, number(4)?, number(5)?, number(6)?]))
        },
    );
    let recorded =
        |id: &str| calls.iter().find(|(of, _)| of == id).unwrap_or_else(|| panic!("{id}: {calls:?}")).1;
    //                                       outcome, prompt, cached, output, proposed, accepted
    assert_eq!(recorded("chat-1"), [0, 812, 0, 16, 21, 9]);
    assert_eq!(recorded("chat-2"), [0, 640, 512, 9, 12, 5]);
    assert_eq!(recorded("hung-up"), [2, 300, 0, 10, 12, 6]);
    assert_eq!(recorded("chat-3"), [0, 96, 0, 16, 21, 9]);
    assert_eq!(recorded("too-long"), [1, 5000, 0, 0, 0, 0]);
    assert_eq!(recorded("left-over"), [3, 64, 0, 20, 24, 12]);
    assert_eq!(calls.len(), 6);

    // Who waits for a slot waits within the time to the first token.
    let waited =
        "SELECT request_id FROM telemetry WHERE queue_seconds > 0.002 AND ttft > queue_seconds ORDER BY id";
    assert_eq!(rows::<String>(&database, waited, |row| row.get(0)), ["chat-3"]);
    let reasons = "SELECT finish_reason || error_type FROM telemetry ORDER BY finish_reason || error_type";
    assert_eq!(
        rows::<String>(&database, reasons, |row| row.get(0)),
        [
            "", // left over: nobody said
            "cancelled",
            "context_overflow",
            "stop",
            "stop",
            "stop"
        ]
    );
    assert!(printed.contains("6 calls: 1 failed, 1 cancelled, 1 abandoned; 6983 tokens\n"), "{printed}");
}

#[test]
fn joules_and_dollars_are_in_the_records_and_add_up() {
    let folder = scratch();
    let (printed, database) = run_with_database("energy.c", folder.path());
    let calls = "SELECT latency_seconds, energy_joules, prefill_energy_joules, decode_energy_joules, cost_usd, metadata
                 FROM telemetry ORDER BY timestamp";
    let calls = rows(&database, calls, |row| {
        let figure = |at| row.get::<_, f64>(at);
        Ok(([figure(0)?, figure(1)?, figure(2)?, figure(3)?, figure(4)?], row.get::<_, String>(5)?))
    });
    assert_eq!(calls.len(), 2);
    let mut sum = 0.0;
    for ([latency, joules, prefill, decode, cost], metadata) in &calls {
        assert!((joules / latency - 40.0).abs() < 4.0, "{joules} J in {latency} s are not 40 W");
        assert!((prefill + decode - joules).abs() < 1e-9 * joules, "{prefill} + {decode} = {joules}");
        assert!((cost - joules / 3.6e6 * 0.30).abs() < 1e-15, "{cost}");
        let metadata: serde_json::Value = serde_json::from_str(metadata).unwrap();
        assert_eq!(metadata["tokenjoule.cost_rule"], "local");
        assert!(
            metadata["tokenjoule.energy_tier"] == "measured" && metadata["tokenjoule.co2e_grams"].is_number()
        );
        sum += joules;
    }
    let total = printed.lines().last().unwrap();
    let figures: Vec<f64> = total.split([' ', ':']).filter_map(|word| word.parse().ok()).collect();
    let [moved, of_calls, of_nobody] = figures[..] else { panic!("{total}") };
    assert!((moved - of_calls - of_nobody).abs() < 0.002 && (of_calls - sum).abs() < 0.002, "{total}, {sum}");
}

#[test]
fn subscribers_hear_of_everything_and_are_gone_afterwards() {
    let folder = scratch();
    let printed = run(&mut Command::new(example("subscriber.cpp", folder.path())));
    assert_eq!(
        printed,
        "model_loaded {\"model\": \"small\", \"seconds\": 0.8}\n\
         the first call is of the model small\n\
         2 hold the totals: run() and the subscriber\n\
         1 holds the totals: its subscription has ended, and the lambda is gone\n\
         large: 20 tokens\n\
         small: 40 tokens\n\
         polled 6 of inference_end\n\
         polled 6 of inference_start\n\
         polled 1 of model_loaded\n\
         polled 6 of telemetry_record\n\
         lost 0\n"
    );
}

#[test]
fn the_quickstart_is_clean_under_valgrind() {
    runs_clean_under_valgrind("quickstart.c");
}

#[test]
fn the_slots_are_clean_under_valgrind() {
    runs_clean_under_valgrind("begin_end.c");
}

#[test]
fn the_energy_is_clean_under_valgrind() {
    runs_clean_under_valgrind("energy.c");
}

#[test]
fn the_subscribers_are_clean_under_valgrind() {
    runs_clean_under_valgrind("subscriber.cpp");
}
