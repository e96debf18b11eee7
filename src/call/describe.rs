//! What the events of a call say in JSON: the reference's figures, for subscribers that want no struct, and those that have
//! no field in a record. Written piece by piece: building a JSON value first takes three times as long as the call itself.

use super::Start;
use crate::record::Record;

/// The data of an INFERENCE_START.
pub(super) fn start(start: &Start<'_>) -> String {
    let mut object = Object::default();
    object.text("model", start.model);
    object.text("engine", start.engine);
    object.count("message_count", start.message_count);
    object.finish()
}

/// The data of an INFERENCE_END.
pub(super) fn end(record: &Record<'_>) -> String {
    let mut object = Object::default();
    object.text("model", record.model_id);
    object.text("engine", record.engine);
    object.text("outcome", record.outcome.name());
    object.figure("latency", record.latency_seconds);
    object.figure("ttft", record.ttft);
    object.figure("tpot", record.tpot());
    object.figure("throughput_tok_per_sec", record.throughput_tok_per_sec);
    object.figure("decode_tok_per_sec", record.decode_tok_per_sec());
    object.text("finish_reason", record.finish_reason);
    object.text("error_type", record.error_type);
    object.finish()
}

/// A JSON object that is being written.
struct Object(Vec<u8>);

impl Default for Object {
    fn default() -> Self {
        Object(Vec::with_capacity(384))
    }
}

impl Object {
    fn key(&mut self, key: &str) {
        self.0.extend_from_slice(if self.0.is_empty() { b"{\"" } else { b",\"" });
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    fn value(&mut self, key: &str, value: impl serde::Serialize) {
        self.key(key);
        let _ = serde_json::to_writer(&mut self.0, &value); // neither a Vec nor such a value fails
    }

    fn text(&mut self, key: &str, text: &str) {
        self.value(key, text);
    }

    fn count(&mut self, key: &str, count: u64) {
        self.value(key, count);
    }

    /// `null` for a figure that is unknown.
    fn figure(&mut self, key: &str, figure: f64) {
        self.value(key, Some(figure).filter(|figure| figure.is_finite()));
    }

    fn finish(mut self) -> String {
        self.0.push(b'}');
        String::from_utf8(self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_json_whatever_the_names_are() {
        let record = Record {
            model_id: "a \"model\"\n\u{1}",
            engine: "größe",
            completion_tokens: 3,
            latency_seconds: 0.5,
            ttft: 0.1,
            ..Record::default()
        };
        let data: serde_json::Value = serde_json::from_str(&end(&record)).unwrap();
        assert_eq!((&data["model"], &data["engine"]), (&record.model_id.into(), &record.engine.into()));
        assert_eq!((&data["latency"], &data["tpot"]), (&0.5.into(), &0.2.into()));
        assert!(data["throughput_tok_per_sec"].is_null() && data["outcome"] == "ok");
        let data = start(&Start { model: "m", engine: "e", message_count: 2, ..Start::default() });
        assert_eq!(data, r#"{"model":"m","engine":"e","message_count":2}"#);
    }
}
