//! A bounded queue between the bus and whoever would rather poll than be called.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::os::Process;

/// Keeps up to so many items; counts those that found no room.
pub struct Queue<T> {
    process: Process,
    capacity: usize,
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    /// The items, each with the number lost just before it.
    items: VecDeque<(T, u64)>,
    /// Lost since the last item was put in.
    lost: u64,
    is_closed: bool,
}

/// The most that a queue may hold.
pub const MAX_CAPACITY: usize = 1 << 20;

impl<T> Queue<T> {
    /// An empty queue for 1 to [`MAX_CAPACITY`] items.
    pub fn with_capacity(capacity: usize) -> Result<Queue<T>> {
        if !(1..=MAX_CAPACITY).contains(&capacity) {
            return Err(Error::invalid("capacity", format!("is {capacity}; it must be 1 to {MAX_CAPACITY}")));
        }
        Ok(Queue {
            process: Process::current(),
            capacity,
            state: Mutex::new(State { items: VecDeque::new(), lost: 0, is_closed: false }),
            changed: Condvar::new(),
        })
    }

    /// Puts an item in, or counts it as lost if there is no room. Never waits for a reader.
    pub fn push_with(&self, item: impl FnOnce() -> T) {
        let is_full = |state: &State<T>| state.items.len() == self.capacity;
        if let mut state = self.lock()
            && (is_full(&state) || state.is_closed)
        {
            state.lost += 1;
            return;
        }
        let item = item(); // made with no lock held
        let mut state = self.lock();
        if is_full(&state) || state.is_closed {
            state.lost += 1;
            return;
        }
        let lost = std::mem::take(&mut state.lost);
        state.items.push_back((item, lost));
        drop(state);
        self.changed.notify_one();
    }

    /// Takes the oldest item and the number lost just before it, waiting up to `timeout` (`None`: as long as it takes).
    pub fn pop(&self, timeout: Option<Duration>) -> Result<(T, u64)> {
        self.process.check("the queue")?;
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut state = self.lock();
        loop {
            if let Some(item) = state.items.pop_front() {
                return Ok(item);
            }
            if state.is_closed {
                return Err(Error::new(ErrorKind::Closed, "the queue is closed and empty"));
            }
            state = match deadline {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(Error::new(ErrorKind::Timeout, "no event within the time given"));
                    }
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Takes no more items and wakes those that wait. What is in it can still be popped.
    pub fn close(&self) -> Result<()> {
        self.process.check("the queue")?;
        self.lock().is_closed = true;
        self.changed.notify_all();
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
