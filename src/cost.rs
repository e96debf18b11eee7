//! What a call cost in dollars, by which rule that is known, and in grams of CO2.
//!
//! Three rules, and the first that applies decides: what the engine reports; the price of the model per token; for a
//! model that nobody sells, joules × the price of electricity + seconds × the cost of the hardware.

mod table;

use std::cell::LazyCell;
use std::sync::Arc;

use once_cell::race::OnceBox;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::os::PerProcess;
use crate::record::{MAX_METADATA, MAX_STRING, Record, UNKNOWN, check_figure};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, lock};
use table::Prices;

/// The longest version of a price table, in bytes.
pub const MAX_VERSION: usize = 127;
/// The longest price table, in bytes of JSON.
pub const MAX_PRICES: usize = 64 * 1024 * 1024;

const JOULES_PER_KWH: f64 = 3.6e6;

/// What gave a cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Rule {
    /// The engine said so.
    Reported = 1,
    /// The model's price per token.
    Table = 2,
    /// Electricity and hardware.
    Local = 3,
}

impl Rule {
    /// The name, as the record's metadata has it.
    pub fn name(self) -> &'static str {
        match self {
            Rule::Reported => "reported",
            Rule::Table => "table",
            Rule::Local => "local",
        }
    }
}

/// A model's price, US dollars per token. `NAN`: it has no such price.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Price {
    /// Prompt tokens that came from no cache. Without it, prompts cannot be costed.
    pub input: f64,
    /// Output tokens. Without it, outputs cannot be costed.
    pub output: f64,
    /// Prompt tokens that came from a cache. Without it, as `input`.
    pub cached_input: f64,
    /// Output tokens that were reasoning. Without it, as `output`.
    pub reasoning: f64,
}

impl Default for Price {
    fn default() -> Self {
        Price { input: f64::NAN, output: f64::NAN, cached_input: f64::NAN, reasoning: f64::NAN }
    }
}

impl Price {
    /// The cost of a call's tokens; `NAN` where a number of tokens that have a price is unknown, or a price of tokens
    /// that there are. Tokens of which nobody says that they were cached, or reasoning, are taken for ordinary ones.
    pub fn cost(&self, record: &Record<'_>) -> f64 {
        let input = two_parts(record.prompt_tokens, self.input, record.cached_tokens, self.cached_input);
        let output =
            two_parts(record.completion_tokens, self.output, record.reasoning_tokens, self.reasoning);
        input + output
    }
}

/// `all` tokens, of which `some` have a price of their own.
fn two_parts(all: u64, price: f64, some: u64, price_of_some: f64) -> f64 {
    if price_of_some.is_nan() || some == UNKNOWN || all == UNKNOWN {
        return part(all, price);
    }
    let some = some.min(all); // a contradiction is not a wrap-around
    part(all - some, price) + part(some, price_of_some)
}

fn part(tokens: u64, price: f64) -> f64 {
    match tokens {
        0 => 0.0,
        UNKNOWN if price.is_nan() || price == 0.0 => 0.0, // not sold, or free
        UNKNOWN => f64::NAN,
        tokens => tokens as f64 * price,
    }
}

/// What a model that runs here costs. 0: it is left out.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Local {
    /// US dollars per kWh.
    pub electricity_usd_per_kwh: f64,
    /// US dollars per second that a call takes.
    pub hardware_usd_per_second: f64,
    /// Grams of CO2 equivalent per kWh.
    pub carbon_grams_per_kwh: f64,
}

impl Local {
    /// `NAN` where there is no price, or a figure that has one is unknown: a part of a cost is no cost.
    fn cost(&self, record: &Record<'_>) -> f64 {
        let (electricity, hardware) = (self.electricity_usd_per_kwh, self.hardware_usd_per_second);
        if electricity == 0.0 && hardware == 0.0 {
            return f64::NAN;
        }
        priced(electricity, record.energy_joules / JOULES_PER_KWH) + priced(hardware, record.latency_seconds)
    }

    fn co2e_grams(&self, record: &Record<'_>) -> f64 {
        match self.carbon_grams_per_kwh {
            0.0 => f64::NAN,
            grams => finite(grams * (record.energy_joules / JOULES_PER_KWH)),
        }
    }
}

fn priced(price: f64, amount: f64) -> f64 {
    if price == 0.0 { 0.0 } else { price * amount }
}

fn finite(figure: f64) -> f64 {
    if figure.is_finite() { figure } else { f64::NAN }
}

/// What the rules say of a record.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// US dollars; `NAN` if no rule gives a figure.
    pub cost_usd: f64,
    /// The rule that gave it.
    pub rule: Option<Rule>,
    /// The version of the price table that gave it; "" where none did, or it has none.
    pub price_table: Arc<str>,
    /// Grams of CO2 equivalent; `NAN` without a carbon intensity or energy.
    pub co2e_grams: f64,
}

/// Prices, and how local models are costed.
pub struct Rules {
    /// Replaced whole at each change, so that a call that ends sees one table or the other, never parts of both.
    current: Mutex<Arc<Snapshot>>,
    /// Whether there are any: a program without rules does not pay for them at each call.
    are_set: AtomicBool,
}

#[derive(Default, Clone)]
struct Snapshot {
    /// Set one by one; they come before those of the table.
    own: Arc<Prices>,
    /// Loaded.
    table: Arc<Prices>,
    local: Local,
}

impl Default for Rules {
    fn default() -> Self {
        Rules::new()
    }
}

impl Rules {
    /// No rules, for a program that only asks. Calls are costed by [`Rules::global`].
    pub fn new() -> Rules {
        Rules { current: Mutex::new(Arc::default()), are_set: AtomicBool::new(false) }
    }

    /// The process's rules. A forked child begins with none: the parent's may have been forked in mid-change.
    pub fn global() -> &'static Rules {
        static RULES: OnceBox<PerProcess<Rules>> = OnceBox::new();
        PerProcess::current(&RULES, |_| Rules::new())
    }

    /// Sets the price of a model, in place of the one it had.
    pub fn set_price(&self, model: &str, price: &Price, version: &str) -> Result<()> {
        if model.is_empty() {
            return Err(Error::invalid("price.model", "is required and must not be empty"));
        }
        if model.len() > MAX_STRING {
            let what = format!("has {} bytes; at most {MAX_STRING} fit", model.len());
            return Err(Error::invalid("price.model", what));
        }
        check_version("price.version", version)?;
        for (field, price) in [
            ("input_usd_per_token", price.input),
            ("output_usd_per_token", price.output),
            ("cached_input_usd_per_token", price.cached_input),
            ("reasoning_usd_per_token", price.reasoning),
        ] {
            check_figure(&format!("price.{field} of model {model:?}"), price)?;
        }
        self.change(|rules| Arc::make_mut(&mut rules.own).put(model, *price, version));
        Ok(())
    }

    /// Loads a table of prices, in place of the one loaded before. Gives the number of models that it has a price of.
    /// A table with a fault in it changes nothing.
    pub fn load(&self, prices_json: &str, version: &str) -> Result<u64> {
        check_version("version", version)?;
        if prices_json.len() > MAX_PRICES {
            let what = format!("has {} bytes; at most {MAX_PRICES} fit", prices_json.len());
            return Err(Error::invalid("prices_json", what));
        }
        let (prices, count) = table::parse("prices_json", prices_json, version)?;
        self.change(|rules| rules.table = Arc::new(prices));
        Ok(count)
    }

    /// Sets how local models are costed.
    pub fn set_local(&self, local: &Local) -> Result<()> {
        for (field, figure) in [
            ("local.electricity_usd_per_kwh", local.electricity_usd_per_kwh),
            ("local.hardware_usd_per_second", local.hardware_usd_per_second),
            ("local.carbon_grams_per_kwh", local.carbon_grams_per_kwh),
        ] {
            if figure.is_nan() {
                return Err(Error::invalid(field, "is NaN; 0 leaves it out"));
            }
            check_figure(field, figure)?;
        }
        self.change(|rules| rules.local = *local);
        Ok(())
    }

    /// Forgets every price and how local models are costed.
    pub fn clear(&self) {
        self.change(|rules| *rules = Snapshot::default());
    }

    /// What the rules say of a settled record. A cost that it has counts as reported.
    pub fn estimate(&self, record: &Record<'_>) -> Estimate {
        self.current().estimate(record)
    }

    fn current(&self) -> Arc<Snapshot> {
        lock(&self.current).clone()
    }

    fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        let before = {
            let mut current = lock(&self.current);
            let mut after = Snapshot::clone(&current);
            change(&mut after);
            self.are_set.store(!after.is_empty(), Ordering::Release);
            std::mem::replace(&mut *current, Arc::new(after))
        };
        drop(before); // with no lock held: it may be a large table
    }
}

fn check_version(field: &str, version: &str) -> Result<()> {
    if version.len() > MAX_VERSION {
        return Err(Error::invalid(field, format!("has {} bytes; at most {MAX_VERSION} fit", version.len())));
    }
    Ok(())
}

impl Snapshot {
    fn is_empty(&self) -> bool {
        self.own.is_empty() && self.table.is_empty() && self.local == Local::default()
    }

    fn estimate(&self, record: &Record<'_>) -> Estimate {
        let mut estimate = Estimate {
            cost_usd: record.cost_usd,
            rule: Some(Rule::Reported),
            price_table: Arc::default(),
            co2e_grams: self.local.co2e_grams(record),
        };
        if estimate.cost_usd.is_nan() {
            // A model that is sold is not costed as if it ran here, even if its tokens were not counted.
            let (cost, rule) = match self.price(record) {
                Some((price, version)) => {
                    estimate.price_table = version.clone();
                    (price.cost(record), Rule::Table)
                }
                None => (self.local.cost(record), Rule::Local),
            };
            estimate.cost_usd = finite(cost);
            estimate.rule = Some(rule).filter(|_| !estimate.cost_usd.is_nan());
        }
        if estimate.rule != Some(Rule::Table) {
            estimate.price_table = Arc::default();
        }
        estimate
    }

    /// By the model's name, then by `engine/model`; first among the prices that were set, then in the table.
    fn price(&self, record: &Record<'_>) -> Option<(&Price, &Arc<str>)> {
        let qualified = LazyCell::new(|| format!("{}/{}", record.engine, record.model_id));
        [&self.own, &self.table].into_iter().filter(|prices| !prices.is_empty()).find_map(|prices| {
            let by_engine = || if record.engine.is_empty() { None } else { prices.get(&qualified) };
            prices.get(record.model_id).or_else(by_engine)
        })
    }
}

/// Gives a record whose figures are final its cost, and notes in its metadata what gave it. `metadata` is where they
/// then live. Without rules nothing changes. Once for each record: a cost that is there counts as reported.
pub(crate) fn complete<'a>(record: &mut Record<'a>, metadata: &'a mut String) {
    let rules = Rules::global();
    if !rules.are_set.load(Ordering::Acquire) {
        return;
    }
    let estimate = rules.estimate(record);
    record.cost_usd = estimate.cost_usd;
    if let Some(noted) = with_notes(record.metadata_json, &estimate) {
        *metadata = noted;
        record.metadata_json = metadata;
    }
}

const RULE: &str = "tokenjoule.cost_rule";
const PRICE_TABLE: &str = "tokenjoule.price_table";
const CO2E: &str = "tokenjoule.co2e_grams";

/// The metadata with what is to be noted, or `None` if that is nothing, or does not fit.
fn with_notes(metadata_json: &str, estimate: &Estimate) -> Option<String> {
    let mut notes = Map::new();
    if let Some(rule) = estimate.rule {
        notes.insert(RULE.to_owned(), rule.name().into());
    }
    if !estimate.price_table.is_empty() {
        notes.insert(PRICE_TABLE.to_owned(), (*estimate.price_table).into());
    }
    if !estimate.co2e_grams.is_nan() {
        notes.insert(CO2E.to_owned(), json!(estimate.co2e_grams));
    }
    if notes.is_empty() {
        return None;
    }
    Some(merged(metadata_json, notes)?).filter(|merged| merged.len() <= MAX_METADATA)
}

/// An object with more in it. The text that was there stays as it is, numbers, order and all, unless it has one of
/// the new names already.
fn merged(object: &str, notes: Map<String, Value>) -> Option<String> {
    if [RULE, PRICE_TABLE, CO2E].iter().any(|name| object.contains(name)) {
        let mut whole: Map<String, Value> = serde_json::from_str(object).ok()?; // nested too deep: kept as it is
        whole.extend(notes);
        return Some(Value::Object(whole).to_string());
    }
    let notes = Value::Object(notes).to_string();
    let blank = [' ', '\t', '\r', '\n'];
    let inside = match object {
        "" => "",
        object => object.trim_matches(blank).strip_prefix('{')?.strip_suffix('}')?,
    };
    if inside.trim_matches(blank).is_empty() {
        return Some(notes);
    }
    Some(format!("{{{inside},{}", &notes[1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(metadata_json: &str) -> String {
        let estimate =
            Estimate { cost_usd: 1.0, rule: Some(Rule::Table), price_table: "v\"1".into(), co2e_grams: 0.5 };
        with_notes(metadata_json, &estimate).unwrap()
    }

    const NOTES: &str =
        r#""tokenjoule.co2e_grams":0.5,"tokenjoule.cost_rule":"table","tokenjoule.price_table":"v\"1""#;

    #[test]
    fn notes_leave_the_callers_metadata_as_it_is() {
        for empty in ["", "{}", " { \n } "] {
            assert_eq!(noted(empty), format!("{{{NOTES}}}"));
        }
        // What a parser would lose: order, large numbers, doubled names, depth.
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(500), "]".repeat(500));
        for kept in [
            r#"{"b":2,"a":1}"#,
            r#"{"n":123456789012345678901234567890,"x":1.0e2}"#,
            r#"{"a":1, "a":2}"#,
            r#"{"tokenjoule.ignored":["ttft"]}"#,
            r#"{"a":"}"}"#,
            &deep,
        ] {
            assert_eq!(noted(kept), format!("{},{NOTES}}}", &kept[..kept.len() - 1]));
        }
        assert_eq!(noted(" {\"a\":1}\n"), format!("{{\"a\":1,{NOTES}}}"));
    }

    #[test]
    fn a_name_of_ours_is_not_there_twice() {
        let noted = noted(r#"{"tokenjoule.cost_rule":"mine","z":[1]}"#);
        assert_eq!(noted, format!("{{{NOTES},\"z\":[1]}}"));
    }

    #[test]
    fn notes_that_do_not_fit_are_left_out() {
        let estimate = Estimate {
            cost_usd: 1.0,
            rule: Some(Rule::Local),
            price_table: Arc::default(),
            co2e_grams: f64::NAN,
        };
        let full = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_METADATA - 20));
        assert_eq!(with_notes(&full, &estimate), None);
        let nothing = Estimate { cost_usd: f64::NAN, rule: None, ..estimate };
        assert_eq!(with_notes("{}", &nothing), None);
    }
}
