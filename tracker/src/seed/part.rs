//! What of an image the seed is ordered to fetch: all of it, or what a trace names.

use std::collections::BTreeSet;

use tranship_format::{ChunkIndex, Digest};
use tranship_source::Trace;
use tranship_store::BlobStore;

use super::OrderError;

/// See the module's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Every chunk, blob by blob.
    Whole,
    /// These chunks, by the number of their blob, each once and the first first.
    Traced(Vec<(usize, ChunkIndex)>),
}

impl Part {
    /// The part of an image of these blobs that a trace names. A trace of another image is refused.
    pub(super) fn of(
        trace: Option<&Trace>,
        manifest: Digest,
        blobs: &[BlobStore],
    ) -> Result<Self, OrderError> {
        let Some(trace) = trace else {
            return Ok(Self::Whole);
        };
        if trace.manifest != manifest {
            return Err(OrderError::OtherTrace {
                manifest,
                of: trace.manifest,
            });
        }
        let mut seen = BTreeSet::new();
        let mut wanted = Vec::new();
        for (blob, chunk) in trace.chunks() {
            let unknown = || OrderError::UnknownChunk { blob, chunk };
            let number = blobs.iter().position(|known| known.digest() == blob);
            let number = number.ok_or_else(unknown)?;
            let known = blobs.get(number).ok_or_else(unknown)?;
            let index = known.table().index(chunk).ok_or_else(unknown)?;
            if seen.insert((number, index)) {
                wanted.push((number, index));
            }
        }
        Ok(Self::Traced(wanted))
    }

    /// Each chunk with its blob, the first first.
    pub(super) fn chunks<'a>(
        &'a self,
        blobs: &'a [BlobStore],
    ) -> Box<dyn Iterator<Item = (&'a BlobStore, ChunkIndex)> + Send + 'a> {
        match self {
            Self::Whole => Box::new(
                blobs
                    .iter()
                    .flat_map(|blob| blob.table().all().map(move |index| (blob, index))),
            ),
            Self::Traced(wanted) => Box::new(
                wanted
                    .iter()
                    .filter_map(|(number, index)| Some((blobs.get(*number)?, *index))),
            ),
        }
    }

    /// Stored bytes of it.
    pub(super) fn len(&self, blobs: &[BlobStore]) -> u64 {
        match self {
            Self::Whole => blobs.iter().map(|blob| blob.table().covered_len()).sum(),
            Self::Traced(_) => lens(self.chunks(blobs)),
        }
    }

    /// Stored bytes of it that are here.
    pub(super) fn present_len(&self, blobs: &[BlobStore]) -> u64 {
        match self {
            Self::Whole => blobs.iter().map(BlobStore::present_len).sum(),
            Self::Traced(_) => lens(self.chunks(blobs).filter(|(blob, index)| blob.has(*index))),
        }
    }
}

fn lens<'a>(chunks: impl Iterator<Item = (&'a BlobStore, ChunkIndex)>) -> u64 {
    chunks
        .map(|(blob, index)| blob.table().range(index).len())
        .sum()
}
