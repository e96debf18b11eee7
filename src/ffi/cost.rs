//! Cost.
//!
//! When a call ends (tj_call_end, tj_instrumented_generate), its cost_usd is, by the first of these rules that applies:
//!
//! "reported": what the engine reports in tj_generate_result.cost_usd.
//!
//! "table": the price of the model. Prompt tokens that came from no cache x input + cached_tokens x cached input +
//! output tokens that were no reasoning x output + reasoning_tokens x reasoning. Tokens of which nobody says that they
//! were cached, or reasoning, are taken for ordinary ones.
//!
//! "local": for a model without a price. energy_joules / 3600000 x electricity + latency_seconds x hardware.
//!
//! A cost of which a part is unknown (a price without the number of tokens, an electricity price without energy) is
//! unknown: it would be too low. A model that has a price is never costed as local.
//!
//! The price of a model is looked for under the record's model_id, then under "engine/model_id"; case matters. Prices
//! set by tj_cost_set_price come before those loaded by tj_cost_load_prices.
//!
//! Which rule it was is stored in the record's metadata under "tokenjoule.cost_rule" ("reported", "table" or "local"),
//! the version of the price table, if it has one, under "tokenjoule.price_table", and grams of CO2 equivalent,
//! energy_joules / 3600000 x carbon intensity, under "tokenjoule.co2e_grams". What the engine has put into the metadata
//! stays. Without any rule set here, nothing is added.
//!
//! Rules are the process's, and may be changed while calls end: each call is costed by the rules of one moment. A forked
//! child begins with none. A record handed to tj_record is stored as it is; tj_cost_estimate tells what it cost.

use std::ffi::c_char;

use super::boundary::{
    Sized_, entry, infallible, initialise, not_null, number_out, room_out, string, struct_in, struct_out,
};
use super::error::{tj_error, tj_status};
use super::record::tj_telemetry_record;
use crate::cost::{Local, MAX_VERSION, Price, Rules};
use crate::error::{Error, Result};
use crate::record::Record;

/// What gave a cost.
#[repr(C)]
pub enum tj_cost_rule {
    /// Nothing: it is not known.
    TJ_COST_UNKNOWN = 0,
    /// The engine.
    TJ_COST_REPORTED = 1,
    /// The model's price per token.
    TJ_COST_TABLE = 2,
    /// Electricity and hardware.
    TJ_COST_LOCAL = 3,
}

/// The price of a model, in US dollars per token (a price per million tokens / 1000000).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_price {
    /// Set by TJ_PRICE_INIT.
    pub struct_size: usize,
    /// The model, or "engine/model". Required, not empty.
    pub model: *const c_char,
    /// A prompt token that came from no cache. 0: free.
    pub input_usd_per_token: f64,
    /// An output token. 0: free.
    pub output_usd_per_token: f64,
    /// A prompt token that came from a cache. 0: as input_usd_per_token, unless ...
    pub cached_input_usd_per_token: f64,
    /// An output token that was reasoning. 0: as output_usd_per_token.
    pub reasoning_usd_per_token: f64,
    /// ... this is 1: cached tokens are free.
    pub cached_input_is_free: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Which prices these are ("2026-02"), at most 127 bytes; goes into the metadata of records. NULL: "".
    pub version: *const c_char,
}

/// How models are costed that nobody sells. 0 in a field leaves it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_local_cost {
    /// Set by TJ_LOCAL_COST_INIT.
    pub struct_size: usize,
    /// US dollars per kWh. If it is not 0, a call without energy_joules has no local cost.
    pub electricity_usd_per_kwh: f64,
    /// US dollars per second of a call. Of calls at the same time each pays for its own: divide the hardware's cost by
    /// the number of calls that it usually serves at once.
    pub hardware_usd_per_second: f64,
    /// Grams of CO2 equivalent per kWh. Counted for every call that has energy_joules, whatever its cost comes from.
    pub carbon_grams_per_kwh: f64,
}

/// What the rules say of a record.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tj_cost {
    /// Set by TJ_COST_INIT.
    pub struct_size: usize,
    /// US dollars; NAN if rule is TJ_COST_UNKNOWN.
    pub cost_usd: f64,
    /// Grams of CO2 equivalent; NAN without carbon_grams_per_kwh or without energy_joules.
    pub co2e_grams: f64,
    /// A tj_cost_rule.
    pub rule: u32,
    /// Always 0.
    pub reserved: u32,
    /// The version of the prices that gave it, NUL-terminated UTF-8; empty if none did, or they have none.
    pub price_table: [c_char; 128],
}

// SAFETY: repr(C), size first, numbers and pointers only.
unsafe impl Sized_ for tj_price {
    const INIT: &'static str = "PRICE";
}

// SAFETY: repr(C), size first, numbers only.
unsafe impl Sized_ for tj_local_cost {
    const INIT: &'static str = "LOCAL_COST";
}

// SAFETY: repr(C), size first, numbers only.
unsafe impl Sized_ for tj_cost {
    const INIT: &'static str = "COST";
}

/// Does what TJ_PRICE_INIT does, for languages without macros. NULL is ignored.
///
/// # Safety
/// `price` is NULL or points to memory for one `tj_price`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_price_init(price: *mut tj_price) {
    // SAFETY: the caller's promise is the same.
    unsafe { initialise(price) }
}

/// Does what TJ_LOCAL_COST_INIT does, for languages without macros. NULL is ignored.
///
/// # Safety
/// `local` is NULL or points to memory for one `tj_local_cost`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_local_cost_init(local: *mut tj_local_cost) {
    // SAFETY: the caller's promise is the same.
    unsafe { initialise(local) }
}

/// Does what TJ_COST_INIT does, for languages without macros. NULL is ignored.
///
/// # Safety
/// `cost` is NULL or points to memory for one `tj_cost`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_cost_init(cost: *mut tj_cost) {
    // SAFETY: the caller's promise is the same.
    unsafe { initialise(cost) }
}

/// Sets the price of a model, in place of the one that was set before. It stays when a table is loaded.
///
/// TJ_OK; TJ_ERR_INVALID_ARGUMENT: the message names the field and the model; a price is not negative, NaN or infinite.
///
/// # Safety
/// `price` is valid; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_cost_set_price(price: *const tj_price, error: *mut tj_error) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked.
    unsafe {
        entry(error, || {
            let price = struct_in(price, "price")?;
            let model = string(price.model, "price.model")?;
            let version = string(price.version, "price.version")?;
            Rules::global().set_price(model, &price.view(model)?, version)
        })
    }
}

/// Loads a table of prices, in place of the one that was loaded before: a JSON object of models, each an object of
/// prices (at most 64 MiB). `version` says which table it is ("2026-02-01", a commit ...), at most 127 bytes; NULL: "".
///
/// Each price may be given per token, under the names of LiteLLM's public file (model_prices_and_context_window.json),
/// which can be loaded as it is, or per million tokens:
///
///   input_cost_per_token             or  input_usd_per_million_tokens
///   output_cost_per_token            or  output_usd_per_million_tokens
///   cache_read_input_token_cost      or  cached_input_usd_per_million_tokens
///   output_cost_per_reasoning_token  or  reasoning_usd_per_million_tokens
///   litellm_provider                 or  provider: the model is found under "provider/model" as well
///
/// A price that is missing or null is not given: cached and reasoning tokens then cost what the others do; a call with
/// prompt or output tokens that have no price has no cost. Other names, the entry "sample_spec", and models without any
/// of these prices are passed over; so are prices by the length of the prompt (..._above_200k_tokens), for writing a
/// cache, and for batches: the cost of such calls is that of ordinary ones.
///
/// TJ_OK: *out_count is the number of models with a price. TJ_ERR_INVALID_ARGUMENT: the message names the model and the
/// price, and what was loaded before stays.
///
/// # Safety
/// `prices_json` is NUL-terminated; `version` is NULL or NUL-terminated; `out_count` is writable; `error` is NULL or
/// writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_cost_load_prices(
    prices_json: *const c_char,
    version: *const c_char,
    out_count: *mut u64,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked.
    unsafe {
        entry(error, || {
            not_null(prices_json, "prices_json")?;
            let (json, version) = (string(prices_json, "prices_json")?, string(version, "version")?);
            number_out(out_count, "out_count", || Rules::global().load(json, version))
        })
    }
}

/// Sets how models are costed that have no price, and how CO2 is counted, in place of what was set before. A struct that
/// is zero ends both.
///
/// TJ_OK; TJ_ERR_INVALID_ARGUMENT: the message names the field; it is not negative, NaN or infinite.
///
/// # Safety
/// `local` is valid; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_cost_set_local(local: *const tj_local_cost, error: *mut tj_error) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked.
    unsafe {
        entry(error, || {
            let local = struct_in(local, "local")?;
            Rules::global().set_local(&Local {
                electricity_usd_per_kwh: local.electricity_usd_per_kwh,
                hardware_usd_per_second: local.hardware_usd_per_second,
                carbon_grams_per_kwh: local.carbon_grams_per_kwh,
            })
        })
    }
}

/// Forgets every price and how local models are costed. Records keep their costs.
#[unsafe(no_mangle)]
pub extern "C" fn tj_cost_clear() {
    infallible((), || Rules::global().clear());
}

/// Tells what the rules say now of a call. Of `record` it looks at model_id, engine, prompt_tokens, cached_tokens,
/// completion_tokens, reasoning_tokens, latency_seconds and energy_joules; a cost_usd other than 0 and NAN is what the
/// engine reported. Nothing is recorded.
///
/// TJ_OK: *out_cost is filled; nothing in it needs freeing. TJ_ERR_INVALID_ARGUMENT: the message names the field, as for
/// tj_record; *out_cost is not written.
///
/// # Safety
/// `record` is valid; `out_cost` is initialised; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tj_cost_estimate(
    record: *const tj_telemetry_record,
    out_cost: *mut tj_cost,
    error: *mut tj_error,
) -> tj_status {
    // SAFETY: as the caller promises; NULL is checked, and `room` is what the caller's struct holds.
    unsafe {
        entry(error, || {
            let record = struct_in(record, "record")?.view()?;
            let room = room_out(out_cost, "out_cost")?;
            let cost_usd = if record.cost_usd == 0.0 { f64::NAN } else { record.cost_usd };
            let estimate = Rules::global().estimate(&Record { cost_usd, ..record }.settled(|| 0.0)?);
            let mut out = tj_cost::initial();
            out.cost_usd = estimate.cost_usd;
            out.co2e_grams = estimate.co2e_grams;
            out.rule = estimate.rule.map_or(tj_cost_rule::TJ_COST_UNKNOWN as u32, |rule| rule as u32);
            for (to, from) in out.price_table.iter_mut().zip(estimate.price_table.bytes().take(MAX_VERSION)) {
                *to = from as c_char;
            }
            struct_out(&out, out_cost, room);
            Ok(())
        })
    }
}

impl tj_price {
    /// The core's view, in which only NaN is no price.
    fn view(&self, model: &str) -> Result<Price> {
        let refuse =
            |field: &str, what: &str| Err(Error::invalid(&format!("price.{field} of model {model:?}"), what));
        for (field, price) in [
            ("input_usd_per_token", self.input_usd_per_token),
            ("output_usd_per_token", self.output_usd_per_token),
            ("cached_input_usd_per_token", self.cached_input_usd_per_token),
            ("reasoning_usd_per_token", self.reasoning_usd_per_token),
        ] {
            if price.is_nan() {
                return refuse(field, "is NaN; a price is a number");
            }
        }
        if self.reserved != 0 {
            return refuse("reserved", "must be 0");
        }
        let or_none = |price: f64| if price == 0.0 { f64::NAN } else { price };
        let cached_input = match (self.cached_input_is_free, self.cached_input_usd_per_token) {
            (0, price) => or_none(price),
            (1, 0.0) => 0.0,
            (1, _) => return refuse("cached_input_is_free", "is 1, and there is a price as well"),
            _ => return refuse("cached_input_is_free", "is neither 0 nor 1"),
        };
        Ok(Price {
            input: self.input_usd_per_token,
            output: self.output_usd_per_token,
            cached_input,
            reasoning: or_none(self.reasoning_usd_per_token),
        })
    }
}
