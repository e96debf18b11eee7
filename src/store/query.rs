//! Questions, and the rows that answer them.

use rusqlite::Connection;
use rusqlite::types::Value;

use super::{fault, row, schema::Columns};
use crate::error::{Error, Result};
use crate::record::Outcome;
use crate::stats::{Aggregate, Cells};

/// Which records. The default is all of them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Query<'a> {
    /// Unix seconds: `since <= timestamp`; 0 for any.
    pub since: f64,
    /// Unix seconds: `timestamp < until`; 0 for any.
    pub until: f64,
    /// Exactly this model.
    pub model_id: Option<&'a str>,
    /// Exactly this engine.
    pub engine: Option<&'a str>,
    /// Exactly this agent.
    pub agent: Option<&'a str>,
    /// Exactly this batch.
    pub batch_id: Option<&'a str>,
    /// Leave warm-up calls out.
    pub exclude_warmup: bool,
    /// Only records stamped so; 0 for any.
    pub token_counting_version: u32,
    /// The bits `1 << outcome` of those wanted; 0 for all.
    pub outcome_mask: u32,
    /// Only the first so many models and engines; 0 for all.
    pub limit: usize,
}

impl Query<'_> {
    pub(super) fn check(&self) -> Result<()> {
        for (field, time) in [("query.since", self.since), ("query.until", self.until)] {
            if !time.is_finite() || time < 0.0 {
                let what = format!("is {time}; it must be a time in Unix seconds, or 0 for unbounded");
                return Err(Error::invalid(field, what));
            }
        }
        let known = (1 << Outcome::ALL.len()) - 1;
        if self.outcome_mask & !known != 0 && self.outcome_mask != u32::MAX {
            let what = format!("is {:#x}; it has a bit that is no outcome's", self.outcome_mask);
            return Err(Error::invalid("query.outcome_mask", what));
        }
        Ok(())
    }

    /// The conditions as SQL, and their parameters.
    fn conditions(&self, columns: &Columns) -> (String, Vec<Value>) {
        let mut conditions = Vec::new();
        let mut parameters = Vec::new();
        let mut demand = |condition: String, parameter: Value| {
            conditions.push(condition);
            parameters.push(parameter);
        };
        if self.since > 0.0 {
            demand("timestamp >= ?".to_owned(), self.since.into());
        }
        if self.until > 0.0 {
            demand("timestamp < ?".to_owned(), self.until.into());
        }
        let exact = [
            ("model_id", self.model_id),
            ("engine", self.engine),
            ("agent", self.agent),
            ("batch_id", self.batch_id),
        ];
        for (column, wanted) in exact {
            if let Some(wanted) = wanted {
                demand(format!("{} = ?", columns.or_default(column, "''")), wanted.to_owned().into());
            }
        }
        if self.exclude_warmup {
            demand(format!("{} = ?", columns.or_default("is_warmup", "0")), 0.into());
        }
        if self.token_counting_version != 0 {
            let column = columns.or_default("token_counting_version", "NULL");
            demand(format!("{column} = ?"), self.token_counting_version.into());
        }
        if self.outcome_mask != 0 && self.outcome_mask != u32::MAX {
            let column = columns.or_default("outcome", "0");
            demand(format!("(1 << {column}) & ? <> 0"), self.outcome_mask.into());
        }
        let sql = if conditions.is_empty() {
            String::new()
        } else {
            format!(" WHERE {}", conditions.join(" AND "))
        };
        (sql, parameters)
    }
}

impl Columns {
    /// The column, or what a row without it means: a database that is only read is not migrated.
    fn or_default<'a>(&self, column: &'a str, default: &'a str) -> &'a str {
        if self.has(column) { column } else { default }
    }
}

/// How many records there are.
pub(super) fn count(connection: &Connection) -> Result<u64> {
    if Columns::of(connection)?.is_empty() {
        return Ok(0);
    }
    let count = connection.query_row("SELECT COUNT(*) FROM telemetry", [], |row| row.get::<_, i64>(0));
    count.map(|count| count as u64).map_err(|error| fault::database("counting", &error))
}

/// The earliest and the latest timestamp; `NAN` if there are no records.
pub(super) fn span(connection: &Connection) -> Result<(f64, f64)> {
    if Columns::of(connection)?.is_empty() {
        return Ok((f64::NAN, f64::NAN));
    }
    // Two questions: each is one look at the index, both in one are a scan.
    let end = |sql: &str| {
        let time = connection.query_row(sql, [], |row| row.get::<_, Option<f64>>(0));
        time.map(|time| time.unwrap_or(f64::NAN))
            .map_err(|error| fault::database("reading the time span", &error))
    };
    Ok((end("SELECT MIN(timestamp) FROM telemetry")?, end("SELECT MAX(timestamp) FROM telemetry")?))
}

/// Tallies the rows that a checked query selects.
pub(super) fn aggregate(connection: &Connection, query: &Query<'_>) -> Result<Aggregate> {
    let mut cells = Cells::default();
    let columns = Columns::of(connection)?;
    if !columns.is_empty() {
        let tallied: Vec<&str> =
            row::TALLIED.iter().map(|column| columns.or_default(column, "NULL")).collect();
        let (conditions, parameters) = query.conditions(&columns);
        let sql = format!("SELECT {} FROM telemetry{conditions}", tallied.join(", "));
        let during = |error| fault::database("aggregating", &error);
        let mut statement = connection.prepare_cached(&sql).map_err(during)?;
        let mut rows = statement.query(rusqlite::params_from_iter(parameters)).map_err(during)?;
        while let Some(row) = rows.next().map_err(during)? {
            row::tallied(row, |record| cells.cell(record.model_id, record.engine).add(record))?;
        }
    }
    Ok(cells.aggregate(query.limit))
}
