//! Pages of a database that were overwritten.

use super::*;

/// A database of so many records, closed.
fn database_of(folder: &Path, count: u64) -> PathBuf {
    let database = folder.join("t.db");
    let store = Store::open(database.to_str().unwrap(), &StoreOptions::default()).unwrap();
    (0..count).for_each(|id| record(&store, id).unwrap());
    store.close().unwrap();
    database
}

struct Pages {
    size: usize,
    /// The root of the table.
    root: usize,
    /// One of its leaves, from the middle.
    leaf: usize,
    /// A leaf of the index by time, from the middle.
    index: usize,
}

/// Where the pages of a database lie, each by the offset of its first byte.
fn pages(database: &Path) -> Pages {
    let bytes = fs::read(database).unwrap();
    let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]) as usize;
    let size = word(16);
    let connection = Connection::open(database).unwrap();
    let root = |name: &str| -> usize {
        let sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?";
        (connection.query_row(sql, [name], |row| row.get::<_, i64>(0)).unwrap() as usize - 1) * size
    };
    // The middle one of an inner page's cells begins with the number of the page below it.
    let below = |page: usize| {
        assert!(matches!(bytes[page], 2 | 5), "{} records fill more than a page", rows(database));
        let cell = page + word(page + 12 + word(page + 3) / 2 * 2);
        let number = u32::from_be_bytes(bytes[cell..cell + 4].try_into().unwrap());
        let leaf = (number as usize - 1) * size;
        assert!(matches!(bytes[leaf], 10 | 13));
        leaf
    };
    let (table, index) = (root("telemetry"), root("telemetry_by_timestamp"));
    Pages { size, root: table, leaf: below(table), index: below(index) }
}

/// The right answer, or that the database is damaged, or that it is none any more.
fn right_or_corrupt<T: PartialEq + std::fmt::Debug>(what: &str, answer: Result<T>, right: T) -> bool {
    match answer {
        Ok(answer) => assert_eq!(answer, right, "{what}"),
        Err(error) => {
            assert_eq!(error.kind, ErrorKind::Corrupt, "{what}: {error}");
            return true;
        }
    }
    false
}

#[test]
fn a_damaged_page_is_reported_and_costs_no_record() {
    const BEFORE: u64 = 800;
    const MEANWHILE: u64 = 20;
    let folder = scratch();
    let database = database_of(folder.path(), BEFORE);
    let intact = fs::read(&database).unwrap();
    let pages = pages(&database);
    let places = [
        ("the database's header", 0, 100),
        ("the schema", 100, pages.size - 100),
        ("the table's root", pages.root, pages.size),
        ("a leaf of the table", pages.leaf, pages.size),
        ("a leaf of an index", pages.index, pages.size),
        ("all behind the first half", intact.len() / 2 / pages.size * pages.size, usize::MAX),
    ];
    let mut noticed = BTreeSet::new();
    for (place, from, length) in places {
        let to = from.saturating_add(length).min(intact.len());
        for filling in ["ones", "zeros", "another page", "nothing"] {
            let what = format!("{place} overwritten with {filling}");
            let mut damaged = intact.clone();
            match filling {
                "ones" => damaged[from..to].fill(0xFF),
                "zeros" => damaged[from..to].fill(0),
                "another page" => {
                    let other = if from == pages.index { pages.leaf } else { pages.index };
                    (from..to).for_each(|at| damaged[at] = intact[other + at % pages.size]);
                }
                _ if to == intact.len() => damaged.truncate(from),
                _ => continue,
            }
            fs::write(&database, &damaged).unwrap();

            let options = StoreOptions { commit_interval_ms: 3_600_000, ..StoreOptions::default() };
            let mut recorded = BEFORE;
            match Store::open(database.to_str().unwrap(), &options) {
                Err(error) => {
                    assert_eq!(error.kind, ErrorKind::Corrupt, "{what}: {error}");
                    assert!(
                        contents(folder.path()) == [(database.clone(), damaged.clone())],
                        "{what}: nothing changes"
                    );
                    noticed.insert(place);
                }
                Ok(store) => {
                    (recorded..recorded + MEANWHILE).for_each(|id| record(&store, id).unwrap());
                    recorded += MEANWHILE;
                    let mut is_noticed = right_or_corrupt(&what, store.flush(), ());
                    is_noticed |= right_or_corrupt(&what, store.count(), recorded);
                    for since in [0, BEFORE / 2 - 5] {
                        let query = Query { since: EPOCH + since as f64, ..Query::default() };
                        let answer = store.aggregate(&query).map(|answer| answer.total.call_count);
                        is_noticed |= right_or_corrupt(&what, answer, recorded - since);
                    }
                    let health = store.health().unwrap();
                    assert_eq!((health.recorded, health.failed), (MEANWHILE, 0), "{what}");
                    if health.committed < MEANWHILE {
                        assert!(health.corrupt > 0, "{what}: {health:?}");
                    }
                    right_or_corrupt(&what, store.close(), ());
                    if is_noticed {
                        noticed.insert(place);
                    }
                }
            }
            let left = fs::read(&database).unwrap();
            let place = from..to.min(damaged.len());
            assert!(left[place.clone()] == damaged[place], "{what}: it is left for the operator to look at");
            // Who has a copy of what was there.
            let file = fs::OpenOptions::new().write(true).open(&database).unwrap();
            file.write_all_at(&intact[from..to], from as u64).unwrap();
            drop(file);
            Store::open(database.to_str().unwrap(), &options).unwrap().close().unwrap();
            assert_all_there(&database, recorded);
            fs::write(&database, &intact).unwrap();
        }
    }
    assert_eq!(noticed.len(), places.len(), "only these were noticed: {noticed:?}");
}

#[test]
fn a_page_damaged_under_an_open_store_is_reported_and_costs_no_record() {
    const COUNT: u64 = 800;
    let folder = scratch();
    let database = database_of(folder.path(), COUNT);
    let intact = fs::read(&database).unwrap();
    let pages = pages(&database);
    let mut guest = Guest::start(&database);
    guest.tell("open 20 100");
    let overwrite = |bytes: &[u8]| {
        let file = fs::OpenOptions::new().write(true).open(&database).unwrap();
        file.write_all_at(bytes, pages.leaf as u64).unwrap();
    };
    overwrite(&vec![0xFF; pages.size]);
    let error = guest.ask("aggregate 300").unwrap_err();
    assert!(error.starts_with("Corrupt"), "{error}");
    // It is not among the pages that a new record touches.
    guest.tell(&format!("record {COUNT} {}", COUNT + 50));
    guest.tell("flush");
    assert_eq!(guest.health().failed, 0);

    overwrite(&intact[pages.leaf..][..pages.size]);
    guest.tell(&format!("record {} {}", COUNT + 50, COUNT + 60));
    assert_eq!(guest.ask("aggregate 300").unwrap(), (COUNT + 60 - 300).to_string());
    guest.tell("close");
    assert_all_there(&database, COUNT + 60);
}
