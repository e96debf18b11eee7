//! Who commits the journal, and when: a thread every `commit_interval_ms`, or sooner when the journal is half full; a
//! reader, so that it sees its own records; a full journal's producer; and under [`super::Durability::Power`] every
//! caller, of whom one commits for all that wait.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use once_cell::race::OnceBox;

use super::health::Tally;
use super::inherited::Inside;
use super::journal::{self, Journal, Stray};
use super::writer::Writer;
use super::{Store, closed};
use crate::error::{Error, ErrorKind, Result};
use crate::os::PerProcess;
use crate::sync::lock;

impl Store {
    /// Commits everything that was recorded before.
    pub(super) fn commit_all(&self) -> Result<()> {
        match &self.journal {
            Some(journal) => self.commit_from(journal, journal.head()),
            None => Ok(()),
        }
    }

    /// Commits the record at `position`. Whoever comes while another commits finds its own record committed, too.
    pub(super) fn commit_past(&self, position: u64) -> Result<()> {
        match &self.journal {
            Some(journal) => self.commit_from(journal, position + 1),
            None => Ok(()),
        }
    }

    pub(super) fn commit_from(&self, journal: &Journal, upto: u64) -> Result<()> {
        if journal.tail() >= upto {
            return Ok(());
        }
        let mut writer = lock(&self.writer);
        let writer = writer.as_mut().ok_or_else(closed)?;
        if writer.position() >= upto {
            return Ok(());
        }
        let _inside = Inside::enter();
        match writer.commit(journal, journal.head()) {
            Ok(written) => {
                self.tally.committed(written.rows);
                if let Some(checkpointer) = self.checkpointer.get() {
                    checkpointer.committed(written.rows);
                }
                written.rejected.iter().for_each(|error| self.tally.failed(error));
                Ok(())
            }
            Err(error) => {
                self.tally.failure(&error);
                Err(error)
            }
        }
    }

    /// Takes over the journals that could not be when the store was opened.
    fn adopt_waiting(&self) {
        let (Some(path), names) = (&self.path, self.tally.take_waiting_journals()) else { return };
        if names.is_empty() {
            return;
        }
        let _opening = opening();
        let mut writer = lock(&self.writer);
        let Some(writer) = writer.as_mut() else { return };
        let _inside = Inside::enter();
        adopt_named(path, names, writer, &self.tally);
    }

    pub(super) fn wake_committer(&self) {
        if let Some(committer) = self.committer.get() {
            committer.wake();
        }
    }
}

/// Held while a store is opened. Two threads that made and took over journals at the same time could take each other's
/// lock away: POSIX's are the process's.
pub(super) fn opening() -> MutexGuard<'static, ()> {
    static OPENING: OnceBox<PerProcess<Mutex<()>>> = OnceBox::new();
    lock(PerProcess::current(&OPENING, |_| Mutex::default()))
}

/// Takes over the journals of dead processes. What cannot be taken over is left where it is, and shows in the health.
pub(super) fn adopt(database: &Path, writer: &mut Writer, tally: &Tally) {
    journal::sweep(database);
    adopt_named(database, journal::names_beside(database), writer, tally);
}

fn adopt_named(database: &Path, names: Vec<String>, writer: &mut Writer, tally: &Tally) {
    let mut names = names.into_iter();
    while let Some(name) = names.next() {
        let stray = match Stray::take(database, &name) {
            Ok(Some(stray)) => stray,
            Ok(None) => continue,
            Err(error) => {
                tally.damaged_journal(&error);
                continue;
            }
        };
        match writer.adopt(stray) {
            Ok((records, damaged)) => {
                tally.adopted(records);
                if damaged > 0 {
                    let message =
                        format!("journal {name}: {damaged} records in it were damaged; it was set aside");
                    tally.damaged_journal(&Error::new(ErrorKind::Corrupt, message));
                }
            }
            // It is the database that cannot be written to now. The others would wait for it in vain as long again.
            Err(error) if matches!(error.kind, ErrorKind::Busy | ErrorKind::Full | ErrorKind::Io) => {
                tally.failure(&error);
                tally.waiting_journal(name);
                names.by_ref().for_each(|name| tally.waiting_journal(name));
            }
            Err(error) => tally.damaged_journal(&error),
        }
    }
}

/// The thread that commits.
pub(super) struct Committer {
    pace: Arc<Pace>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Pace {
    /// Whether there is a wish, for those that record: they need not take the lock to wish once more.
    is_wished: AtomicBool,
    wish: Mutex<Wish>,
    changed: Condvar,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    Nothing,
    Commit,
    Stop,
}

impl Committer {
    pub(super) fn start(store: &Arc<Store>, interval_ms: u32) -> Result<Committer> {
        let pace = Arc::new(Pace {
            is_wished: AtomicBool::new(false),
            wish: Mutex::new(Wish::Nothing),
            changed: Condvar::new(),
        });
        let interval = Duration::from_millis(interval_ms.into());
        let (store, its_pace) = (Arc::downgrade(store), pace.clone());
        let run = move || {
            crate::os::block_signals();
            commit_until_stopped(&store, &its_pace, interval);
        };
        let thread = std::thread::Builder::new().name("tokenjoule".to_owned()).spawn(run);
        let thread =
            thread.map_err(|error| Error::new(ErrorKind::Io, format!("cannot start a thread: {error}")))?;
        Ok(Committer { pace, thread: Mutex::new(Some(thread)) })
    }

    /// Commits now. Costs nothing if that has been wished already.
    fn wake(&self) {
        let is_wished = &self.pace.is_wished;
        if is_wished.load(Ordering::Acquire) || is_wished.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut wish = lock(&self.pace.wish);
        if *wish == Wish::Nothing {
            *wish = Wish::Commit;
            self.pace.changed.notify_one();
        }
    }

    /// Ends the thread and waits for it, unless it is the thread itself that asks.
    pub(super) fn stop(&self) {
        *lock(&self.pace.wish) = Wish::Stop;
        self.pace.changed.notify_one();
        if let Some(thread) = lock(&self.thread).take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

fn commit_until_stopped(store: &Weak<Store>, pace: &Pace, interval: Duration) {
    let mut is_behind = false;
    loop {
        {
            let wish = lock(&pace.wish);
            let interval = if is_behind { Duration::ZERO } else { interval };
            let waited = pace.changed.wait_timeout_while(wish, interval, |wish| *wish == Wish::Nothing);
            let mut wish = waited.unwrap_or_else(PoisonError::into_inner).0;
            match *wish {
                Wish::Stop => return,
                _ => *wish = Wish::Nothing,
            }
            pace.is_wished.store(false, Ordering::Release);
        }
        let Some(store) = store.upgrade() else { return };
        // Failures are accounted for in the health; the next round tries again.
        is_behind = store.commit_all().is_ok() && store.look_after();
        store.adopt_waiting();
    }
}
