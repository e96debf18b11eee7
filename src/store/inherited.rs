//! Stores that a forked child finds open because its parent had them open.
//!
//! SQLite keeps one note of the locks on a file for the whole process, and a child inherits the note without the locks: a
//! connection that it opened to the same file would rely on locks that it does not have. So before a child opens such a
//! database, it closes the inherited connections, which frees the note and leaves the parent's locks alone (POSIX locks
//! belong to the process that took them).
//!
//! Nothing of this can be done if a thread was inside SQLite at the moment of the fork: it held locks of SQLite's that
//! nobody in the child will ever give back. Then a child gets an error instead of waiting for ever.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use once_cell::race::OnceBox;
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::Store;
use super::open::Reader;
use crate::error::{Error, ErrorKind, Result};
use crate::os::PerProcess;
use crate::sync::lock;

/// How many threads of the process are inside SQLite.
static INSIDE: OnceBox<PerProcess<AtomicU64>> = OnceBox::new();

/// Held while a thread is inside SQLite.
pub(super) struct Inside(&'static AtomicU64);

impl Inside {
    pub(super) fn enter() -> Inside {
        let inside = PerProcess::current(&INSIDE, |_| AtomicU64::new(0));
        inside.fetch_add(1, Ordering::Relaxed);
        Inside(inside)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

static STORES: OnceBox<PerProcess<Mutex<Vec<Weak<Store>>>>> = OnceBox::new();

/// Remembers a store that this process has opened.
pub(super) fn note(store: &Arc<Store>) {
    let mut stores = lock(PerProcess::current(&STORES, |_| Mutex::default()));
    stores.retain(|store| store.strong_count() > 0);
    stores.push(Arc::downgrade(store));
}

/// Makes it safe to open the database at `path` in a forked child: closes the inherited connections to it.
pub(super) fn close(path: &str) -> Result<()> {
    let busy = || {
        let message = format!(
            "{path}: a store was in use at the moment when this process was forked; open one after an exec, or fork first"
        );
        Error::new(ErrorKind::Forked, message)
    };
    if PerProcess::inherited(&INSIDE).any(|inside| inside.load(Ordering::Relaxed) > 0) {
        return Err(busy());
    }
    for stores in PerProcess::inherited(&STORES) {
        for store in stores.try_lock().map_err(|_| busy())?.iter().filter_map(Weak::upgrade) {
            if store.path.as_deref().is_some_and(|other| is_same(other, Path::new(path))) {
                store.close_inherited().ok_or_else(busy)?;
            }
        }
    }
    Ok(())
}

fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    identity(one).is_some_and(|one| Some(one) == identity(other))
}

impl Store {
    /// `None`: a connection was in use.
    fn close_inherited(&self) -> Option<()> {
        let (mut writer, mut reader) = (self.writer.try_lock().ok()?, self.reader.try_lock().ok()?);
        // No checkpoint: the WAL is the parent's.
        let as_it_is = |connection: &Connection| {
            let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        };
        self.checkpoints.try_lock().ok()?.take().as_ref().map(as_it_is);
        if let Some(writer) = writer.take() {
            as_it_is(&writer.into_connection());
        }
        if let Some(Reader::Kept(connection)) = reader.take() {
            as_it_is(&connection);
        }
        Some(())
    }
}
