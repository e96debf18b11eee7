//! Folding rows into the rollups, and making right what has become wrong. Each step is within a transaction of the caller's.

use std::collections::BTreeMap;
use std::ops::Range;

use rusqlite::Connection;

use super::cells::{self, Collection, Delta};
use super::cover::{Count, Cover};
use super::recent::{Kept, Recent};
use super::{Extent, FEW, MANY_ROWS, MINUTE_SQL, Tier, bounds, minute_of, minutes_of, times_of};
use crate::error::Result;
use crate::record::{Outcome, Record};
use crate::stats::Tally;
use crate::store::fault;
use crate::store::key::{Key, KeyId, Keys};
use crate::store::row::Row;
use crate::store::schema::Columns;

/// The writing connection's part in the rollups. It remembers the records that it has inserted itself, so that they need
/// not be read again; as soon as anybody else has changed the database, it reads the rows.
#[derive(Default)]
pub(in crate::store) struct Folder {
    keys: Keys,
    /// SQLite's `data_version` when all of the rest was true: another connection's commit changes it.
    seen: Option<i64>,
    reach: i64,
    frozen: u64,
    /// The oldest row when it looked, and the newest.
    oldest: i64,
    newest: i64,
    /// Whether a minute may be stale.
    is_stale: bool,
    /// The rows from `reach` to `newest`; `None`: they must be read.
    recent: Option<Recent>,
}

fn during(error: rusqlite::Error) -> crate::error::Error {
    fault::database("folding rows into the rollups", &error)
}

impl Folder {
    /// Learns what others have done. To be called first in every transaction, and may be called outside of one.
    pub(in crate::store) fn look(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let number = |sql| connection.prepare_cached(sql)?.query_row([], |row| row.get::<_, Option<i64>>(0));
        let version = number("PRAGMA data_version")?;
        if self.seen.is_some() && self.seen == version {
            return Ok(());
        }
        self.seen = None;
        self.keys.forget_ids();
        (self.reach, self.frozen) = bounds(connection)?.unwrap_or((i64::MIN, 0));
        self.oldest = number("SELECT min(id) FROM telemetry")?.unwrap_or(i64::MIN);
        self.newest = number("SELECT max(id) FROM telemetry")?.unwrap_or(i64::MIN);
        self.is_stale = number("SELECT min(minute) FROM tokenjoule_stale")?.is_some();
        self.recent = (self.newest <= self.reach).then(Recent::default);
        self.seen = version;
        Ok(())
    }

    /// Forgets what it knows: a transaction was taken back, or rows were changed by this connection.
    pub(in crate::store) fn doubt(&mut self) {
        self.seen = None;
        self.recent = None;
    }

    /// Learns of a row that was inserted in this transaction.
    pub(in crate::store) fn inserted(
        &mut self,
        connection: &Connection,
        id: i64,
        record: &Record<'_>,
    ) -> rusqlite::Result<()> {
        if id <= self.reach {
            // Somebody has set SQLite's sequence back.
            self.is_stale = true;
            return mark_stale(connection, minute_of(record.timestamp));
        }
        self.newest = self.newest.max(id);
        match &mut self.recent {
            Some(recent) if !recent.is_full() => {
                let key = self.keys.place(&Key::from(record));
                recent.push(record.timestamp, key, &record.into());
            }
            recent => *recent = None,
        }
        Ok(())
    }

    /// How many rows are to be folded in, at most.
    pub(in crate::store) fn waiting(&self) -> u64 {
        match &self.recent {
            Some(recent) => recent.samples.len() as u64,
            None => {
                let reach = self.reach.max(self.oldest.saturating_sub(1));
                self.newest.saturating_sub(reach).max(0) as u64
            }
        }
    }

    /// Whether the memory for records is nearly used up.
    pub(in crate::store) fn is_full(&self) -> bool {
        self.recent.as_ref().is_some_and(|recent| recent.samples.len() >= Recent::MOST * 3 / 4)
    }

    /// Whether something is to be made right.
    pub(in crate::store) fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// Folds the next rows in, a few thousand at most. Gives how many.
    pub(in crate::store) fn fold(&mut self, connection: &Connection) -> Result<u64> {
        let (recent, reach) = match self.recent.take() {
            Some(recent) => (recent, self.newest),
            None => self.read_recent(connection)?,
        };
        let count = recent.samples.len() as u64;
        if count > 0 {
            self.fold_in(connection, &recent, reach)?;
            connection
                .prepare_cached("UPDATE tokenjoule_reach SET row_id = ?")
                .and_then(|mut update| update.execute([reach]))
                .map_err(during)?;
            self.reach = reach;
        }
        if self.newest <= self.reach {
            self.keys.forget_if_many();
            self.recent = Some(Recent::default());
        }
        Ok(count)
    }

    fn read_recent(&mut self, connection: &Connection) -> Result<(Recent, i64)> {
        let columns = Row::columns(&Columns::of(connection)?);
        let sql = format!("SELECT {columns} FROM telemetry WHERE id > ? ORDER BY id LIMIT ?");
        let mut statement = connection.prepare_cached(&sql).map_err(during)?;
        let mut rows = statement.query((self.reach, Recent::MOST as i64)).map_err(during)?;
        let (mut recent, mut reach) = (Recent::default(), self.reach);
        while !recent.is_full()
            && let Some(row) = rows.next().map_err(during)?
        {
            let row = Row::of(row);
            let key = self.keys.place(&row.key());
            recent.push(row.time(), key, &row.sample());
            reach = row.id();
        }
        Ok((recent, reach))
    }

    fn fold_in(&mut self, connection: &Connection, recent: &Recent, reach: i64) -> Result<()> {
        let mut ids = BTreeMap::new();
        for kept in &recent.samples {
            if let std::collections::btree_map::Entry::Vacant(vacant) = ids.entry(kept.key) {
                vacant.insert(self.keys.id(connection, kept.key).map_err(during)?);
            }
        }
        let mut order: Vec<(u64, KeyId, &Kept)> =
            recent.samples.iter().map(|kept| (minute_of(kept.time), ids[&kept.key], kept)).collect();
        for tier in [Tier::Minute, Tier::TenMinutes] {
            let folded = self.narrow(connection, tier, &mut order)?;
            self.add(connection, tier, &Deltas::of(recent, &folded, tier)?, reach)?;
        }
        let hour = Tier::Hour.width();
        order.sort_unstable_by_key(|(minute, id, _)| (minute / hour, *id));
        let mut deltas = Deltas::of(recent, &order, Tier::Hour)?;
        self.add(connection, Tier::Hour, &deltas, reach)?;
        for tier in [Tier::Day, Tier::Month, Tier::Whole] {
            deltas = deltas.widened(tier)?;
            self.add(connection, tier, &deltas, reach)?;
        }
        Ok(())
    }

    /// Those of the samples whose bucket of a narrow tier is kept, or may be from now on; orders them all.
    fn narrow<'r>(
        &self,
        connection: &Connection,
        tier: Tier,
        order: &mut [(u64, KeyId, &'r Kept)],
    ) -> Result<Vec<(u64, KeyId, &'r Kept)>> {
        let bucket = |sample: &(u64, KeyId, &Kept)| sample.0 / tier.width();
        order.sort_unstable_by_key(|sample| (bucket(sample), sample.1));
        let mut kept = cells::Presence::new(connection, tier);
        let mut folded = Vec::new();
        for samples in order.chunk_by(|one, other| bucket(one) == bucket(other)) {
            if minutes_of(tier, bucket(&samples[0])).start < self.frozen {
                continue;
            }
            // One of few records now will hardly have had many before.
            let cells = samples.chunk_by(|one, other| one.1 == other.1).count();
            let may_pay = samples.len() as u64 >= FEW / 2 && samples.len() >= 2 * cells;
            if may_pay || kept.has(bucket(&samples[0]))? {
                folded.extend_from_slice(samples);
            }
        }
        Ok(folded)
    }

    /// Adds to the buckets that are kept, and makes those that should be from now on.
    fn add(&mut self, connection: &Connection, tier: Tier, deltas: &Deltas, reach: i64) -> Result<()> {
        for bucket in deltas.cells.chunk_by(|one, other| one.bucket == other.bucket) {
            let at = bucket[0].bucket;
            let added: Vec<Delta<'_>> = bucket.iter().map(|cell| deltas.delta(cell)).collect();
            if !cells::is_there(connection, tier, at)? {
                let here: u64 = bucket.iter().map(|cell| cell.calls).sum();
                let is_frozen = minutes_of(tier, at).start < self.frozen;
                let rows = rows_in(connection, tier, at, reach, here.max(MANY_ROWS) + 1)?;
                if rows != here && !is_frozen {
                    self.rebuild(
                        connection,
                        tier,
                        at,
                        &Extent { reach, frozen: self.frozen, stale: Vec::new() },
                    )?;
                    continue;
                }
                if !tier.pays(rows, bucket.len() as u64) && !is_frozen {
                    continue;
                }
            }
            cells::add(connection, tier, at, &added)?;
        }
        Ok(())
    }

    /// Makes stale minutes right, a few thousand at most. Gives whether there are more.
    pub(in crate::store) fn repair(&mut self, connection: &Connection) -> Result<bool> {
        const MOST: usize = 2000;
        let mut extent = Extent::read(connection)?.unwrap_or_default();
        let later = extent.stale.split_off(extent.stale.len().min(MOST));
        let now = std::mem::replace(&mut extent.stale, later);
        for tier in Tier::ALL {
            let mut buckets: Vec<u64> = now.iter().map(|minute| minute / tier.width()).collect();
            buckets.dedup();
            for bucket in buckets {
                self.rebuild(connection, tier, bucket, &extent)?;
            }
        }
        let upto = extent.stale.first().map_or(i64::MAX, |minute| *minute as i64);
        connection
            .prepare_cached("DELETE FROM tokenjoule_stale WHERE minute < ?")
            .and_then(|mut delete| delete.execute([upto]))
            .map_err(during)?;
        self.is_stale = !extent.stale.is_empty();
        Ok(self.is_stale)
    }

    /// Makes a bucket anew from narrower ones and from rows.
    fn rebuild(&mut self, connection: &Connection, tier: Tier, bucket: u64, extent: &Extent) -> Result<()> {
        let minutes = minutes_of(tier, bucket);
        let is_frozen = minutes.start < extent.frozen;
        if is_frozen && tier <= Tier::Hour {
            return Ok(()); // nothing to make it from
        }
        if is_frozen {
            return self.make(connection, tier, bucket, extent);
        }
        let rows = rows_in(connection, tier, bucket, extent.reach, MANY_ROWS)?;
        let cells =
            if rows < FEW { Collection::new() } else { self.collect(connection, tier, bucket, extent)? };
        if tier.pays(rows, cells.len() as u64) {
            cells::replace(connection, tier, bucket, &cells)
        } else {
            cells::remove(connection, tier, bucket..bucket + 1)
        }
    }

    fn make(&mut self, connection: &Connection, tier: Tier, bucket: u64, extent: &Extent) -> Result<()> {
        let cells = self.collect(connection, tier, bucket, extent)?;
        cells::replace(connection, tier, bucket, &cells)
    }

    fn collect(
        &mut self,
        connection: &Connection,
        tier: Tier,
        bucket: u64,
        extent: &Extent,
    ) -> Result<Collection> {
        let minutes = minutes_of(tier, bucket);
        let cover = Cover::within(connection, &Columns::of(connection)?, extent.clone());
        let mut collected = Collected::new(connection, &mut self.keys)?;
        match tier.finer() {
            Some(finer) => cover.minutes(minutes, finer, &mut collected)?,
            None => cover.rows_of(minutes, &mut collected)?,
        }
        Ok(collected.cells)
    }

    /// Keeps every hour before `before`, the start of one, and what is above, whatever it holds, because its rows are about
    /// to go. Everything has been folded in and is right.
    pub(in crate::store) fn freeze(&mut self, connection: &Connection, before: f64) -> Result<()> {
        let minute = minute_of(before);
        if minute <= self.frozen {
            return Ok(());
        }
        let extent = Extent::read(connection)?.unwrap_or_default();
        let mut from = extent.frozen;
        while let Some(next) = first_minute(connection, &(from..minute))? {
            for tier in [Tier::Hour, Tier::Day, Tier::Month, Tier::Whole] {
                let bucket = next / tier.width();
                if !cells::is_there(connection, tier, bucket)? {
                    self.make(connection, tier, bucket, &extent)?;
                }
            }
            from = minutes_of(Tier::Hour, next / Tier::Hour.width()).end;
        }
        cells::remove(connection, Tier::Minute, 0..minute)?;
        cells::remove(connection, Tier::TenMinutes, 0..minute / Tier::TenMinutes.width())?;
        self.set_frozen(connection, minute)
    }

    /// Removes what is kept of the time before `before`, whose rows are gone from the database. An hour whose rows were gone
    /// before is kept whole.
    pub(in crate::store) fn forget_before(&mut self, connection: &Connection, before: f64) -> Result<()> {
        let minute = minute_of(before);
        for tier in [Tier::Minute, Tier::TenMinutes, Tier::Hour, Tier::Day, Tier::Month] {
            cells::remove(connection, tier, 0..minute / tier.width())?;
        }
        if minute >= self.frozen {
            self.set_frozen(connection, 0)?;
        }
        let extent = Extent::read(connection)?.unwrap_or_default();
        for tier in Tier::ALL {
            self.rebuild(connection, tier, minute / tier.width(), &extent)?;
        }
        Ok(())
    }

    /// Removes everything that is kept: there are no rows any more.
    pub(in crate::store) fn clear(&mut self, connection: &Connection) -> Result<()> {
        self.doubt();
        let all = "DELETE FROM tokenjoule_rollup; DELETE FROM tokenjoule_stale; DELETE FROM tokenjoule_key;";
        connection.execute_batch(all).map_err(during)?;
        self.set_frozen(connection, 0)
    }

    fn set_frozen(&mut self, connection: &Connection, minute: u64) -> Result<()> {
        self.frozen = minute;
        let set = connection.execute("UPDATE tokenjoule_reach SET frozen = ?", [minute as i64]);
        set.map(drop).map_err(during)
    }
}

/// How many rows a bucket has, as far as `limit`.
fn rows_in(connection: &Connection, tier: Tier, bucket: u64, reach: i64, limit: u64) -> Result<u64> {
    let (since, until) = times_of(&minutes_of(tier, bucket));
    let count = |condition: &str| {
        let sql = format!(
            "SELECT count(*) FROM (SELECT 1 FROM telemetry WHERE {condition} AND +id <= ?3 LIMIT ?4)"
        );
        connection.prepare_cached(&sql)?.query_row((since, until, reach, limit as i64), |row| row.get(0))
    };
    let counted = match (since > f64::NEG_INFINITY, until < f64::INFINITY) {
        (true, true) => count("timestamp >= ?1 AND timestamp < ?2"),
        (false, true) => count("timestamp < ?2 AND ?1 < 0"),
        (true, false) => count("timestamp >= ?1 AND ?2 > 0"),
        (false, false) => count("?1 < ?2"),
    };
    counted.map(|rows: i64| rows as u64).map_err(during)
}

/// The minute of the earliest row in a range of minutes.
fn first_minute(connection: &Connection, minutes: &Range<u64>) -> Result<Option<u64>> {
    if minutes.is_empty() {
        return Ok(None);
    }
    let (since, until) = times_of(minutes);
    let sql = "SELECT min(timestamp) FROM telemetry WHERE timestamp >= ? AND timestamp < ?";
    let first = connection
        .prepare_cached(sql)
        .and_then(|mut first| first.query_row((since, until), |row| row.get::<_, Option<f64>>(0)));
    first.map(|time| time.map(minute_of)).map_err(during)
}

fn mark_stale(connection: &Connection, minute: u64) -> rusqlite::Result<()> {
    let sql = "INSERT OR IGNORE INTO tokenjoule_stale (minute) VALUES (?)";
    connection.prepare_cached(sql)?.execute([minute as i64]).map(drop)
}

/// Cells to be added, in ascending order of bucket and key.
#[derive(Default)]
struct Deltas {
    cells: Vec<DeltaCell>,
    bytes: Vec<u8>,
}

struct DeltaCell {
    bucket: u64,
    key: KeyId,
    outcome: Outcome,
    calls: u64,
    bytes: Range<usize>,
}

impl Deltas {
    /// Of samples that are ordered by bucket and key.
    fn of(recent: &Recent, ordered: &[(u64, KeyId, &Kept)], tier: Tier) -> Result<Deltas> {
        let mut deltas = Deltas::default();
        let mut tally = Tally::default();
        let bucket = |minute: u64| minute / tier.width();
        for cell in ordered.chunk_by(|one, other| bucket(one.0) == bucket(other.0) && one.1 == other.1) {
            tally.clear();
            for (_, _, kept) in cell {
                recent.add_to(&mut tally, kept)?;
            }
            let (minute, key, kept) = cell[0];
            deltas.push(bucket(minute), key, kept.sample.outcome, &tally);
        }
        Ok(deltas)
    }

    /// The same in wider buckets.
    fn widened(&self, tier: Tier) -> Result<Deltas> {
        let narrow = Tier::ALL[tier as usize - 1];
        let bucket = |cell: &DeltaCell| cell.bucket * narrow.width() / tier.width();
        let mut order: Vec<&DeltaCell> = self.cells.iter().collect();
        order.sort_by_key(|cell| (bucket(cell), cell.key));
        let mut deltas = Deltas::default();
        let mut tally = Tally::default();
        for cells in order.chunk_by(|one, other| bucket(one) == bucket(other) && one.key == other.key) {
            tally.clear();
            for cell in cells {
                tally.merge_bytes(&self.bytes[cell.bytes.clone()], cell.outcome)?;
            }
            deltas.push(bucket(cells[0]), cells[0].key, cells[0].outcome, &tally);
        }
        Ok(deltas)
    }

    fn push(&mut self, bucket: u64, key: KeyId, outcome: Outcome, tally: &Tally) {
        let begin = self.bytes.len();
        tally.write_to(&mut self.bytes);
        self.cells.push(DeltaCell {
            bucket,
            key,
            outcome,
            calls: tally.calls(),
            bytes: begin..self.bytes.len(),
        });
    }

    fn delta(&self, cell: &DeltaCell) -> Delta<'_> {
        Delta { key: cell.key, outcome: cell.outcome, tally: &self.bytes[cell.bytes.clone()] }
    }
}

/// Collects a cover by key.
struct Collected<'a> {
    connection: &'a Connection,
    keys: &'a mut Keys,
    outcomes: BTreeMap<KeyId, Outcome>,
    cells: Collection,
}

impl<'a> Collected<'a> {
    fn new(connection: &'a Connection, keys: &'a mut Keys) -> Result<Self> {
        let mut outcomes = BTreeMap::new();
        let each = |id, key: Key<'_>| {
            outcomes.insert(id, key.outcome);
        };
        crate::store::key::each(connection, each).map_err(during)?;
        Ok(Collected { connection, keys, outcomes, cells: Collection::new() })
    }

    fn at(&mut self, id: KeyId, outcome: Outcome) -> &mut Tally {
        &mut self.cells.entry(id).or_insert_with(|| (outcome, Tally::default())).1
    }
}

impl Count for Collected<'_> {
    fn cell(&mut self, key: KeyId, tally: &[u8]) -> Result<()> {
        let outcome = self.outcomes.get(&key).copied().unwrap_or_default();
        self.at(key, outcome).merge_bytes(tally, outcome)
    }

    fn row(&mut self, row: &Row<'_>) -> Result<()> {
        let key = row.key();
        let place = self.keys.place(&key);
        let id = self.keys.id(self.connection, place).map_err(during)?;
        self.at(id, key.outcome).add_sample(&row.sample())
    }
}

/// For triggers: the statement that leaves the minute of a timestamp, if it is not there yet. No `OR IGNORE`: whoever fired
/// the trigger may have brought a conflict clause of his own, which would replace it.
pub(in crate::store) fn stale_sql(timestamp: &str) -> String {
    let minute = MINUTE_SQL.replace("{}", timestamp);
    format!(
        "INSERT INTO tokenjoule_stale (minute) SELECT {minute} \
         WHERE NOT EXISTS (SELECT 1 FROM tokenjoule_stale WHERE minute = {minute});"
    )
}
