//! The C door: one file for each section of `include/tokenjoule.h`. It checks, converts and forwards; everything it
//! forwards to is safe Rust. Nothing in the house imports it.
//!
//! The header's opening text is `conventions.txt`; `tests/header.rs` makes the header from these files with cbindgen,
//! in the order in which they teach: error, record, store, query, aggregate, series, batch, records, upkeep, event,
//! bus, queue, request, generate, call, energy, window, source, cost, efficiency.

#![allow(non_camel_case_types)] // the C names
#![allow(unsafe_code)] // the only room, with `os` and the journal's mapping, where it may be

mod boundary;

pub mod aggregate;
pub mod batch;
pub mod bus;
pub mod call;
pub mod cost;
pub mod efficiency;
pub mod energy;
pub mod error;
pub mod event;
pub mod generate;
pub mod query;
pub mod queue;
pub mod record;
pub mod records;
pub mod request;
pub mod series;
pub mod source;
pub mod store;
pub mod upkeep;
pub mod window;
