//! Prices by model, and the JSON they are loaded from.
//!
//! An object of models, each an object of prices: per token with the names of LiteLLM's public price file, or per
//! million tokens with names of our own. Names that are not known are passed over.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::Price;
use crate::error::{Error, Result};
use crate::record::check_figure;

/// Prices by the model's name, each with the version of its table.
#[derive(Default, Clone)]
pub(super) struct Prices(HashMap<Box<str>, (Price, Arc<str>)>);

impl Prices {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self, model: &str) -> Option<(&Price, &Arc<str>)> {
        self.0.get(model).map(|(price, version)| (price, version))
    }

    pub(super) fn put(&mut self, model: &str, price: Price, version: &str) {
        self.0.insert(model.into(), (price, version.into()));
    }
}

/// An entry that explains the file instead of pricing a model.
const EXPLANATION: &str = "sample_spec";

/// Each name of a price: which one it is, and the number of tokens it is for.
#[rustfmt::skip]
const NAMES: [(&str, Which, f64); 8] = [
    ("input_cost_per_token", Which::Input, 1.0),
    ("output_cost_per_token", Which::Output, 1.0),
    ("cache_read_input_token_cost", Which::CachedInput, 1.0),
    ("output_cost_per_reasoning_token", Which::Reasoning, 1.0),
    ("input_usd_per_million_tokens", Which::Input, 1e6),
    ("output_usd_per_million_tokens", Which::Output, 1e6),
    ("cached_input_usd_per_million_tokens", Which::CachedInput, 1e6),
    ("reasoning_usd_per_million_tokens", Which::Reasoning, 1e6),
];

#[derive(Clone, Copy)]
enum Which {
    Input,
    Output,
    CachedInput,
    Reasoning,
}

impl Which {
    fn of(self, price: &mut Price) -> &mut f64 {
        match self {
            Which::Input => &mut price.input,
            Which::Output => &mut price.output,
            Which::CachedInput => &mut price.cached_input,
            Which::Reasoning => &mut price.reasoning,
        }
    }
}

/// The prices in a JSON text, and of how many models. An error names the model and the price.
pub(super) fn parse(argument: &str, json: &str, version: &str) -> Result<(Prices, u64)> {
    let place = RefCell::new(String::new());
    let mut json = serde_json::Deserializer::from_str(json);
    let found = Models { place: &place }.deserialize(&mut json).and_then(|found| json.end().map(|()| found));
    let found = found
        .map_err(|error| Error::invalid(&format!("{argument}:"), format!("{}{error}", place.borrow())))?;

    let version: Arc<str> = version.into();
    let mut prices = HashMap::with_capacity(2 * found.len());
    for (model, entry) in &found {
        prices.insert(model.as_str().into(), (entry.price, version.clone()));
    }
    let count = prices.len() as u64;
    // A model is found under its provider, too, unless that is the name of another.
    for (model, entry) in &found {
        if let Some(provider) = entry.provider.as_deref().filter(|provider| !provider.is_empty())
            && !model.strip_prefix(provider).is_some_and(|rest| rest.starts_with('/'))
        {
            let qualified = format!("{provider}/{model}").into_boxed_str();
            prices.entry(qualified).or_insert_with(|| (entry.price, version.clone()));
        }
    }
    Ok((Prices(prices), count))
}

#[derive(Default)]
struct Entry {
    price: Price,
    provider: Option<String>,
}

/// The whole text.
struct Models<'a> {
    /// What is being read, for the message of an error: `model "x": price `.
    place: &'a RefCell<String>,
}

impl<'de> DeserializeSeed<'de> for Models<'_> {
    type Value = Vec<(String, Entry)>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Models<'_> {
    type Value = Vec<(String, Entry)>;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("an object of models")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut models: A) -> Result<Self::Value, A::Error> {
        let mut found = Vec::new();
        while let Some(model) = models.next_key::<String>()? {
            if model == EXPLANATION {
                models.next_value::<IgnoredAny>()?;
                continue;
            }
            if model.is_empty() {
                return Err(A::Error::custom("a model has no name"));
            }
            let of_model = format!("model {model:?}: ");
            self.place.borrow_mut().clone_from(&of_model);
            let entry = models.next_value_seed(OneModel { place: self.place, of_model })?;
            self.place.borrow_mut().clear();
            found.extend(entry.map(|entry| (model, entry)));
        }
        Ok(found)
    }
}

/// One model's prices; `None` if it has none per token.
struct OneModel<'a> {
    place: &'a RefCell<String>,
    of_model: String,
}

impl<'de> DeserializeSeed<'de> for OneModel<'_> {
    type Value = Option<Entry>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OneModel<'_> {
    type Value = Option<Entry>;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("an object of prices")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut entry = Entry::default();
        let mut is_priced = false;
        while let Some(field) = fields.next_key::<String>()? {
            let known = NAMES.iter().find(|(name, _, _)| *name == field);
            let is_provider = field == "litellm_provider" || field == "provider";
            if known.is_none() && !is_provider {
                fields.next_value::<IgnoredAny>()?;
                continue;
            }
            *self.place.borrow_mut() = format!("{}{field} ", self.of_model);
            let value = fields.next_value::<Value>()?;
            match (known, value) {
                (_, Value::Null) => (),
                (Some((_, which, tokens)), value) => {
                    let Some(price) = value.as_f64() else {
                        return Err(A::Error::custom("is not a number"));
                    };
                    // The place says which price it is of.
                    check_figure("", price).map_err(|fault| A::Error::custom(fault.message.trim_start()))?;
                    let place = which.of(&mut entry.price);
                    if !place.is_nan() {
                        return Err(A::Error::custom("gives a price that the model has already"));
                    }
                    *place = price / tokens;
                    is_priced = true;
                }
                (None, Value::String(provider)) => entry.provider = Some(provider),
                (None, _) => return Err(A::Error::custom("is not a text")),
            }
            self.place.borrow_mut().clone_from(&self.of_model);
        }
        Ok(is_priced.then_some(entry))
    }
}
