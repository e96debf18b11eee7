//! Which buckets and which rows answer a question about a range of time: the widest buckets that fit, narrower ones
//! towards the ends, rows at the ends, and rows wherever there are too few for a bucket.

use std::ops::Range;

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::cells::Cells;
use super::{Extent, LAST_SECOND, MINUTES, Tier, bucket_at, first_place, minute_of, minutes_of, times_of};
use crate::error::Result;
use crate::store::fault;
use crate::store::key::KeyId;
use crate::store::row::Row;
use crate::store::schema::Columns;

/// Takes what a cover is made of.
pub(in crate::store) trait Count {
    /// A cell of a bucket: a tally's bytes.
    fn cell(&mut self, key: KeyId, tally: &[u8]) -> Result<()>;

    /// A row that no bucket holds.
    fn row(&mut self, row: &Row<'_>) -> Result<()>;
}

/// More rows than one would read all of for a part of them.
pub(in crate::store) const MANY: u64 = 20_000;

/// Finds them in a database, whose rows and rollups are of one moment: within a transaction.
pub(in crate::store) struct Cover<'c> {
    connection: &'c Connection,
    /// What to select of a row.
    columns: String,
    extent: Extent,
}

impl<'c> Cover<'c> {
    pub(in crate::store) fn new(connection: &'c Connection, columns: &Columns) -> Result<Cover<'c>> {
        let extent = Extent::read(connection)?.unwrap_or_default();
        Ok(Cover::within(connection, columns, extent))
    }

    pub(in crate::store) fn within(
        connection: &'c Connection,
        columns: &Columns,
        extent: Extent,
    ) -> Cover<'c> {
        Cover { connection, columns: Row::columns(columns), extent }
    }

    /// Everything with `since <= timestamp < until`.
    pub(in crate::store) fn range(&self, since: f64, until: f64, count: &mut impl Count) -> Result<()> {
        self.folded(since, until, count)?;
        self.unfolded(since, until, count)
    }

    /// How many rows the rollups do not reach yet, at most.
    pub(in crate::store) fn waiting(&self) -> Result<u64> {
        let ends = || -> rusqlite::Result<(Option<i64>, Option<i64>)> {
            let id = |sql| self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0));
            Ok((id("SELECT min(id) FROM telemetry")?, id("SELECT max(id) FROM telemetry")?))
        };
        let (oldest, newest) = ends().map_err(|error| fault::database("counting", &error))?;
        let (Some(oldest), Some(newest)) = (oldest, newest) else { return Ok(0) };
        let reach = self.extent.reach.max(oldest.saturating_sub(1));
        Ok(newest.saturating_sub(reach).max(0) as u64)
    }

    /// The rows that the rollups do not reach yet.
    pub(in crate::store) fn unfolded(&self, since: f64, until: f64, count: &mut impl Count) -> Result<()> {
        // By their ids, unless there are very many: then the index by time is the better way into them.
        let is_bounded = since > f64::NEG_INFINITY || until < f64::INFINITY;
        let (id, time) = match self.waiting()? {
            0 => return Ok(()),
            MANY.. if is_bounded => ("+id", "timestamp"),
            _ => ("id", "+timestamp"),
        };
        let mut conditions = vec![format!("{id} > ?")];
        let mut parameters = vec![Value::from(self.extent.reach)];
        bound(time, since, until, &mut conditions, &mut parameters);
        self.rows(&conditions, parameters, count)
    }

    /// Rows of a selection of its own: `conditions` in SQL.
    pub(in crate::store) fn rows(
        &self,
        conditions: &[String],
        parameters: Vec<Value>,
        count: &mut impl Count,
    ) -> Result<()> {
        let all = if conditions.is_empty() { "1".to_owned() } else { conditions.join(" AND ") };
        let sql = format!("SELECT {} FROM telemetry WHERE {all}", self.columns);
        let during = |error| fault::database("aggregating", &error);
        let mut statement = self.connection.prepare_cached(&sql).map_err(during)?;
        let mut rows = statement.query(params_from_iter(parameters)).map_err(during)?;
        while let Some(row) = rows.next().map_err(during)? {
            count.row(&Row::of(row))?;
        }
        Ok(())
    }

    /// What the rollups reach.
    pub(in crate::store) fn folded(&self, since: f64, until: f64, count: &mut impl Count) -> Result<()> {
        if self.extent.reach == i64::MIN || since >= until {
            return Ok(());
        }
        if since == f64::NEG_INFINITY && until == f64::INFINITY {
            return self.minutes(0..MINUTES, Tier::Whole, count);
        }
        let (minutes, ends) = self.cut(since, until);
        let mut pieces = Pieces { rows: ends, frozen: self.extent.frozen };
        self.descend(Tier::Month, minutes, &mut pieces, count)?;
        self.read(pieces, count)
    }

    /// What the rollups reach in a range of minutes, from buckets no wider than `widest`.
    pub(super) fn minutes(&self, minutes: Range<u64>, widest: Tier, count: &mut impl Count) -> Result<()> {
        let mut pieces = Pieces { rows: Vec::new(), frozen: self.extent.frozen };
        self.descend(widest, minutes, &mut pieces, count)?;
        self.read(pieces, count)
    }

    /// The rows of a range of minutes, as far as the rollups reach.
    pub(in crate::store) fn rows_of(&self, minutes: Range<u64>, count: &mut impl Count) -> Result<()> {
        let mut pieces = Pieces { rows: Vec::new(), frozen: self.extent.frozen };
        pieces.push(minutes);
        self.read(pieces, count)
    }

    /// The whole minutes in a range of time, and what is left of it at its ends. Where the rows are gone the ends are whole
    /// hours: those that begin in the range.
    fn cut(&self, since: f64, until: f64) -> (Range<u64>, Vec<(f64, f64)>) {
        let frozen = self.extent.frozen;
        let frozen_until = (frozen * 60) as f64;
        let up = |time: f64, width: u64| match time.max(0.0).ceil() as u64 {
            seconds if seconds > LAST_SECOND => MINUTES,
            seconds => seconds.div_ceil(60 * width) * width,
        };
        let hour = Tier::Hour.width();
        let begin = if since < frozen_until { up(since, hour).min(frozen) } else { up(since, 1) };
        let end = match until {
            f64::INFINITY => MINUTES,
            until if until <= frozen_until => up(until, hour).min(frozen),
            until => minute_of(until),
        };
        // The last minute has no end.
        if begin > end || begin == MINUTES {
            return (0..0, vec![(since, until)]);
        }
        let mut ends = Vec::new();
        let (first, last) = ((begin * 60) as f64, (end * 60) as f64);
        if since > f64::NEG_INFINITY && since >= frozen_until && since < first {
            ends.push((since, first));
        }
        if until < f64::INFINITY && until > frozen_until && last < until {
            ends.push((last, until));
        }
        (begin..end, ends)
    }

    /// Hands out the buckets of a range that are kept and right, the widest first, and notes which rows are to be read.
    fn descend(
        &self,
        tier: Tier,
        minutes: Range<u64>,
        pieces: &mut Pieces,
        count: &mut impl Count,
    ) -> Result<()> {
        if minutes.is_empty() {
            return Ok(());
        }
        let width = tier.width();
        // The last bucket of a tier may be cut short by the end of time.
        let last = if minutes.end == MINUTES { MINUTES.div_ceil(width) } else { minutes.end / width };
        let buckets = minutes.start.div_ceil(width)..last;
        let Some(finer) = tier.finer() else {
            let stale = self.buckets(tier, buckets, pieces, count)?;
            stale.into_iter().for_each(|minute| pieces.push(minute..minute + 1));
            return Ok(());
        };
        if buckets.is_empty() {
            return self.descend(finer, minutes, pieces, count);
        }
        let (from, to) = (buckets.start * width, (buckets.end * width).min(MINUTES));
        self.descend(finer, minutes.start..from, pieces, count)?;
        for bucket in self.buckets(tier, buckets, pieces, count)? {
            self.descend(finer, minutes_of(tier, bucket), pieces, count)?;
        }
        self.descend(finer, to..minutes.end, pieces, count)
    }

    /// Hands out those of the buckets that are kept and right; notes the rows of those that are not kept; gives those that
    /// are stale.
    fn buckets(
        &self,
        tier: Tier,
        buckets: Range<u64>,
        pieces: &mut Pieces,
        count: &mut impl Count,
    ) -> Result<Vec<u64>> {
        let width = tier.width();
        let all = buckets.start * width..(buckets.end * width).min(MINUTES);
        let mut stale: Vec<u64> = self.extent.stale_in(&all).iter().map(|minute| minute / width).collect();
        stale.dedup();
        let is_stale = |bucket: u64| stale.binary_search(&bucket).is_ok();
        let during = |error| fault::database("reading the rollups", &error);
        let sql = "SELECT place, cells FROM tokenjoule_rollup WHERE place >= ? AND place < ? ORDER BY place";
        let mut statement = self.connection.prepare_cached(sql).map_err(during)?;
        let places = (first_place(tier, buckets.start), first_place(tier, buckets.end));
        let mut rows = statement.query(places).map_err(during)?;
        let mut next = buckets.start;
        while let Some(row) = rows.next().map_err(during)? {
            let bucket = bucket_at(row.get(0).map_err(during)?);
            if is_stale(bucket) {
                continue;
            }
            if bucket > next {
                pieces.push_but(next..bucket, width, &stale);
            }
            next = next.max(bucket + 1);
            let cells = row.get_ref(1).map_err(during)?.as_blob().map_err(|error| during(error.into()))?;
            for cell in Cells(cells) {
                let (key, tally) = cell?;
                count.cell(key, tally)?;
            }
        }
        if next < buckets.end {
            pieces.push_but(next..buckets.end, width, &stale);
        }
        Ok(stale)
    }

    fn read(&self, pieces: Pieces, count: &mut impl Count) -> Result<()> {
        for (since, until) in pieces.joined() {
            let mut conditions = Vec::new();
            let mut parameters = Vec::new();
            bound("timestamp", since, until, &mut conditions, &mut parameters);
            // Never by the ids: the index by time is the way.
            conditions.push("+id <= ?".to_owned());
            parameters.push(self.extent.reach.into());
            self.rows(&conditions, parameters, count)?;
        }
        Ok(())
    }
}

/// The conditions on a timestamp, in SQL.
pub(in crate::store) fn bound(
    time: &str,
    since: f64,
    until: f64,
    conditions: &mut Vec<String>,
    parameters: &mut Vec<Value>,
) {
    if since > f64::NEG_INFINITY {
        conditions.push(format!("{time} >= ?"));
        parameters.push(since.into());
    }
    if until < f64::INFINITY {
        conditions.push(format!("{time} < ?"));
        parameters.push(until.into());
    }
}

/// The stretches of time whose rows are to be read.
struct Pieces {
    rows: Vec<(f64, f64)>,
    /// Before this minute there are none.
    frozen: u64,
}

impl Pieces {
    fn push(&mut self, minutes: Range<u64>) {
        let minutes = minutes.start.max(self.frozen)..minutes.end;
        if !minutes.is_empty() {
            self.rows.push(times_of(&minutes));
        }
    }

    /// The minutes of a run of buckets, but for those in `stale`.
    fn push_but(&mut self, buckets: Range<u64>, width: u64, stale: &[u64]) {
        let minutes = |buckets: Range<u64>| buckets.start * width..(buckets.end * width).min(MINUTES);
        let mut from = buckets.start;
        let first = stale.partition_point(|bucket| *bucket < buckets.start);
        for bucket in stale[first..].iter().take_while(|bucket| **bucket < buckets.end) {
            self.push(minutes(from..*bucket));
            from = bucket + 1;
        }
        self.push(minutes(from..buckets.end));
    }

    /// In order, those that touch in one.
    fn joined(mut self) -> Vec<(f64, f64)> {
        self.rows.sort_by(|one, other| one.0.total_cmp(&other.0));
        let mut joined: Vec<(f64, f64)> = Vec::new();
        for (since, until) in self.rows {
            match joined.last_mut() {
                Some(last) if last.1 >= since => last.1 = last.1.max(until),
                _ => joined.push((since, until)),
            }
        }
        joined
    }
}
