//! Reading records one by one, without holding on to the database between them.

use rusqlite::Connection;
use rusqlite::types::Value;

use super::fault;
use super::journal::frame::{self, Buffer};
use super::query::Query;
use super::rollup::bound;
use super::row::{FullRow, Row};
use super::schema::Columns;
use crate::error::Result;
use crate::record::Record;

/// The direction in which records are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    OldestFirst,
    NewestFirst,
}

/// Some records, read from the database in one go.
#[derive(Default)]
pub(super) struct Page {
    /// Ids, and where the bytes of each record end.
    records: Vec<(i64, usize)>,
    bytes: Vec<u8>,
}

/// Where a reading is.
pub(super) struct Reading {
    order: Order,
    /// The newest row when it began: those that come later are not part of it, or it might never end.
    newest: Option<i64>,
    /// Timestamp and id of the row that was read last.
    last: Option<(Value, i64)>,
    left: usize,
    is_over: bool,
}

impl Reading {
    /// A page is small enough that nobody waits for it, and large enough that its query is lost in it.
    const PAGE: usize = 256;
    const PAGE_BYTES: usize = 1 << 20;

    pub(super) fn new(order: Order, query: &Query<'_>) -> Reading {
        let left = if query.limit == 0 { usize::MAX } else { query.limit };
        Reading { order, newest: None, last: None, left, is_over: false }
    }

    /// Reads the next page; `None`: there is no more.
    pub(super) fn next(&mut self, connection: &Connection, query: &Query<'_>) -> Result<Option<Page>> {
        let columns = Columns::of(connection)?;
        if self.is_over || self.left == 0 || columns.is_empty() {
            return Ok(None);
        }
        let during = |error| fault::database("reading records", &error);
        if self.newest.is_none() {
            let newest = connection.query_row("SELECT max(id) FROM telemetry", [], |row| row.get(0));
            self.newest = newest.map_err(during)?;
        }
        let (since, until) = query.range();
        let (mut conditions, mut parameters) = query.conditions(&columns, since, until);
        conditions.push("+id <= ?".to_owned());
        parameters.push(self.newest.unwrap_or(i64::MIN).into());
        let (beyond, direction) = match self.order {
            Order::OldestFirst => (">", "ASC"),
            Order::NewestFirst => ("<", "DESC"),
        };
        if let Some((time, id)) = &self.last {
            conditions.push(format!("timestamp {beyond}= ? AND (timestamp {beyond} ? OR +id {beyond} ?)"));
            parameters.extend([time.clone(), time.clone(), (*id).into()]);
        }
        let sql = format!(
            "SELECT {} FROM telemetry WHERE {} ORDER BY timestamp {direction}, id {direction}",
            FullRow::columns(&columns),
            conditions.join(" AND ")
        );
        let mut page = Page::default();
        let mut statement = connection.prepare_cached(&sql).map_err(during)?;
        let mut rows = statement.query(rusqlite::params_from_iter(parameters)).map_err(during)?;
        let mut looked_at = 0;
        self.is_over = true;
        while let Some(row) = rows.next().map_err(during)? {
            let row = FullRow::of(row);
            looked_at += 1;
            self.last = Some((row.raw_time(), row.id()));
            if query.selects(&row.key()) {
                page.push(row.id(), &row.record());
            }
            // Many that are not wanted make a page, too: others want the connection.
            let is_full = page.records.len() >= Reading::PAGE.min(self.left)
                || page.bytes.len() >= Reading::PAGE_BYTES
                || looked_at >= 40 * Reading::PAGE;
            if is_full {
                self.is_over = false;
                break;
            }
        }
        self.left -= page.records.len();
        Ok(Some(page))
    }
}

impl Page {
    fn push(&mut self, id: i64, record: &Record<'_>) {
        let mut buffer = Buffer::new();
        frame::encode(record, &mut buffer);
        self.bytes.extend_from_slice(buffer.bytes());
        self.records.push((id, self.bytes.len()));
    }

    /// Hands its records to `visit`, each with its id, until that says `false`. Gives whether it never did.
    pub(super) fn each(&self, visit: &mut dyn FnMut(i64, &Record<'_>) -> bool) -> Result<bool> {
        let mut begin = 0;
        for (id, end) in &self.records {
            if !visit(*id, &frame::decode(&self.bytes[begin..*end])?) {
                return Ok(false);
            }
            begin = *end;
        }
        Ok(true)
    }
}

/// Calls and energy of a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// The batch.
    pub batch_id: String,
    /// Calls.
    pub total_requests: u64,
    /// Prompt and output tokens.
    pub total_tokens: u64,
    /// Of these, output tokens.
    pub completion_tokens: u64,
    /// Calls that did not end well.
    pub failed_requests: u64,
    /// Joules, of the calls that measured them.
    pub total_energy_joules: f64,
    /// Joules / prompt and output tokens, over the calls that measured energy; 0 where there are none.
    pub energy_per_token_joules: f64,
    /// Joules / calls, over the calls that measured energy; 0 where there are none.
    pub energy_per_request_joules: f64,
    /// The earliest call's timestamp …
    pub oldest: f64,
    /// … and the latest's.
    pub newest: f64,
}

/// The batches that a query selects records of, by number of calls descending, then by name.
pub(super) fn batches(connection: &Connection, query: &Query<'_>) -> Result<Vec<Batch>> {
    let columns = Columns::of(connection)?;
    if !columns.has("batch_id") {
        return Ok(Vec::new());
    }
    let during = |error| fault::database("reading batches", &error);
    let (since, until) = query.range();
    let (mut conditions, mut parameters) = (vec!["batch_id <> ''".to_owned()], Vec::new());
    // By the index of batches alone: its rows are what there is to read anyway.
    bound("+timestamp", since, until, &mut conditions, &mut parameters);
    if let Some(batch) = query.batch_id {
        conditions.push("batch_id = ?".to_owned());
        parameters.push(batch.to_owned().into());
    }
    let sql = format!(
        "SELECT {}, batch_id FROM telemetry WHERE {} ORDER BY batch_id",
        Row::columns(&columns),
        conditions.join(" AND ")
    );
    let mut statement = connection.prepare_cached(&sql).map_err(during)?;
    let mut rows = statement.query(rusqlite::params_from_iter(parameters)).map_err(during)?;
    let mut batches: Vec<Counting> = Vec::new();
    while let Some(row) = rows.next().map_err(during)? {
        let batch_id = row.get_ref("batch_id").map_err(during)?.as_str().unwrap_or_default();
        let row = Row::of(row);
        if !query.selects(&row.key()) {
            continue;
        }
        if batches.last().is_none_or(|last| last.batch.batch_id != batch_id) {
            batches.push(Counting::new(batch_id));
        }
        if let Some(last) = batches.last_mut() {
            last.add(&row);
        }
    }
    let mut batches: Vec<Batch> = batches.into_iter().map(Counting::finish).collect();
    batches.sort_by(|one, other| {
        (other.total_requests, &one.batch_id).cmp(&(one.total_requests, &other.batch_id))
    });
    batches.truncate(if query.limit == 0 { usize::MAX } else { query.limit });
    Ok(batches)
}

/// A batch that is being counted.
struct Counting {
    batch: Batch,
    energy: crate::sketch::Sum,
    /// Calls that measured energy, and their tokens.
    measured: (u64, u64),
}

impl Counting {
    fn new(batch_id: &str) -> Self {
        let batch = Batch {
            batch_id: batch_id.to_owned(),
            oldest: f64::INFINITY,
            newest: f64::NEG_INFINITY,
            ..Batch::default()
        };
        Counting { batch, energy: crate::sketch::Sum::ZERO, measured: (0, 0) }
    }

    fn add(&mut self, row: &Row<'_>) {
        let sample = row.sample();
        let (prompt, output) = sample.tokens();
        let batch = &mut self.batch;
        batch.total_requests += 1;
        batch.failed_requests += u64::from(sample.outcome != crate::record::Outcome::Ok);
        batch.total_tokens = batch.total_tokens.saturating_add(prompt.saturating_add(output));
        batch.completion_tokens = batch.completion_tokens.saturating_add(output);
        batch.oldest = batch.oldest.min(row.time());
        batch.newest = batch.newest.max(row.time());
        let energy = sample.energy_joules();
        if !energy.is_nan() {
            self.energy.add(energy);
            self.measured.0 += 1;
            self.measured.1 = self.measured.1.saturating_add(prompt.saturating_add(output));
        }
    }

    fn finish(self) -> Batch {
        let energy = self.energy.value();
        let per = |count: u64| if count == 0 { 0.0 } else { energy / count as f64 };
        Batch {
            total_energy_joules: energy,
            energy_per_request_joules: per(self.measured.0),
            energy_per_token_joules: per(self.measured.1),
            ..self.batch
        }
    }
}
