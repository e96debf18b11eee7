//! The bus from Rust: order, re-entrancy, panics, and eight threads publishing while others come and go.

use std::panic::{catch_unwind, set_hook, take_hook};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tokenjoule::bus::Bus;
use tokenjoule::error::ErrorKind;
use tokenjoule::event::{Event, EventKind};
use tokenjoule::queue::Queue;

const CUSTOM: u64 = EventKind::Custom.mask();

fn publish(bus: &Bus, name: &str) {
    bus.publish_custom(name, "").unwrap();
}

/// A bus for one test that callbacks can keep: leaked, as the process's own is.
fn bus() -> &'static Bus {
    Box::leak(Box::new(Bus::new()))
}

#[test]
fn subscribers_are_called_in_the_order_they_subscribed() {
    let bus = bus();
    let seen = Arc::new(Mutex::new(Vec::new()));
    for number in 0..5 {
        let seen = seen.clone();
        bus.subscribe(CUSTOM, move |_| seen.lock().unwrap().push(number)).unwrap();
    }
    publish(bus, "once");
    publish(bus, "twice");
    assert_eq!(*seen.lock().unwrap(), [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
}

#[test]
fn a_subscriber_hears_only_the_kinds_it_asked_for_and_sequences_rise() {
    let bus = bus();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::new(Mutex::new(Vec::new()));
    bus.subscribe(EventKind::BatchStart.mask() | EventKind::BatchEnd.mask(), {
        let heard = heard.clone();
        move |event| heard.lock().unwrap().push(event.kind)
    })
    .unwrap();
    bus.subscribe(u64::MAX, {
        let all = all.clone();
        move |event| all.lock().unwrap().push(event.sequence)
    })
    .unwrap();
    for kind in [EventKind::BatchStart, EventKind::Custom, EventKind::BatchEnd, EventKind::InferenceStart] {
        bus.publish(Event::new(kind));
    }
    assert_eq!(*heard.lock().unwrap(), [EventKind::BatchStart, EventKind::BatchEnd]);
    let all = all.lock().unwrap();
    assert!(all.len() == 4 && all.is_sorted_by(|one, next| one < next), "{all:?}");
}

#[test]
fn a_callback_may_publish_subscribe_and_unsubscribe_itself() {
    let bus = bus();
    let (outer, inner) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let own = Arc::new(AtomicU64::new(0));
    let id = bus
        .subscribe(CUSTOM, {
            let (outer, inner, own) = (outer.clone(), inner.clone(), own.clone());
            move |event| {
                if event.name == "nested" {
                    return;
                }
                outer.fetch_add(1, Ordering::SeqCst);
                let inner = inner.clone();
                bus.subscribe(CUSTOM, move |_| {
                    inner.fetch_add(1, Ordering::SeqCst);
                })
                .unwrap();
                publish(bus, "nested");
                bus.unsubscribe(own.load(Ordering::SeqCst)).unwrap();
            }
        })
        .unwrap();
    own.store(id, Ordering::SeqCst);
    publish(bus, "first");
    // The new subscriber heard "nested", and not "first", which was under way when it came.
    assert_eq!((outer.load(Ordering::SeqCst), inner.load(Ordering::SeqCst)), (1, 1));
    publish(bus, "second");
    assert_eq!((outer.load(Ordering::SeqCst), inner.load(Ordering::SeqCst)), (1, 2));
    assert_eq!(bus.unsubscribe(id).unwrap_err().kind, ErrorKind::NotFound);
}

#[test]
fn a_callback_that_unsubscribes_itself_is_dropped_when_it_has_returned() {
    struct Flag(Arc<AtomicBool>);
    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let bus = bus();
    let dropped = Arc::new(AtomicBool::new(false));
    let own = Arc::new(AtomicU64::new(0));
    let flag = Flag(dropped.clone());
    let id = bus
        .subscribe(CUSTOM, {
            let own = own.clone();
            move |_| {
                bus.unsubscribe(own.load(Ordering::SeqCst)).unwrap();
                assert!(!flag.0.load(Ordering::SeqCst), "dropped while it runs");
            }
        })
        .unwrap();
    own.store(id, Ordering::SeqCst);
    publish(bus, "go");
    assert!(dropped.load(Ordering::SeqCst));
    assert_eq!(bus.panics(), 0);
}

#[test]
fn a_panic_ends_at_the_bus() {
    let bus = bus();
    let after = Arc::new(AtomicUsize::new(0));
    bus.subscribe(CUSTOM, |_| panic!("a subscriber's own affair")).unwrap();
    bus.subscribe(CUSTOM, {
        let after = after.clone();
        move |_| {
            after.fetch_add(1, Ordering::SeqCst);
        }
    })
    .unwrap();
    silently(|| {
        publish(bus, "one");
        publish(bus, "two");
    });
    assert_eq!((after.load(Ordering::SeqCst), bus.panics()), (2, 2));
}

/// Runs without the panic messages that the test provokes.
fn silently(body: impl FnOnce() + std::panic::UnwindSafe) {
    static HOOK: Mutex<()> = Mutex::new(());
    let _alone = HOOK.lock().unwrap();
    let hook = take_hook();
    set_hook(Box::new(|_| ()));
    let result = catch_unwind(body);
    set_hook(hook);
    result.unwrap();
}

#[test]
fn bad_events_reach_nobody() {
    let bus = bus();
    let heard = Arc::new(AtomicUsize::new(0));
    bus.subscribe(u64::MAX, {
        let heard = heard.clone();
        move |_| {
            heard.fetch_add(1, Ordering::SeqCst);
        }
    })
    .unwrap();
    for (name, data, field) in
        [("", "{}", "name"), ("x", "[]", "data_json"), ("x", "{", "data_json"), ("x", "{} {}", "data_json")]
    {
        let error = bus.publish_custom(name, data).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
        assert!(error.message.starts_with(field), "{error}");
    }
    assert_eq!(heard.load(Ordering::SeqCst), 0);
    assert_eq!(bus.subscribe(0, |_| ()).unwrap_err().kind, ErrorKind::InvalidArgument);
}

/// What a subscription owns in the stress test: poisoned by its drop.
struct Owned {
    is_alive: AtomicBool,
    running: AtomicUsize,
    drops: Arc<AtomicUsize>,
}

impl Drop for Owned {
    fn drop(&mut self) {
        assert!(self.is_alive.swap(false, Ordering::SeqCst), "dropped twice");
        assert_eq!(self.running.load(Ordering::SeqCst), 0, "dropped while running");
        self.drops.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn eight_publishers_while_others_come_and_go() {
    let bus = bus();
    let stop = Arc::new(AtomicBool::new(false));
    let (made, drops, heard) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));

    let subscribe = {
        let (made, drops, heard) = (made.clone(), drops.clone(), heard.clone());
        move |panics: bool, leaves: bool| {
            let owned =
                Owned { is_alive: AtomicBool::new(true), running: AtomicUsize::new(0), drops: drops.clone() };
            let own = Arc::new(AtomicU64::new(0));
            made.fetch_add(1, Ordering::SeqCst);
            let heard = heard.clone();
            let id = bus
                .subscribe(CUSTOM, {
                    let own = own.clone();
                    move |event| {
                        owned.running.fetch_add(1, Ordering::SeqCst);
                        assert!(owned.is_alive.load(Ordering::SeqCst), "called after its drop");
                        heard.fetch_add(1, Ordering::Relaxed);
                        if event.name == "outer" && heard.load(Ordering::Relaxed).is_multiple_of(64) {
                            publish(bus, "inner");
                        }
                        if leaves && own.load(Ordering::SeqCst) != 0 {
                            let _ = bus.unsubscribe(own.load(Ordering::SeqCst));
                        }
                        owned.running.fetch_sub(1, Ordering::SeqCst);
                        assert!(!panics, "provoked");
                    }
                })
                .unwrap();
            own.store(id, Ordering::SeqCst);
            id
        }
    };

    silently(std::panic::AssertUnwindSafe(|| {
        thread::scope(|scope| {
            for _ in 0..8 {
                let stop = stop.clone();
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        publish(bus, "outer");
                    }
                });
            }
            for number in 0..3 {
                let (stop, subscribe) = (stop.clone(), subscribe.clone());
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let id = subscribe(number == 1, number == 2);
                        thread::yield_now();
                        match bus.unsubscribe(id) {
                            Ok(()) => (),
                            Err(error) => assert!(number == 2 && error.kind == ErrorKind::NotFound),
                        }
                    }
                });
            }
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(2) {
                thread::sleep(Duration::from_millis(20));
            }
            stop.store(true, Ordering::Relaxed);
        });
    }));
    assert_eq!(drops.load(Ordering::SeqCst), made.load(Ordering::SeqCst), "each dropped exactly once");
    assert!(heard.load(Ordering::SeqCst) > 1000 && made.load(Ordering::SeqCst) > 100);
    assert!(bus.panics() > 0);
}

#[test]
fn a_queue_keeps_order_counts_what_it_lost_and_wakes_its_reader() {
    let queue = Arc::new(Queue::with_capacity(3).unwrap());
    for number in 0..5 {
        queue.push_with(|| number);
    }
    let now = Some(Duration::ZERO);
    assert_eq!(queue.pop(now).unwrap(), (0, 0));
    queue.push_with(|| 5);
    assert_eq!([1, 2].map(|_| queue.pop(now).unwrap()), [(1, 0), (2, 0)]);
    assert_eq!(queue.pop(now).unwrap(), (5, 2)); // 3 and 4 found no room
    assert_eq!(queue.pop(now).unwrap_err().kind, ErrorKind::Timeout);

    let begin = Instant::now();
    assert_eq!(queue.pop(Some(Duration::from_millis(30))).unwrap_err().kind, ErrorKind::Timeout);
    assert!(begin.elapsed() >= Duration::from_millis(30));

    let reader = thread::spawn({
        let queue = queue.clone();
        move || (queue.pop(None), queue.pop(None))
    });
    queue.push_with(|| 6);
    thread::sleep(Duration::from_millis(20));
    queue.close().unwrap();
    let (item, end) = reader.join().unwrap();
    assert_eq!(item.unwrap(), (6, 0));
    assert_eq!(end.unwrap_err().kind, ErrorKind::Closed);
    assert!(Queue::<u8>::with_capacity(0).is_err() && Queue::<u8>::with_capacity(1 << 21).is_err());
}
