//! What the tests share: where things are, how C is compiled and run, and how a test is skipped out loud.

#![allow(dead_code)] // each test file uses its part

pub mod random;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder that goes away with the value.
pub fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("tj-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// The folder with libtokenjoule.so, its soname link and libtokenjoule.a, as cargo built them for this test run.
pub fn library() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let deps = std::env::current_exe().unwrap().parent().unwrap().to_owned();
        let folder = deps.join("tokenjoule-lib");
        std::fs::create_dir_all(&folder).unwrap();
        for (name, target) in [
            ("libtokenjoule.so", "libtokenjoule.so"),
            ("libtokenjoule.so.1", "libtokenjoule.so"),
            ("libtokenjoule.a", "libtokenjoule.a"),
        ] {
            // Test processes race for the same links; whoever is first made the right one.
            let _ = std::os::unix::fs::symlink(Path::new("..").join(target), folder.join(name));
            assert!(folder.join(name).exists(), "cargo built no {target} in {}", deps.display());
        }
        folder
    })
}

/// The flags that every C and C++ program of ours compiles with.
pub const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-pedantic", "-Werror"];

/// Compiles a C (`.c`) or C++ (`.cpp`) program against the header and the shared library.
pub fn compile(source: &Path, into: &Path, flags: &[&str]) -> PathBuf {
    let is_c = source.extension().is_some_and(|extension| extension == "c");
    let program = into.join(source.file_stem().unwrap());
    let mut compiler = Command::new(if is_c { "cc" } else { "c++" });
    compiler.arg(if is_c { "-std=c11" } else { "-std=c++17" }).args(WARNINGS).args(["-g", "-O1", "-pthread"]);
    compiler.args(flags).arg("-I").arg(root().join("include")).arg("-I").arg(root().join("tests/c"));
    compiler.arg(source).arg("-o").arg(&program);
    compiler.arg("-L").arg(library()).arg("-ltokenjoule").arg(rpath()).arg("-lm");
    run(&mut compiler);
    program
}

/// The linker's argument by which a program finds the shared library of this test run. Old-style, because that comes before
/// LD_LIBRARY_PATH, where cargo puts folders in which an older library may lie.
pub fn rpath() -> String {
    format!("-Wl,--disable-new-dtags,-rpath,{}", library().display())
}

/// Runs a command to success and gives what it printed.
pub fn run(command: &mut Command) -> String {
    let output = outcome(command);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}\nended with {}\n--- stdout\n{stdout}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}

/// Runs a command to whatever end. It does not see cargo's LD_LIBRARY_PATH: see [`rpath`].
pub fn outcome(command: &mut Command) -> Output {
    if !command.get_envs().any(|(name, _)| name == "LD_LIBRARY_PATH") {
        command.env_remove("LD_LIBRARY_PATH");
    }
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Whether `tool` can be run with `arguments`. If it cannot, the test that asks is skipped out loud, and is a failure
/// where `CI=true`.
pub fn have(tool: &str, arguments: &[&str]) -> bool {
    let works = Command::new(tool).args(arguments).output().is_ok_and(|output| output.status.success());
    if !works {
        skip(&format!("{tool} {} does not run here", arguments.join(" ")));
    }
    works
}

/// Whether `folder` is now a disk of its own of that size, in memory. No skip where it is not, as in most containers:
/// whoever asks has another test of the same thing that needs no such power.
pub fn mount(folder: &Path, size: &str) -> bool {
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(folder);
    let is_mounted = mount.output().is_ok_and(|output| output.status.success());
    if !is_mounted {
        println!("no disk can be mounted here");
    }
    is_mounted
}

/// Says that the running test is skipped, and why, past the test harness's capture. `make test` counts these lines.
pub fn skip(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} must not be skipped in CI: {why}");
    let line = format!("SKIPPED {test}: {why}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Ok(mut list) = std::fs::OpenOptions::new().create(true).append(true).open(skipped()) {
        let _ = list.write_all(line.as_bytes());
    }
}

/// Where the skipped tests of a run are listed.
fn skipped() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("skipped.txt")
}
