//! Energy: joules that add up. No test here needs a device: clocks, counters, drivers and sysfs are simulated.

#[path = "energy/ledger.rs"]
mod ledger;
#[path = "energy/random.rs"]
mod random;
#[path = "energy/session.rs"]
mod session;
