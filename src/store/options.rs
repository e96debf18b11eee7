//! How a store is opened.

/// What a returned [`Store::record`] survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// The death of the process.
    #[default]
    Process,
    /// A power cut.
    Power,
}

/// What a full journal does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// Makes [`Store::record`] commit what is in it first.
    #[default]
    Wait,
    /// Makes it return [`ErrorKind::Full`].
    Reject,
}

/// How to open a store.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StoreOptions {
    /// For queries only; nothing on disk changes.
    pub read_only: bool,
    /// What a record survives.
    pub durability: Durability,
    /// What a full journal does.
    pub overflow: Overflow,
    /// How long to wait for another process that holds the database.
    pub busy_timeout_ms: u32,
    /// How long a record may wait before other processes see it.
    pub commit_interval_ms: u32,
    /// The journal's size; rounded up to a power of two.
    pub journal_bytes: u64,
    /// Records go when they are older than this, seconds; 0: never.
    pub max_age_seconds: f64,
    /// The oldest records go while the database uses more than this; 0: never. The room is used again, the file does not
    /// shrink.
    pub max_bytes: u64,
    /// What the rollups say of records that go stays, so that questions about whole hours are answered as before.
    pub keep_rollups: bool,
}

impl StoreOptions {
    /// What a store is opened with if nothing else is said.
    pub const DEFAULT: StoreOptions = StoreOptions {
        read_only: false,
        durability: Durability::Process,
        overflow: Overflow::Wait,
        busy_timeout_ms: 5000,
        commit_interval_ms: 100,
        journal_bytes: 8 << 20,
        max_age_seconds: 0.0,
        max_bytes: 0,
        keep_rollups: false,
    };
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions::DEFAULT
    }
}
