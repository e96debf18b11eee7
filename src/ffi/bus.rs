//! The event bus.
//!
//! One per process. Subscribers are called synchronously, in the order they subscribed, on the publishing thread, with
//! no lock held: a callback may publish, subscribe and unsubscribe, itself included. Stores subscribed with
//! tj_store_subscribe have a record before any TJ_EVENT_TELEMETRY_RECORD subscriber sees it. A forked child starts with an
//! empty bus.
//!
//! A language without callbacks on foreign threads opens a queue and polls it instead.

use std::ffi::{c_char, c_void};
use std::sync::Arc;
use std::time::Duration;

use super::boundary::{
    Sized_, entry, handle, infallible, initialise, not_null, room_out, string, struct_out, write_out,
};
use super::error::{tj_error, tj_status};
use super::event::CEvent;
use super::record::tj_telemetry_record;
use crate::bus::Bus;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::queue::Queue;

/// The kinds of events. TJ_EVENT_MASK(kind) is a kind's bit in a mask.
#[repr(C)]
pub enum tj_event_kind {
    /// A call has begun.
    TJ_EVENT_INFERENCE_START = 1,
    /// A call has ended; the event carries its record.
    TJ_EVENT_INFERENCE_END = 2,
    /// A record that is kept.
    TJ_EVENT_TELEMETRY_RECORD = 3,
    /// An energy batch has begun.
    TJ_EVENT_BATCH_START = 4,
    /// An energy batch has ended.
    TJ_EVENT_BATCH_END = 5,
    /// Published by tj_bus_publish.
    TJ_EVENT_CUSTOM = 63,
}

/// Every kind, those of later versions included.
pub const TJ_EVENT_MASK_ALL: u64 = u64::MAX;

/// An event. Everything in it is valid during the callback only; of a tj_polled_event, until that is freed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_event {
    /// The size that the library gave it.
    pub struct_size: usize,
    /// A tj_event_kind.
    pub kind: u32,
    /// Numbers the events of this process, from 1.
    pub sequence: u64,
    /// When it was published, Unix seconds.
    pub timestamp: f64,
    /// TJ_EVENT_CUSTOM: the publisher's name; otherwise the kind's, lower case ("inference_start").
    pub name: *const c_char,
    /// The call's model; "" if it is not about a call.
    pub model_id: *const c_char,
    /// The call's engine; "" if it is not about a call.
    pub engine: *const c_char,
    /// The call (tj_call_id); 0 if it is not about one.
    pub call_id: u64,
    /// TJ_EVENT_TELEMETRY_RECORD and TJ_EVENT_INFERENCE_END: the call's record, unknowns as NAN and TJ_UNKNOWN. Else NULL.
    pub record: *const tj_telemetry_record,
    /// An object, "{}" at least.
    pub data_json: *const c_char,
}

/// A subscriber. Called on the publishing thread, from several threads at once if several publish. It must not unwind
/// (no C++ exception, no longjmp) into the library.
pub type tj_event_fn = Option<unsafe extern "C" fn(event: *const tj_event, user_data: *mut c_void)>;

/// Releases a subscriber's user_data. Called exactly once, after the last call of the subscriber has ended, on whichever
/// thread ended it.
pub type tj_drop_fn = Option<unsafe extern "C" fn(user_data: *mut c_void)>;

/// What a subscription owns: the callback, its user_data and how to release it.
struct Subscriber {
    callback: unsafe extern "C" fn(event: *const tj_event, user_data: *mut c_void),
    closure: Closure,
}

/// user_data and its drop; released when this is.
struct Closure {
    user_data: *mut c_void,
    drop: tj_drop_fn,
}

// SAFETY: the header tells the subscriber that it is called, and dropped, on any thread.
unsafe impl Send for Closure {}
// SAFETY: as above.
unsafe impl Sync for Closure {}

impl Subscriber {
    fn call(&self, event: &Event<'_>) {
        let event = CEvent::of(event);
        // SAFETY: the caller of tj_bus_subscribe vouched for the callback; the event lives until it returns.
        unsafe { (self.callback)(event.event(), self.closure.user_data) }
    }
}

impl Drop for Closure {
    fn drop(&mut self) {
        if let Some(release) = self.drop {
            // SAFETY: this runs once, after the last call, as the header promises the subscriber.
            unsafe { release(self.user_data) }
        }
    }
}

/// Subscribes `fn` to the kinds in `event_mask` (TJ_EVENT_MASK(kind) | ..., or TJ_EVENT_MASK_ALL). It is called for
/// events published from now on. `drop` may be NULL; it runs exactly once, also when this function fails.
///
/// TJ_OK: *out_subscription is the number for tj_bus_unsubscribe, never 0. TJ_ERR_INVALID_ARGUMENT: `fn` or
/// `out_subscription` is NULL, or the mask is 0.
///
/// # Safety
/// `fn` and `drop` may be called with `user_data` on any thread until `drop` has run; `out_subscription` is
/// writable; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_bus_subscribe(
    event_mask: u64,
    r#fn: tj_event_fn,
    user_data: *mut c_void,
    drop: tj_drop_fn,
    out_subscription: *mut u64,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked.
    unsafe {
        let closure = Closure { user_data, drop };
        entry(error, move || {
            let closure = closure; // dropped on every way out
            let callback = r#fn.ok_or_else(|| Error::invalid("fn", "is NULL"))?;
            not_null(out_subscription, "out_subscription")?;
            let subscriber = Subscriber { callback, closure };
            let subscription = Bus::global().subscribe(event_mask, move |event| subscriber.call(event))?;
            write_out(out_subscription, subscription);
            Ok(())
        })
    }
}

/// Ends a subscription. When it returns the callback is not running, will not run again, and its drop has run; called
/// from inside the callback itself, that is so once the callback has returned. Two callbacks that unsubscribe each other
/// at the same moment wait for each other for ever: let one of them do it.
///
/// TJ_OK; TJ_ERR_NOT_FOUND: no such subscription, or it has ended; TJ_ERR_FORKED: it is the parent process's.
///
/// # Safety
/// `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_bus_unsubscribe(subscription: u64, error: *mut tj_error) -> tj_status {
    // SAFETY: as the caller promises.
    unsafe { entry(error, || Bus::global().unsubscribe(subscription)) }
}

/// Publishes a TJ_EVENT_CUSTOM. `name` must not be empty; `data_json` is an object, NULL or "" for {} (at most 1 MiB).
/// Returns when all subscribers have returned.
///
/// TJ_OK; TJ_ERR_INVALID_ARGUMENT: nobody saw it.
///
/// # Safety
/// `name` is NUL-terminated; `data_json` is NULL or NUL-terminated; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_bus_publish(
    name: *const c_char,
    data_json: *const c_char,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked.
    unsafe {
        entry(error, || {
            not_null(name, "name")?;
            Bus::global().publish_custom(string(name, "name")?, string(data_json, "data_json")?)
        })
    }
}

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
            let room = room_out(out_polled, "out_polled")?;
            if room < size_of::<tj_polled_event>() {
                return Err(Error::invalid("out_polled.struct_size", "has no room for the owner"));
            }
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
    if !room_out(polled, "polled").is_ok_and(|room| room == size_of::<tj_polled_event>()) {
        return;
    }
    // SAFETY: the struct is there to its last field, and `owner` is NULL or came from tj_bus_poll; it is taken out before
    // it is dropped, so that a second call finds NULL.
    unsafe {
        let polled = &mut *polled;
        let owner = std::mem::replace(&mut polled.owner, std::ptr::null_mut());
        polled.event = std::ptr::null();
        if !owner.is_null() {
            infallible((), || drop(Box::from_raw(owner.cast::<CEvent>())));
        }
    }
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
        Err(error) if error.kind == crate::error::ErrorKind::NotFound => Ok(()), // closed before
        other => other,
    }
}
