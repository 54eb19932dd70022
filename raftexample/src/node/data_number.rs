//! The number of a data directory: how the others notice that it is not the one that it was.
//!
//! It is drawn at random when a node begins with an empty directory, and kept in a file beside log and snapshots. Whoever
//! deletes a node's data gets a new number with the new data, also when this one file was left behind: a directory in
//! which nothing was promised is always a new one. A directory that an older version has written has no number yet, and
//! gets one.
//!
//! What is left out: any check against what the log holds. That goes through the address book.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::StorageFailed;

/// The file, below the data directory.
const FILE: &str = "number";

/// The number of the directory, which is locked by this process. `empty`: nothing was ever promised in it; then, and if
/// there is none yet, it gets the number that was `drawn`.
pub(super) fn number_of(dir: &Path, empty: bool, drawn: u64) -> Result<u64, StorageFailed> {
    let path = dir.join(FILE);
    let fail = |what: &str, error: &dyn std::fmt::Display| {
        StorageFailed(format!("cannot {what} the number of the data directory, {}: {error}", path.display()))
    };
    if !empty {
        match fs::read_to_string(&path) {
            Ok(text) => {
                let number = u64::from_str_radix(text.trim_end(), 16).ok().filter(|&number| number != 0);
                return number.ok_or_else(|| {
                    fail("read", &"it is damaged; restore that file, or remove this node and add it under a new id")
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(fail("read", &error)),
        }
    }
    // 0 means that there is none.
    let number = drawn.max(1);
    write(dir, &path, number).map_err(|error| fail("write", &error))?;
    Ok(number)
}

/// Complete under its name, or not there.
fn write(dir: &Path, path: &Path, number: u64) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    writeln!(file, "{number:016x}")?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stays_as_long_as_the_data_does() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(number_of(dir.path(), true, 7), Ok(7));
        assert_eq!(number_of(dir.path(), false, 8), Ok(7));
        assert_eq!(number_of(dir.path(), true, 9), Ok(9), "the data is gone, the file was left behind");
        fs::remove_file(dir.path().join(FILE)).unwrap();
        assert_eq!(number_of(dir.path(), false, 10), Ok(10), "an older version has written the data");
        assert_eq!(number_of(dir.path(), false, 11), Ok(10));
    }

    #[test]
    fn a_damaged_number_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "no number", "0", "11111111111111111"] {
            fs::write(dir.path().join(FILE), text).unwrap();
            let error = number_of(dir.path(), false, 7).unwrap_err();
            assert!(error.to_string().contains("number") && error.to_string().lines().count() == 1, "{error}");
        }
    }
}
