//! Cost rules from Rust: prices that change while calls end, and a table as large as the public ones.
//!
//! `tests/c/cost.c` holds the rules themselves to what the header says.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokenjoule::bus::Bus;
use tokenjoule::call::{Report, Start, instrumented_generate};
use tokenjoule::cost::{Local, MAX_PRICES, MAX_VERSION, Price, Rule, Rules};
use tokenjoule::error::ErrorKind;
use tokenjoule::record::Record;
use tokenjoule::store::{Query, Store, StoreOptions};

fn table(usd_per_token: u32) -> String {
    format!("{{\"m\": {{\"input_cost_per_token\": {usd_per_token}, \"output_cost_per_token\": 0}}}}")
}

/// Each record's cost is that of the table which its metadata names, whatever is loaded meanwhile. The only test here that
/// touches the process's own rules.
#[test]
fn a_call_is_costed_by_the_rules_of_one_moment() {
    const THREADS: usize = 4;
    const CALLS: usize = 250;
    let rules = Rules::global();
    let store = Store::open(":memory:", &StoreOptions::default()).unwrap();
    Bus::global().attach(store.clone());
    rules.load(&table(1), "1").unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let changer = std::thread::spawn({
        let is_over = is_over.clone();
        move || {
            let mut round = 0;
            while !is_over.load(Ordering::Acquire) {
                round = round % 5 + 1;
                rules.load(&table(round), &round.to_string()).unwrap();
                rules
                    .set_local(&Local { carbon_grams_per_kwh: f64::from(round), ..Local::default() })
                    .unwrap();
                std::thread::yield_now();
            }
        }
    });
    let callers: Vec<_> = (0..THREADS)
        .map(|_| {
            std::thread::spawn(|| {
                for _ in 0..CALLS {
                    let start = Start { engine: "e", model: "m", ..Start::default() };
                    let report = Report {
                        prompt_tokens: 1000,
                        completion_tokens: 1,
                        metadata_json: r#"{"mine":1}"#,
                        ..Report::default()
                    };
                    instrumented_generate(&start, |_| (0, report)).unwrap();
                }
            })
        })
        .collect();
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    is_over.store(true, Ordering::Release);
    changer.join().unwrap();
    rules.clear();

    let mut seen = 0;
    let mut versions = BTreeSet::new();
    let mut look = |_, record: &Record<'_>| {
        let metadata: serde_json::Value = serde_json::from_str(record.metadata_json).unwrap();
        assert_eq!(metadata["mine"], 1);
        assert_eq!(metadata["tokenjoule.cost_rule"], "table");
        let version = metadata["tokenjoule.price_table"].as_str().unwrap().to_owned();
        assert_eq!(record.cost_usd, 1000.0 * version.parse::<f64>().unwrap());
        versions.insert(version);
        seen += 1;
        true
    };
    store.records(&Query::default(), &mut look).unwrap();
    assert_eq!(seen, THREADS * CALLS);
    assert!(!versions.is_empty());
    let cost = store.aggregate(&Query::default()).unwrap().total.total_cost;
    assert!((1e6..=5e6).contains(&cost), "{cost}");
}

#[test]
fn a_large_table_is_loaded_whole_or_not_at_all() {
    const MODELS: usize = 5000;
    let with_last = |last: &str| {
        let mut json = "{".to_owned();
        for model in 0..MODELS {
            write!(
                json,
                "\"model-{model}\": {{\"input_cost_per_token\": {model}e-9, \"output_cost_per_token\": 1e-6, \
                 \"litellm_provider\": \"provider\", \"mode\": \"chat\", \"max_tokens\": \"8192\"}},"
            )
            .unwrap();
        }
        json + last + "}"
    };
    let rules = Rules::new();
    assert_eq!(rules.load(&with_last("\"last\": {\"input_cost_per_token\": 1}"), "1").unwrap(), 5001);
    let fault =
        rules.load(&with_last("\"last\": {\"input_cost_per_token\": \"1\"}"), "2").unwrap_err().to_string();
    assert!(fault.contains("\"last\"") && fault.contains("input_cost_per_token is not a number"), "{fault}");
    let record = Record {
        model_id: "provider/model-4999",
        prompt_tokens: 1_000_000,
        completion_tokens: 10,
        ..Record::default()
    };
    let estimate = rules.estimate(&record);
    assert_eq!((estimate.rule, &*estimate.price_table), (Some(Rule::Table), "1"));
    assert!((estimate.cost_usd - (4.999 + 1e-5)).abs() < 1e-9, "{}", estimate.cost_usd);
}

#[test]
fn rules_of_ones_own_are_apart() {
    let rules = Rules::new();
    let price = Price { input: 1.0, output: 2.0, ..Price::default() };
    rules.set_price("m", &price, "v").unwrap();
    let record = Record { model_id: "m", prompt_tokens: 3, completion_tokens: 4, ..Record::default() };
    assert_eq!(rules.estimate(&record).cost_usd, 11.0);
    assert_eq!(Rules::new().estimate(&record).rule, None);
    let reported = Record { cost_usd: 0.0, ..record }; // a free call, says the engine
    assert_eq!(rules.estimate(&reported).rule, Some(Rule::Reported));
    assert_eq!(rules.estimate(&reported).cost_usd, 0.0);
    rules.clear();
    assert_eq!(rules.estimate(&record).rule, None);
}

#[test]
fn what_cannot_be_is_refused() {
    let rules = Rules::new();
    let refused = |result: Result<(), tokenjoule::error::Error>, names: &str| {
        let error = result.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
        assert!(error.message.contains(names), "{error}");
    };
    let long = "x".repeat(70_000);
    refused(rules.set_price("", &Price::default(), ""), "price.model");
    refused(rules.set_price(&long, &Price::default(), ""), "price.model");
    refused(rules.set_price("m", &Price::default(), &long[..=MAX_VERSION]), "price.version");
    let price = Price { reasoning: -1.0, ..Price::default() };
    refused(rules.set_price("m", &price, ""), "price.reasoning_usd_per_token of model \"m\" is -1");
    let local = Local { hardware_usd_per_second: f64::INFINITY, ..Local::default() };
    refused(rules.set_local(&local), "local.hardware_usd_per_second");
    refused(rules.load(&" ".repeat(MAX_PRICES + 1), "").map(|_| ()), "prices_json");
    let fault = r#"{"a": {"b": 1}, "m\u0000\"": {"output_cost_per_token": -0.5}}"#;
    refused(
        rules.load(fault, "").map(|_| ()),
        r#"prices_json: model "m\0\"": output_cost_per_token is -0.5"#,
    );
}
