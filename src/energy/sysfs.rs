//! Files of a line each, kept open and read again at the same place.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A file with a number in it.
pub(super) struct Number {
    file: File,
}

impl Number {
    /// Opens it and reads it once: a file that can be opened cannot always be read.
    pub(super) fn open(path: &Path) -> io::Result<Number> {
        let number = Number { file: File::open(path)? };
        number.read()?;
        Ok(number)
    }

    /// The number that is in it now.
    pub(super) fn read(&self) -> io::Result<u64> {
        let mut text = [0; 32];
        let length = self.file.read_at(&mut text, 0)?;
        let text = std::str::from_utf8(&text[..length]).unwrap_or_default();
        let no_number =
            || io::Error::new(io::ErrorKind::InvalidData, format!("{:?} is no number", text.trim_end()));
        text.trim_end().parse().map_err(|_| no_number())
    }
}

/// The line in a file; `None` if it cannot be read.
pub(super) fn line(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}

/// The names in a folder, in order.
pub(super) fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names: Vec<String> =
        fs::read_dir(folder)?.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}
