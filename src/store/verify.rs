//! Whether the database is whole, and the rollups say what the rows say.

use std::collections::HashMap;

use rusqlite::Connection;

use super::fault;
use super::key::{self, Key, Keys};
use super::rollup::{self, Count, Cover};
use super::row::Row;
use super::schema::Columns;
use crate::error::{Error, ErrorKind, Result};
use crate::stats::Tally;

/// A rollup that does not say what its rows say.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The bucket, Unix seconds: from …
    pub since: f64,
    /// … to before. Infinite for the bucket of all time.
    pub until: f64,
    /// Of which calls.
    pub model_id: String,
    /// Of which calls.
    pub engine: String,
    /// Of which calls.
    pub agent: String,
    /// The figure: `calls`, or the name of a record's field.
    pub what: &'static str,
    /// What the rows say.
    pub expected: f64,
    /// What the rollup says.
    pub found: f64,
}

/// Checks the database, then every bucket that is in use against its rows. Gives the first difference of each cell.
pub(super) fn verify(connection: &Connection) -> Result<Vec<Difference>> {
    let during = |error| fault::database("checking the database", &error);
    let verdict = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    let verdict = verdict.map_err(during)?;
    if verdict != "ok" {
        return Err(Error::new(ErrorKind::Corrupt, format!("while checking the database: {verdict}")));
    }
    let columns = Columns::of(connection)?;
    let Some(kept) = rollup::Kept::read(connection)? else { return Ok(Vec::new()) };
    let cover = Cover::new(connection, &columns)?;

    let mut keys = Keys::default();
    let mut places = HashMap::new();
    key::each(connection, |id, key| {
        places.insert(id, keys.place(&key));
    })
    .map_err(during)?;

    let mut differences = Vec::new();
    for bucket in kept {
        let mut counted = Counted { keys: &mut keys, tallies: HashMap::new() };
        cover.rows_of(bucket.minutes(), &mut counted)?;
        let mut expected = counted.tallies;
        let (since, until) = bucket.times();
        let mut tell = |key: Key<'_>, (what, expected, found): (&'static str, f64, f64)| {
            let [model_id, engine, agent] = [key.model_id, key.engine, key.agent].map(str::to_owned);
            differences.push(Difference { since, until, model_id, engine, agent, what, expected, found });
        };
        bucket.each(connection, |id, bytes| {
            // A cell whose key is unknown is compared with nothing.
            let place = places.get(&id).copied();
            let key = place.map(|place| keys.key(place)).unwrap_or_default();
            let mut found = Tally::default();
            found.merge_bytes(bytes, key.outcome)?;
            let expected = place.and_then(|place| expected.remove(&place)).unwrap_or_default();
            if let Some(difference) = expected.difference(&found) {
                tell(key, difference);
            }
            Ok(())
        })?;
        for (place, expected) in expected {
            tell(keys.key(place), ("calls", expected.calls() as f64, 0.0));
        }
    }
    Ok(differences)
}

/// Counts rows by the places of their keys.
struct Counted<'a> {
    keys: &'a mut Keys,
    tallies: HashMap<u32, Tally>,
}

impl Count for Counted<'_> {
    fn cell(&mut self, _: key::KeyId, _: &[u8]) -> Result<()> {
        Ok(()) // asked for rows only
    }

    fn row(&mut self, row: &Row<'_>) -> Result<()> {
        let place = self.keys.place(&row.key());
        self.tallies.entry(place).or_default().add_sample(&row.sample())
    }
}
