//! `include/tokenjoule.h` is what cbindgen makes of `src/ffi`, and every language that reads C can read it.
//!
//! `make header` writes it (`BLESS=1`); otherwise a difference is a failure.

mod support;

use std::path::PathBuf;
use std::process::Command;

use support::{WARNINGS, have, root, run, scratch};

/// The header's sections in teaching order: the file, and what cbindgen cannot make and the section begins with.
const SECTIONS: [(&str, &str); 20] = [
    ("error.rs", ""),
    ("record.rs", ""),
    ("store.rs", ""),
    ("query.rs", ""),
    ("aggregate.rs", ""),
    ("series.rs", ""),
    ("batch.rs", ""),
    ("records.rs", ""),
    ("upkeep.rs", ""),
    ("event.rs", "/** A kind's bit in a mask. */\n#define TJ_EVENT_MASK(kind) (UINT64_C(1) << (kind))\n\n"),
    ("bus.rs", ""),
    ("queue.rs", ""),
    ("request.rs", ""),
    ("generate.rs", "/** A call in flight: see below. */\ntypedef struct tj_call tj_call;\n\n"),
    ("call.rs", ""),
    ("energy.rs", ""),
    ("window.rs", ""),
    ("source.rs", ""),
    ("cost.rs", ""),
    ("efficiency.rs", ""),
];

/// How the INIT macros are made: C++ before C++20 has no designated initialisers, and warns of missing ones.
const SIZED: &str = "\
/* What a TJ_<TYPE>_INIT stands for: a struct that is zero but for its size. */
#ifdef __cplusplus
template <class Struct>
inline Struct tj_sized_() noexcept {
  Struct value = Struct();
  value.struct_size = sizeof(Struct);
  return value;
}
#define TJ_SIZED_(type) (::tj_sized_< ::type>())
#else
#define TJ_SIZED_(type) { .struct_size = sizeof(type) }
#endif
";

fn header_path() -> PathBuf {
    root().join("include/tokenjoule.h")
}

fn generate() -> String {
    let conventions = std::fs::read_to_string(root().join("src/ffi/conventions.txt")).unwrap();
    let mut header = comment("/*", &conventions.lines().collect::<Vec<_>>());
    header += &format!(
        "/* Made by cbindgen from src/ffi; `make header` writes it. SPDX-License-Identifier: MIT OR Apache-2.0 */\n\n\
         #ifndef TOKENJOULE_H\n#define TOKENJOULE_H\n\n\
         #include <stdbool.h>\n#include <stddef.h>\n#include <stdint.h>\n\n\
         /**\n * The version of this header; tj_version is the library's.\n */\n#define TJ_VERSION \"{}\"\n\n{SIZED}\n\
         #ifdef __cplusplus\nextern \"C\" {{\n#endif\n",
        env!("CARGO_PKG_VERSION")
    );
    for (file, before) in SECTIONS {
        header += &section(file, before);
    }
    header + "\n#ifdef __cplusplus\n} /* extern \"C\" */\n#endif\n\n#endif /* TOKENJOULE_H */\n"
}

fn comment(open: &str, lines: &[&str]) -> String {
    let text: String = lines.iter().map(|line| format!(" * {line}").trim_end().to_owned() + "\n").collect();
    format!("{open}\n{text} */\n")
}

fn section(file: &str, before: &str) -> String {
    let path = root().join("src/ffi").join(file);
    let source = std::fs::read_to_string(&path).unwrap();
    let about: Vec<&str> =
        source.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim_start).collect();
    let (title, text) = about.split_first().expect("each file opens with its section's title");
    let title = format!("/* ---- {} ", title.trim_end_matches('.'));
    let rule = "-".repeat(110 - title.len());

    let mut config = cbindgen::Config::from_file(root().join("cbindgen.toml")).unwrap();
    config.export.include = types_of(&source); // those, too, that no function of this file takes
    config.export.exclude = vec!["tj_call".to_owned()]; // declared before the callback that takes one
    let mut declarations = Vec::new();
    let bindings = cbindgen::Builder::new().with_config(config).with_src(&path).generate().unwrap();
    bindings.write(&mut declarations);
    let declarations = without_safety_notes(&String::from_utf8(declarations).unwrap());
    let declarations = with_initialisers(&with_short_comments(declarations.trim()));
    format!("\n{}\n{before}{declarations}\n", comment(&format!("{title}{rule}"), &text[1..]))
}

fn types_of(source: &str) -> Vec<String> {
    let name = |line: &str| {
        let rest =
            ["pub struct ", "pub enum ", "pub type "].iter().find_map(|item| line.strip_prefix(item))?;
        rest.split([' ', '{', '=', ';']).next().filter(|name| name.starts_with("tj_")).map(str::to_owned)
    };
    source.lines().filter_map(name).collect()
}

/// `# Safety` tells Rust callers what the C text says anyway.
fn without_safety_notes(declarations: &str) -> String {
    let mut out = String::new();
    let mut in_note = false;
    for line in declarations.lines() {
        let ends = line.trim() == "*/";
        if line.trim() == "* # Safety" {
            in_note = true;
            out.truncate(out.trim_end_matches(['\n', ' ', '*']).len());
            out += "\n";
        }
        if ends {
            in_note = false;
        }
        if !in_note {
            out = out + line + "\n";
        }
    }
    out
}

/// Writes a comment of one line on one line.
fn with_short_comments(declarations: &str) -> String {
    let lines: Vec<&str> = declarations.lines().collect();
    let mut out = String::new();
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        let text = lines.get(at + 1).and_then(|text| text.trim_start().strip_prefix("* "));
        match (line.trim(), text, lines.get(at + 2).map(|end| end.trim())) {
            ("/**", Some(text), Some("*/")) => {
                let indent = &line[..line.len() - 3];
                out += &format!("{indent}/** {text} */\n");
                at += 3;
            }
            _ => {
                out = out + line + "\n";
                at += 1;
            }
        }
    }
    out
}

/// Puts a TJ_<TYPE>_INIT behind every struct that begins with its size and that a caller makes.
fn with_initialisers(declarations: &str) -> String {
    let mut out = String::new();
    let mut is_sized = false;
    for line in declarations.lines() {
        out = out + line + "\n";
        is_sized |= line.trim() == "size_t struct_size;";
        if let Some(name) = line.strip_prefix("} tj_").and_then(|rest| rest.strip_suffix(';')) {
            if is_sized && !["event", "difference", "energy_reading"].contains(&name) {
                let macro_name = name.to_uppercase();
                out += &format!("\n#define TJ_{macro_name}_INIT TJ_SIZED_(tj_{name})\n");
            }
            is_sized = false;
        }
    }
    out
}

#[test]
fn the_committed_header_is_what_cbindgen_makes() {
    let made = generate();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(header_path(), &made).unwrap();
    }
    let committed = std::fs::read_to_string(header_path()).unwrap();
    let differs = made.lines().zip(committed.lines()).position(|(made, committed)| made != committed);
    assert!(
        made == committed,
        "include/tokenjoule.h is not what src/ffi says (first at line {}): run `make header`",
        differs.map_or(made.lines().count().min(committed.lines().count()) + 1, |line| line + 1)
    );
}

#[test]
fn it_compiles_alone_in_every_standard() {
    let folder = scratch();
    let alone = "#include \"tokenjoule.h\"\n\
                 int use(void);\nint use(void) { tj_query q = TJ_QUERY_INIT; return (int)q.limit; }\n";
    for (compiler, extension, standards) in
        [("cc", "c", &["c99", "c11", "c17"][..]), ("c++", "cpp", &["c++11", "c++17", "c++20"][..])]
    {
        let source = folder.path().join(format!("alone.{extension}"));
        std::fs::write(&source, alone).unwrap();
        for standard in standards {
            let mut command = Command::new(compiler);
            command.arg(format!("-std={standard}")).args(WARNINGS).arg("-I").arg(root().join("include"));
            run(command.args(["-c", "-o", "/dev/null"]).arg(&source));
        }
    }
}

/// The header as the preprocessor leaves it, which is what cffi and most other generators of bindings take.
fn preprocessed() -> String {
    let text = run(Command::new("cc").args(["-E", "-P", "-x", "c"]).arg(header_path()));
    let begin = text.find("typedef enum tj_status_code").expect("the first declaration of ours");
    text[begin..].to_owned()
}

#[test]
fn cffi_digests_it() {
    if !have("python3", &["-c", "import cffi"]) {
        return;
    }
    let script = format!(
        "import cffi, sys\nffi = cffi.FFI()\nffi.cdef(sys.argv[1])\nlib = ffi.dlopen({:?})\n\
         assert ffi.string(lib.tj_status_name(lib.TJ_ERR_BUSY)) == b'TJ_ERR_BUSY'\n\
         query = ffi.new('tj_query *')\nlib.tj_query_init(query)\n\
         assert query.struct_size == ffi.sizeof('tj_query'), query.struct_size\n",
        support::library().join("libtokenjoule.so.1")
    );
    run(Command::new("python3").args(["-c", &script, &preprocessed()]));
}

#[test]
fn ctypes_calls_it() {
    if !have("python3", &["-c", "import ctypes"]) {
        return;
    }
    let script = format!(
        "import ctypes\nlib = ctypes.CDLL({:?})\nlib.tj_version.restype = ctypes.c_char_p\n\
         assert lib.tj_version() == {:?}.encode()\nassert lib.tj_abi_version() == 1\n\
         assert lib.tj_store_close(None, None) == 0\n",
        support::library().join("libtokenjoule.so.1"),
        env!("CARGO_PKG_VERSION")
    );
    run(Command::new("python3").args(["-c", &script]));
}
