//! Files whose errors name their path, and the three changes that the store makes to them.
//!
//! All changes go through [`StoreFile`], so that the crash tests can record them and build every image that a crash
//! could leave.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

use crate::StoreError;

/// Where changes go: to the disk, and in crash tests also into a record.
#[derive(Clone, Debug, Default)]
pub(crate) struct Medium {
    #[cfg(test)]
    pub(crate) record: Option<std::sync::Arc<crate::crash::Record>>,
}

/// An open file of the store.
#[derive(Debug)]
pub(crate) struct StoreFile {
    file: File,
    path: PathBuf,
    #[cfg(test)]
    medium: Medium,
}

impl StoreFile {
    /// Opens the file for reading and writing, makes it when it is not there, and gives it the length `len`.
    pub(crate) fn open(
        path: PathBuf,
        len: u64,
        #[cfg_attr(
            not(test),
            expect(unused_variables, reason = "only crash tests record changes")
        )]
        medium: &Medium,
    ) -> Result<Self, StoreError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(failed("open", &path))?;
        let found = file.metadata().map_err(failed("look at", &path))?.len();
        if found != len {
            file.set_len(len)
                .map_err(failed("set the length of", &path))?;
        }
        Ok(Self {
            file,
            path,
            #[cfg(test)]
            medium: medium.clone(),
        })
    }

    /// Reads exactly `buf.len()` bytes at `offset`.
    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), StoreError> {
        self.file
            .read_exact_at(buf, offset)
            .map_err(failed("read", &self.path))
    }

    /// Writes all of `bytes` at `offset`.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        #[cfg(test)]
        self.medium
            .note(&self.path, crate::crash::Change::write(offset, bytes))?;
        self.file.write_all_at(bytes, offset).map_err(|source| {
            if is_full(&source) {
                let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                return StoreError::Full { len };
            }
            failed("write", &self.path)(source)
        })
    }

    /// Gives the space of `[offset, offset + len)` back to the filesystem; the bytes read as zeros from then on.
    pub(crate) fn punch(&self, offset: u64, len: u64) -> Result<(), StoreError> {
        #[cfg(test)]
        self.medium
            .note(&self.path, crate::crash::Change::Punch { offset, len })?;
        punch(&self.file, offset, len).map_err(failed("punch a hole into", &self.path))
    }

    /// Waits until everything written is on the disk.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.file.sync_data().map_err(failed("sync", &self.path))
    }
}

/// Makes sure that holes can be punched in `dir`, since eviction lives on it.
pub(crate) fn probe_holes(dir: &Path) -> Result<(), StoreError> {
    let path = dir.join("probe");
    let file = File::create(&path).map_err(failed("make", &path))?;
    let outcome = file
        .write_all_at(&[1; 8192], 0)
        .and_then(|()| punch(&file, 0, 4096));
    fs::remove_file(&path).map_err(failed("remove", &path))?;
    match outcome {
        // A disk with no room at all still serves reads, and says so on the first write.
        Err(source) if is_full(&source) => Ok(()),
        Err(source) => Err(StoreError::NoHoles {
            path: dir.to_path_buf(),
            source,
        }),
        Ok(()) => Ok(()),
    }
}

fn punch(file: &File, offset: u64, len: u64) -> io::Result<()> {
    fallocate(
        file,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        offset,
        len,
    )?;
    Ok(())
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Names what was tried and on which file.
pub(crate) fn failed(deed: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_path_buf();
    move |source| StoreError::File { deed, path, source }
}
