//! `make bench` measures every bar. Its driver runs here with small numbers and without the peers, which are downloaded:
//! what it finds means nothing, and nothing is said about it but that it is there.

mod support;

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::{have, library, root, run, scratch};

/// A row for each bar, in the order of the table.
const ROWS: [&str; 26] = [
    "clock",
    "record.hot.median",
    "record.hot.p99",
    "record.hot.p999",
    "record.cold.median",
    "record.threads.median",
    "record.threads.fairness",
    "sustained",
    "aggregate.everything.100k",
    "aggregate.7 days.100k",
    "aggregate.1 hour.100k",
    "aggregate.everything.1M",
    "aggregate.7 days.1M",
    "aggregate.1 hour.1M",
    "aggregate.everything.5M",
    "aggregate.7 days.5M",
    "aggregate.1 hour.5M",
    "aggregate.everything.growth",
    "aggregate.7 days.growth",
    "aggregate.1 hour.growth",
    "token",
    "call",
    "call.unheard",
    "energy",
    "memory",
    "library",
];

/// Runs the driver; gives what it printed and what it wrote.
fn bench(work: &Path) -> (String, Value) {
    let mut driver = Command::new("python3");
    driver.arg(root().join("benches/run.py")).args(["--quick", "--no-peers"]).env_remove("BENCH_5M");
    driver.arg("--library").arg(library()).arg("--work").arg(work);
    let printed = run(&mut driver);
    let written = std::fs::read_to_string(work.join("bench.json")).unwrap();
    (printed, serde_json::from_str(&written).unwrap())
}

#[test]
fn it_has_a_figure_for_every_bar() {
    if !have("python3", &["--version"]) {
        return;
    }
    let work = scratch();
    let (printed, written) = bench(work.path());

    let rows = written["rows"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["id"].as_str().unwrap()).collect::<Vec<_>>(), ROWS);
    for row in rows {
        assert!(row["value"].as_f64().is_some_and(|value| value > 0.0), "{row}");
        assert!(printed.contains(row["what"].as_str().unwrap()), "{row}\n{printed}");
        for peer in row["peers"].as_array().unwrap() {
            assert_eq!(peer["value"], Value::Null, "{peer}");
            assert_eq!(peer["note"], "left out (--no-peers)", "{peer}");
        }
    }
    for figure in ["cores", "clock_ns"] {
        assert!(written["machine"][figure].as_f64().is_some_and(|value| value > 0.0), "{figure}");
    }
    assert_eq!((&written["quick"], &written["peers"]), (&true.into(), &false.into()));
    assert!(printed.contains("\nQUICK") && printed.contains("\nthe peers were left out"), "{printed}");
}
