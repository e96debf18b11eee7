//! What only the operating system can tell: which process this is, and the time.

#![allow(unsafe_code)] // raw OS calls

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use once_cell::race::OnceBox;

use crate::error::{Error, ErrorKind, Result};

/// The wall clock, Unix seconds; 0 for a clock that says it is before 1970.
pub(crate) fn wall_clock() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The monotonic clock, nanoseconds since some moment.
#[inline]
pub(crate) fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel, or its vDSO, fills in a local struct; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
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

/// A value that each process has one of. A forked child begins with a new one: its parent's may have been forked in
/// mid-change, by another thread, with a lock taken that nobody will ever give back.
pub(crate) struct PerProcess<T> {
    process: Process,
    value: T,
    in_forked_child: OnceBox<PerProcess<T>>,
}

impl<T> PerProcess<T> {
    fn new(value: T) -> Box<Self> {
        Box::new(PerProcess { process: Process::current(), value, in_forked_child: OnceBox::new() })
    }

    /// This process's. `make` gets the number of ancestors.
    pub(crate) fn current(first: &'static OnceBox<PerProcess<T>>, make: impl Fn(u64) -> T) -> &'static T {
        let mut generation = 0;
        let mut its = first.get_or_init(|| PerProcess::new(make(0)));
        while its.process != Process::current() {
            generation += 1;
            its = its.in_forked_child.get_or_init(|| PerProcess::new(make(generation)));
        }
        &its.value
    }

    /// Those of the processes that this one descends from, as they were when it was forked.
    pub(crate) fn inherited(first: &'static OnceBox<PerProcess<T>>) -> impl Iterator<Item = &'static T> {
        let all = std::iter::successors(first.get(), |its| its.in_forked_child.get());
        all.filter(|its| its.process != Process::current()).map(|its| &its.value)
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

/// Keeps the host program's signals away from a thread of ours: its handlers run on its own threads.
pub(crate) fn block_signals() {
    // SAFETY: a local signal set is filled, and becomes the mask of the calling thread, which is ours.
    unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
    }
}

/// What the calling thread has used of the processor, nanoseconds; 0 where the system does not say.
pub(crate) fn thread_cpu() -> u64 {
    let mut used = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `used` is ours and writable.
    match unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut used) } {
        0 => used.tv_sec as u64 * 1_000_000_000 + used.tv_nsec as u64,
        _ => 0,
    }
}
