//! Reading runs of blocks: one read of the payload for many blocks that lie one behind the other.

use std::io;
use std::ops::Range;

use super::codec::BlockDecoder;
use super::table::BlockTable;
use crate::read_at::ReadAt;

/// Stored bytes that one read asks for at most, unless one block is longer: enough for a reader over the network to fetch
/// many chunks at once, little enough to hold for every reader.
const MAX_SPAN_LEN: u64 = 4 << 20;

/// A stored block that does not give its bytes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadBlockError {
    #[error("block {block} fails its checksum: stored {stored:#010x}, computed {computed:#010x}")]
    Checksum {
        block: u64,
        stored: u32,
        computed: u32,
    },
    #[error("block {block} does not decompress")]
    Decompress {
        block: u64,
        #[source]
        source: io::Error,
    },
    #[error("there is no block {block}")]
    NoBlock { block: u64 },
}

impl From<ReadBlockError> for io::Error {
    fn from(error: ReadBlockError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Blocks that are read together.
pub(crate) type Span = Range<u64>;

/// Cuts a run of blocks into spans of bounded stored length.
pub(crate) fn spans(
    table: &BlockTable,
    blocks: Range<u64>,
) -> impl Iterator<Item = Span> + use<'_> {
    let mut next = blocks.start;
    core::iter::from_fn(move || {
        let start = next;
        if start >= blocks.end {
            return None;
        }
        next = start.saturating_add(1);
        while next < blocks.end && table.stored(start..next.saturating_add(1)).len() <= MAX_SPAN_LEN
        {
            next = next.saturating_add(1);
        }
        Some(start..next)
    })
}

/// Reads the stored bytes of a span into `stored`, replacing what was there.
pub(crate) fn read_span<R: ReadAt>(
    payload: &R,
    table: &BlockTable,
    span: &Span,
    stored: &mut Vec<u8>,
) -> io::Result<()> {
    let range = table.stored(span.clone());
    let len = usize::try_from(range.len()).map_err(|_| io::ErrorKind::OutOfMemory)?;
    stored.resize(len, 0);
    payload.read_exact_at(range.start, stored)
}

/// Decompresses `block`, one of `span` whose stored bytes are `stored`, into `plain`.
pub(crate) fn decode_span(
    table: &BlockTable,
    decoder: &mut BlockDecoder,
    span: (&Span, &[u8]),
    block: u64,
    plain: &mut [u8],
) -> Result<(), ReadBlockError> {
    let bytes = stored_of(table, span, block)?;
    table.decode_block(decoder, block, bytes, plain)
}

/// The same into a buffer of its own.
pub(crate) fn decode_span_alone(
    table: &BlockTable,
    decoder: &mut BlockDecoder,
    span: (&Span, &[u8]),
    block: u64,
) -> Result<Vec<u8>, ReadBlockError> {
    let bytes = stored_of(table, span, block)?;
    table.decode_block_alone(decoder, block, bytes)
}

fn stored_of<'s>(
    table: &BlockTable,
    (span, stored): (&Span, &'s [u8]),
    block: u64,
) -> Result<&'s [u8], ReadBlockError> {
    let base = table.stored(span.clone()).start;
    let range = table.stored(block..block.saturating_add(1));
    let offset = |at: u64| at.checked_sub(base).and_then(|at| usize::try_from(at).ok());
    offset(range.start)
        .zip(offset(range.end))
        .and_then(|(start, end)| stored.get(start..end))
        .ok_or(ReadBlockError::NoBlock { block })
}
