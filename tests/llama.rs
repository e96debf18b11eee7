//! The llama.cpp example from end to end: llama.cpp and models from their packages, the demo built against this test
//! run's library, and its database read by somebody else.

mod support;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Row};
use support::{library, outcome, root, run, scratch, skip};

/// Where llama.cpp and the models are kept from one run to the next.
fn llama() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("llama")
}

/// Runs setup.sh. Skips the test out loud where it cannot do its work, for want of a network say.
fn set_up(what: &str) -> bool {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(()); // so that only the first one waits for the build
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut setup = Command::new(root().join("bindings/llama.cpp/setup.sh"));
    let output = outcome(setup.arg(llama()).arg(what));
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        skip(&format!("setup.sh {what}: {}", said.lines().last().unwrap_or_default()));
    }
    output.status.success()
}

/// The folder with the demo and the adapter's test, built once in a test run.
fn programs() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let build = llama().join("test");
        let mut configure = Command::new("cmake");
        configure.arg("-S").arg(root().join("bindings/llama.cpp")).arg("-B").arg(&build);
        configure.arg(format!("-DCMAKE_PREFIX_PATH={}", llama().join("prefix").display()));
        configure.arg(format!("-DTOKENJOULE_LIBRARY={}", library().join("libtokenjoule.so").display()));
        run(&mut configure);
        run(Command::new("cmake").arg("--build").arg(&build));
        build
    })
}

/// What the database says of a call of the demo.
struct Call {
    outcome: i64,
    is_warmup: bool,
    prompt: i64,
    cached: i64,
    evaluated: i64,
    output: i64,
    total: i64,
    latency: f64,
    ttft: f64,
    median_itl: f64,
    joules: f64,
    finish_reason: String,
    error_type: String,
}

impl Call {
    fn of(row: &Row<'_>) -> rusqlite::Result<(String, Call)> {
        let call = Call {
            outcome: row.get("outcome")?,
            is_warmup: row.get("is_warmup")?,
            prompt: row.get("prompt_tokens")?,
            cached: row.get("cached_tokens")?,
            evaluated: row.get("prompt_tokens_evaluated")?,
            output: row.get("completion_tokens")?,
            total: row.get("total_tokens")?,
            latency: row.get("latency_seconds")?,
            ttft: row.get("ttft")?,
            median_itl: row.get("median_itl_ms")?,
            joules: row.get("energy_joules")?,
            finish_reason: row.get("finish_reason")?,
            error_type: row.get("error_type")?,
        };
        Ok((row.get("request_id")?, call))
    }
}

/// A processor that draws 50 W, as the kernel shows it: a file that counts microjoules.
struct Processor {
    root: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Processor {
    fn start(root: PathBuf) -> Processor {
        let package = root.join("intel-rapl:0");
        std::fs::create_dir_all(&package).unwrap();
        std::fs::write(package.join("name"), "package-0\n").unwrap();
        std::fs::write(package.join("max_energy_range_uj"), "262143328850\n").unwrap();
        std::fs::write(package.join("energy_uj"), "1000000\n").unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let is_over = stop.clone();
        let thread = std::thread::spawn(move || {
            let begin = Instant::now();
            while !is_over.load(Ordering::Relaxed) {
                // The file is kept open by its reader, so it is overwritten in place; numbers of one length, whole at once.
                let file = std::fs::OpenOptions::new().write(true).open(package.join("energy_uj")).unwrap();
                let microjoules = 1_000_000 + begin.elapsed().as_micros() as u64 * 50;
                file.write_all_at(format!("{microjoules:012}\n").as_bytes(), 0).unwrap();
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Processor { root, stop, thread: Some(thread) }
    }
}

impl Drop for Processor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Runs the demo, which checks itself against llama.cpp's counters, and then looks at what it left in the database.
fn the_demo_is_recorded(model: &str) {
    let folder = scratch();
    let path = folder.path().join("telemetry.db");
    let processor = Processor::start(folder.path().join("powercap"));
    let mut demo = Command::new(programs().join("demo"));
    demo.arg("--model").arg(llama().join("models").join(model)).args(["--name", "the-model", "--check"]);
    demo.arg("--powercap").arg(&processor.root);
    let printed = run(demo.arg("--database").arg(&path));
    drop(processor);
    assert!(
        printed.contains("\nrapl     intel-rapl:0 package-0: read"),
        "where joules come from:\n{printed}"
    );
    assert!(
        printed.contains("\nhwmon ") && printed.contains("\nnvml "),
        "what else there is, or is not:\n{printed}"
    );

    let database = Connection::open(path).unwrap();
    let mut select = database.prepare("SELECT * FROM telemetry ORDER BY id").unwrap();
    let calls: Vec<(String, Call)> = select.query_map([], Call::of).unwrap().map(Result::unwrap).collect();
    let names: Vec<&str> = calls.iter().map(|(name, _)| name.as_str()).collect();
    let expected = ["warm-up", "first turn", "same system", "follow-up", "sampled", "cancelled", "too long"];
    assert_eq!(names, expected, "one row for each call, in their order");

    for (name, call) in &calls {
        let outcome = match name.as_str() {
            "cancelled" => 2,
            "too long" => 1,
            _ => 0,
        };
        assert_eq!(call.outcome, outcome, "{name}");
        assert_eq!(call.is_warmup, name == "warm-up", "{name}");
        assert_eq!(call.total, call.prompt + call.output, "{name}");
        assert!(call.latency > 0.0 && call.prompt > 0, "{name}");
        if name == "too long" {
            assert_eq!((call.output, call.error_type.as_str()), (0, "context_overflow"));
            continue;
        }
        assert_eq!(call.evaluated + call.cached, call.prompt, "{name}");
        // One call at a time has all that the processor draws: 50 W, but for the ends of the counter's steps.
        assert!(call.joules > 0.0 || call.latency < 0.05, "{name}: no joules");
        if call.latency > 0.3 {
            let watts = call.joules / call.latency;
            assert!((25.0..100.0).contains(&watts), "{name}: {watts} W");
        }
        assert!(call.output > 0, "{name}");
        // The latency goes on after the last token, and its gaps are after the first.
        assert!(
            0.0 < call.ttft && call.ttft < call.latency,
            "{name}: TTFT {}, latency {}",
            call.ttft,
            call.latency
        );
        if call.output > 2 {
            let smallest_sum = call.median_itl * 1e-3 * (call.output / 2) as f64;
            assert!(
                call.median_itl > 0.0 && smallest_sum < call.latency - call.ttft,
                "{name}: {}",
                call.median_itl
            );
        }
        if name != "cancelled" {
            assert!(
                ["stop", "length"].contains(&call.finish_reason.as_str()),
                "{name}: {}",
                call.finish_reason
            );
        }
    }
    let cached = |wanted: &str| calls.iter().find(|(name, _)| name == wanted).unwrap().1.cached;
    assert_eq!((cached("warm-up"), cached("too long")), (0, 0));
    for repeats in ["same system", "follow-up", "sampled", "cancelled"] {
        assert!(cached(repeats) > 0, "{repeats} repeats a prompt and has nothing cached");
    }

    let sums =
        "SELECT model_id, engine, count(*), max(energy_vendor), sum(is_streaming), min(timestamp) > 1e9,
                       count(DISTINCT batch_id) FROM telemetry GROUP BY model_id, engine";
    let sums: (String, String, i64, String, i64, bool, i64) =
        database.query_row(sums, [], |row| row.try_into()).expect("one model on one engine");
    assert_eq!(sums, ("the-model".to_owned(), "llama.cpp".to_owned(), 7, "cpu_rapl".to_owned(), 6, true, 1));
    for table in ["CALLS", "MODELS", "ENGINES"] {
        assert!(printed.contains(&format!("\n{table}: ")), "no table {table}:\n{printed}");
    }
}

#[test]
fn the_demo_on_a_tiny_model_is_recorded() {
    if set_up("--tiny") {
        the_demo_is_recorded("tiny.gguf");
    }
}

#[test]
fn the_demo_on_a_real_model_is_recorded() {
    if set_up("--model") {
        the_demo_is_recorded("SmolLM2-135M-Instruct.Q4_1.gguf");
    }
}

#[test]
fn the_adapter_does_what_its_page_says() {
    if set_up("--tiny") {
        run(Command::new(programs().join("adapter_test")).arg(llama().join("models/tiny.gguf")));
    }
}
