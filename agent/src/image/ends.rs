//! The ends of a blob, which is what opening it needs: read beside its chunk table.
//!
//! The headers stand in front; the index, the block table and the chunk table behind everything. A node that has nobody
//! but the registry asks for both ends before it knows how the blob is cut, and so opens a layer in the two round trips
//! that two requests need at most. What it is given is used for nothing until the chunk table has its digest and each chunk its hash.

use bytes::Bytes;
use tranship_format::annotation::ChunkTableRef;
use tranship_format::{ByteRange, ChunkIndex, ChunkTable, Digest};
use tranship_source::counters::Counters;
use tranship_store::{BlobStore, StoreError};

use super::OpenImageError;
use crate::origin::ImageOrigin;

/// What is asked for in front: more than the first chunk, which holds the headers alone.
const HEAD_LEN: u64 = 16 << 10;
/// Bounds of what is asked for before the chunk table.
const MIN_TAIL_LEN: u64 = 128 << 10;
const MAX_TAIL_LEN: u64 = 4 << 20;
/// A gap below this is cheaper to read than to ask twice.
const SMALL_GAP_LEN: u64 = 64 << 10;

/// Bytes before the chunk table in which the index and the block table most likely lie. They grow with the blob and are
/// chunks of their own behind its data; a guess that falls short costs a round trip more, one that goes too far brings
/// data that nobody may want.
fn tail_len(chunks: &ChunkTableRef) -> u64 {
    MIN_TAIL_LEN
        .saturating_add(chunks.offset / 512)
        .min(MAX_TAIL_LEN)
}

/// The ranges to ask for at once: the head, if the other does not hold it, and the tail with the chunk table.
fn ranges(chunks: &ChunkTableRef) -> (Option<ByteRange>, ByteRange) {
    let end = chunks.range().end;
    let tail_start = chunks.offset.saturating_sub(tail_len(chunks));
    if tail_start <= HEAD_LEN.saturating_add(SMALL_GAP_LEN) {
        (None, ByteRange::new(0, end))
    } else {
        let head = ByteRange::new(0, HEAD_LEN);
        (Some(head), ByteRange::new(tail_start, end))
    }
}

/// The chunks that opening most likely needs: the first, the last, and those that begin near the end.
pub(crate) fn chunks_of(table: &ChunkTable) -> impl Iterator<Item = ChunkIndex> + '_ {
    let covered_len = table.covered_len();
    let near = covered_len.saturating_sub((covered_len / 1024).min(MAX_TAIL_LEN));
    let last = table.count().saturating_sub(1);
    let ends = move |index: &ChunkIndex| {
        let number = index.get();
        number == 0 || number == last || table.range(*index).start >= near
    };
    let others = table.over(ByteRange::new(near, covered_len));
    let first = table.index(0).into_iter();
    first
        .chain(others.filter(|index| index.get() > 0))
        .filter(ends)
}

/// A chunk table that the manifest vouches for, and bytes that came with it, not verified.
pub(super) struct Ends {
    pub(super) table: ChunkTable,
    pieces: Vec<(u64, Bytes)>,
}

/// Reads the chunk table of a blob; unless `table_only`, with both ends of the blob.
pub(super) async fn read(
    origin: &ImageOrigin,
    blob: Digest,
    chunks: ChunkTableRef,
    table_only: bool,
) -> Result<Ends, OpenImageError> {
    let (head, tail) = if table_only {
        (None, chunks.range())
    } else {
        ranges(&chunks)
    };
    let head = async {
        let range = head?;
        // What does not come this way is fetched as a chunk when it is needed.
        origin.range(&blob, range).await.ok()
    };
    let (bytes, head) = futures::join!(origin.range(&blob, tail), head);
    let bytes = bytes.map_err(|source| OpenImageError::ReadTable { blob, source })?;
    let before = usize::try_from(chunks.offset.saturating_sub(tail.start)).unwrap_or(usize::MAX);
    // A blob that is shorter than the manifest says ends here; its table is then not the one that is wanted.
    let encoded = bytes.slice(before.min(bytes.len())..);
    let found = Digest::of(&encoded);
    if found != chunks.digest {
        return Err(OpenImageError::WrongTable {
            blob,
            wanted: chunks.digest,
            found,
        });
    }
    let table =
        ChunkTable::decode(&encoded).map_err(|source| OpenImageError::BadTable { blob, source })?;
    let tail = bytes.slice(..before.min(bytes.len()));
    let head = head.map(|bytes| (0, bytes));
    let pieces = head
        .into_iter()
        .chain([(tail_start(tail.len(), chunks.offset), tail)]);
    Ok(Ends {
        table,
        pieces: pieces.filter(|(_, bytes)| !bytes.is_empty()).collect(),
    })
}

fn tail_start(len: usize, end: u64) -> u64 {
    end.saturating_sub(len as u64)
}

impl Ends {
    /// Puts every whole chunk of what came into the store, each checked. Blocks on the disk.
    pub(super) fn keep(self, blob: &BlobStore, counters: &Counters) {
        let table = blob.table();
        for (start, bytes) in self.pieces {
            let piece = ByteRange::new(start, start.saturating_add(bytes.len() as u64));
            let mut kept = Vec::new();
            for index in table.over(piece).filter(|index| !blob.has(*index)) {
                let range = table.range(index);
                let Some(chunk) = part(&bytes, range, start) else {
                    continue;
                };
                // Copied, since what is stored must not hold the rest of the answer in memory.
                match table.verify(index, Bytes::copy_from_slice(chunk)) {
                    Ok(chunk) => match blob.put(index, &chunk) {
                        Ok(()) => kept.push(range.len()),
                        Err(StoreError::Full { .. }) => {}
                        Err(error) => {
                            tracing::warn!(blob = %blob.digest(), chunk = index.get(), error = &error as &dyn std::error::Error, "the store cannot keep a chunk");
                        }
                    },
                    Err(error) => {
                        tracing::warn!(blob = %blob.digest(), chunk = index.get(), %error, "the registry gave a wrong chunk; it is asked for again");
                    }
                }
            }
            counters.read_beside(piece.len(), &kept);
        }
    }
}

/// The bytes of `range` within bytes that begin at `start`, if all of them are there.
fn part(bytes: &Bytes, range: ByteRange, start: u64) -> Option<&[u8]> {
    let from = usize::try_from(range.start.checked_sub(start)?).ok()?;
    let len = usize::try_from(range.len()).ok()?;
    bytes.get(from..from.checked_add(len)?)
}

#[cfg(test)]
mod tests {
    use tranship_format::{ChunkTableBuilder, HashAlgorithm};

    use super::*;

    fn chunks(offset: u64, count: u64) -> ChunkTableRef {
        ChunkTableRef {
            digest: Digest::of(b"table"),
            offset,
            len: 32 + 36 * count,
        }
    }

    #[test]
    fn a_small_blob_is_asked_for_whole_and_of_a_large_one_both_ends() {
        let small = chunks(100 << 10, 3);
        assert_eq!(ranges(&small), (None, ByteRange::new(0, small.range().end)));
        let large = chunks(1 << 30, 4096);
        let (head, tail) = ranges(&large);
        assert_eq!(head, Some(ByteRange::new(0, HEAD_LEN)));
        assert_eq!(tail.end, large.range().end);
        assert_eq!(large.offset - tail.start, (128 << 10) + (2 << 20));
        let huge = chunks(1 << 40, 1);
        assert_eq!(huge.offset - ranges(&huge).1.start, MAX_TAIL_LEN);
    }

    #[test]
    fn opening_needs_the_first_chunk_and_the_last_ones() {
        let mut builder = ChunkTableBuilder::new(HashAlgorithm::Blake3);
        for _ in 0..100 {
            builder.update(&[7; 4096]);
            builder.cut();
        }
        let numbers: Vec<u32> = chunks_of(&builder.finish()).map(ChunkIndex::get).collect();
        assert_eq!(numbers, [0, 99]);
        let mut one = ChunkTableBuilder::new(HashAlgorithm::Blake3);
        one.update(&[7; 100]);
        one.cut();
        assert_eq!(chunks_of(&one.finish()).count(), 1);
        assert_eq!(
            chunks_of(&ChunkTableBuilder::new(HashAlgorithm::Blake3).finish()).count(),
            0
        );
    }
}
