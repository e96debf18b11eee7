//! Questions, and what answers them.

use rusqlite::Connection;
use rusqlite::types::Value;

use super::key::{self, Key, KeyId, Keys};
use super::rollup::{self, Count, Cover, MANY, Recent, bound};
use super::row::Row;
use super::{fault, schema::Columns};
use crate::error::{Error, Result};
use crate::record::{Outcome, check_figure};
use crate::stats::{Aggregate, Cells, Goodput, Objectives};

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
    /// What counts as a good call.
    pub objectives: Objectives,
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
        let Objectives { ttft, tpot, latency } = self.objectives;
        for (field, objective) in
            [("query.max_ttft", ttft), ("query.max_tpot", tpot), ("query.max_latency", latency)]
        {
            if objective.is_nan() {
                return Err(Error::invalid(field, "is NaN; 0 means no objective"));
            }
            check_figure(field, objective)?;
        }
        Ok(())
    }

    /// The range of time, with infinity for unbounded.
    pub(super) fn range(&self) -> (f64, f64) {
        let since = if self.since > 0.0 { self.since } else { f64::NEG_INFINITY };
        let until = if self.until > 0.0 { self.until } else { f64::INFINITY };
        (since, until)
    }

    /// Whether records of that key are wanted.
    pub(super) fn selects(&self, key: &Key<'_>) -> bool {
        let is_wanted = |wanted: Option<&str>, is: &str| wanted.is_none_or(|wanted| wanted == is);
        is_wanted(self.model_id, key.model_id)
            && is_wanted(self.engine, key.engine)
            && is_wanted(self.agent, key.agent)
            && !(self.exclude_warmup && key.is_warmup)
            && (self.token_counting_version == 0 || self.token_counting_version == key.token_counting_version)
            && (self.outcome_mask == 0 || self.outcome_mask & (1 << key.outcome as u32) != 0)
    }

    /// Whether records of every key are wanted.
    fn selects_all(&self) -> bool {
        let Query { model_id, engine, agent, exclude_warmup, token_counting_version, outcome_mask, .. } =
            *self;
        [model_id, engine, agent] == [None; 3]
            && !exclude_warmup
            && token_counting_version == 0
            && matches!(outcome_mask, 0 | u32::MAX)
    }

    /// Whether only rows can tell: the rollups know nothing of batches, nor of which figures belong to one call.
    fn needs_rows(&self) -> bool {
        self.batch_id.is_some() || self.objectives.are_set()
    }

    /// Conditions on rows that an index answers, in SQL, and their parameters.
    pub(super) fn conditions(&self, columns: &Columns, since: f64, until: f64) -> (Vec<String>, Vec<Value>) {
        let (mut conditions, mut parameters) = (Vec::new(), Vec::new());
        bound("timestamp", since, until, &mut conditions, &mut parameters);
        if let Some(batch) = self.batch_id {
            let column = columns.or_default("batch_id", "''");
            conditions.push(format!("{column} = ?"));
            if !batch.is_empty() {
                conditions.push(format!("{column} <> ''")); // what the index by batch is about
            }
            parameters.push(batch.to_owned().into());
        }
        (conditions, parameters)
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

/// Answers a checked query.
pub(super) fn aggregate(connection: &Connection, query: &Query<'_>) -> Result<Aggregate> {
    let columns = Columns::of(connection)?;
    let mut answer = Answer::default();
    let mut asked = Asked::new(connection, query)?;
    if !columns.is_empty() {
        let cover = Cover::new(connection, &columns)?;
        asked.range(&cover, &columns, query.range(), &mut answer)?;
    }
    Ok(answer.finish(query, query.range()))
}

/// The answer for one step of a series.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Unix seconds: from …
    pub since: f64,
    /// … to before.
    pub until: f64,
    /// The answer.
    pub answer: Aggregate,
}

/// The most steps of a series.
pub(super) const MOST_STEPS: usize = 10_000;

/// Answers a checked query for each step of `step` seconds in its range.
pub(super) fn series(connection: &Connection, query: &Query<'_>, step: f64) -> Result<Vec<Step>> {
    if !(step > 0.0 && step.is_finite()) {
        return Err(Error::invalid("step_seconds", format!("is {step}; it must be positive and finite")));
    }
    let (oldest, newest) = match (query.since > 0.0, query.until > 0.0) {
        (true, true) => (f64::NAN, f64::NAN),
        _ => span(connection)?,
    };
    let since = if query.since > 0.0 { query.since } else { (oldest.max(0.0) / step).floor() * step };
    // A range that is not bounded ends with the step that the newest record is in.
    let is_behind = |time: f64| if query.until > 0.0 { time >= query.until } else { time > newest };
    if since.is_nan() || (query.until <= 0.0 && newest.is_nan()) {
        return Ok(Vec::new());
    }
    let limit = |at: usize| since + at as f64 * step;
    let too_many = || {
        let what = format!("is {step}; the range has more than {MOST_STEPS} steps of that");
        Err(Error::invalid("step_seconds", what))
    };
    if !is_behind(limit(MOST_STEPS)) {
        return too_many();
    }
    let steps = (0..).take_while(|at| !is_behind(limit(*at))).count();
    let end = if query.until > 0.0 { query.until } else { f64::INFINITY };
    let limits: Vec<(f64, f64)> = (0..steps).map(|at| (limit(at), limit(at + 1).min(end))).collect();
    let answers = answers(connection, query, &limits)?;
    let steps = limits.into_iter().zip(answers);
    Ok(steps.map(|((since, until), answer)| Step { since, until, answer }).collect())
}

/// Answers a query for each of some ranges, one behind the other.
fn answers(connection: &Connection, query: &Query<'_>, limits: &[(f64, f64)]) -> Result<Vec<Aggregate>> {
    let (Some((first, _)), Some((_, last))) = (limits.first(), limits.last()) else { return Ok(Vec::new()) };
    let columns = Columns::of(connection)?;
    let mut asked = Asked::new(connection, query)?;
    if columns.is_empty() {
        return Ok(limits.iter().map(|limits| Answer::default().finish(query, *limits)).collect());
    }
    let cover = Cover::new(connection, &columns)?;
    // The rows that no bucket holds yet are looked for once, not for every step.
    let few = !asked.query.needs_rows() && cover.waiting()? < MANY;
    let mut waiting = Waiting::new(query);
    if few {
        cover.unfolded(*first, *last, &mut waiting)?;
        waiting.recent.samples.sort_by(|one, other| one.time.total_cmp(&other.time));
    }
    let mut rows = waiting.recent.samples.iter().peekable();
    let mut answers = Vec::with_capacity(limits.len());
    for &(since, until) in limits {
        let mut answer = Answer::default();
        if few {
            cover.folded(since, until, &mut asked.counting(&mut answer))?;
            while let Some(row) = rows.next_if(|row| row.time < until) {
                let (model, engine) = &waiting.names[row.key as usize];
                let place = answer.cells.place(model, engine);
                waiting.recent.add_to(answer.cells.tally(place), row)?;
            }
        } else {
            asked.range(&cover, &columns, (since, until), &mut answer)?;
        }
        answers.push(answer.finish(query, (since, until)));
    }
    Ok(answers)
}

/// An answer that is being counted.
#[derive(Default)]
struct Answer {
    cells: Cells,
    /// Where the cells of the keys asked for are counted, once there was one.
    places: Vec<Option<usize>>,
    /// For goodput: calls, those of them that were good, and the timestamps of the first and the last.
    calls: u64,
    good: u64,
    span: Option<(f64, f64)>,
}

impl Answer {
    fn finish(&self, query: &Query<'_>, (since, until): (f64, f64)) -> Aggregate {
        let goodput = || {
            let (first, last) = self.span.unwrap_or((f64::NAN, f64::NAN));
            let begin = if since > f64::NEG_INFINITY { since } else { first };
            let end = if until < f64::INFINITY { until } else { last };
            let per_second = if end > begin { self.good as f64 / (end - begin) } else { f64::NAN };
            Goodput { calls: self.calls, good: self.good, per_second }
        };
        let goodput = query.objectives.are_set().then(goodput);
        Aggregate { goodput, ..self.cells.aggregate(query.limit) }
    }
}

/// A query, and which keys of the rollups it selects.
struct Asked<'q> {
    query: &'q Query<'q>,
    /// In the order of their numbers.
    keys: Vec<AskedKey>,
}

struct AskedKey {
    id: KeyId,
    model_id: String,
    engine: String,
    outcome: Outcome,
}

impl<'q> Asked<'q> {
    fn new(connection: &Connection, query: &'q Query<'q>) -> Result<Self> {
        let mut keys = Vec::new();
        if !query.needs_rows() && rollup::are_there(connection)? {
            key::each(connection, |id, key| {
                if query.selects(&key) {
                    let (model_id, engine) = (key.model_id.to_owned(), key.engine.to_owned());
                    keys.push(AskedKey { id, model_id, engine, outcome: key.outcome });
                }
            })
            .map_err(|error| fault::database("reading the rollups", &error))?;
        }
        Ok(Asked { query, keys })
    }

    fn counting<'s>(&'s mut self, answer: &'s mut Answer) -> Counting<'s> {
        let selects_all = self.query.selects_all();
        Counting { query: self.query, selects_all, keys: &self.keys, next: 0, answer }
    }

    fn range(
        &mut self,
        cover: &Cover<'_>,
        columns: &Columns,
        (since, until): (f64, f64),
        answer: &mut Answer,
    ) -> Result<()> {
        if self.query.needs_rows() {
            let (conditions, parameters) = self.query.conditions(columns, since, until);
            return cover.rows(&conditions, parameters, &mut self.counting(answer));
        }
        cover.range(since, until, &mut self.counting(answer))
    }
}

struct Counting<'s> {
    query: &'s Query<'s>,
    selects_all: bool,
    keys: &'s [AskedKey],
    /// Among the keys: behind the one of the last cell.
    next: usize,
    answer: &'s mut Answer,
}

impl Count for Counting<'_> {
    fn cell(&mut self, key: KeyId, tally: &[u8]) -> Result<()> {
        // The cells of a bucket come in the order of their keys: mostly it is the one behind the last.
        let is_next = self.keys.get(self.next).is_some_and(|asked| asked.id == key);
        if !is_next {
            match self.keys.binary_search_by_key(&key, |asked| asked.id) {
                Ok(at) => self.next = at,
                Err(_) => return Ok(()), // not asked for
            }
        }
        let asked = &self.keys[self.next];
        let Answer { cells, places, .. } = &mut *self.answer;
        if places.is_empty() {
            places.resize(self.keys.len(), None);
        }
        let place = *places[self.next].get_or_insert_with(|| cells.place(&asked.model_id, &asked.engine));
        self.next += 1;
        cells.tally(place).merge_bytes(tally, asked.outcome)
    }

    fn row(&mut self, row: &Row<'_>) -> Result<()> {
        if !self.selects_all && !self.query.selects(&row.key()) {
            return Ok(());
        }
        let (model, engine) = row.names();
        let sample = row.sample();
        if self.query.objectives.are_set() {
            self.answer.calls += 1;
            let (first, last) = self.answer.span.unwrap_or((row.time(), row.time()));
            self.answer.span = Some((first.min(row.time()), last.max(row.time())));
            self.answer.good += u64::from(sample.meets(&self.query.objectives));
        }
        let place = self.answer.cells.place(model, engine);
        self.answer.cells.tally(place).add_sample(&sample)
    }
}

/// Rows that no bucket holds yet, kept for later.
struct Waiting<'q> {
    query: &'q Query<'q>,
    keys: Keys,
    /// Model and engine of the keys, by their places.
    names: Vec<(String, String)>,
    recent: Recent,
}

impl<'q> Waiting<'q> {
    fn new(query: &'q Query<'q>) -> Self {
        Waiting { query, keys: Keys::default(), names: Vec::new(), recent: Recent::default() }
    }
}

impl Count for Waiting<'_> {
    fn cell(&mut self, _: KeyId, _: &[u8]) -> Result<()> {
        Ok(()) // asked for rows only
    }

    fn row(&mut self, row: &Row<'_>) -> Result<()> {
        let key = row.key();
        if self.query.selects(&key) {
            let place = self.keys.place(&key);
            if place as usize == self.names.len() {
                self.names.push((key.model_id.to_owned(), key.engine.to_owned()));
            }
            self.recent.push(row.time(), place, &row.sample());
        }
        Ok(())
    }
}
