//! `make install`, and programs built against what it installed: through pkg-config and CMake, shared and static.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use support::{WARNINGS, have, library, outcome, root, run, scratch, skip};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `make` as a user calls it, whatever this test run was started by.
fn make(arguments: &[String]) -> Command {
    let mut make = Command::new("make");
    make.current_dir(root()).args(arguments).arg("--no-print-directory");
    for variable in
        ["MAKEFLAGS", "MAKELEVEL", "PREFIX", "LIBDIR", "INCLUDEDIR", "DESTDIR", "SQLITE", "BUILT", "STRIP"]
    {
        make.env_remove(variable);
    }
    make
}

/// Installs this test run's libraries.
fn install(variables: &[(&str, &Path)]) {
    let mut arguments = vec!["install".to_owned(), format!("BUILT={}", library().display())];
    arguments.extend(variables.iter().map(|(name, value)| format!("{name}={}", value.display())));
    run(&mut make(&arguments));
}

fn installed() -> tempfile::TempDir {
    let prefix = scratch();
    install(&[("PREFIX", prefix.path())]);
    prefix
}

/// Every file below a folder, by its path in it, sorted.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => open.push(entry.path()),
                false => found.push(entry.path().strip_prefix(folder).unwrap().display().to_string()),
            }
        }
    }
    found.sort();
    found
}

fn everything() -> Vec<String> {
    let headers = fs::read_dir(root().join("include")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut expected: Vec<String> = headers.map(|name| format!("include/{}", name.display())).collect();
    expected.extend(
        [
            "lib/cmake/tokenjoule/tokenjoule-config-version.cmake",
            "lib/cmake/tokenjoule/tokenjoule-config.cmake",
            "lib/libtokenjoule.a",
            "lib/libtokenjoule.so",
            "lib/libtokenjoule.so.1",
            "lib/pkgconfig/tokenjoule-static.pc",
            "lib/pkgconfig/tokenjoule.pc",
        ]
        .map(str::to_owned),
    );
    expected.push(format!("lib/libtokenjoule.so.{VERSION}"));
    expected.sort();
    expected
}

fn pkg_config(prefix: &Path, arguments: &[&str]) -> Vec<String> {
    let mut pkg_config = Command::new("pkg-config");
    pkg_config.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig")).args(arguments);
    run(&mut pkg_config).split_whitespace().map(str::to_owned).collect()
}

/// Compiles an example with the flags that pkg-config gives for `package`.
fn build_with_pkg_config(example: &str, package: &str, prefix: &Path, into: &Path) -> PathBuf {
    let program = into.join(example.replace('.', "-")).with_extension(package);
    let (compiler, standard) =
        if example.ends_with(".c") { ("cc", "-std=c11") } else { ("c++", "-std=c++17") };
    let mut compile = Command::new(compiler);
    compile.arg(standard).args(WARNINGS).arg("-pthread").arg(root().join("examples").join(example));
    compile.args(pkg_config(prefix, &["--cflags", "--libs", package])).arg("-o").arg(&program);
    run(&mut compile);
    program
}

/// Runs a program that finds shared libraries in `lib` only because it is told to.
fn run_in(lib: &Path, program: &Path) -> String {
    run(Command::new(program).env("LD_LIBRARY_PATH", lib))
}

/// The shared libraries that a program asks for.
fn needed(program: &Path) -> Vec<String> {
    let listed = run(Command::new("readelf").args(["-d", "-W"]).arg(program));
    let names = listed.lines().filter(|line| line.contains("(NEEDED)"));
    names.filter_map(|line| Some(line.split_once('[')?.1.trim_end_matches(']').to_owned())).collect()
}

fn shows_the_quickstart(printed: &str) -> bool {
    printed.contains("large: A joule is one watt for one second.\n")
        && printed.contains("\nsmall      2      10")
}

#[test]
fn it_lays_out_a_library_as_the_system_expects_one() {
    let prefix = installed();
    let at = |file: &str| prefix.path().join(file);
    assert_eq!(files(prefix.path()), everything());

    let link = |file: &str| fs::read_link(at(file)).unwrap().display().to_string();
    assert_eq!(link("lib/libtokenjoule.so"), "libtokenjoule.so.1");
    assert_eq!(link("lib/libtokenjoule.so.1"), format!("libtokenjoule.so.{VERSION}"));
    let dynamic = run(Command::new("readelf").args(["-d", "-W"]).arg(at("lib/libtokenjoule.so")));
    assert!(dynamic.contains("Library soname: [libtokenjoule.so.1]"), "{dynamic}");
    let sections = run(Command::new("readelf").args(["-S", "-W"]).arg(at("lib/libtokenjoule.so")));
    assert!(!sections.contains(".debug_") && !sections.contains(".symtab"), "it is not stripped");

    let mode = |file: &str| fs::metadata(at(file)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("lib/libtokenjoule.so"), mode("lib/libtokenjoule.a")), (0o755, 0o644));
    let header = "include/tokenjoule.h";
    assert_eq!(fs::read(at(header)).unwrap(), fs::read(root().join(header)).unwrap());

    // Once more over itself, and then away with it.
    install(&[("PREFIX", prefix.path())]);
    assert_eq!(files(prefix.path()), everything());
    run(&mut make(&["uninstall".to_owned(), format!("PREFIX={}", prefix.path().display())]));
    assert_eq!(files(prefix.path()), [""; 0]);
}

#[test]
fn a_relative_prefix_is_refused() {
    let arguments = ["install", "PREFIX=somewhere", "BUILT=nowhere"].map(str::to_owned);
    let output = outcome(&mut make(&arguments));
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("PREFIX must be an absolute path"));
}

#[test]
fn c_and_cpp_programs_are_built_through_pkg_config() {
    if !have("pkg-config", &["--version"]) {
        return;
    }
    let prefix = installed();
    let lib = prefix.path().join("lib");
    let c = build_with_pkg_config("quickstart.c", "tokenjoule", prefix.path(), prefix.path());
    assert!(needed(&c).contains(&"libtokenjoule.so.1".to_owned()), "{:?}", needed(&c));
    assert!(shows_the_quickstart(&run_in(&lib, &c)));
    let cpp = build_with_pkg_config("subscriber.cpp", "tokenjoule", prefix.path(), prefix.path());
    assert!(run_in(&lib, &cpp).ends_with("lost 0\n"));

    assert_eq!(pkg_config(prefix.path(), &["--modversion", "tokenjoule"]), [VERSION]);
    let variable = |name| pkg_config(prefix.path(), &["--variable", name, "tokenjoule"]).concat();
    assert_eq!(variable("libdir"), lib.display().to_string());
    assert_eq!(variable("includedir"), prefix.path().join("include").display().to_string());
}

#[test]
fn programs_are_linked_statically_through_pkg_config() {
    if !have("pkg-config", &["--version"]) {
        return;
    }
    let prefix = installed();
    for (example, says) in [("quickstart.c", "small: A joule is one"), ("subscriber.cpp", "lost 0")] {
        let program = build_with_pkg_config(example, "tokenjoule-static", prefix.path(), prefix.path());
        assert!(needed(&program).iter().all(|name| !name.contains("tokenjoule")), "{:?}", needed(&program));
        assert!(run(&mut Command::new(program)).contains(says));
    }
}

#[test]
fn the_static_library_needs_what_rustc_says() {
    let folder = scratch();
    let source = folder.path().join("empty.rs");
    fs::write(&source, "").unwrap();
    let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or("rustc".into()));
    rustc.args(["--crate-type", "staticlib", "--print", "native-static-libs"]).arg(source);
    let output = outcome(rustc.current_dir(folder.path()));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let libraries =
        said.lines().find_map(|line| line.strip_prefix("note: native-static-libs: ")).expect(&said);
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    assert!(
        makefile.contains(&format!("STATIC_LIBS := {libraries}\n")),
        "Makefile: STATIC_LIBS is not {libraries}"
    );
}

/// A CMake project of programs made of examples. It names nothing but the package.
fn cmake_project(folder: &Path) {
    let examples = root().join("examples");
    let project = format!(
        "cmake_minimum_required(VERSION 3.14)\n\
         project(consumer LANGUAGES C CXX)\n\
         set(CMAKE_C_STANDARD 11)\nset(CMAKE_CXX_STANDARD 17)\n\
         find_package(Threads REQUIRED)\n\
         find_package(tokenjoule 0.1 REQUIRED)\n\
         add_executable(c {examples}/quickstart.c)\n\
         target_link_libraries(c PRIVATE tokenjoule::tokenjoule)\n\
         add_executable(cpp {examples}/subscriber.cpp)\n\
         target_link_libraries(cpp PRIVATE tokenjoule::tokenjoule Threads::Threads)\n\
         add_executable(static_c {examples}/quickstart.c)\n\
         target_link_libraries(static_c PRIVATE tokenjoule::static)\n",
        examples = examples.display()
    );
    fs::write(folder.join("CMakeLists.txt"), project).unwrap();
}

fn build_with_cmake(folder: &Path, prefix: &Path) -> PathBuf {
    let build = folder.join("build");
    let mut configure = Command::new("cmake");
    configure.arg("-S").arg(folder).arg("-B").arg(&build);
    run(configure.arg(format!("-DCMAKE_PREFIX_PATH={}", prefix.display())));
    run(Command::new("cmake").arg("--build").arg(&build));
    build
}

#[test]
fn programs_are_built_through_cmake() {
    if !have("cmake", &["--version"]) {
        return;
    }
    let prefix = installed();
    let folder = scratch();
    cmake_project(folder.path());
    let build = build_with_cmake(folder.path(), prefix.path());

    assert!(needed(&build.join("c")).contains(&"libtokenjoule.so.1".to_owned()));
    assert!(needed(&build.join("static_c")).iter().all(|name| !name.contains("tokenjoule")));
    for program in ["c", "static_c"] {
        assert!(shows_the_quickstart(&run(&mut Command::new(build.join(program)))), "{program}");
    }
    assert!(run(&mut Command::new(build.join("cpp"))).ends_with("lost 0\n"));
}

#[test]
fn a_version_of_the_future_is_not_found() {
    if !have("cmake", &["--version"]) {
        return;
    }
    let prefix = installed();
    let folder = scratch();
    for (wanted, is_found) in [("0.0.1", true), (VERSION, true), ("0.99", false), ("1.0", false)] {
        let project = format!(
            "cmake_minimum_required(VERSION 3.14)\nproject(p LANGUAGES C)\n\
             find_package(tokenjoule {wanted} QUIET)\nmessage(STATUS \"found: ${{tokenjoule_FOUND}}\")\n"
        );
        fs::write(folder.path().join("CMakeLists.txt"), project).unwrap();
        let mut configure = Command::new("cmake");
        configure.arg("-S").arg(folder.path()).arg("-B").arg(folder.path().join("build"));
        let said = run(configure.arg(format!("-DCMAKE_PREFIX_PATH={}", prefix.path().display())));
        assert_eq!(said.contains("found: 1"), is_found, "{wanted}: {said}");
    }
}

#[test]
fn a_package_can_be_staged_elsewhere_and_moved() {
    let stage = scratch();
    let lib = Path::new("/usr/lib/somewhere");
    install(&[("DESTDIR", stage.path()), ("PREFIX", Path::new("/usr")), ("LIBDIR", lib)]);
    let expected: Vec<String> =
        everything().iter().map(|file| format!("usr/{}", file.replace("lib/", "lib/somewhere/"))).collect();
    assert_eq!(
        files(stage.path()),
        expected.iter().map(|file| file.replace("somewhere/somewhere/", "somewhere/")).collect::<Vec<_>>()
    );

    for file in files(stage.path()).iter().filter(|file| file.ends_with(".pc") || file.ends_with(".cmake")) {
        let text = fs::read_to_string(stage.path().join(file)).unwrap();
        assert!(!text.contains(&*stage.path().to_string_lossy()), "{file} remembers where it was staged");
        assert!(!text.contains('@'), "{file} has a place that was not filled in:\n{text}");
    }
    let pc = fs::read_to_string(stage.path().join("usr/lib/somewhere/pkgconfig/tokenjoule.pc")).unwrap();
    assert!(
        pc.starts_with("prefix=/usr\nlibdir=${prefix}/lib/somewhere\nincludedir=${prefix}/include\n"),
        "{pc}"
    );

    // The CMake package works from wherever it lies.
    if have("cmake", &["--version"]) {
        let folder = scratch();
        cmake_project(folder.path());
        let there = stage.path().join("usr/lib/somewhere/cmake/tokenjoule");
        let build = folder.path().join("build");
        let mut configure = Command::new("cmake");
        configure.arg("-S").arg(folder.path()).arg("-B").arg(&build);
        run(configure.arg(format!("-Dtokenjoule_DIR={}", there.display())));
        run(Command::new("cmake").arg("--build").arg(&build).args(["--target", "c"]));
        assert!(shows_the_quickstart(&run(&mut Command::new(build.join("c")))));
    }
}

/// With the system's SQLite the static library brings no second one into the program.
#[test]
fn a_build_on_the_systems_sqlite_leaves_the_hosts_alone() {
    if !have("pkg-config", &["--exists", "sqlite3"]) {
        return;
    }
    // In a folder of its own: the other features would have everything built anew each time.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("system-sqlite");
    let mut build = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    build.current_dir(root()).args([
        "rustc",
        "--lib",
        "--crate-type",
        "cdylib,staticlib",
        "--no-default-features",
    ]);
    run(build.arg("--target-dir").arg(&target));

    let prefix = scratch();
    let built = target.join("debug");
    let variables = [format!("PREFIX={}", prefix.path().display()), format!("BUILT={}", built.display())];
    run(&mut make(&[&["install".to_owned(), "SQLITE=system".to_owned()], &variables[..]].concat()));

    let archive = prefix.path().join("lib/libtokenjoule.a");
    let symbols = run(Command::new("nm").args(["-g", "--defined-only"]).arg(archive));
    assert!(!symbols.contains(" sqlite3_"), "it exports SQLite's functions");
    assert!(needed(&prefix.path().join("lib/libtokenjoule.so")).contains(&"libsqlite3.so.0".to_owned()));

    let shared = build_with_pkg_config("quickstart.c", "tokenjoule", prefix.path(), prefix.path());
    assert!(shows_the_quickstart(&run_in(&prefix.path().join("lib"), &shared)));
    let linked = build_with_pkg_config("quickstart.c", "tokenjoule-static", prefix.path(), prefix.path());
    assert!(needed(&linked).contains(&"libsqlite3.so.0".to_owned()), "{:?}", needed(&linked));
    assert!(shows_the_quickstart(&run(&mut Command::new(linked))));

    if Command::new("cmake").arg("--version").output().is_err() {
        return skip("cmake does not run here");
    }
    let folder = scratch();
    cmake_project(folder.path());
    let programs = build_with_cmake(folder.path(), prefix.path());
    assert!(shows_the_quickstart(&run(&mut Command::new(programs.join("static_c")))));
}
