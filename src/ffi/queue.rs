//! Polling the bus.
//!
//! For a language without callbacks on foreign threads: open a queue of events and poll it.

use std::ffi::c_void;
use std::mem::offset_of;
use std::sync::Arc;
use std::time::Duration;

use super::boundary::{
    Owning, Sized_, entry, handle, infallible, initialise, not_null, release, room_with_owner, struct_out,
    write_out,
};
use super::error::{tj_error, tj_status};
use super::event::{CEvent, tj_event};
use crate::bus::Bus;
use crate::error::{ErrorKind, Result};
use crate::queue::Queue;

/// A bounded queue of events. Any thread, any time, until it is freed.
pub struct tj_bus_queue {
    queue: Arc<Queue<CEvent>>,
    subscription: u64,
}

/// An event taken from a queue. Initialise with TJ_POLLED_EVENT_INIT; release with tj_polled_event_free.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_polled_event {
    /// Set by TJ_POLLED_EVENT_INIT.
    pub struct_size: usize,
    /// The event; valid until tj_polled_event_free.
    pub event: *const tj_event,
    /// How many events the queue lost, for want of room, between the event polled before and this one.
    pub lost: u64,
    /// The library's; hands back what the event lives in.
    pub owner: *mut c_void,
}

// SAFETY: repr(C), size first, numbers and pointers only.
unsafe impl Sized_ for tj_polled_event {
    const INIT: &'static str = "POLLED_EVENT";
}

// SAFETY: the owner is where this says, and comes from tj_bus_poll.
unsafe impl Owning for tj_polled_event {
    type Owner = CEvent;
    const OWNER: usize = offset_of!(tj_polled_event, owner);

    unsafe fn let_go(at: *mut Self) {
        // SAFETY: by the trait's contract.
        unsafe { (*at).event = std::ptr::null() }
    }
}

/// Does what TJ_POLLED_EVENT_INIT does, for languages without macros. NULL is ignored.
///
/// # Safety
/// `polled` is NULL or points to memory for one `tj_polled_event`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_polled_event_init(polled: *mut tj_polled_event) {
    // SAFETY: the caller's promise is the same.
    unsafe { initialise(polled) }
}

/// Opens a queue that takes a copy of every event of the kinds in `event_mask` from now on. It holds at most `capacity`
/// events (1 to 2^20); when it is full, further events are lost and counted.
///
/// TJ_OK: *out_queue is a queue; free it with tj_bus_queue_free. TJ_ERR_INVALID_ARGUMENT: *out_queue is not written.
///
/// # Safety
/// `out_queue` is writable; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_bus_queue_open(
    event_mask: u64,
    capacity: u32,
    out_queue: *mut *mut tj_bus_queue,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked.
    unsafe {
        entry(error, || {
            not_null(out_queue, "out_queue")?;
            let queue = Arc::new(Queue::with_capacity(capacity as usize)?);
            let into = Arc::clone(&queue);
            let subscription =
                Bus::global().subscribe(event_mask, move |event| into.push_with(|| CEvent::of(event)))?;
            write_out(out_queue, Box::into_raw(Box::new(tj_bus_queue { queue, subscription })));
            Ok(())
        })
    }
}

/// Takes the oldest event, waiting up to `timeout_ms` milliseconds for one (0: not at all; UINT32_MAX: as long as it takes).
///
/// TJ_OK: *out_polled holds it; release it with tj_polled_event_free, also before it is filled again.
/// TJ_ERR_TIMEOUT: there was none; TJ_ERR_CLOSED: tj_bus_queue_close was called and the queue is empty;
/// TJ_ERR_INVALID_ARGUMENT: NULL, or a struct_size without room for the owner; TJ_ERR_FORKED. In these cases
/// *out_polled is not written.
///
/// # Safety
/// `queue` came from tj_bus_queue_open; `out_polled` is initialised; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_bus_poll(
    queue: *mut tj_bus_queue,
    timeout_ms: u32,
    out_polled: *mut tj_polled_event,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked, and `room` is what the caller's struct holds.
    unsafe {
        entry(error, || {
            let queue = handle(queue, "queue")?;
            let room = room_with_owner(out_polled, "out_polled")?;
            let timeout = (timeout_ms != u32::MAX).then(|| Duration::from_millis(timeout_ms.into()));
            let (event, lost) = queue.queue.pop(timeout)?;
            let owner = Box::new(event);
            let out = tj_polled_event {
                struct_size: size_of::<tj_polled_event>(),
                event: owner.event(),
                lost,
                owner: Box::into_raw(owner).cast(),
            };
            struct_out(&out, out_polled, room);
            Ok(())
        })
    }
}

/// Releases a polled event. NULL, one that was never filled, and one that was released before are fine.
///
/// # Safety
/// `polled` is NULL or initialised.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_polled_event_free(polled: *mut tj_polled_event) {
    // SAFETY: the caller's promise is the same.
    unsafe { release(polled) }
}

/// Ends the queue's subscription and wakes the threads that wait in tj_bus_poll. Events that are in it can still be
/// polled. Closing twice is fine.
///
/// TJ_OK; TJ_ERR_INVALID_ARGUMENT: NULL; TJ_ERR_FORKED.
///
/// # Safety
/// `queue` came from tj_bus_queue_open; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_bus_queue_close(queue: *mut tj_bus_queue, error: *mut tj_error) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked.
    unsafe { entry(error, || close(handle(queue, "queue")?)) }
}

/// Closes the queue and frees it, the events in it included. NULL is fine. The last use of the handle: no other thread
/// may be polling it.
///
/// # Safety
/// `queue` is NULL or came from tj_bus_queue_open and was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_bus_queue_free(queue: *mut tj_bus_queue) {
    if queue.is_null() {
        return;
    }
    // SAFETY: not NULL, so it came from tj_bus_queue_open, and this is its last use.
    let queue = unsafe { Box::from_raw(queue) };
    infallible((), || {
        let _ = close(&queue); // in a forked child the parent's subscription is not there to end
    });
}

fn close(queue: &tj_bus_queue) -> Result<()> {
    queue.queue.close()?;
    match Bus::global().unsubscribe(queue.subscription) {
        Err(error) if error.kind == ErrorKind::NotFound => Ok(()), // closed before
        other => other,
    }
}
