//! What a crash can leave on the disk, built from a record of every change that the store made.
//!
//! `kill -9` leaves a prefix of the changes, since the page cache outlives the process. Loss of power leaves any choice of
//! them, the last ones of which may be torn.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::StoreError;
use crate::file::Medium;

/// A change of a file of the store.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Punch { offset: u64, len: u64 },
}

impl Change {
    pub(crate) fn write(offset: u64, bytes: &[u8]) -> Self {
        Self::Write {
            offset,
            bytes: bytes.to_vec(),
        }
    }
}

/// All changes in the order in which they were made, and whether the next ones fail.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) changes: Mutex<Vec<(PathBuf, Change)>>,
    /// When set, every write fails as on a full disk.
    pub(crate) full: AtomicBool,
}

impl Medium {
    pub(crate) fn note(&self, path: &Path, change: Change) -> Result<(), StoreError> {
        let Some(record) = &self.record else {
            return Ok(());
        };
        if let Change::Write { bytes, .. } = &change
            && record.full.load(Ordering::SeqCst)
        {
            return Err(StoreError::Full {
                len: bytes.len() as u64,
            });
        }
        record
            .changes
            .lock()
            .unwrap()
            .push((path.to_path_buf(), change));
        Ok(())
    }
}

mod tests;
