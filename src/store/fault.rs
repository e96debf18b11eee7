//! What SQLite and the operating system say, in the house's words.

use std::path::Path;

use crate::error::{Error, ErrorKind};

/// `doing` completes "while …".
pub(super) fn database(doing: &str, error: &rusqlite::Error) -> Error {
    use rusqlite::ErrorCode::*;
    let kind = match error.sqlite_error_code() {
        Some(DatabaseBusy | DatabaseLocked) => ErrorKind::Busy,
        Some(DiskFull) => ErrorKind::Full,
        Some(DatabaseCorrupt | NotADatabase) => ErrorKind::Corrupt,
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("while {doing}: {error}"))
}

pub(super) fn io(path: &Path, error: &std::io::Error) -> Error {
    let kind = match error.kind() {
        // A quota and a limit on the size of files are full disks for one user, or one process.
        std::io::ErrorKind::StorageFull
        | std::io::ErrorKind::QuotaExceeded
        | std::io::ErrorKind::FileTooLarge => ErrorKind::Full,
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("{}: {error}", path.display()))
}
