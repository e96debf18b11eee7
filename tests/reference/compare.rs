//! Whether two answers, or a row and a call, are the same.

use std::cmp::Reverse;

use serde_json::{Value, json};

use super::ours::{Answer, Ours};
use super::process::Reference;

/// The columns that the reference gives its table, in their order.
pub const REFERENCE_COLUMNS: &str = "id timestamp model_id engine agent prompt_tokens prompt_tokens_evaluated \
    completion_tokens total_tokens latency_seconds ttft cost_usd energy_joules power_watts gpu_utilization_pct \
    gpu_memory_used_gb gpu_temperature_c throughput_tok_per_sec prefill_latency_seconds decode_latency_seconds \
    energy_method energy_vendor batch_id is_warmup cpu_energy_joules gpu_energy_joules dram_energy_joules \
    ane_energy_joules soc_energy_joules energy_basis tokens_per_joule energy_per_output_token_joules \
    throughput_per_watt prefill_energy_joules decode_energy_joules mean_itl_ms median_itl_ms p90_itl_ms p95_itl_ms \
    p99_itl_ms std_itl_ms is_streaming token_counting_version mining_session_id metadata";

/// Counts exactly, figures to 1e-9.
pub fn assert_equal(ours: &Value, theirs: &Value, what: &str) {
    if let (Some(ours), Some(theirs)) = (ours.as_u64(), theirs.as_u64()) {
        return assert_eq!(ours, theirs, "{what}");
    }
    let number =
        |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{what}: ours {ours}, theirs {theirs}"));
    let (ours, theirs) = (number(ours), number(theirs));
    assert!((ours - theirs).abs() <= 1e-9 * theirs.abs(), "{what}: ours {ours}, theirs {theirs}");
}

/// Which of the reference's figures to compare.
#[derive(Clone, Copy, PartialEq)]
pub enum Compare {
    All,
    /// Not the averages: where not every call measured everything, they are over other calls.
    Sums,
}

/// Every figure of the reference's about a group of calls is ours.
fn assert_same_figures(ours: &Value, theirs: &Value, compare: Compare, what: &str) {
    let not_figures = ["model_id", "engine", "per_model", "per_engine"];
    let not_ours = ["total_ane_energy_joules", "total_soc_energy_joules"];
    for (name, theirs) in theirs.as_object().unwrap() {
        let is_left_out = compare == Compare::Sums && name.starts_with("avg_");
        if !is_left_out && !not_figures.contains(&name.as_str()) && !not_ours.contains(&name.as_str()) {
            assert_equal(&ours[name], theirs, &format!("{what}: {name}"));
        }
    }
}

/// The same groups in the same order. Among groups of as many calls the reference's order is anyone's; ours is by name.
fn assert_same_groups(ours: &[(String, Value)], theirs: &Value, name: &str, compare: Compare) {
    let mut theirs: Vec<&Value> = theirs.as_array().unwrap().iter().collect();
    theirs.sort_by_key(|group| (Reverse(group["call_count"].as_u64()), group[name].as_str()));
    let names: Vec<&str> = ours.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, theirs.iter().map(|group| group[name].as_str().unwrap()).collect::<Vec<_>>());
    for ((name, ours), theirs) in ours.iter().zip(theirs) {
        assert_same_figures(ours, theirs, compare, name);
    }
}

/// Our answer is what the reference's per_model_stats, per_engine_stats and summary say to the same question.
pub fn assert_same_answer(reference: &mut Reference, question: Value, ours: &Answer, compare: Compare) {
    let summary = reference.ask("summary", question.clone());
    assert_same_figures(&ours.total, &summary, compare, "summary");
    assert_same_groups(&ours.per_model, &summary["per_model"], "model_id", compare);
    assert_same_groups(&ours.per_engine, &summary["per_engine"], "engine", compare);
    assert_eq!(summary["per_model"], reference.ask("per_model_stats", question.clone()));
    assert_eq!(summary["per_engine"], reference.ask("per_engine_stats", question));
}

/// Both answer alike about everything, and count alike.
pub fn assert_agreement(reference: &mut Reference, ours: &Ours, compare: Compare) {
    assert_eq!(reference.ask("record_count", json!({})), ours.count());
    assert_same_answer(reference, json!({}), &ours.everything(), compare);
}

/// A row is as the call was recorded: every field in its column, a default in the reference's others.
pub fn assert_row(row: &Value, call: &Value) {
    let columns = row.as_object().unwrap();
    for (field, recorded) in call.as_object().unwrap() {
        let expected = match (field.as_str(), recorded) {
            (_, Value::Bool(flag)) => json!(u8::from(*flag)),
            ("metadata", object) => {
                let metadata: Value = serde_json::from_str(columns["metadata"].as_str().unwrap()).unwrap();
                assert_eq!(&metadata, object);
                continue;
            }
            _ => recorded.clone(),
        };
        match (columns[field].as_f64(), expected.as_f64()) {
            // The way there and back in decimal digits costs at most the last bit.
            (Some(stored), Some(expected)) => {
                assert!(
                    (stored - expected).abs() <= 1e-15 * expected.abs(),
                    "{field}: {stored}, not {expected}"
                );
            }
            _ => assert_eq!(columns[field], expected, "{field}"),
        }
    }
    let unmeasured = [json!(0), json!(0.0), json!(""), json!("{}"), Value::Null];
    let known: Vec<&str> = REFERENCE_COLUMNS.split_whitespace().collect();
    for (column, value) in columns.iter().filter(|(column, _)| known.contains(&column.as_str())) {
        let is_default = column == "id" || call.get(column).is_some() || unmeasured.contains(value);
        assert!(is_default, "{column}: {value}, and nothing was recorded");
    }
}

pub fn assert_rows(reference: &mut Reference, calls: &[Value]) {
    let rows = reference.ask("export_records", json!({}));
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), calls.len());
    rows.iter().zip(calls).for_each(|(row, call)| assert_row(row, call));
}
