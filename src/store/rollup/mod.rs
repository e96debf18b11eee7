//! Summaries of the rows by minute, ten minutes, hour, day, 32 days and in all, so that a question costs the same at any
//! number of records.
//!
//! A bucket of time holds one cell for each [`Key`](super::key::Key) that has records in it: a tally (stats.rs) as bytes.
//! They are a cache that can always be rebuilt from the rows, and they are never wrong:
//!
//! * They say which row they **reach** (`tokenjoule_reach.row_id`). Rows behind it, whoever wrote them, are read as rows
//!   until they are folded in, and that is one transaction (fold.rs).
//! * Whoever deletes or changes a row that has been folded in leaves its minute in `tokenjoule_stale`, by way of triggers;
//!   so does whoever inserts one below the reach. A bucket with a stale minute is not used until it has been rebuilt: its
//!   parts that are not stale are used instead. Our own writing connection has its triggers off, and sees to this itself.
//! * A bucket that saves too little, because it has few rows or nearly as many cells, is not kept: its rows are as quick to
//!   read (cover.rs).
//! * Before `tokenjoule_reach.frozen` the rows are gone, and hours and what is above them were kept on purpose
//!   (retention.rs): these are not rebuilt.
//!
//! In the database: `tokenjoule_rollup (place, cells)`. A place is tier, bucket and part in one number; a part is 32 keys.
//! `cells` is, for each key in ascending order, its number, a length and a tally of that many bytes; numbers are LEB128.

mod cells;
mod cover;
mod fold;
mod recent;

use rusqlite::{Connection, OptionalExtension};

pub(super) use cover::{Count, Cover, MANY, bound};
pub(super) use fold::{Folder, stale_sql};
pub(super) use recent::Recent;

use super::fault;
use super::key::KeyId;
use crate::error::Result;

/// The version of the cells' bytes. Rollups of another version are made again.
pub(super) const FORMAT: i64 = 1;

/// A bucket with fewer rows is not kept.
const FEW: u64 = 32;
/// A bucket with more rows is kept, however many cells they are in: nobody shall have to read more than that.
const MANY_ROWS: u64 = 4096;

/// Timestamps from here on (the year 280,707) share the last minute; those before 1970 share the first.
const LAST_SECOND: u64 = (1 << 43) - 1;
const MINUTES: u64 = LAST_SECOND / 60 + 1;

/// The minute of a timestamp. [`MINUTE_SQL`] is the same in SQL.
fn minute_of(time: f64) -> u64 {
    (time.clamp(0.0, LAST_SECOND as f64) as u64) / 60
}

/// The minute of a timestamp `{}`. SQLite's order puts what is no number behind all numbers.
pub(super) const MINUTE_SQL: &str = "(CAST(max(0, min({}, 8796093022207)) AS INTEGER) / 60)";

/// The widths of buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Tier {
    Minute = 0,
    TenMinutes = 1,
    Hour = 2,
    Day = 3,
    Month = 4,
    Whole = 5,
}

impl Tier {
    pub(super) const ALL: [Tier; 6] =
        [Tier::Minute, Tier::TenMinutes, Tier::Hour, Tier::Day, Tier::Month, Tier::Whole];

    /// In minutes.
    pub(super) fn width(self) -> u64 {
        match self {
            Tier::Minute => 1,
            Tier::TenMinutes => 10,
            Tier::Hour => 60,
            Tier::Day => 24 * 60,
            Tier::Month => 32 * 24 * 60,
            Tier::Whole => MINUTES,
        }
    }

    /// Whether a bucket is worth its room: for a narrow one that is more rows in each cell, because there are more of them.
    fn pays(self, rows: u64, cells: u64) -> bool {
        let saves = match self {
            Tier::Minute | Tier::TenMinutes => rows >= 4 * cells,
            Tier::Hour | Tier::Day | Tier::Month | Tier::Whole => 2 * rows >= 3 * cells,
        };
        rows >= FEW && (saves || rows >= MANY_ROWS)
    }

    fn finer(self) -> Option<Tier> {
        Tier::ALL.into_iter().rev().find(|tier| *tier < self)
    }
}

/// The minutes of a bucket.
pub(super) fn minutes_of(tier: Tier, bucket: u64) -> std::ops::Range<u64> {
    let begin = bucket * tier.width();
    begin..(begin + tier.width()).min(MINUTES)
}

/// The times of a range of minutes: what is at its ends belongs to it, as far as there is anything.
pub(super) fn times_of(minutes: &std::ops::Range<u64>) -> (f64, f64) {
    let begin = if minutes.start == 0 { f64::NEG_INFINITY } else { (minutes.start * 60) as f64 };
    let end = if minutes.end >= MINUTES { f64::INFINITY } else { (minutes.end * 60) as f64 };
    (begin, end)
}

const PART_BITS: u32 = 20;
const TIER_SHIFT: u32 = 58;
/// Keys in a part.
const PART: KeyId = 32;

/// Where a part of a bucket is.
fn place(tier: Tier, bucket: u64, key: KeyId) -> i64 {
    first_place(tier, bucket) | i64::from(key / PART)
}

/// Where a bucket begins; one bucket on is where it ends.
fn first_place(tier: Tier, bucket: u64) -> i64 {
    ((tier as u64) << TIER_SHIFT | bucket << PART_BITS) as i64
}

/// The bucket at a place.
fn bucket_at(place: i64) -> u64 {
    (place as u64 & ((1 << TIER_SHIFT) - 1)) >> PART_BITS
}

/// How far the rollups go.
#[derive(Debug, Clone)]
pub(super) struct Extent {
    /// Rows up to this one are in them.
    pub(super) reach: i64,
    /// The minute before which there are no rows any more.
    pub(super) frozen: u64,
    /// Minutes that are wrong, in ascending order.
    pub(super) stale: Vec<u64>,
}

impl Default for Extent {
    /// They reach nothing.
    fn default() -> Self {
        Extent { reach: i64::MIN, frozen: 0, stale: Vec::new() }
    }
}

impl Extent {
    /// `None`: the database has no rollups that this version reads.
    pub(super) fn read(connection: &Connection) -> Result<Option<Extent>> {
        if !are_there(connection)? {
            return Ok(None);
        }
        let read = || -> rusqlite::Result<Option<Extent>> {
            let Some((reach, frozen)) = bounds(connection)? else { return Ok(None) };
            let mut stale = connection
                .prepare_cached("SELECT minute FROM tokenjoule_stale WHERE minute >= ? ORDER BY minute")?;
            let minute = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0).map(|minute| minute as u64);
            let stale = stale.query_map([frozen as i64], minute)?.collect::<rusqlite::Result<_>>()?;
            Ok(Some(Extent { reach, frozen, stale }))
        };
        read().map_err(|error| fault::database("reading the rollups", &error))
    }

    /// The stale minutes in a range.
    fn stale_in(&self, minutes: &std::ops::Range<u64>) -> &[u64] {
        let from = self.stale.partition_point(|minute| *minute < minutes.start);
        let to = self.stale.partition_point(|minute| *minute < minutes.end);
        &self.stale[from..to]
    }
}

/// A bucket that is kept, and in use: neither stale nor frozen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    tier: Tier,
    bucket: u64,
}

impl Kept {
    /// All of them; `None`: the database has no rollups that this version reads.
    pub(super) fn read(connection: &Connection) -> Result<Option<Vec<Kept>>> {
        let Some(extent) = Extent::read(connection)? else { return Ok(None) };
        let mut kept: Vec<Kept> = Vec::new();
        let mut read = || -> rusqlite::Result<()> {
            let mut places = connection.prepare("SELECT place FROM tokenjoule_rollup ORDER BY place")?;
            let mut places = places.query([])?;
            while let Some(row) = places.next()? {
                let place: i64 = row.get(0)?;
                let Some(tier) = Tier::ALL.into_iter().find(|tier| *tier as i64 == place >> TIER_SHIFT)
                else {
                    continue;
                };
                let bucket = bucket_at(place);
                let minutes = minutes_of(tier, bucket);
                let is_last = kept.last().is_some_and(|last| last.tier == tier && last.bucket == bucket);
                if !is_last && minutes.start >= extent.frozen && extent.stale_in(&minutes).is_empty() {
                    kept.push(Kept { tier, bucket });
                }
            }
            Ok(())
        };
        read().map_err(|error| fault::database("reading the rollups", &error))?;
        Ok(Some(kept))
    }

    pub(super) fn minutes(self) -> std::ops::Range<u64> {
        minutes_of(self.tier, self.bucket)
    }

    pub(super) fn times(self) -> (f64, f64) {
        times_of(&self.minutes())
    }

    /// Hands its cells to `visit`.
    pub(super) fn each(
        self,
        connection: &Connection,
        mut visit: impl FnMut(KeyId, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let during = |error| fault::database("reading the rollups", &error);
        let sql = "SELECT cells FROM tokenjoule_rollup WHERE place >= ? AND place < ?";
        let mut parts = connection.prepare_cached(sql).map_err(during)?;
        let places = (first_place(self.tier, self.bucket), first_place(self.tier, self.bucket + 1));
        let mut parts = parts.query(places).map_err(during)?;
        while let Some(part) = parts.next().map_err(during)? {
            let bytes = part.get_ref(0).map_err(during)?.as_blob().map_err(|error| during(error.into()))?;
            for cell in cells::Cells(bytes) {
                let (key, tally) = cell?;
                visit(key, tally)?;
            }
        }
        Ok(())
    }
}

/// Whether the database has rollups, of whatever version.
pub(super) fn are_there(connection: &Connection) -> Result<bool> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE name = 'tokenjoule_reach'";
    let found = || connection.prepare_cached(sql)?.query_row([], |_| Ok(())).optional();
    found().map(|found| found.is_some()).map_err(|error| fault::database("reading the rollups", &error))
}

/// How many rows the rollups do not reach yet, at most.
pub(super) fn waiting(connection: &Connection) -> Result<u64> {
    let columns = super::schema::Columns::of(connection)?;
    if columns.is_empty() || !are_there(connection)? {
        return Ok(0);
    }
    Cover::new(connection, &columns)?.waiting()
}

/// Reach and frozen minute, if the rollups are of this version.
fn bounds(connection: &Connection) -> rusqlite::Result<Option<(i64, u64)>> {
    let sql = "SELECT row_id, frozen FROM tokenjoule_reach WHERE format = ?";
    connection
        .prepare_cached(sql)?
        .query_row([FORMAT], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))
        .optional()
}
