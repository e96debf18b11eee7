//! Facts about the shared library as a file: what it exports, what it needs, how it is named, and that loading it into
//! a process changes nothing there.

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{WARNINGS, library, outcome, root, run, scratch};

fn shared_library() -> PathBuf {
    library().join("libtokenjoule.so")
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap()
}

/// The functions that the header declares.
fn declared() -> BTreeSet<String> {
    let header =
        run(Command::new("cc").args(["-E", "-P", "-x", "c"]).arg(root().join("include/tokenjoule.h")));
    let without_bodies = header.split('{').map(|part| part.split_once('}').map_or(part, |(_, after)| after));
    let declarations = without_bodies.collect::<String>();
    let functions =
        declarations.split(';').map(str::trim).filter(|declaration| !declaration.starts_with("typedef"));
    functions
        .filter_map(|function| function.split_once('(')?.0.split([' ', '*']).next_back())
        .map(str::to_owned)
        .collect()
}

/// The names that `nm` lists, with their letters.
fn symbols(file: &Path, flags: &[&str]) -> Vec<(char, String)> {
    let listed = run(Command::new("nm").args(flags).arg(file));
    let symbol = |line: &str| {
        let mut words = line.split_whitespace().rev();
        let name = words.next()?;
        Some((words.next()?.parse().ok()?, name.to_owned()))
    };
    listed.lines().filter_map(symbol).collect()
}

/// The values of `readelf -d` under a tag, without their brackets.
fn dynamic(tag: &str) -> Vec<String> {
    let listed = run(Command::new("readelf").args(["-d", "-W"]).arg(shared_library()));
    let tag = format!("({tag})");
    let value = |line: &str| line.split_once('[').map(|(_, value)| value.trim_end_matches(']').to_owned());
    listed.lines().filter(|line| line.contains(&tag)).filter_map(value).collect()
}

#[test]
fn it_exports_what_the_header_declares_and_nothing_else() {
    let exported: BTreeSet<String> =
        symbols(&shared_library(), &["-D", "--defined-only"]).into_iter().map(|(_, name)| name).collect();
    assert!(exported.iter().all(|name| name.starts_with("tj_")), "{exported:?}");
    assert_eq!(exported, declared());
    assert!(exported.contains("tj_record") && exported.contains("tj_status_name"), "{exported:?}");
}

#[test]
fn its_soname_and_versions_are_those_of_the_header_and_of_cargo() {
    let header = read("include/tokenjoule.h");
    let defined = |name: &str| {
        let definition = format!("#define {name} ");
        header.lines().find_map(|line| line.strip_prefix(&definition)).unwrap_or_else(|| panic!("no {name}"))
    };
    assert_eq!(defined("TJ_VERSION"), format!("{:?}", env!("CARGO_PKG_VERSION")));
    assert_eq!(dynamic("SONAME"), [format!("libtokenjoule.so.{}", defined("TJ_ABI_VERSION"))]);
}

#[test]
fn it_needs_the_c_library_only() {
    let expected = ["ld-linux", "libc.so.", "libgcc_s.so.", "libm.so."];
    for needed in dynamic("NEEDED") {
        assert!(expected.iter().any(|prefix| needed.starts_with(prefix)), "the library needs {needed}");
    }
}

#[test]
fn nothing_of_ours_runs_when_it_is_loaded() {
    let listed = run(Command::new("readelf").args(["-S", "-W"]).arg(shared_library()));
    let section = listed.lines().find(|line| line.contains(" INIT_ARRAY ")).expect("the C runtime has one");
    let size = section.split_whitespace().skip_while(|word| *word != "INIT_ARRAY").nth(3).unwrap_or_default();
    // The C runtime's own entry, and the one in which Rust's standard library notes argc and argv.
    let entries =
        usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("{section}")) / size_of::<usize>();
    assert!(entries > 0, "{section}");
    assert!(entries <= 2, "{entries} constructors: {section}");
}

/// The program checks as well that the library's own version functions say what its header says.
#[test]
fn it_leaves_no_trace_in_the_process() {
    let folder = scratch();
    let program = folder.path().join("guest");
    let mut compiler = Command::new("c++");
    compiler.arg("-std=c++17").args(WARNINGS).arg("-I").arg(root().join("include"));
    run(compiler.arg(root().join("tests/library/guest.cpp")).arg("-o").arg(&program).arg("-ldl"));

    let output = outcome(Command::new(program).arg(shared_library()).arg(folder.path().join("telemetry.db")));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success(), "{}", output.status);
}

#[test]
fn a_panic_can_be_caught() {
    let manifest = read("Cargo.toml");
    assert!(!manifest.contains("panic ="), "panic = \"abort\" would end the host program");
    assert!(manifest.contains("default = [\"bundled\"]"), "SQLite is compiled in unless asked otherwise");
}

#[test]
fn the_readme_says_what_the_static_library_brings_along() {
    let of_sqlite = |(kind, name): &(char, String)| kind.is_ascii_uppercase() && name.starts_with("sqlite3");
    let archive = library().join("libtokenjoule.a");
    let count =
        symbols(&archive, &["-g", "--defined-only"]).iter().filter(|symbol| of_sqlite(symbol)).count();
    assert!(read("README.md").contains("almost 300 `sqlite3*` symbols"));
    assert!((270..300).contains(&count), "README.md says almost 300, nm says {count}");
}
