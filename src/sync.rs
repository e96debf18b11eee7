//! Locks and atomics: the standard library's, or loom's, which tries every interleaving (`tests/bus_loom.rs`).

#[cfg(loom)]
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard, atomic};
#[cfg(not(loom))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, atomic};

/// `thread_local!`: under loom, threads are not the system's.
macro_rules! per_thread {
    ($($item:tt)*) => {
        #[cfg(loom)]
        loom::thread_local! { $($item)* }
        #[cfg(not(loom))]
        std::thread_local! { $($item)* }
    };
}
pub(crate) use per_thread;

/// Locks without regard to poison: nothing in the house is left half changed by a panic while a lock is held.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Waits for a notification, without regard to poison.
pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner)
}
