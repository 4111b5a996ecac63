//! One layer: a blob that holds some sectors of a device.
//!
//! A blob is up to three things inside each other: a tar envelope, compression in blocks, and the layer file itself. Each
//! wrapper is optional and known by its first bytes, so all combinations that exist are opened by one function.

mod error;
mod header;
mod options;
mod runs;
mod uuid;
mod write;

use std::io;

use crate::address::{ByteRange, Sector};
use crate::block::{BlockDecoder, BlockTable, decode_span, read_span, spans};
use crate::envelope;
use crate::error::{DecodeError, Fault};
use crate::index::Index;
use crate::read_at::{ReadAt, Window, beyond_the_end};
use header::{HEADER_LEN, Header};

pub use error::{OpenLayerError, WriteLayerError};
pub use options::LayerOptions;
pub use uuid::{ParseUuidError, Uuid};
pub use write::{LayerSummary, LayerWriter};

/// A layer's blob, opened: any combination of tar envelope, compression and the layer format itself.
#[derive(Debug)]
pub struct Layer<R> {
    payload: Window<R>,
    blocks: Option<BlockTable>,
    trailer: Header,
    index: Index,
}

impl<R: ReadAt> Layer<R> {
    /// Finds out what `blob` is made of and reads its index.
    ///
    /// # Errors
    /// If it cannot be read, or is not a sealed layer.
    pub fn open(blob: R) -> Result<Self, OpenLayerError> {
        let range = envelope::payload(&blob)?;
        let have = blob.len();
        let truncated = DecodeError::new(
            "tar envelope",
            range.start,
            Fault::Truncated {
                need: range.len(),
                have,
            },
        );
        let payload = Window::new(blob, range).ok_or(truncated)?;
        let blocks = BlockTable::open(&payload)?;
        if blocks.is_none() {
            refuse_gzip(&payload)?;
        }
        let plain = Plain {
            payload: &payload,
            blocks: blocks.as_ref(),
        };
        let trailer_at = plain.len().checked_sub(HEADER_LEN as u64).ok_or_else(|| {
            let why = Fault::Truncated {
                need: HEADER_LEN as u64,
                have: plain.len(),
            };
            DecodeError::new("LSMT header", 0, why)
        })?;
        let mut page = [0; HEADER_LEN];
        plain
            .read(0, &mut page)
            .map_err(|source| OpenLayerError::Read {
                what: "LSMT header",
                source,
            })?;
        Header::check(&page)?;
        plain
            .read(trailer_at, &mut page)
            .map_err(|source| OpenLayerError::Read {
                what: "LSMT trailer",
                source,
            })?;
        let trailer = Header::decode_trailer(&page)?;
        let range = trailer.index_range(plain.len())?;
        // At most 16 MB: index_range has checked the number of records.
        let mut records = vec![0; usize::try_from(range.len()).unwrap_or(0)];
        plain
            .read(range.start, &mut records)
            .map_err(|source| OpenLayerError::Read {
                what: "index",
                source,
            })?;
        let index = Index::decode(&records, range.start)?;
        Ok(Self {
            payload,
            blocks,
            trailer,
            index,
        })
    }

    /// The same layer, whose data is read from what `change` makes of the blob: another way to the same bytes.
    pub fn map_blob<S>(self, change: impl FnOnce(R) -> S) -> Layer<S> {
        Layer {
            payload: self.payload.map(change),
            blocks: self.blocks,
            trailer: self.trailer,
            index: self.index,
        }
    }

    /// Which sectors the layer maps, and where they are in its file.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// How the layer file is compressed, if it is.
    pub fn blocks(&self) -> Option<&BlockTable> {
        self.blocks.as_ref()
    }

    /// The part of the blob inside the tar envelope.
    pub fn payload(&self) -> &Window<R> {
        &self.payload
    }

    /// Bytes of the device; 0 if the layer takes what lower ones say.
    pub fn virtual_size(&self) -> u64 {
        self.trailer.virtual_size
    }

    /// The layer's name; nil if it has none.
    pub fn uuid(&self) -> Uuid {
        self.trailer.uuid
    }

    /// The name of the layer below, as this one remembers it. Stock readers do not check it either.
    pub fn parent(&self) -> Option<Uuid> {
        self.trailer.parent
    }

    /// Length of the layer file before compression, in bytes.
    pub fn plain_len(&self) -> u64 {
        self.plain().len()
    }

    /// Where bytes of the layer file are stored in the blob. With compression, whole blocks.
    pub fn stored(&self, plain: ByteRange) -> ByteRange {
        let within = match &self.blocks {
            Some(table) => table.stored(table.over(plain)),
            None => plain.intersection(ByteRange::new(0, self.payload.len())),
        };
        let base = self.payload.range().start;
        ByteRange::new(
            base.saturating_add(within.start),
            base.saturating_add(within.end),
        )
    }

    fn plain(&self) -> Plain<'_, R> {
        Plain {
            payload: &self.payload,
            blocks: self.blocks.as_ref(),
        }
    }
}

/// The layer file, decompressed where need be. For opening only: it keeps nothing.
struct Plain<'a, R> {
    payload: &'a Window<R>,
    blocks: Option<&'a BlockTable>,
}

impl<R: ReadAt> Plain<'_, R> {
    fn len(&self) -> u64 {
        self.blocks
            .map_or(self.payload.len(), BlockTable::plain_len)
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let Some(table) = self.blocks else {
            return self.payload.read_exact_at(offset, buf);
        };
        let wanted = ByteRange::at(offset, buf.len() as u64)
            .filter(|wanted| wanted.end <= table.plain_len());
        let wanted = wanted.ok_or_else(|| beyond_the_end(offset, buf.len(), table.plain_len()))?;
        let (mut decoder, mut stored, mut plain) =
            (BlockDecoder::default(), Vec::new(), Vec::new());
        let mut rest = buf;
        for span in spans(table, table.over(wanted)) {
            read_span(self.payload, table, &span, &mut stored)?;
            for block in span.clone() {
                let range = table.plain(block);
                plain.resize(usize::try_from(range.len()).unwrap_or(0), 0);
                decode_span(table, &mut decoder, (&span, &stored), block, &mut plain)?;
                let skip =
                    usize::try_from(wanted.start.saturating_sub(range.start)).unwrap_or(usize::MAX);
                let fresh = plain.get(skip..).unwrap_or(&[]);
                let (now, later) = rest.split_at_mut(fresh.len().min(rest.len()));
                now.iter_mut().zip(fresh).for_each(|(to, from)| *to = *from);
                rest = later;
            }
        }
        Ok(())
    }
}

/// A gzip stream in a layer's place is an ordinary layer or one of `TurboOCI`, and no format of ours: worth its own words,
/// since "the magic is wrong" helps nobody who converted the wrong way.
fn refuse_gzip<R: ReadAt>(payload: &R) -> Result<(), OpenLayerError> {
    let mut magic = [0; 2];
    if payload.len() >= HEADER_LEN as u64 {
        payload
            .read_exact_at(0, &mut magic)
            .map_err(|source| OpenLayerError::Read {
                what: "first bytes",
                source,
            })?;
    }
    if magic == [0x1f, 0x8b] {
        let why = Fault::Unsupported("a gzip stream, as ordinary and TurboOCI layers are,");
        return Err(DecodeError::new("layer", 0, why).into());
    }
    Ok(())
}

/// The sectors that a range of bytes touches: the first, and behind the last.
pub(crate) fn sectors_of(range: ByteRange) -> (Sector, Sector) {
    (
        Sector::of_byte(range.start),
        Sector(range.end.div_ceil(crate::SECTOR_LEN)),
    )
}

/// A layer file as stock tools may write it, neither compressed nor wrapped, for tests of what our writer never makes.
#[cfg(test)]
pub(crate) fn write_bare(
    mappings: &[crate::segment::Mapping],
    data: &[u8],
    virtual_size: u64,
) -> Vec<u8> {
    let index: Vec<u8> = mappings
        .iter()
        .flat_map(crate::segment::Mapping::encode)
        .collect();
    let index_offset = (HEADER_LEN + data.len()) as u64;
    let record_count = mappings.len() as u64;
    let header = Header {
        index_offset,
        record_count,
        virtual_size,
        uuid: Uuid::NIL,
        parent: None,
    };
    [&header.encode(), data, &index, &header.encode_trailer()].concat()
}
