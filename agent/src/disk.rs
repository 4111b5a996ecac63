//! The content of a device: an image's merged layers, as front ends read them.
//!
//! A read that needs several chunks fetches them side by side before the layers are asked, since the layers themselves
//! would ask for one after the other.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Handle;
use tranship_device::{Allocation, BlockRead, BlockReadError};
use tranship_format::{ByteRange, ChunkIndex, Disk};

use crate::lazy::{LazyBlob, LazyReadError};
use crate::metrics::Reads;
use crate::trace::FirstReads;

/// Runs of data that are told of at one time.
const DATA_RUNS_MAX: usize = 1024;

/// An image as a device reads it.
pub(crate) struct ImageDisk {
    disk: Disk,
    layers: Vec<Arc<LazyBlob>>,
    runtime: Handle,
    reads: Arc<Reads>,
    first_reads: Arc<FirstReads>,
}

impl ImageDisk {
    /// `disk` was opened over `layers`, the bottom one first.
    pub(crate) fn new(
        disk: Disk,
        layers: Vec<Arc<LazyBlob>>,
        runtime: Handle,
        reads: Arc<Reads>,
        first_reads: Arc<FirstReads>,
    ) -> Self {
        Self {
            disk,
            layers,
            runtime,
            reads,
            first_reads,
        }
    }

    /// Fills `buf` from `offset` of the device, and notes it nowhere.
    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockReadError> {
        let len = buf.len() as u64;
        BlockReadError::check_range(offset, len, self.disk.len())?;
        for layer in &self.layers {
            layer
                .check_whole()
                .map_err(|error| explain(offset, len, io::Error::other(error)))?;
        }
        let range = ByteRange::new(offset, offset.saturating_add(len));
        self.gather(range)
            .map_err(|error| explain(offset, len, io::Error::other(error)))?;
        let mut read = self.disk.read_at(offset, buf);
        for _ in 0..SPOILT_TRIES {
            if !read.as_ref().is_err_and(is_spoilt) {
                break;
            }
            // Though nothing is found wrong: another reader of the same chunk may have found it first.
            self.drop_spoilt(range);
            read = self.disk.read_at(offset, buf);
        }
        read.map_err(|error| explain(offset, len, error))
    }

    /// Notes the chunks of a range of the device in its trace.
    fn note_first_reads(&self, range: ByteRange) {
        for (layer, stored) in self.disk.stored_ranges(range) {
            let table = self.layers.get(layer).map(|layer| layer.blob().table());
            for index in table.into_iter().flat_map(|table| table.over(stored)) {
                self.first_reads.note(layer, index.get());
            }
        }
    }

    /// Looks again at the chunks that hold a range, which were right when they were hashed. What the disk has lost since then is
    /// dropped.
    fn drop_spoilt(&self, range: ByteRange) {
        for (layer, stored) in self.disk.stored_ranges(range) {
            let Some(blob) = self.layers.get(layer).map(|layer| layer.blob()) else {
                continue;
            };
            for index in blob.table().over(stored) {
                if let Err(error) = blob.get(index) {
                    // What is wrong it drops itself, tells in the log, and counts.
                    tracing::debug!(error = &error as &dyn Error, "a chunk is not looked at");
                }
            }
        }
    }

    /// Fetches what the read will miss, all at once.
    fn gather(&self, range: ByteRange) -> Result<(), LazyReadError> {
        if self.layers.iter().all(|layer| layer.is_complete()) {
            return Ok(());
        }
        let mut wanted: Vec<(&Arc<LazyBlob>, ChunkIndex)> = Vec::new();
        for (layer, stored) in self.disk.stored_ranges(range) {
            let Some(layer) = self.layers.get(layer) else {
                continue;
            };
            for index in layer.missing(stored) {
                if !wanted
                    .iter()
                    .any(|(other, chunk)| Arc::ptr_eq(other, layer) && *chunk == index)
                {
                    wanted.push((layer, index));
                }
            }
        }
        if wanted.len() < 2 {
            return Ok(());
        }
        let fetches = wanted.iter().map(|(layer, index)| layer.demand(*index));
        self.runtime
            .block_on(futures::future::try_join_all(fetches))
            .map(drop)
    }
}

impl BlockRead for ImageDisk {
    fn len(&self) -> u64 {
        self.disk.len()
    }

    fn allocation(&self, offset: u64, len: u64) -> Vec<Allocation> {
        let mut runs = Vec::new();
        let range = ByteRange::new(offset, offset.saturating_add(len));
        let data = self.disk.data_ranges(range, DATA_RUNS_MAX);
        let is_whole = data.len() < DATA_RUNS_MAX;
        let mut at = offset;
        let mut run = |end: u64, zero: bool| {
            if end > at {
                let len = end.saturating_sub(at);
                runs.push(Allocation { len, zero });
                at = end;
            }
        };
        for data in data {
            run(data.start, true);
            run(data.end, false);
        }
        if is_whole {
            run(range.end.min(self.disk.len()), true);
        }
        runs
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockReadError> {
        let start = Instant::now();
        self.note_first_reads(ByteRange::new(
            offset,
            offset.saturating_add(buf.len() as u64),
        ));
        let outcome = self.read(offset, buf);
        if matches!(outcome, Err(BlockReadError::Stopping)) {
            // It is the successor's, or nobody wants it any more.
            return outcome;
        }
        self.reads
            .note(buf.len() as u64, start.elapsed(), outcome.is_ok());
        if let Err(error) = &outcome {
            tracing::error!(
                offset,
                len = buf.len(),
                error = error as &dyn Error,
                "a read of a device fails"
            );
        }
        outcome
    }
}

impl fmt::Debug for ImageDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageDisk")
            .field("len", &self.disk.len())
            .field("layer_count", &self.layers.len())
            .finish_non_exhaustive()
    }
}

/// How often a read is tried again whose stored bytes were right when they were hashed and are not now: a disk that loses bits may lose more of
/// them meanwhile.
pub(crate) const SPOILT_TRIES: u32 = 3;

/// Whether stored bytes were found to be no whole blocks.
pub(crate) fn is_spoilt(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
}

/// Says in the words of devices what a layer or a blob said in its own.
fn explain(offset: u64, len: u64, error: io::Error) -> BlockReadError {
    match find::<LazyReadError>(&error) {
        Some(LazyReadError::TimedOut { .. }) => BlockReadError::TimedOut { offset, len },
        Some(LazyReadError::Stopping) => BlockReadError::Stopping,
        Some(LazyReadError::WrongProof { .. }) => BlockReadError::Corrupt {
            offset,
            len,
            source: error.into(),
        },
        None if is_spoilt(&error) => BlockReadError::Corrupt {
            offset,
            len,
            source: error.into(),
        },
        Some(LazyReadError::Refused { .. }) | None => BlockReadError::Unavailable {
            offset,
            len,
            source: error.into(),
        },
    }
}

/// An error of one kind among the causes of an input-output error.
pub(crate) fn find<E: Error + 'static>(error: &io::Error) -> Option<&E> {
    let mut next: Option<&(dyn Error + 'static)> =
        error.get_ref().map(|inner| inner as &(dyn Error + 'static));
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = match error.downcast_ref::<io::Error>() {
            Some(wrapped) => wrapped
                .get_ref()
                .map(|inner| inner as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn deadline_stays_a_deadline_through_the_layers() {
        let inner = LazyReadError::TimedOut {
            chunk: 3,
            deadline: Duration::from_secs(1),
            last: None,
        };
        let error = io::Error::other(io::Error::other(inner));
        assert!(matches!(
            explain(1, 2, error),
            BlockReadError::TimedOut { offset: 1, len: 2 }
        ));
    }

    #[test]
    fn bytes_that_do_not_decompress_are_corrupt() {
        let error = io::Error::new(io::ErrorKind::InvalidData, "block");
        assert!(matches!(
            explain(0, 1, error),
            BlockReadError::Corrupt { .. }
        ));
    }

    #[test]
    fn stopping_is_told_from_failing() {
        let error = io::Error::other(LazyReadError::Stopping);
        assert!(matches!(explain(0, 1, error), BlockReadError::Stopping));
    }
}
