//! The cells of a bucket as bytes, and how they are put together.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension};

use super::{PART, Tier, first_place, place};
use crate::error::{Error, ErrorKind, Result};
use crate::record::Outcome;
use crate::sketch::{put_number, take_number};
use crate::stats::Tally;
use crate::store::fault;
use crate::store::key::KeyId;

/// Cells by key.
pub(in crate::store) type Collection = BTreeMap<KeyId, (Outcome, Tally)>;

/// The cells in some bytes: each a key and the bytes of its tally.
pub(super) struct Cells<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Cells<'a> {
    type Item = Result<(KeyId, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let mut take = || {
            let key = KeyId::try_from(take_number(&mut self.0)?).ok()?;
            let length = usize::try_from(take_number(&mut self.0)?).ok()?;
            let (tally, rest) = self.0.split_at_checked(length)?;
            self.0 = rest;
            Some((key, tally))
        };
        let cell = take();
        if cell.is_none() {
            self.0 = &[];
        }
        Some(cell.ok_or_else(|| Error::new(ErrorKind::Corrupt, "a rollup in the database does not decode")))
    }
}

fn put(bytes: &mut Vec<u8>, key: KeyId, tally: &[u8]) {
    put_number(bytes, key.into());
    put_number(bytes, tally.len() as u64);
    bytes.extend_from_slice(tally);
}

/// What is added to a cell.
pub(super) struct Delta<'a> {
    pub(super) key: KeyId,
    pub(super) outcome: Outcome,
    pub(super) tally: &'a [u8],
}

/// Adds cells, in ascending order of their keys, to a bucket.
pub(super) fn add(connection: &Connection, tier: Tier, bucket: u64, deltas: &[Delta<'_>]) -> Result<()> {
    let mut before = Vec::new();
    let mut merged = Vec::new();
    for deltas in deltas.chunk_by(|one, other| one.key / PART == other.key / PART) {
        let place = place(tier, bucket, deltas[0].key);
        before.clear();
        read_part(connection, place, &mut before)?;
        merged.clear();
        merge(&before, deltas, &mut merged)?;
        write_part(connection, place, &merged)?;
    }
    Ok(())
}

fn merge(before: &[u8], deltas: &[Delta<'_>], merged: &mut Vec<u8>) -> Result<()> {
    let mut deltas = deltas.iter().peekable();
    let (mut tally, mut bytes) = (Tally::default(), Vec::new());
    for cell in Cells(before) {
        let (key, its) = cell?;
        while let Some(delta) = deltas.next_if(|delta| delta.key < key) {
            put(merged, delta.key, delta.tally);
        }
        match deltas.next_if(|delta| delta.key == key) {
            None => put(merged, key, its),
            Some(delta) => {
                tally.clear();
                tally.merge_bytes(its, delta.outcome)?;
                tally.merge_bytes(delta.tally, delta.outcome)?;
                bytes.clear();
                tally.write_to(&mut bytes);
                put(merged, key, &bytes);
            }
        }
    }
    deltas.for_each(|delta| put(merged, delta.key, delta.tally));
    Ok(())
}

/// Makes a bucket hold exactly these cells.
pub(super) fn replace(connection: &Connection, tier: Tier, bucket: u64, cells: &Collection) -> Result<()> {
    remove(connection, tier, bucket..bucket + 1)?;
    let cells: Vec<_> = cells.iter().collect();
    let (mut bytes, mut tally_bytes) = (Vec::new(), Vec::new());
    for part in cells.chunk_by(|one, other| one.0 / PART == other.0 / PART) {
        bytes.clear();
        for (key, (_, tally)) in part {
            tally_bytes.clear();
            tally.write_to(&mut tally_bytes);
            put(&mut bytes, **key, &tally_bytes);
        }
        write_part(connection, place(tier, bucket, *part[0].0), &bytes)?;
    }
    Ok(())
}

/// Removes buckets.
pub(super) fn remove(connection: &Connection, tier: Tier, buckets: std::ops::Range<u64>) -> Result<()> {
    let sql = "DELETE FROM tokenjoule_rollup WHERE place >= ? AND place < ?";
    let places = (first_place(tier, buckets.start), first_place(tier, buckets.end));
    let removed = connection.prepare_cached(sql).and_then(|mut delete| delete.execute(places));
    removed.map(drop).map_err(|error| fault::database("removing rollups", &error))
}

/// Whether a bucket is kept.
pub(super) fn is_there(connection: &Connection, tier: Tier, bucket: u64) -> Result<bool> {
    let sql = "SELECT 1 FROM tokenjoule_rollup WHERE place >= ? AND place < ? LIMIT 1";
    let places = (first_place(tier, bucket), first_place(tier, bucket + 1));
    let found = || connection.prepare_cached(sql)?.query_row(places, |_| Ok(())).optional();
    found().map(|found| found.is_some()).map_err(|error| fault::database("reading the rollups", &error))
}

/// Which buckets are kept, asked for in ascending order: one look at the database for many buckets of which none is.
pub(super) struct Presence<'c> {
    connection: &'c Connection,
    tier: Tier,
    /// The first bucket that is kept from one that was asked for on, and that one.
    next: Option<(u64, u64)>,
}

impl<'c> Presence<'c> {
    pub(super) fn new(connection: &'c Connection, tier: Tier) -> Self {
        Presence { connection, tier, next: None }
    }

    pub(super) fn has(&mut self, bucket: u64) -> Result<bool> {
        let next = match self.next {
            Some((next, from)) if (from..=next).contains(&bucket) => next,
            _ => {
                let sql = "SELECT min(place) FROM tokenjoule_rollup WHERE place >= ? AND place < ?";
                let end = self.tier as i64 + 1;
                let places = (first_place(self.tier, bucket), end << super::TIER_SHIFT);
                let first = self
                    .connection
                    .prepare_cached(sql)
                    .and_then(|mut first| first.query_row(places, |row| row.get::<_, Option<i64>>(0)));
                let first = first.map_err(|error| fault::database("reading the rollups", &error))?;
                first.map_or(u64::MAX, super::bucket_at)
            }
        };
        self.next = Some((next, bucket));
        Ok(next == bucket)
    }
}

fn read_part(connection: &Connection, place: i64, bytes: &mut Vec<u8>) -> Result<()> {
    let mut take = |row: &rusqlite::Row<'_>| {
        bytes.extend_from_slice(row.get_ref(0)?.as_blob()?);
        Ok(())
    };
    let read = connection
        .prepare_cached("SELECT cells FROM tokenjoule_rollup WHERE place = ?")
        .and_then(|mut read| read.query_row([place], &mut take).optional());
    read.map(drop).map_err(|error| fault::database("reading the rollups", &error))
}

fn write_part(connection: &Connection, place: i64, bytes: &[u8]) -> Result<()> {
    let sql = "INSERT INTO tokenjoule_rollup (place, cells) VALUES (?, ?)
               ON CONFLICT (place) DO UPDATE SET cells = excluded.cells";
    let written = connection.prepare_cached(sql).and_then(|mut write| write.execute((place, bytes)));
    written.map(drop).map_err(|error| fault::database("writing the rollups", &error))
}
