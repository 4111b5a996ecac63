//! Filling the caller's buffer: from decompressed blocks, and with zeros where nothing is stored.

use std::io;

use bytes::Bytes;

use super::plan::{Fragment, Piece};
use crate::block::{BlockDecoder, BlockTable, Span, decode_span, decode_span_alone};

/// One block whose stored bytes are here.
pub(super) struct BlockRead<'a> {
    pub(super) table: &'a BlockTable,
    pub(super) span: &'a Span,
    pub(super) stored: &'a [u8],
    pub(super) block: u64,
}

impl BlockRead<'_> {
    /// Puts the block's fragments in their places. Gives the block back if only a part of it was wanted and it is to be
    /// kept; otherwise it goes by way of `spare`, whatever lies there.
    pub(super) fn into_buf(
        self,
        fragments: &[Fragment],
        buf: &mut [u8],
        decoder: &mut BlockDecoder,
        spare: Option<&mut Vec<u8>>,
    ) -> io::Result<Option<Bytes>> {
        let len = usize::try_from(self.table.plain(self.block).len()).map_err(|_| lost())?;
        let span = (self.span, self.stored);
        if let [fragment] = fragments
            && fragment.source() == (0..len)
        {
            let plain = buf.get_mut(fragment.target()).ok_or_else(lost)?;
            decode_span(self.table, decoder, span, self.block, plain)?;
            return Ok(None);
        }
        let Some(spare) = spare else {
            let plain = decode_span_alone(self.table, decoder, span, self.block)?;
            copy(fragments, &plain, buf)?;
            return Ok(Some(plain.into()));
        };
        if spare.len() < len {
            spare.resize(len, 0);
        }
        let plain = spare.get_mut(..len).ok_or_else(lost)?;
        decode_span(self.table, decoder, span, self.block, plain)?;
        copy(fragments, plain, buf)?;
        Ok(None)
    }
}

/// Copies each fragment out of its decompressed block.
pub(super) fn copy(fragments: &[Fragment], block: &[u8], buf: &mut [u8]) -> io::Result<()> {
    for fragment in fragments {
        let from = block.get(fragment.source()).ok_or_else(lost)?;
        buf.get_mut(fragment.target())
            .ok_or_else(lost)?
            .copy_from_slice(from);
    }
    Ok(())
}

/// Clears the bytes that no piece fills.
pub(super) fn zero_between(pieces: &[Piece], buf: &mut [u8]) {
    let mut rest = buf;
    let mut at = 0_u64;
    for piece in pieces {
        let (hole, after) = split(rest, piece.to.saturating_sub(at));
        hole.fill(0);
        rest = split(after, piece.plain.len()).1;
        at = piece.to.saturating_add(piece.plain.len());
    }
    rest.fill(0);
}

fn split(buf: &mut [u8], len: u64) -> (&mut [u8], &mut [u8]) {
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(buf.len());
    buf.split_at_mut(len)
}

/// The bytes of the caller's buffer that a piece fills.
pub(super) fn target<'a>(buf: &'a mut [u8], piece: &Piece) -> io::Result<&'a mut [u8]> {
    let start = usize::try_from(piece.to).map_err(|_| lost())?;
    let end = usize::try_from(piece.to.saturating_add(piece.plain.len())).map_err(|_| lost())?;
    buf.get_mut(start..end).ok_or_else(lost)
}

/// A plan that points outside its own disk or buffer: reported instead of a panic, because indexes come from outside.
pub(super) fn lost() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "an index points outside its layer",
    )
}
