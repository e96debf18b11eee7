//! The Python reference as a process: its package in a virtual environment, driven by reference.py.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::support::{root, skip};

/// What pip installs. The reference asks for far more; its store and its aggregator import nothing of that but httpx.
const PACKAGES: [&[&str]; 2] = [&["--no-deps", "openjarvis==1.0.4"], &["httpx==0.28.1"]];

/// The environment's Python, or why there is none. It is made once and kept from one run to the next.
fn python() -> &'static Result<PathBuf, String> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("reference");
        set_up(&folder).map(|()| folder.join("venv/bin/python"))
    })
}

fn set_up(folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).unwrap();
    // Two test runs at once would take each other's half-finished work for rubbish: the second waits.
    let lock = File::create(folder.join(".lock")).unwrap();
    lock.lock().unwrap();
    let (venv, stamp) = (folder.join("venv"), folder.join("stamp"));
    // Written last and read first: it says that all was finished, and with what, and where (a venv cannot be moved).
    let finished = format!("{PACKAGES:?} in {}", venv.display());
    if fs::read_to_string(&stamp).is_ok_and(|stamp| stamp == finished) && venv.join("bin/python").exists() {
        return Ok(());
    }
    let _ = fs::remove_dir_all(&venv);
    step(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    for packages in PACKAGES {
        let mut pip = Command::new(venv.join("bin/python"));
        step(pip.args(["-m", "pip", "install", "--disable-pip-version-check"]).args(packages))?;
    }
    fs::write(folder.join("stamp.new"), finished).unwrap();
    fs::rename(folder.join("stamp.new"), stamp).unwrap();
    Ok(())
}

/// Runs a command; its last words if it fails.
fn step(command: &mut Command) -> Result<(), String> {
    let output =
        command.env_remove("LD_LIBRARY_PATH").output().map_err(|error| format!("{command:?}: {error}"))?;
    let said =
        String::from_utf8_lossy(if output.stderr.is_empty() { &output.stdout } else { &output.stderr });
    if output.status.success() { Ok(()) } else { Err(said.lines().last().unwrap_or_default().to_owned()) }
}

/// The reference, at one database. It ends with the value.
pub struct Reference {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Reference {
    /// Starts it. `None`, and the test is skipped out loud, where its package cannot be had, for want of a network say.
    pub fn at(database: &Path) -> Option<Reference> {
        let python = match python() {
            Ok(python) => python,
            Err(why) => {
                skip(&format!("the Python reference cannot be set up: {why}"));
                return None;
            }
        };
        let mut command = Command::new(python);
        command.arg(root().join("tests/reference/reference.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env_remove("LD_LIBRARY_PATH"); // cargo's, see support::rpath
        let mut child = command.spawn().unwrap();
        let (commands, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut reference = Reference { child, commands, answers: BufReader::new(answers) };
        reference.go_to(database);
        Some(reference)
    }

    /// From now on it is about another database.
    pub fn go_to(&mut self, database: &Path) {
        self.run("at", json!({ "path": database }));
    }

    /// Opens its store.
    pub fn open(&mut self, options: Value) {
        self.run("open", options);
    }

    /// Records into its store, and flushes.
    pub fn record(&mut self, calls: &[Value]) {
        self.run("record", json!({ "calls": calls }));
    }

    /// Asks its aggregator.
    pub fn ask(&mut self, method: &str, mut arguments: Value) -> Value {
        arguments["method"] = method.into();
        self.run("ask", arguments)
    }

    /// Changes the database by SQL that is nobody's in particular.
    pub fn sql(&mut self, script: &str) {
        self.run("sql", json!({ "script": script }));
    }

    /// The rows that a SELECT gives.
    pub fn rows(&mut self, select: &str) -> Value {
        self.run("rows", json!({ "select": select }))
    }

    /// Runs a method of reference.py.
    pub fn run(&mut self, method: &str, arguments: Value) -> Value {
        self.begin(method, arguments);
        self.end()
    }

    /// Lets it begin on a method; [`end`](Reference::end) waits for the answer.
    pub fn begin(&mut self, method: &str, arguments: Value) {
        writeln!(self.commands, "{}", json!({ "do": method, "with": arguments })).unwrap();
    }

    pub fn end(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the reference died; it says why on stderr");
        let mut reply: Value = serde_json::from_str(&line).unwrap();
        if let Some(error) = reply.get("error") {
            panic!("the reference failed: {}", error.as_str().unwrap());
        }
        reply["answer"].take()
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
