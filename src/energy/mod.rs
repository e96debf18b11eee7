//! Joules: who drew how many, and for which call.
//!
//! ```text
//! sources (nvml, rapl, hwmon, custom) ─ readings → sampler ─→ session (counter → ledger) ─→ a call's figures
//!                                                     ↑ begin, tokens, end
//!                                                    calls
//! ```

pub mod counter;
pub mod custom;
pub mod figures;
pub mod hwmon;
pub mod ledger;
pub mod nvml;
pub mod rapl;
pub mod session;
pub mod source;
mod sysfs;

/// Nanoseconds by the monotonic clock, since the sampler was started.
pub type Nanos = u64;
