//! What can go wrong, once for the whole house.

/// The kind of an [`Error`]. The numbers are the C ABI's status codes and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(i32)]
pub enum ErrorKind {
    /// An argument or a field of one is not what it may be; the message names it.
    InvalidArgument = 1,
    /// The operating system refused: path, permission, read error.
    Io = 2,
    /// Another process holds the database past the busy timeout; or what is to be started runs already.
    Busy = 3,
    /// The disk is full.
    Full = 4,
    /// The database fails its checks. Nothing was deleted.
    Corrupt = 5,
    /// Written by a newer version of the library, or not a telemetry database.
    Schema = 6,
    /// The store was opened for queries only.
    ReadOnly = 7,
    /// The store, the queue or the call has ended already.
    Closed = 8,
    /// The handle belongs to the process that this one was forked from.
    Forked = 9,
    /// The engine reported an error; [`Error::engine_code`] is its code.
    Engine = 10,
    /// Not available on this system or in this build.
    Unsupported = 11,
    /// There is nothing of that name or number.
    NotFound = 12,
    /// A panic was caught.
    Panic = 13,
    /// Nothing happened within the given time.
    Timeout = 14,
}

/// An error: its kind, a message that names the argument or field, and the engine's code where an engine failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What kind of error.
    pub kind: ErrorKind,
    /// The engine's own code where `kind` is [`ErrorKind::Engine`]; otherwise 0.
    pub engine_code: i32,
    /// For people: which argument, field, file or engine, and what was wrong with it.
    pub message: String,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error { kind, engine_code: 0, message: message.into() }
    }

    /// `field` is not what it may be: `what` completes the sentence "field …".
    pub(crate) fn invalid(field: &str, what: impl std::fmt::Display) -> Self {
        Error::new(ErrorKind::InvalidArgument, format!("{field} {what}"))
    }
}

/// The house's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;
