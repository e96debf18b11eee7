//! Status, errors, version.
//!
//! Every fallible function returns a `tj_status` and takes a `tj_error *` last. The enumerators below are all the
//! codes there are today; new ones are only ever appended, so treat a code that you do not know as a failure.

use std::ffi::c_char;

use crate::error::{Error, ErrorKind};

/// Counts breaking changes of this header. A program checks `tj_abi_version() == TJ_ABI_VERSION` when it loads the
/// library by hand; the dynamic linker does the same through the soname (libtokenjoule.so.1).
pub const TJ_ABI_VERSION: u32 = 1;

/// What a fallible function returns: TJ_OK or one of the TJ_ERR_... codes.
pub type tj_status = i32;

/// The values of a `tj_status`.
#[repr(C)]
pub enum tj_status_code {
    /// Done.
    TJ_OK = 0,
    /// An argument, or a field of a struct, is not what it may be (NULL, bad UTF-8, NaN where not allowed, negative,
    /// unknown enumerator, bad JSON ...). The message names it. Nothing was lost or changed.
    TJ_ERR_INVALID_ARGUMENT = 1,
    /// The operating system refused: path, permission, read error.
    TJ_ERR_IO = 2,
    /// Another process holds the database past the busy timeout; or what is to be started runs already.
    TJ_ERR_BUSY = 3,
    /// Disk full, or journal full under TJ_OVERFLOW_REJECT.
    TJ_ERR_FULL = 4,
    /// The database or a journal fails its checks; nothing was deleted.
    TJ_ERR_CORRUPT = 5,
    /// The file was written by a newer version of the library, or is no telemetry database. It was not altered.
    TJ_ERR_SCHEMA = 6,
    /// The store was opened with read_only.
    TJ_ERR_READ_ONLY = 7,
    /// The store, queue or call has ended already.
    TJ_ERR_CLOSED = 8,
    /// The handle belongs to the process that this one was forked from.
    TJ_ERR_FORKED = 9,
    /// The engine callback returned non-zero; its code is in tj_error.engine_code.
    TJ_ERR_ENGINE = 10,
    /// Not available on this system or in this build.
    TJ_ERR_UNSUPPORTED = 11,
    /// There is nothing of that number or name.
    TJ_ERR_NOT_FOUND = 12,
    /// A panic inside the library was caught. The handle stays usable unless it says otherwise.
    TJ_ERR_PANIC = 13,
    /// Nothing happened within the given time.
    TJ_ERR_TIMEOUT = 14,
}
use tj_status_code::*;

/// Where a failing function says what was wrong. Owned by the caller, for example on the stack; needs no
/// initialisation and is never freed. Written only on failure, and whole.
#[repr(C)]
pub struct tj_error {
    /// The code that the function returned.
    pub status: tj_status,
    /// TJ_ERR_ENGINE: what the engine callback returned. Otherwise 0.
    pub engine_code: i32,
    /// NUL-terminated UTF-8, cut at a character boundary. Names the argument or field and what was wrong with it.
    pub message: [c_char; 504],
}

impl tj_error {
    /// What a C caller gets to see of `error`.
    pub(super) fn of(error: &Error) -> tj_error {
        let mut message = [0; 504];
        let text = error.message.split('\0').next().unwrap_or_default();
        let end = text.floor_char_boundary(message.len() - 1);
        for (to, from) in message.iter_mut().zip(text[..end].bytes()) {
            *to = from as c_char;
        }
        tj_error { status: status_of(error.kind), engine_code: error.engine_code, message }
    }
}

pub(super) const OK: tj_status = TJ_OK as tj_status;

pub(super) fn status_of(kind: ErrorKind) -> tj_status {
    (match kind {
        ErrorKind::InvalidArgument => TJ_ERR_INVALID_ARGUMENT,
        ErrorKind::Io => TJ_ERR_IO,
        ErrorKind::Busy => TJ_ERR_BUSY,
        ErrorKind::Full => TJ_ERR_FULL,
        ErrorKind::Corrupt => TJ_ERR_CORRUPT,
        ErrorKind::Schema => TJ_ERR_SCHEMA,
        ErrorKind::ReadOnly => TJ_ERR_READ_ONLY,
        ErrorKind::Closed => TJ_ERR_CLOSED,
        ErrorKind::Forked => TJ_ERR_FORKED,
        ErrorKind::Engine => TJ_ERR_ENGINE,
        ErrorKind::Unsupported => TJ_ERR_UNSUPPORTED,
        ErrorKind::NotFound => TJ_ERR_NOT_FOUND,
        ErrorKind::Panic => TJ_ERR_PANIC,
        ErrorKind::Timeout => TJ_ERR_TIMEOUT,
    }) as tj_status
}

/// The name of a code: "TJ_ERR_BUSY", or "TJ_ERR_?" for one that this library does not know. Static; any thread.
#[unsafe(no_mangle)]
pub extern "C" fn tj_status_name(status: tj_status) -> *const c_char {
    let name = match status {
        0 => c"TJ_OK",
        1 => c"TJ_ERR_INVALID_ARGUMENT",
        2 => c"TJ_ERR_IO",
        3 => c"TJ_ERR_BUSY",
        4 => c"TJ_ERR_FULL",
        5 => c"TJ_ERR_CORRUPT",
        6 => c"TJ_ERR_SCHEMA",
        7 => c"TJ_ERR_READ_ONLY",
        8 => c"TJ_ERR_CLOSED",
        9 => c"TJ_ERR_FORKED",
        10 => c"TJ_ERR_ENGINE",
        11 => c"TJ_ERR_UNSUPPORTED",
        12 => c"TJ_ERR_NOT_FOUND",
        13 => c"TJ_ERR_PANIC",
        14 => c"TJ_ERR_TIMEOUT",
        _ => c"TJ_ERR_?",
    };
    name.as_ptr()
}

/// The library's version, "0.1.0". Static; any thread. TJ_VERSION is the header's.
#[unsafe(no_mangle)]
pub extern "C" fn tj_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The library's ABI version. Equal to the TJ_ABI_VERSION of every header that may be used with it. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn tj_abi_version() -> u32 {
    TJ_ABI_VERSION
}
