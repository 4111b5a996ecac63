//! What one read of the device has to do: which bytes of which layer go where in the caller's buffer.

use core::ops::Range;

use crate::address::{ByteRange, SECTOR_LEN};
use crate::index::Index;
use crate::layer::sectors_of;
use crate::segment::{Mapping, Place};

/// Bytes of a layer file, and where they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Number of the layer in the stack.
    pub(super) layer: u8,
    /// Bytes of the layer file.
    pub(super) plain: ByteRange,
    /// Where the first of them belongs in the caller's buffer.
    pub(super) to: u64,
}

/// The pieces of a range of the device, in order. Pieces that continue each other are one; bytes that no piece covers are
/// zeros.
pub(super) fn pieces(index: &Index, range: ByteRange) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let (from, to) = sectors_of(range);
    for piece in index
        .over(from, to)
        .filter_map(|mapping| piece(&mapping, range))
    {
        match pieces.last_mut() {
            Some(last) if continues(last, &piece) => last.plain.end = piece.plain.end,
            _ => pieces.push(piece),
        }
    }
    pieces
}

/// The part of a mapping that lies in a range of bytes of the device.
fn piece(mapping: &Mapping, range: ByteRange) -> Option<Piece> {
    let Place::Stored(at) = mapping.place else {
        return None;
    };
    let start = mapping.segment.start.byte()?;
    let device = ByteRange::at(
        start,
        u64::from(mapping.segment.count).checked_mul(SECTOR_LEN)?,
    )?
    .intersection(range);
    let plain_start = at.byte()?.checked_add(device.start.checked_sub(start)?)?;
    let plain = ByteRange::at(plain_start, device.len())?;
    Some(Piece {
        layer: mapping.layer,
        plain,
        to: device.start.checked_sub(range.start)?,
    })
}

fn continues(last: &Piece, next: &Piece) -> bool {
    last.layer == next.layer
        && last.plain.end == next.plain.start
        && last.to.checked_add(last.plain.len()) == Some(next.to)
}

/// The part of a piece that lies in one block.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fragment {
    pub(super) layer: u8,
    pub(super) block: u64,
    /// First byte within the decompressed block.
    pub(super) within: usize,
    /// Where it belongs in the caller's buffer.
    pub(super) to: usize,
    /// Number of bytes.
    pub(super) len: usize,
}

impl Fragment {
    /// Its bytes within the decompressed block.
    pub(super) fn source(&self) -> Range<usize> {
        self.within..self.within.saturating_add(self.len)
    }

    /// Its bytes in the caller's buffer.
    pub(super) fn target(&self) -> Range<usize> {
        self.to..self.to.saturating_add(self.len)
    }
}

/// Cuts a piece at the ends of blocks of `block_len` bytes.
pub(super) fn fragments(piece: Piece, block_len: u32) -> impl Iterator<Item = Fragment> {
    let block_len = u64::from(block_len.max(1));
    (piece.plain.start / block_len..piece.plain.end.div_ceil(block_len)).filter_map(move |block| {
        let start = block.checked_mul(block_len)?;
        let part = piece.plain.intersection(ByteRange::at(start, block_len)?);
        Some(Fragment {
            layer: piece.layer,
            block,
            within: usize::try_from(part.start.checked_sub(start)?).ok()?,
            to: usize::try_from(
                piece
                    .to
                    .checked_add(part.start.checked_sub(piece.plain.start)?)?,
            )
            .ok()?,
            len: usize::try_from(part.len()).ok()?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Sector;
    use crate::segment::Segment;

    fn index() -> Index {
        let mapping = |start, count, layer, place| Mapping {
            segment: Segment {
                start: Sector(start),
                count,
            },
            layer,
            place,
        };
        Index::new(vec![
            mapping(2, 2, 0, Place::Stored(Sector(8))),
            mapping(4, 2, 0, Place::Stored(Sector(10))),
            mapping(6, 1, 0, Place::Zeroed),
            mapping(7, 1, 1, Place::Stored(Sector(12))),
        ])
        .unwrap()
    }

    #[test]
    fn pieces_that_continue_each_other_are_one() {
        let found = pieces(&index(), ByteRange::new(0, 100 * 512));
        let piece = |layer, start: u64, end: u64, to: u64| Piece {
            layer,
            plain: ByteRange::new(start * 512, end * 512),
            to: to * 512,
        };
        assert_eq!(found, [piece(0, 8, 12, 2), piece(1, 12, 13, 7)]);
    }

    #[test]
    fn pieces_are_cut_to_the_byte() {
        let found = pieces(&index(), ByteRange::new(2 * 512 + 100, 3 * 512 + 1));
        assert_eq!(
            found,
            [Piece {
                layer: 0,
                plain: ByteRange::new(8 * 512 + 100, 9 * 512 + 1),
                to: 0
            }]
        );
    }

    #[test]
    fn fragments_end_with_their_blocks() {
        let piece = Piece {
            layer: 3,
            plain: ByteRange::new(4000, 9000),
            to: 10,
        };
        let found: Vec<_> = fragments(piece, 4096)
            .map(|f| (f.block, f.source(), f.target()))
            .collect();
        assert_eq!(
            found,
            [
                (0, 4000..4096, 10..106),
                (1, 0..4096, 106..4202),
                (2, 0..808, 4202..5010)
            ]
        );
    }
}
