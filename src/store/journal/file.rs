//! The journal's file: made whole, locked for the life of its process, mapped.

#![allow(unsafe_code)] // the journal's mapping, and raw OS calls

use std::borrow::Borrow;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use once_cell::race::OnceBox;

use crate::os::PerProcess;
use crate::sync::lock;

/// A file that this process has locked.
pub(super) struct Locked {
    file: File,
    identity: Identity,
}

/// Tells a file from others, whatever its path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    pub(super) fn of(metadata: &std::fs::Metadata) -> Identity {
        Identity { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// The files that this process has locked. The lock is POSIX's, because that alone is not shared with a forked child; but
/// it is gone as soon as its process closes any descriptor of the file, so a file in this list must not be opened again.
fn locked_here() -> MutexGuard<'static, Vec<Identity>> {
    static LOCKED: OnceBox<PerProcess<Mutex<Vec<Identity>>>> = OnceBox::new();
    lock(PerProcess::current(&LOCKED, |_| Mutex::default()))
}

/// Whether this process has locked that file itself.
pub(super) fn is_locked_here(identity: Identity) -> bool {
    locked_here().contains(&identity)
}

impl Locked {
    /// Makes a file of that size that this user alone can read, and locks it; `None` if another process was quicker. A full
    /// disk shows here, not later.
    pub(super) fn create(path: &Path, bytes: u64) -> io::Result<Option<Locked>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(path)?;
        write_in_place(&file);
        // SAFETY: a call on a descriptor that is open.
        let result = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes as libc::off_t) };
        let locked = if result == 0 { Locked::lock(file) } else { Err(io::Error::from_raw_os_error(result)) };
        if locked.is_err() {
            let _ = std::fs::remove_file(path);
        }
        locked
    }

    /// Locks an open file; `None` if another process has.
    pub(super) fn lock(file: File) -> io::Result<Option<Locked>> {
        let identity = Identity::of(&file.metadata()?);
        // SAFETY: all zeros is a valid flock; the fields that matter are set.
        let mut whole: libc::flock = unsafe { std::mem::zeroed() };
        whole.l_type = libc::F_WRLCK as libc::c_short;
        whole.l_whence = libc::SEEK_SET as libc::c_short;
        // SAFETY: a call on an open descriptor, with a flock that lives as long as it.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const whole) } == 0 {
            locked_here().push(identity);
            return Ok(Some(Locked { file, identity }));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EACCES | libc::EAGAIN) => Ok(None),
            _ => Err(error),
        }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        locked_here().retain(|identity| *identity != self.identity);
        // The file is closed after this, and the lock is gone with it.
    }
}

/// Asks a file system that writes every change to a new place (btrfs) to write this file's in place. Otherwise a full
/// disk has no room for them, whatever was preallocated, and tells so by SIGBUS. The file must be empty.
#[cfg(target_os = "linux")]
fn write_in_place(file: &File) {
    const FS_NOCOW_FL: libc::c_int = 0x0080_0000; // linux/fs.h
    let mut flags: libc::c_int = 0;
    // SAFETY: calls on an open descriptor, with an int that outlives them. Other file systems refuse, and lose nothing.
    unsafe {
        if libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut flags) == 0 {
            flags |= FS_NOCOW_FL;
            libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const flags);
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn write_in_place(_file: &File) {}

/// A mapping of a file's words, shared with the file.
pub(super) struct Map {
    /// NULL: unmapped.
    at: AtomicPtr<AtomicU64>,
    words: usize,
}

impl Map {
    /// Maps a file of `words` words, all pages present and writable: a page fault in recording would be its cost many
    /// times over.
    pub(super) fn new(file: &File, words: usize) -> io::Result<Map> {
        // SAFETY: a fresh mapping of an open file; no existing memory is touched.
        let at = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), words * 8, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // Linux 5.14. Where it is not known, the first lap of the ring takes the faults.
        #[cfg(target_os = "linux")]
        // SAFETY: the mapping made above, whole; its contents stay as they are.
        unsafe {
            libc::madvise(at, words * 8, libc::MADV_POPULATE_WRITE)
        };
        Ok(Map { at: AtomicPtr::new(at.cast()), words })
    }

    #[inline]
    fn words(&self) -> &[AtomicU64] {
        let at = self.at.load(Ordering::Relaxed);
        if at.is_null() {
            return &[];
        }
        // SAFETY: mapped until `unmap`, page-aligned, `words` long, and the file is as long: it was preallocated. Atomics
        // may change behind a shared reference.
        unsafe { std::slice::from_raw_parts(at, self.words) }
    }

    /// Gives the memory back. From now on there are no words.
    ///
    /// # Safety
    /// Nobody is using them.
    pub(super) unsafe fn unmap(&self) {
        let at = self.at.swap(std::ptr::null_mut(), Ordering::AcqRel);
        if !at.is_null() {
            // SAFETY: the mapping made in `new`; by this function's contract nothing borrows from it.
            unsafe { libc::munmap(at.cast(), self.words * 8) };
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: nothing borrows from a value that is being dropped.
        unsafe { self.unmap() };
    }
}

/// Part of a mapping, which stays mapped as long as any part of it lives.
pub(super) struct Part {
    map: Arc<Map>,
    first: usize,
    words: usize,
}

impl Part {
    pub(super) fn new(map: &Arc<Map>, first: usize, words: usize) -> Part {
        Part { map: map.clone(), first, words }
    }
}

impl Borrow<[AtomicU64]> for Part {
    #[inline]
    fn borrow(&self) -> &[AtomicU64] {
        &self.map.words()[self.first..][..self.words]
    }
}
