//! Gives the shared library its soname and tells dependants where the header is. Writes nothing into the source tree.

use std::path::{Path, PathBuf};

/// Counts breaking changes of the C ABI; `src/ffi/error.rs` exports the same number as `TJ_ABI_VERSION`, and
/// `tests/library.rs` holds the two together.
const ABI_VERSION: u32 = 1;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    println!("cargo::metadata=include={}", root.join("include").display());

    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        let soname = format!("libtokenjoule.so.{ABI_VERSION}");
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,{soname}");
        link_beside_the_library(&soname);
    }
}

/// A program linked against `target/<profile>/libtokenjoule.so` looks for the soname when it starts: a symbolic link
/// of that name beside the library lets it run from the build tree. A convenience, so a failure is not one.
fn link_beside_the_library(soname: &str) {
    #[cfg(unix)]
    if let Some(out) = std::env::var_os("OUT_DIR") {
        // OUT_DIR is target/<profile>/build/<package>/out.
        if let Some(profile) = Path::new(&out).ancestors().nth(3) {
            let _ = std::os::unix::fs::symlink("libtokenjoule.so", profile.join(soname));
        }
    }
}
