//! A layer blob read lazily from wherever the image lies: chunk by chunk, each checked before a byte of it is used.
//!
//! What `ls`, `cat` and `export` read is small and scattered, so chunks come by range requests, neighbours in one
//! request. A blob without a chunk table (another converter's) proves itself only as a whole, so it is read whole, once.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use lru::LruCache;
use tokio::runtime::Handle;
use tranship_format::{ByteRange, ChunkIndex, ChunkTable, Digest, ReadAt, Verified};
use tranship_source::ImageStore;

use crate::image::LayerBlob;
use crate::spool;

/// Verified chunks that are kept, per layer: with chunks of 256 KiB about 32 MiB.
const KEPT_CHUNKS: NonZeroUsize = NonZeroUsize::new(128).unwrap();
/// Stored bytes that one request asks for at most.
const REQUEST_LEN: u64 = 4 << 20;

/// A blob behind a registry or in a layout. Reads block, so they belong on blocking threads.
pub(crate) struct LazyBlob {
    store: ImageStore,
    digest: Digest,
    len: u64,
    content: Content,
    runtime: Handle,
}

enum Content {
    Chunks {
        table: ChunkTable,
        kept: Mutex<LruCache<u32, Verified>>,
    },
    /// A verified local copy.
    Whole(File),
}

impl std::fmt::Debug for LazyBlob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LazyBlob")
            .field("digest", &self.digest)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl LazyBlob {
    /// Opens a layer's blob; of one with a chunk table only the table is read.
    pub(crate) async fn open(store: &ImageStore, layer: &LayerBlob) -> io::Result<Self> {
        let content = match &layer.annotations.chunks {
            Some(reference) => {
                let table = store
                    .blob_range(&layer.digest, reference.range())
                    .await
                    .map_err(io::Error::other)?;
                Content::Chunks {
                    table: open_table(&table, reference.digest)?,
                    kept: Mutex::new(LruCache::new(KEPT_CHUNKS)),
                }
            }
            None => Content::Whole(spool::whole_blob(store, &layer.descriptor).await?),
        };
        let (digest, len) = (layer.digest, layer.len);
        Ok(Self {
            store: store.clone(),
            digest,
            len,
            content,
            runtime: Handle::current(),
        })
    }

    /// Fetches a run of chunks in one request and checks each.
    fn fetch(&self, table: &ChunkTable, chunks: &[ChunkIndex]) -> io::Result<Vec<Verified>> {
        let (Some(first), Some(last)) = (chunks.first(), chunks.last()) else {
            return Ok(Vec::new());
        };
        let range = ByteRange::new(table.range(*first).start, table.range(*last).end);
        let bytes: Bytes = self
            .runtime
            .block_on(self.store.blob_range(&self.digest, range))
            .map_err(io::Error::other)?;
        let mut rest = bytes;
        let checked = chunks.iter().map(|chunk| {
            let range = table.range(*chunk);
            let len = usize::try_from(range.len()).map_err(io::Error::other)?;
            let stored = rest.split_to(len.min(rest.len()));
            table.verify(*chunk, stored).map_err(|wrong| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    WrongBytes {
                        blob: self.digest,
                        range,
                        source: wrong,
                    },
                )
            })
        });
        checked.collect()
    }

    fn read_chunks(
        &self,
        table: &ChunkTable,
        kept: &Mutex<LruCache<u32, Verified>>,
        wanted: ByteRange,
        buf: &mut [u8],
    ) -> io::Result<()> {
        let mut run = Vec::new();
        let mut run_len = 0;
        for chunk in table.over(wanted) {
            let found = kept
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(&chunk.get())
                .cloned();
            if let Some(found) = found {
                copy_overlap(table.range(chunk), found.bytes(), wanted, buf);
                continue;
            }
            let len = table.range(chunk).len();
            let adjoins = run
                .last()
                .is_none_or(|last: &ChunkIndex| last.get() + 1 == chunk.get());
            if !adjoins || run_len + len > REQUEST_LEN {
                self.take(table, kept, &run, wanted, buf)?;
                run.clear();
                run_len = 0;
            }
            run.push(chunk);
            run_len += len;
        }
        self.take(table, kept, &run, wanted, buf)
    }

    fn take(
        &self,
        table: &ChunkTable,
        kept: &Mutex<LruCache<u32, Verified>>,
        run: &[ChunkIndex],
        wanted: ByteRange,
        buf: &mut [u8],
    ) -> io::Result<()> {
        for (chunk, verified) in run.iter().zip(self.fetch(table, run)?) {
            copy_overlap(table.range(*chunk), verified.bytes(), wanted, buf);
            kept.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .put(chunk.get(), verified);
        }
        Ok(())
    }
}

/// Stored bytes that are not what the manifest's digest vouches for.
#[derive(Debug, thiserror::Error)]
#[error("blob {blob}: wrong bytes in {}..{}", range.start, range.end)]
pub(crate) struct WrongBytes {
    /// The layer's blob.
    pub(crate) blob: Digest,
    /// Which of its bytes.
    pub(crate) range: ByteRange,
    source: tranship_format::WrongChunk,
}

/// Decodes a chunk table after checking it against the digest in the manifest.
pub(crate) fn open_table(bytes: &[u8], expected: Digest) -> io::Result<ChunkTable> {
    let found = Digest::of(bytes);
    if found != expected {
        let why = format!("the chunk table has digest {found} and not {expected}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    ChunkTable::decode(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Copies what `have` (bytes of `at`) and `wanted` (bytes for `buf`) share.
fn copy_overlap(at: ByteRange, have: &[u8], wanted: ByteRange, buf: &mut [u8]) {
    let (start, end) = (at.start.max(wanted.start), at.end.min(wanted.end));
    let part = |base: u64| {
        Some(usize::try_from(start.checked_sub(base)?).ok()?..usize::try_from(end - base).ok()?)
    };
    if start < end
        && let (Some(from), Some(to)) = (part(at.start), part(wanted.start))
        && let (Some(from), Some(to)) = (have.get(from), buf.get_mut(to))
    {
        to.copy_from_slice(from);
    }
}

impl ReadAt for LazyBlob {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let len = u64::try_from(buf.len()).map_err(io::Error::other)?;
        let end = offset
            .checked_add(len)
            .filter(|end| *end <= self.len)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        match &self.content {
            Content::Whole(file) => file.read_exact_at(buf, offset),
            Content::Chunks { table, kept } => {
                if end > table.covered_len() {
                    // The chunk table itself and the tar's end: nothing that a reader of the image needs.
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "these bytes have no chunk to prove them",
                    ));
                }
                self.read_chunks(table, kept, ByteRange::new(offset, end), buf)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_both_have_is_copied() {
        let mut buf = [0; 6];
        copy_overlap(
            ByteRange::new(10, 14),
            &[1, 2, 3, 4],
            ByteRange::new(12, 18),
            &mut buf,
        );
        assert_eq!(buf, [3, 4, 0, 0, 0, 0]);
        copy_overlap(
            ByteRange::new(14, 30),
            &[5; 16],
            ByteRange::new(12, 18),
            &mut buf,
        );
        assert_eq!(buf, [3, 4, 5, 5, 5, 5]);
        copy_overlap(
            ByteRange::new(18, 20),
            &[9; 2],
            ByteRange::new(12, 18),
            &mut buf,
        );
        assert_eq!(buf, [3, 4, 5, 5, 5, 5]);
    }

    #[test]
    fn a_table_with_another_digest_is_refused() {
        let error = open_table(b"table", Digest::of(b"other")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
