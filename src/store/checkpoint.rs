//! Bringing the WAL into the database, on a thread and a connection of its own: it is mostly waiting for the disk, and the
//! writer need not wait along. Where this is behind, SQLite makes the writer do it.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::inherited::Inside;
use super::{Store, fault};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::lock;

/// Pages of the WAL after which the writer does it itself. SQLite's own default is 1000.
pub(super) const WRITERS_PAGES: u32 = 4000;
/// Pages written after which it is time.
const PAGES: u64 = 1000;
/// What a commit writes: a few pages of its own, and one for so many rows.
const PAGES_OF_A_COMMIT: u64 = 4;
const ROWS_OF_A_PAGE: u64 = 25;

/// The thread that does it.
pub(super) struct Checkpointer {
    wake: Mutex<Option<SyncSender<()>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Pages written since it was woken, by estimate.
    written: Mutex<u64>,
}

/// Its connection.
pub(super) fn connect(path: &Path) -> Result<Connection> {
    let connect = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(Duration::ZERO)?; // whoever else is at it does it as well
        Ok(connection)
    };
    connect().map_err(|error| fault::database("opening the database once more", &error))
}

impl Checkpointer {
    pub(super) fn start(store: Weak<Store>) -> Result<Checkpointer> {
        let (wake, woken) = sync_channel(1);
        let run = move || {
            crate::os::block_signals();
            checkpoint_when_woken(&store, &woken);
        };
        let thread = std::thread::Builder::new().name("tokenjoule-wal".to_owned()).spawn(run);
        let thread =
            thread.map_err(|error| Error::new(ErrorKind::Io, format!("cannot start a thread: {error}")))?;
        Ok(Checkpointer {
            wake: Mutex::new(Some(wake)),
            thread: Mutex::new(Some(thread)),
            written: Mutex::new(0),
        })
    }

    /// Learns of rows that were committed, at once or in several commits.
    pub(super) fn committed(&self, rows: u64) {
        let mut written = lock(&self.written);
        *written += PAGES_OF_A_COMMIT + rows / ROWS_OF_A_PAGE;
        if *written >= PAGES
            && let Some(wake) = lock(&self.wake).as_ref()
        {
            *written = 0;
            let _ = wake.try_send(()); // it has been woken already
        }
    }

    /// Ends the thread and waits for it, unless it is the thread itself that asks.
    pub(super) fn stop(&self) {
        drop(lock(&self.wake).take());
        if let Some(thread) = lock(&self.thread).take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

fn checkpoint_when_woken(store: &Weak<Store>, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        let Some(store) = store.upgrade() else { return };
        let connection = lock(&store.checkpoints);
        let Some(connection) = connection.as_ref() else { return };
        let _inside = Inside::enter();
        let done = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        if let Err(error) = done {
            store.tally.failure(&fault::database("bringing the WAL into the database", &error));
            if let Some(checkpointer) = store.checkpointer.get() {
                *lock(&checkpointer.written) = PAGES; // again after the next commit
            }
        }
    }
}
