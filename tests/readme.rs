//! What README.md shows works as it is written there.
//!
//! The shell snippets run one after the other, as a reader types them, in a copy of the repository and with a home of
//! their own. One that must not run here says so in its first line. Snippets in C are pieces of an example.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::{have, library, root, run, scratch};

struct Snippet {
    language: String,
    line: usize,
    text: String,
}

/// The fenced blocks of a page.
fn snippets(page: &str) -> Vec<Snippet> {
    let mut found: Vec<Snippet> = Vec::new();
    let mut is_inside = false;
    for (at, line) in page.lines().enumerate() {
        match line.strip_prefix("```") {
            Some(language) if !is_inside => {
                found.push(Snippet { language: language.to_owned(), line: at + 1, text: String::new() });
                is_inside = true;
            }
            Some(_) => is_inside = false,
            None if is_inside => {
                let snippet = found.last_mut().unwrap();
                snippet.text = format!("{}{line}\n", snippet.text);
            }
            None => (),
        }
    }
    assert!(!is_inside, "the last snippet is not closed");
    found
}

fn readme() -> Vec<Snippet> {
    snippets(&fs::read_to_string(root().join("README.md")).unwrap())
}

fn of<'a>(snippets: &'a [Snippet], language: &str) -> Vec<&'a Snippet> {
    snippets.iter().filter(|snippet| snippet.language == language).collect()
}

/// A folder that looks like the repository to who works in it, and takes what he makes there.
fn checkout(folder: &Path) {
    for entry in fs::read_dir(root()).unwrap().map(Result::unwrap) {
        let name = entry.file_name();
        if name != "target" && !name.as_encoded_bytes().starts_with(b".") {
            std::os::unix::fs::symlink(entry.path(), folder.join(name)).unwrap();
        }
    }
}

#[test]
fn every_snippet_is_of_a_kind_that_is_tested() {
    let known = ["sh", "c", "cmake", "python", "text"];
    for snippet in readme() {
        assert!(
            known.contains(&snippet.language.as_str()),
            "README.md:{}: {:?}",
            snippet.line,
            snippet.language
        );
    }
}

#[test]
fn its_c_is_in_the_examples() {
    let examples = ["quickstart.c", "energy.c"];
    let [example, other] =
        examples.map(|name| fs::read_to_string(root().join("examples").join(name)).unwrap());
    for snippet in of(&readme(), "c") {
        for piece in snippet.text.split("\n/* ... */\n\n") {
            let piece = piece.trim_end();
            let is_there = example.contains(piece) || other.contains(piece);
            assert!(is_there, "README.md:{}: not in {examples:?}:\n{piece}", snippet.line);
        }
    }
    let lines = example.lines().count();
    let page = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(page.contains(&format!("complete in {lines} lines")), "examples/quickstart.c has {lines} lines");
}

#[test]
fn its_commands_and_its_python_work() {
    let needs = [
        ("pkg-config", "--version"),
        ("cmake", "--version"),
        ("sqlite3", "--version"),
        ("python3", "--version"),
    ];
    if !needs.iter().all(|(tool, argument)| have(tool, &[argument])) {
        return;
    }
    let snippets = readme();
    let folder = scratch();
    checkout(folder.path());
    for (at, cmake) in of(&snippets, "cmake").iter().enumerate() {
        assert_eq!(at, 0, "README.md:{}: the test knows of one project only", cmake.line);
        fs::write(folder.path().join("CMakeLists.txt"), &cmake.text).unwrap();
    }
    let mut session = "set -eu\n".to_owned();
    for snippet in &snippets {
        let is_run = !snippet.text.starts_with("# not run by the test: ");
        session += &match snippet.language.as_str() {
            "sh" if is_run => format!("echo '>> README.md:{}'\n{}", snippet.line, snippet.text),
            "python" => format!(
                "echo '>> README.md:{}'\npython3 - <<'PYTHON'\n{}PYTHON\n",
                snippet.line, snippet.text
            ),
            _ => continue,
        };
    }
    let mut shell = Command::new("sh");
    shell.args(["-c", &session]).current_dir(folder.path()).env("HOME", folder.path());
    // `make install` takes the libraries of this test run.
    shell.env("MAKEFLAGS", format!(" -- BUILT={}", library().display())).env_remove("MAKELEVEL");
    let printed = run(&mut shell);

    // The quickstart ran three times, with three calls each; then Python had one.
    assert!(printed.contains("10 calls recorded\n"), "{printed}");
    assert!(printed.contains("\nlost 0\n"), "{printed}");
    assert!(printed.contains("│ small    │ 6     │"), "{printed}");
    assert!(
        fs::exists(folder.path().join(".local/include/tokenjoule.h")).unwrap(),
        "installed where it says"
    );
}

#[test]
fn what_it_links_to_exists() {
    let page = fs::read_to_string(root().join("README.md")).unwrap();
    let targets = page.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    for target in targets.filter(|target| !target.contains("://")) {
        assert!(root().join(target).exists(), "README.md links to {target}");
    }
}
