//! Opening: paths, files, connections.

use std::fs::{self, DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::checkpoint::WRITERS_PAGES;
use super::writer::Writer;
use super::{Durability, StoreOptions, fault, schema};
use crate::error::{Error, ErrorKind, Result};

/// A database that is open.
pub(super) struct Opened {
    /// What writes to it; `None` if it is only read.
    pub(super) writer: Option<Writer>,
    /// What reads it, if that is not the writer's connection.
    pub(super) reader: Option<Reader>,
    /// Where it is; `None` if it is in memory.
    pub(super) path: Option<PathBuf>,
}

/// The longest path that SQLite takes, in bytes: it has 512 for the name of the WAL and a terminating zero.
const LONGEST: usize = 504;

/// Opens the database at `path`.
pub(super) fn open(path: &str, options: &StoreOptions) -> Result<Opened> {
    if path.is_empty() {
        return Err(Error::invalid("path", "must not be empty"));
    }
    if path == ":memory:" {
        if options.read_only {
            return Err(Error::invalid("options.read_only", "needs an existing database, not \":memory:\""));
        }
        let mut connection = Connection::open_in_memory().map_err(|error| cannot_open(path, &error))?;
        write_through(&connection).map_err(|error| cannot_open(path, &error))?;
        schema::migrate(&mut connection)?;
        return Ok(Opened { writer: Some(Writer::new(connection)), reader: None, path: None });
    }
    // SQLite remembers the path that it was given; the process may change its folder.
    let absolute = std::path::absolute(path).map_err(|error| fault::io(Path::new(path), &error))?;
    check_length(&absolute)?;
    let timeout = Duration::from_millis(options.busy_timeout_ms.into());
    if options.read_only {
        check_file(&absolute)?.ok_or_else(|| Error::new(ErrorKind::Io, format!("{path}: does not exist")))?;
        let mut reader = Reader::Afresh { path: absolute.clone(), timeout };
        reader.read(schema::check)?;
        return Ok(Opened { writer: None, reader: Some(reader), path: Some(absolute) });
    }
    make_file(&absolute)?;
    // Whatever links lead here, the journals are to lie beside the file itself, as SQLite's own do.
    let real = fs::canonicalize(&absolute).map_err(|error| fault::io(&absolute, &error))?;
    check_length(&real)?;
    // A connection that can write empties the WAL into the database when it is closed: a change, and not ours to make
    // in a newer version's. What else is wrong shows below.
    match read_untouched(&real, timeout, schema::check) {
        Err(error) if error.kind == ErrorKind::Schema => return Err(error),
        _ => (),
    }
    // If this fails a file that was made stays, empty: another process may have it open already.
    let (writer, reader) = open_file(&real, options, timeout)?;
    Ok(Opened { writer: Some(writer), reader: Some(Reader::Kept(reader)), path: Some(real) })
}

fn open_file(path: &Path, options: &StoreOptions, timeout: Duration) -> Result<(Writer, Connection)> {
    let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX; // each connection is behind a lock of ours
    let connect = |flags| {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(timeout)?;
        Ok(connection)
    };
    let named = |error: rusqlite::Error| cannot_open(&path.to_string_lossy(), &error);
    let mut writer = connect(flags | OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(named)?;
    // What it may not write to SQLite opens all the same, to fail at the first commit.
    if writer.is_readonly(rusqlite::MAIN_DB).map_err(named)? {
        return Err(Error::new(ErrorKind::Io, format!("{}: is write-protected", path.display())));
    }
    write_through(&writer).map_err(named)?;

    // SQLite gives up at once where waiting could mean a deadlock, as in two processes that both switch to WAL.
    let deadline = Instant::now() + timeout;
    loop {
        match prepare(&mut writer, options.durability) {
            Err(error) if error.kind == ErrorKind::Busy && Instant::now() < deadline => {
                sleep(Duration::from_millis(5));
            }
            Err(error) => {
                let message = format!("{}: {}", path.display(), error.message);
                return Err(Error { message, ..error });
            }
            Ok(()) => break,
        }
    }
    let reader = connect(flags | OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(named)?;
    reader.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok((Writer::new(writer), reader))
}

/// More statements than either connection has.
const STATEMENTS: usize = 64;

/// Makes a connection ours to write through. Its triggers are off: they tell the rollups of changes by others.
fn write_through(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).map(drop)
}

fn prepare(connection: &mut Connection, durability: Durability) -> Result<()> {
    schema::check(connection)?; // before anything is changed
    let synchronous = match durability {
        Durability::Process => "NORMAL",
        Durability::Power => "FULL",
    };
    // Pages of 8 KiB, in a new database: a fifth more rows a second than with 4. 8 MiB of cache: the indexes' pages stay in
    // memory at any number of records that come in the order of time.
    let pragmas = format!(
        "PRAGMA page_size = 8192; PRAGMA wal_autocheckpoint = {WRITERS_PAGES}; PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous}; PRAGMA cache_size = -8192;"
    );
    connection.execute_batch(&pragmas).map_err(|error| fault::database("switching to WAL mode", &error))?;
    schema::migrate(connection)
}

fn check_length(path: &Path) -> Result<()> {
    let bytes = path.as_os_str().len();
    if bytes > LONGEST {
        let message = format!("a path of {bytes} bytes; SQLite takes at most {LONGEST}: {}", path.display());
        return Err(Error::new(ErrorKind::Io, message));
    }
    Ok(())
}

/// Makes the database's file and its folders, for this user only, if they are not there.
fn make_file(path: &Path) -> Result<()> {
    if check_file(path)?.is_some() {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| fault::io(folder, &error))?;
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            check_file(path)?.ok_or_else(|| fault::io(path, &error)) // another process was first
        }
        Err(error) => Err(fault::io(path, &error)),
    }
}

/// `None`: there is no file. An error for what is no file, and for another user's symbolic link to one.
fn check_file(path: &Path) -> Result<Option<()>> {
    let refuse = |what: &str| Err(Error::new(ErrorKind::Io, format!("{}: {what}", path.display())));
    let link = match fs::symlink_metadata(path) {
        Ok(link) => link,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fault::io(path, &error)),
    };
    if link.is_symlink() && link.uid() != crate::os::user() {
        return refuse("is a symbolic link that another user owns");
    }
    // An open would wait for ever at a FIFO without a writer.
    match fs::metadata(path) {
        Ok(file) if file.is_file() => Ok(Some(())),
        Ok(_) => refuse("is not a regular file"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            refuse("is a symbolic link to a file that does not exist")
        }
        Err(error) => Err(fault::io(path, &error)),
    }
}

/// What answers questions.
pub(super) enum Reader {
    /// A connection beside the writer's. In WAL mode neither waits for the other.
    Kept(Connection),
    /// A store that is only read connects afresh for each question, because the right way depends on what is there.
    Afresh {
        /// The database.
        path: PathBuf,
        /// How long to wait for another process.
        timeout: Duration,
    },
}

impl Reader {
    pub(super) fn read<T>(&mut self, mut use_it: impl FnMut(&Connection) -> Result<T>) -> Result<T> {
        match self {
            Reader::Kept(connection) => use_it(connection),
            Reader::Afresh { path, timeout } => read_untouched(path, *timeout, use_it),
        }
    }
}

/// Reads a database without changing anything on disk.
///
/// SQLite reads a WAL database by way of two files beside it, and makes them if they are not there: a change, and
/// impossible on a read-only file system. Where there is no WAL to read, nobody has the database open, and it is read as
/// immutable instead. If somebody opens and changes it meanwhile, what was read may be torn: then it is read again.
fn read_untouched<T>(
    path: &Path,
    timeout: Duration,
    mut use_it: impl FnMut(&Connection) -> Result<T>,
) -> Result<T> {
    let named = |error: rusqlite::Error| cannot_open(&path.to_string_lossy(), &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    loop {
        let before = State::of(path)?;
        if before.has_wal {
            let connection = Connection::open_with_flags(path, flags).map_err(named)?;
            connection.busy_timeout(timeout).map_err(named)?;
            return use_it(&connection);
        }
        let uri = immutable_uri(path);
        let connection =
            Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI).map_err(named)?;
        let answer = use_it(&connection);
        if State::of(path)? == before {
            return answer;
        }
    }
}

/// What tells whether anybody has written to a database.
#[derive(PartialEq)]
struct State {
    has_wal: bool,
    size: u64,
    modified: Option<SystemTime>,
}

impl State {
    fn of(path: &Path) -> Result<State> {
        let file = fs::metadata(path).map_err(|error| fault::io(path, &error))?;
        let has_wal = fs::metadata(wal_of(path)).is_ok_and(|wal| wal.len() > 0);
        Ok(State { has_wal, size: file.len(), modified: file.modified().ok() })
    }
}

/// Bytes of the database and of its WAL.
pub(super) fn bytes_of(path: &Path) -> u64 {
    let size = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
    size(path) + size(&wal_of(path))
}

fn wal_of(path: &Path) -> PathBuf {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    wal.into()
}

fn immutable_uri(path: &Path) -> String {
    use std::fmt::Write;
    use std::os::unix::ffi::OsStrExt;
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => uri.push(*byte as char),
            other => {
                let _ = write!(uri, "%{other:02X}"); // writing to a String does not fail
            }
        }
    }
    uri + "?immutable=1"
}

fn cannot_open(path: &str, error: &rusqlite::Error) -> Error {
    fault::database(&format!("opening {path}"), error)
}
