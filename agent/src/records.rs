//! Small JSON files that outlive the daemon: one a thing, replaced in one step.
//!
//! One broken file must not keep the others, or the daemon, from coming up; it is named in the log and left where it is.

use std::fs::{self, File};
use std::io::{self, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest record that is read: manifests are at most 4 MiB, and JSON may double some bytes.
const MAX_LEN: u64 = 16 << 20;

/// A directory of records of one kind.
#[derive(Debug)]
pub(crate) struct Records<T> {
    dir: PathBuf,
    kind: PhantomData<fn(T) -> T>,
}

impl<T: Serialize + DeserializeOwned> Records<T> {
    /// Makes the directory when it is not there.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Self {
            dir,
            kind: PhantomData,
        })
    }

    /// Writes or replaces a record, so that a crash leaves the old one or the new one, and one of the machine, once this has returned,
    /// the new one.
    pub(crate) fn save(&self, name: &str, record: &T) -> io::Result<()> {
        let path = self.path(name);
        let new = path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(record)?)?;
        file.sync_data()?;
        fs::rename(&new, &path)?;
        // Without this the disk learns of the name some seconds later.
        File::open(&self.dir)?.sync_all()
    }

    /// Removes what a crash left half written. For the start, when nobody writes.
    pub(crate) fn remove_unfinished(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|ending| ending == "new") {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// One record; `None` when there is none, or none that can be read.
    pub(crate) fn load(&self, name: &str) -> Option<T> {
        read(&self.path(name))
    }

    /// All records that can be read, by name.
    pub(crate) fn load_all(&self) -> io::Result<Vec<(String, T)>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|ending| ending == "json")
                && let Some(name) = path.file_stem().and_then(|stem| stem.to_str())
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names
            .into_iter()
            .filter_map(|name| self.load(&name).map(|record| (name, record)))
            .collect())
    }

    /// Removes a record; there may be none.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.json"))
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let text = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Ok(metadata) if metadata.len() > MAX_LEN => Err(io::Error::other("it is far too long")),
        Ok(_) => fs::read(path),
        Err(error) => Err(error),
    };
    let record = text.and_then(|text| serde_json::from_slice(&text).map_err(io::Error::from));
    match record {
        Ok(record) => Some(record),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a record cannot be read and is passed over");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_in_order_and_broken_ones_do_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let records: Records<Vec<u32>> = Records::open(dir.path().join("kind")).unwrap();
        records.save("b", &vec![2]).unwrap();
        records.save("a", &vec![1]).unwrap();
        records.save("a", &vec![3]).unwrap();
        records.save("gone", &vec![4]).unwrap();
        records.remove("gone").unwrap();
        records.remove("never").unwrap();
        fs::write(dir.path().join("kind/torn.json"), "[1").unwrap();
        fs::write(dir.path().join("kind/c.new"), "[9]").unwrap();
        let found = records.load_all().unwrap();
        assert_eq!(
            found,
            [("a".to_owned(), vec![3]), ("b".to_owned(), vec![2])]
        );
        assert_eq!(records.load("torn"), None);
        records.remove_unfinished().unwrap();
        assert!(!dir.path().join("kind/c.new").exists());
        assert_eq!(records.load_all().unwrap(), found);
    }
}
