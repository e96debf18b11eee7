//! The C door: one file for each section of `include/tokenjoule.h`, in the header's order. It checks, converts and
//! forwards; everything it forwards to is safe Rust. Nothing in the house imports it.
//!
//! The header's opening text is `conventions.txt`; `tests/header.rs` makes the header from these files with cbindgen.

#![allow(non_camel_case_types)] // the C names
#![allow(unsafe_code)] // the only room, with `os` (and later the journal's mapping), where it may be

mod boundary;
mod event;

pub mod aggregate;
pub mod bus;
pub mod call;
pub mod error;
pub mod generate;
pub mod record;
pub mod store;
