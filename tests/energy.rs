//! Energy: joules that add up. No test here needs a device: clocks, counters, drivers and sysfs are simulated.

mod support;

#[path = "energy/calls.rs"]
mod calls;
#[path = "energy/fakes.rs"]
mod fakes;
#[path = "energy/ledger.rs"]
mod ledger;
#[path = "energy/life.rs"]
mod life;
#[path = "energy/session.rs"]
mod session;
#[path = "energy/sources.rs"]
mod sources;
