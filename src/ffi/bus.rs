//! The event bus.
//!
//! One per process. Subscribers are called synchronously, in the order they subscribed, on the publishing thread, with
//! no lock held: a callback may publish, subscribe and unsubscribe, itself included. Stores subscribed with
//! tj_store_subscribe have a record before any TJ_EVENT_TELEMETRY_RECORD subscriber sees it. A forked child starts with an
//! empty bus.

use std::ffi::{c_char, c_void};

use super::boundary::{entry, not_null, string, write_out};
use super::error::{tj_error, tj_status};
use super::event::{CEvent, tj_event};
use crate::bus::Bus;
use crate::error::Error;
use crate::event::Event;

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
pub(super) struct Closure {
    user_data: *mut c_void,
    drop: tj_drop_fn,
}

impl Closure {
    pub(super) fn new(user_data: *mut c_void, drop: tj_drop_fn) -> Closure {
        Closure { user_data, drop }
    }

    pub(super) fn user_data(&self) -> *mut c_void {
        self.user_data
    }
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
