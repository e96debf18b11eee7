//! What records are told apart by in the rollups, and the numbers by which the database knows these keys.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension};

use crate::record::{Outcome, Record};

/// What a query can ask for, but time and batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Key<'a> {
    pub(super) model_id: &'a str,
    pub(super) engine: &'a str,
    pub(super) agent: &'a str,
    pub(super) is_warmup: bool,
    pub(super) token_counting_version: u32,
    pub(super) outcome: Outcome,
}

impl<'a> From<&Record<'a>> for Key<'a> {
    fn from(record: &Record<'a>) -> Self {
        Key {
            model_id: record.model_id,
            engine: record.engine,
            agent: record.agent,
            is_warmup: record.is_warmup,
            token_counting_version: record.token_counting_version,
            outcome: record.outcome,
        }
    }
}

impl Key<'_> {
    /// Bytes that no other key has.
    fn write_to(&self, bytes: &mut Vec<u8>) {
        bytes.clear();
        for text in [self.model_id, self.engine, self.agent] {
            bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes.extend_from_slice(&self.token_counting_version.to_le_bytes());
        bytes.extend_from_slice(&[self.is_warmup.into(), self.outcome as u8]);
    }
}

/// A key's number in the database. A number is never used again for another key.
pub(super) type KeyId = u32;

/// Hands out small numbers for keys, and learns the database's for them when it must.
#[derive(Default)]
pub(super) struct Keys {
    /// A key's bytes → its place in `known`.
    places: HashMap<Vec<u8>, u32>,
    known: Vec<Known>,
    buffer: Vec<u8>,
}

struct Known {
    model_id: Box<str>,
    engine: Box<str>,
    agent: Box<str>,
    rest: (bool, u32, Outcome),
    id: Option<KeyId>,
}

impl Known {
    fn key(&self) -> Key<'_> {
        let (is_warmup, token_counting_version, outcome) = self.rest;
        Key {
            model_id: &self.model_id,
            engine: &self.engine,
            agent: &self.agent,
            is_warmup,
            token_counting_version,
            outcome,
        }
    }
}

impl Keys {
    /// The most keys that are remembered from one commit to the next.
    const MOST: usize = 10_000;

    /// The place of a key: good until [`Keys::forget`].
    pub(super) fn place(&mut self, key: &Key<'_>) -> u32 {
        key.write_to(&mut self.buffer);
        if let Some(place) = self.places.get(self.buffer.as_slice()) {
            return *place;
        }
        let place = self.known.len() as u32;
        self.places.insert(self.buffer.clone(), place);
        self.known.push(Known {
            model_id: key.model_id.into(),
            engine: key.engine.into(),
            agent: key.agent.into(),
            rest: (key.is_warmup, key.token_counting_version, key.outcome),
            id: None,
        });
        place
    }

    /// The database's number for the key at a place, which it is given if it has none.
    pub(super) fn id(&mut self, connection: &Connection, place: u32) -> rusqlite::Result<KeyId> {
        let known = &mut self.known[place as usize];
        if let Some(id) = known.id {
            return Ok(id);
        }
        let id = id_of(connection, &known.key())?;
        known.id = Some(id);
        Ok(id)
    }

    /// The key at a place.
    pub(super) fn key(&self, place: u32) -> Key<'_> {
        self.known[place as usize].key()
    }

    /// The database's numbers may be others now: another process cleared it, or what was written was taken back.
    pub(super) fn forget_ids(&mut self) {
        self.known.iter_mut().for_each(|known| known.id = None);
    }

    /// Keeps memory bounded. Places are no longer good.
    pub(super) fn forget_if_many(&mut self) {
        if self.known.len() > Keys::MOST {
            *self = Keys::default();
        }
    }
}

fn id_of(connection: &Connection, key: &Key<'_>) -> rusqlite::Result<KeyId> {
    let parameters =
        (key.model_id, key.engine, key.agent, key.is_warmup, key.token_counting_version, key.outcome as u32);
    let find =
        "SELECT id FROM tokenjoule_key WHERE model_id = ? AND engine = ? AND agent = ? AND is_warmup = ?
                AND token_counting_version = ? AND outcome = ?";
    let mut find = connection.prepare_cached(find)?;
    if let Some(id) = find.query_row(parameters, |row| row.get(0)).optional()? {
        return Ok(id);
    }
    let insert = "INSERT INTO tokenjoule_key
                  (model_id, engine, agent, is_warmup, token_counting_version, outcome) VALUES (?, ?, ?, ?, ?, ?)";
    connection.prepare_cached(insert)?.insert(parameters).map(|id| id as KeyId)
}

/// Hands every key in the database to `visit`, with its number, in the order of these.
pub(super) fn each(connection: &Connection, mut visit: impl FnMut(KeyId, Key<'_>)) -> rusqlite::Result<()> {
    let sql =
        "SELECT id, model_id, engine, agent, is_warmup, token_counting_version, outcome FROM tokenjoule_key
               ORDER BY id";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let text = |at| row.get_ref_unwrap(at).as_str().unwrap_or_default();
        let key = Key {
            model_id: text(1),
            engine: text(2),
            agent: text(3),
            is_warmup: row.get(4)?,
            token_counting_version: row.get(5)?,
            outcome: Outcome::from_number(row.get(6)?).unwrap_or_default(),
        };
        visit(row.get(0)?, key);
    }
    Ok(())
}
