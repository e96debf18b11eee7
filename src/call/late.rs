//! The record of a call that has ended, while its energy is not known yet.

use super::progress::Progress;
use super::{Head, Report};
use crate::bus::{Bus, OpenCall};
use crate::cost;
use crate::energy::Waiting;
use crate::energy::figures::{CallEnergy, Tier};
use crate::event::EventKind;
use crate::record::{MAX_METADATA, Outcome, Record, UNKNOWN};

/// Where a record's metadata says how far its energy can be trusted.
const TIER: &str = "tokenjoule.energy_tier";

/// All that the record is made of, and those that it is for.
pub(super) struct LateRecord {
    bus: &'static Bus,
    head: Head,
    progress: Progress,
    latency: f64,
    outcome: Outcome,
    /// What the engine reported: its figures, and its texts by themselves.
    report: Report<'static>,
    finish_reason: Box<str>,
    error_type: Box<str>,
    metadata: String,
    energy: CallEnergy,
    kept_by: Vec<Box<dyn OpenCall>>,
}

impl LateRecord {
    pub(super) fn new(
        bus: &'static Bus,
        head: Head,
        progress: Progress,
        latency: f64,
        outcome: Outcome,
        report: &Report<'_>,
        kept_by: Vec<Box<dyn OpenCall>>,
    ) -> LateRecord {
        LateRecord {
            bus,
            head,
            progress,
            latency,
            outcome,
            finish_reason: report.finish_reason.into(),
            error_type: report.error_type.into(),
            metadata: report.metadata_json.to_owned(),
            report: Report { finish_reason: "", error_type: "", metadata_json: "", ..*report },
            energy: CallEnergy::unknown(),
            kept_by,
        }
    }

    /// Hands the record, complete, to `visit`.
    fn with_record(&self, visit: impl FnOnce(&Record<'_>)) {
        let report = Report {
            finish_reason: &self.finish_reason,
            error_type: &self.error_type,
            metadata_json: &self.metadata,
            ..self.report
        };
        let figures = with_energy(self.progress.record(self.latency, &report), &self.energy);
        let mut record = Record { outcome: self.outcome, ..self.head.record(figures) };
        record.settle();
        let mut metadata = String::new();
        cost::complete(&mut record, &mut metadata);
        visit(&record);
    }
}

impl Waiting for LateRecord {
    fn keep(&mut self, energy: CallEnergy) {
        self.metadata = with_tier(std::mem::take(&mut self.metadata), energy.tier);
        self.energy = energy;
        let kept_by = std::mem::take(&mut self.kept_by);
        self.with_record(|record| {
            for keeper in kept_by {
                keeper.ended(record);
            }
        });
    }

    fn tell(self: Box<Self>) {
        self.with_record(|record| {
            self.head.notify(self.bus, EventKind::TelemetryRecord, Some(record), "{}");
        });
    }
}

/// The figures with those of the energy, and those that follow from both. 0 is no measurement in any of them, and no record
/// says it.
fn with_energy<'a>(figures: Record<'a>, energy: &'a CallEnergy) -> Record<'a> {
    let quotient = |one: f64, other: f64| if other > 0.0 { one / other } else { f64::NAN };
    let tokens =
        if figures.completion_tokens == UNKNOWN { f64::NAN } else { figures.completion_tokens as f64 };
    let watts = quotient(energy.joules, figures.latency_seconds);
    Record {
        energy_joules: energy.joules,
        power_watts: watts,
        gpu_energy_joules: energy.parts.gpu,
        cpu_energy_joules: energy.parts.cpu,
        dram_energy_joules: energy.parts.dram,
        prefill_energy_joules: energy.prefill_joules,
        decode_energy_joules: energy.decode_joules,
        gpu_utilization_pct: energy.utilization_pct,
        gpu_memory_used_gb: energy.memory_gb,
        gpu_temperature_c: energy.temperature_c,
        tokens_per_joule: quotient(tokens, energy.joules),
        energy_per_output_token_joules: quotient(energy.joules, tokens),
        throughput_per_watt: quotient(figures.throughput_tok_per_sec, watts),
        energy_method: &energy.method,
        energy_vendor: &energy.vendor,
        ..figures
    }
}

/// The metadata, a JSON object or "", with the tier in front, unless the engine has its own.
fn with_tier(metadata: String, tier: Tier) -> String {
    let inside = metadata.trim().strip_prefix('{').unwrap_or("}").trim_start();
    if metadata.contains(TIER) || metadata.len() + 64 > MAX_METADATA {
        return metadata;
    }
    let comma = if inside == "}" { "" } else { "," };
    format!("{{\"{TIER}\":\"{}\"{comma}{inside}", tier.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tier_is_put_into_any_metadata() {
        for (before, after) in [
            ("", r#"{"tokenjoule.energy_tier":"measured"}"#),
            ("{}", r#"{"tokenjoule.energy_tier":"measured"}"#),
            (" { } ", r#"{"tokenjoule.energy_tier":"measured"}"#),
            (r#"{"a":{}}"#, r#"{"tokenjoule.energy_tier":"measured","a":{}}"#),
            (r#"{"tokenjoule.energy_tier":"mine"}"#, r#"{"tokenjoule.energy_tier":"mine"}"#),
        ] {
            assert_eq!(with_tier(before.to_owned(), Tier::Measured), after);
        }
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_METADATA - 8));
        assert_eq!(with_tier(long.clone(), Tier::Measured), long);
    }
}
