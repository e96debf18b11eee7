//! What only the operating system can tell: which process this is, and the time.

#![allow(unsafe_code)] // raw OS calls

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use once_cell::race::OnceBox;

use crate::error::{Error, ErrorKind, Result};

/// The wall clock, Unix seconds.
pub(crate) fn wall_clock() -> f64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

/// A process, told from the one it was forked from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process(u64);

impl Process {
    /// The process that this is. Costs two loads.
    pub(crate) fn current() -> Process {
        static MARK: OnceBox<Mark> = OnceBox::new();
        // OnceBox, not a lock: a fork while another thread is in here must not leave the child waiting for that thread.
        Process(MARK.get_or_init(|| Box::new(Mark::new())).read())
    }

    /// [`ErrorKind::Forked`] unless this is still the process that `self` was taken in.
    pub(crate) fn check(self, what: &str) -> Result<()> {
        if self == Process::current() {
            return Ok(());
        }
        let message = format!("{what} belongs to the process that this one was forked from");
        Err(Error::new(ErrorKind::Forked, message))
    }
}

/// Where the current process's number is kept.
enum Mark {
    /// A page that the kernel gives to a forked child filled with zeros.
    Page(&'static AtomicU64),
    /// Where there is no such page (Linux before 4.14, other systems): asking the kernel each time.
    Pid,
}

impl Mark {
    #[cfg(target_os = "linux")]
    fn new() -> Mark {
        let size = 4096;
        // SAFETY: a fresh anonymous mapping; no existing memory is touched.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Mark::Pid;
        }
        // SAFETY: the mapping made above, whole.
        if unsafe { libc::madvise(page, size, libc::MADV_WIPEONFORK) } != 0 {
            // SAFETY: the mapping made above; nothing refers to it yet.
            unsafe { libc::munmap(page, size) };
            return Mark::Pid;
        }
        // SAFETY: the page is aligned, zeroed, writable, and never unmapped.
        Mark::Page(unsafe { &*page.cast::<AtomicU64>() })
    }

    #[cfg(not(target_os = "linux"))]
    fn new() -> Mark {
        Mark::Pid
    }

    fn read(&self) -> u64 {
        /// A child gets a copy of this counter, so the number that it draws is new in its line of ancestors.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        match self {
            Mark::Page(word) => match word.load(Ordering::Relaxed) {
                0 => {
                    let number = NEXT.fetch_add(1, Ordering::Relaxed);
                    match word.compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed) {
                        Ok(_) => number,
                        Err(drawn_by_another_thread) => drawn_by_another_thread,
                    }
                }
                number => number,
            },
            Mark::Pid => u64::from(std::process::id()),
        }
    }
}

/// The user that this process acts as.
pub(crate) fn user() -> u32 {
    // SAFETY: geteuid takes nothing, changes nothing and cannot fail.
    unsafe { libc::geteuid() }
}
