//! The process's event bus.
//!
//! Subscribers are called synchronously, in the order they subscribed, on the publishing thread, with no lock held.
//! Recorders (stores) are attached beside them: a record reaches the recorders before the subscribers hear of it.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use once_cell::race::OnceBox;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, EventKind};
use crate::os::{PerProcess, wall_clock};
use crate::record::{MAX_METADATA, MAX_STRING, Record, check_json_object};
use crate::sync::{Condvar, Mutex, MutexGuard, lock, per_thread, wait};

/// Keeps records. A recorder that cannot must account for it itself: a publisher has no use for the error.
pub trait Recorder: Send + Sync {
    /// Keeps a record that some program made.
    fn keep(&self, record: &Record<'_>);

    /// A call has begun whose record will be this recorder's. `record` is what is known of it by now. `None`: the recorder
    /// takes no more calls.
    fn call_began(self: Arc<Self>, call: u64, record: &Record<'_>) -> Option<Box<dyn OpenCall>>;
}

/// A call in flight, as its recorder sees it. Dropped without an end, it is as if the call had not been.
pub trait OpenCall: Send {
    /// What the call has told so far. Called for every token: must be quick, and must not allocate.
    fn told(&self, told: &Told);

    /// The call has ended, and a figure of its record is not known yet: [`OpenCall::ended`] follows in the background.
    /// `record` is what is known; `late` hurries what is missing.
    fn ends_late(&mut self, record: &Record<'_>, late: &Arc<dyn Late>) {
        let _ = (record, late);
    }

    /// The call has ended: keeps its record.
    fn ended(self: Box<Self>, record: &Record<'_>);
}

/// Whoever owes recorders the rest of calls that have ended.
pub trait Late: Send + Sync {
    /// Finds out what can be found out now. `waits`: returns when all calls that have ended before are kept.
    fn hurry(&self, waits: bool);
}

/// What a call has told so far; [`UNKNOWN`](crate::record::UNKNOWN) for what it has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// The whole prompt.
    pub prompt_tokens: u64,
    /// Its cached part.
    pub cached_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Nanoseconds from the start to the first token.
    pub first: u64,
    /// Nanoseconds from the start to the latest token.
    pub latest: u64,
}

/// Who listens, who records.
pub struct Bus {
    /// Replaced whole at each change, so that a publisher walks over its own snapshot with no lock held.
    listeners: Mutex<Arc<Listeners>>,
    sequence: AtomicU64,
    panics: AtomicU64,
    /// The process's number in the line of forked processes.
    generation: u64,
}

#[derive(Default, Clone)]
struct Listeners {
    subscribers: Vec<Arc<Subscriber>>,
    recorders: Arc<[Arc<dyn Recorder>]>,
    /// All kinds that anyone subscribed to.
    mask: u64,
}

impl Listeners {
    fn changed(&self, change: impl FnOnce(&mut Listeners)) -> Arc<Listeners> {
        let mut listeners = self.clone();
        change(&mut listeners);
        listeners.mask = listeners.subscribers.iter().fold(0, |mask, subscriber| mask | subscriber.mask);
        Arc::new(listeners)
    }
}

impl Default for Bus {
    fn default() -> Self {
        Bus::new()
    }
}

impl Bus {
    /// An empty bus of its own. Programs use [`Bus::global`].
    pub fn new() -> Bus {
        Bus::of_generation(0)
    }

    fn of_generation(generation: u64) -> Bus {
        Bus {
            listeners: Mutex::new(Arc::default()),
            sequence: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            generation,
        }
    }

    /// The process's bus. A forked child begins with an empty one: the parent's may have been forked in mid-change.
    pub fn global() -> &'static Bus {
        static BUS: OnceBox<PerProcess<Bus>> = OnceBox::new();
        PerProcess::current(&BUS, Bus::of_generation)
    }

    /// Calls `callback` for every event published from now on whose kind is in `mask`. Gives the subscription's
    /// number, never 0. The callback is dropped exactly once: after its last call has ended, or right now on error.
    pub fn subscribe(&self, mask: u64, callback: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Result<u64> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        if mask == 0 {
            return Err(Error::invalid("event_mask", "is 0; it selects no event"));
        }
        // The generation in the upper bits tells a child the parent's subscriptions from ones that never were.
        let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        let id = self.generation << GENERATION_SHIFT | number;
        let subscriber = Arc::new(Subscriber::new(id, mask, Arc::new(callback)));
        self.change(|listeners| listeners.subscribers.push(subscriber));
        Ok(id)
    }

    /// Ends a subscription. When it returns, the callback is not running, will not run again, and has been dropped;
    /// from inside the callback itself, that is so once the callback has returned.
    pub fn unsubscribe(&self, id: u64) -> Result<()> {
        let mut found = None;
        self.change(|listeners| {
            if let Some(at) = listeners.subscribers.iter().position(|subscriber| subscriber.id == id) {
                found = Some(listeners.subscribers.remove(at));
            }
        });
        match found {
            Some(subscriber) => {
                subscriber.end();
                Ok(())
            }
            None if id >> GENERATION_SHIFT < self.generation => Err(Error::new(
                ErrorKind::Forked,
                "subscription belongs to the process that this one was forked from",
            )),
            None => {
                let number = id & ((1 << GENERATION_SHIFT) - 1);
                Err(Error::new(
                    ErrorKind::NotFound,
                    format!("subscription {number} does not exist, or has ended"),
                ))
            }
        }
    }

    /// From now on `recorder` keeps the record of every call begun and every [`EventKind::TelemetryRecord`] published.
    /// Attaching twice is the same as once.
    pub fn attach(&self, recorder: Arc<dyn Recorder>) {
        self.change(|listeners| {
            let others = listeners.recorders.iter().filter(|attached| !is_same(attached, &recorder)).cloned();
            listeners.recorders = others.chain([recorder.clone()]).collect();
        });
    }

    /// Ends [`Bus::attach`]. A recorder that is not attached is fine.
    pub fn detach<R: Recorder + 'static>(&self, recorder: &Arc<R>) {
        let recorder: Arc<dyn Recorder> = recorder.clone();
        self.change(|listeners| {
            let others = listeners.recorders.iter().filter(|attached| !is_same(attached, &recorder)).cloned();
            listeners.recorders = others.collect();
        });
    }

    /// The recorders attached now.
    pub(crate) fn recorders(&self) -> Arc<[Arc<dyn Recorder>]> {
        self.listeners().recorders.clone()
    }

    /// Publishes the program's own event. Returns when all subscribers have returned.
    pub fn publish_custom(&self, name: &str, data_json: &str) -> Result<()> {
        if name.is_empty() {
            return Err(Error::invalid("name", "must not be empty"));
        }
        if name.len() > MAX_STRING {
            return Err(Error::invalid(
                "name",
                format!("has {} bytes; at most {MAX_STRING} fit", name.len()),
            ));
        }
        check_json_object("data_json", data_json, MAX_METADATA)?;
        let data_json = if data_json.is_empty() { "{}" } else { data_json };
        self.notify(Event { name, data_json, ..Event::new(EventKind::Custom) });
        Ok(())
    }

    /// Publishes an event. The record of a [`EventKind::TelemetryRecord`] goes to the attached recorders first. The bus
    /// gives the event its sequence number and, unless it has one, its timestamp.
    pub fn publish(&self, event: Event<'_>) {
        if let (EventKind::TelemetryRecord, Some(record)) = (event.kind, event.record) {
            for recorder in self.recorders().iter() {
                recorder.keep(record);
            }
        }
        self.notify(event);
    }

    /// Tells the subscribers of an event, not the recorders. A subscriber that panics is counted, and the others are
    /// told all the same.
    pub(crate) fn notify(&self, mut event: Event<'_>) {
        event.sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let listeners = self.listeners();
        if listeners.mask & event.kind.mask() == 0 {
            return;
        }
        if event.timestamp == 0.0 {
            event.timestamp = wall_clock();
        }
        for subscriber in listeners.subscribers.iter().filter(|it| it.mask & event.kind.mask() != 0) {
            if subscriber.call(&event).is_err() {
                self.panics.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Whether anyone subscribed to that kind: lets a publisher save the work of describing what nobody hears.
    pub(crate) fn has_subscribers(&self, kind: EventKind) -> bool {
        self.listeners().mask & kind.mask() != 0
    }

    /// How many times a subscriber panicked. The panic ends there: neither the publisher nor the other subscribers
    /// notice.
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    fn listeners(&self) -> Arc<Listeners> {
        lock(&self.listeners).clone()
    }

    fn change(&self, change: impl FnOnce(&mut Listeners)) {
        let before = {
            let mut listeners = lock(&self.listeners);
            let after = listeners.changed(change);
            std::mem::replace(&mut *listeners, after)
        };
        drop(before); // with no lock held: it may hold the last reference to a callback
    }
}

const GENERATION_SHIFT: u32 = 48;

fn is_same(one: &Arc<dyn Recorder>, other: &Arc<dyn Recorder>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(one), Arc::as_ptr(other))
}

type Callback = dyn Fn(&Event<'_>) + Send + Sync;

struct Subscriber {
    id: u64,
    mask: u64,
    state: Mutex<State>,
    /// Notified when the callback has been dropped.
    ended: Condvar,
}

struct State {
    /// Taken out when the subscription has been removed and the last call is over: that drops it, once.
    callback: Option<Arc<Callback>>,
    /// How many calls are under way, on all threads.
    running: usize,
    is_removed: bool,
    is_dropped: bool,
}

per_thread! {
    /// The subscriptions whose callbacks this thread is inside of, the innermost last.
    static INSIDE: RefCell<Vec<u64>> = RefCell::new(Vec::new());
}

impl Subscriber {
    fn new(id: u64, mask: u64, callback: Arc<Callback>) -> Self {
        let state = State { callback: Some(callback), running: 0, is_removed: false, is_dropped: false };
        Subscriber { id, mask, state: Mutex::new(state), ended: Condvar::new() }
    }

    /// Calls the callback unless the subscription has ended. An error is the callback's panic.
    fn call(&self, event: &Event<'_>) -> std::thread::Result<()> {
        let callback = {
            let mut state = lock(&self.state);
            let Some(callback) = state.callback.clone().filter(|_| !state.is_removed) else { return Ok(()) };
            state.running += 1;
            callback
        };
        // A thread that is being torn down has no INSIDE any more; it cannot be waiting for itself either.
        let _ = INSIDE.try_with(|inside| inside.borrow_mut().push(self.id));
        let result = catch_unwind(AssertUnwindSafe(|| callback(event)));
        let _ = INSIDE.try_with(|inside| inside.borrow_mut().pop());

        drop(callback); // never the last reference: `state` keeps one until nobody is running
        let mut state = lock(&self.state);
        state.running -= 1;
        if state.running == 0 && state.is_removed {
            self.drop_callback(state);
        }
        result
    }

    /// Marks the subscription as ended and waits until its callback has been dropped; called inside that callback, only
    /// marks it.
    fn end(&self) {
        let mut state = lock(&self.state);
        state.is_removed = true;
        if state.running == 0 {
            self.drop_callback(state);
            return;
        }
        if INSIDE.try_with(|inside| inside.borrow().contains(&self.id)).unwrap_or(false) {
            return;
        }
        while !state.is_dropped {
            state = wait(&self.ended, state);
        }
    }

    /// Runs the callback's drop with no lock held, then lets those that wait for it go.
    fn drop_callback(&self, mut state: MutexGuard<'_, State>) {
        let callback = state.callback.take();
        drop(state);
        let _ = catch_unwind(AssertUnwindSafe(|| drop(callback)));
        lock(&self.state).is_dropped = true;
        self.ended.notify_all();
    }
}
