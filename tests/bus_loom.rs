//! Every interleaving of publishing, subscribing and unsubscribing, by loom.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release --test bus_loom` (part of `make test`).

#![cfg(loom)]

use std::sync::Arc;

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use tokenjoule::bus::Bus;
use tokenjoule::event::EventKind;

/// What a subscriber leaves behind: how often it is running, ran, and was dropped.
#[derive(Default)]
struct Trace {
    running: AtomicUsize,
    runs: AtomicUsize,
    drops: AtomicUsize,
}

/// Part of a callback: notices its drop, which must find it at rest.
struct Closure(Arc<Trace>);

impl Closure {
    fn run(&self) {
        assert_eq!(self.0.drops.load(Ordering::SeqCst), 0, "called after its drop");
        self.0.running.fetch_add(1, Ordering::SeqCst);
        self.0.runs.fetch_add(1, Ordering::SeqCst);
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Closure {
    fn drop(&mut self) {
        assert_eq!(self.0.running.load(Ordering::SeqCst), 0, "dropped while running");
        self.0.drops.fetch_add(1, Ordering::SeqCst);
    }
}

fn subscribe(bus: &Bus) -> (u64, Arc<Trace>) {
    let trace = Arc::new(Trace::default());
    let closure = Closure(trace.clone());
    let id = bus.subscribe(EventKind::Custom.mask(), move |_| closure.run()).unwrap();
    (id, trace)
}

fn publish(bus: &Bus) {
    bus.publish_custom("event", "").unwrap();
}

/// The promise of `unsubscribe`: when it has returned, the callback rests for good and was dropped once.
fn assert_over(trace: &Trace) {
    assert_eq!(trace.running.load(Ordering::SeqCst), 0);
    assert_eq!(trace.drops.load(Ordering::SeqCst), 1);
}

#[test]
fn unsubscribe_waits_for_the_callback_and_drops_it_once() {
    loom::model(|| {
        let bus = Arc::new(Bus::new());
        let (id, trace) = subscribe(&bus);
        let publisher = thread::spawn({
            let bus = bus.clone();
            move || publish(&bus)
        });
        bus.unsubscribe(id).unwrap();
        assert_over(&trace);
        let runs = trace.runs.load(Ordering::SeqCst);
        publisher.join().unwrap();
        assert_eq!(trace.runs.load(Ordering::SeqCst), runs, "ran after unsubscribe returned");
        assert_over(&trace);
    });
}

#[test]
fn the_last_of_two_publishers_drops_the_callback() {
    loom::model(|| {
        let bus = Arc::new(Bus::new());
        let (id, trace) = subscribe(&bus);
        let publishers = [bus.clone(), bus.clone()].map(|bus| thread::spawn(move || publish(&bus)));
        bus.unsubscribe(id).unwrap();
        assert_over(&trace);
        publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
        assert_over(&trace);
    });
}

#[test]
fn of_two_that_unsubscribe_one_does_it() {
    loom::model(|| {
        let bus = Arc::new(Bus::new());
        let (id, trace) = subscribe(&bus);
        let other = thread::spawn({
            let bus = bus.clone();
            move || bus.unsubscribe(id).is_ok()
        });
        let mine = bus.unsubscribe(id).is_ok();
        assert_ne!(mine, other.join().unwrap());
        assert_over(&trace);
    });
}

#[test]
fn a_callback_may_unsubscribe_itself_while_another_thread_runs_it() {
    loom::model(|| {
        let bus = Arc::new(Bus::new());
        let trace = Arc::new(Trace::default());
        let closure = Closure(trace.clone());
        let own = Arc::new(AtomicUsize::new(0));
        let id = bus
            .subscribe(EventKind::Custom.mask(), {
                let (bus, own) = (Arc::downgrade(&bus), own.clone());
                move |_| {
                    closure.run();
                    let id = own.load(Ordering::SeqCst) as u64;
                    let _ = bus.upgrade().unwrap().unsubscribe(id); // the second to come finds it gone
                }
            })
            .unwrap();
        own.store(id as usize, Ordering::SeqCst);
        let other = thread::spawn({
            let bus = bus.clone();
            move || publish(&bus)
        });
        publish(&bus);
        other.join().unwrap();
        assert_over(&trace);
    });
}

#[test]
fn a_subscriber_hears_what_is_published_after_it_subscribed() {
    loom::model(|| {
        let bus = Arc::new(Bus::new());
        let other = thread::spawn({
            let bus = bus.clone();
            move || publish(&bus)
        });
        let (id, trace) = subscribe(&bus);
        publish(&bus);
        assert!(trace.runs.load(Ordering::SeqCst) >= 1);
        other.join().unwrap();
        bus.unsubscribe(id).unwrap();
        assert_over(&trace);
    });
}
