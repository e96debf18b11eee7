//! TokenJoule: the flight recorder of local inference.
//!
//! An engine tells a [`call`] of its tokens; the call publishes events on the [`bus`]; a [`store`] keeps each call's
//! [`record`] in SQLite; a [`store::Query`] is answered as [`stats`]. While [`energy`] is measured, it tells a call that has
//! ended how many joules were its, and [`cost`] what that and its tokens cost. `ffi` is the C door in front of it all
//! (`include/tokenjoule.h`). Arrows point one way:
//!
//! ```text
//! engine → call → bus → store (journal → rows → rollups) → query → ffi
//!            ↑↘    ↘      ↘
//! energy, cost event  record  stats, sketch, efficiency  (the ground floor: imports nothing of the house)
//! ```
//!
//! ```
//! use tokenjoule::{call::{instrumented_generate, Report, Start}, bus::Bus, store::{Query, Store, StoreOptions}};
//!
//! let store = Store::open(":memory:", &StoreOptions::default())?;
//! Bus::global().attach(store.clone());
//!
//! let start = Start { engine: "mine", model: "tiny", ..Start::default() };
//! instrumented_generate(&start, |call| {
//!     call.prompt(12, 0);
//!     call.tokens(1); // the first gives TTFT
//!     call.tokens(1);
//!     (0, Report { finish_reason: "stop", ..Report::default() })
//! })?;
//!
//! let answer = store.aggregate(&Query::default())?;
//! assert_eq!(answer.total.completion_tokens, 2);
//! # Ok::<(), tokenjoule::error::Error>(())
//! ```

#![cfg_attr(loom, allow(dead_code, unused_imports))] // loom looks at the bus and the journal's ring alone

pub mod efficiency;
pub mod error;
pub mod event;
pub mod record;
pub mod sketch;
pub mod stats;

pub mod bus;
#[cfg(not(loom))]
pub mod call;
#[cfg(not(loom))]
pub mod cost;
#[cfg(not(loom))]
pub mod energy;
#[cfg(not(loom))]
pub mod queue;
#[cfg(not(loom))]
pub mod store;

#[cfg(loom)]
#[path = "store/journal/ring.rs"]
mod ring;

mod os;
mod sync;

#[cfg(not(loom))]
pub mod ffi;
