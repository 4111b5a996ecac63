//! Writing a layer's blob while its data comes: envelope, compression, index and chunk table in one pass.
//!
//! Only the headers are written twice, at the end, because they state lengths; so the blob's first chunk, which is just
//! the headers, is hashed last.

use std::io::{self, Seek, SeekFrom, Write};

use super::error::WriteLayerError;
use super::header::{Header, MAX_RECORDS};
use super::options::LayerOptions;
use super::runs::Runs;
use crate::address::{SECTOR_LEN, Sector};
use crate::annotation::ChunkTableRef;
use crate::block::{self, BlockSettings, BlockWriter, Workers};
use crate::chunk::{ChunkWriter, MAX_TABLE_LEN, encoded_len};
use crate::digest::Digest;
use crate::envelope;
use crate::segment::{MAPPING_LEN, Mapping, Place};

/// Behind the last sector that is written: stock readers cut addresses to 32 bits without a word.
const SECTOR_LIMIT: u64 = 1 << 32;

/// Records in a page of the index. Stock tools fill up the last page, and so its length is a multiple of 4 KiB.
const PAGE_RECORDS: usize = 256;

/// Bytes before the first block: they are written again at the end.
const REWRITTEN_LEN: usize = envelope::HEADER_LEN + block::HEADER_LEN;

/// Sectors of a page, which is what kernels read at least and filesystems align to.
const PAGE_SECTORS: u64 = 8;

const ZERO_SECTOR: [u8; 512] = [0; 512];
const _: () = assert!(SECTOR_LEN == ZERO_SECTOR.len() as u64);

/// Writes a layer while its data comes, in memory bounded by the number of its mappings.
///
/// The blob does not depend on how the data was sliced into calls of [`write`](Self::write).
///
/// ```
/// use std::io::Cursor;
/// use std::sync::Arc;
/// use tranship_format::{Disk, LayerOptions, LayerWriter, Sector};
///
/// let mut writer = LayerWriter::new(Cursor::new(Vec::new()), LayerOptions::default())?;
/// writer.write(Sector(8), &[7; 512])?;
/// let (out, summary) = writer.finish(1 << 20)?;
/// assert_eq!(out.get_ref().len() as u64, summary.len);
///
/// let disk = Disk::open(vec![Arc::new(out.into_inner())], 64 << 10)?;
/// let mut bytes = [0xff; 4];
/// disk.read_at(9 * 512 - 2, &mut bytes)?;
/// assert_eq!(bytes, [7, 7, 0, 0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct LayerWriter<W: Write + Seek> {
    options: LayerOptions,
    blocks: BlockWriter<Tee<W>>,
    runs: Runs,
    /// Zero sectors at the end of the last write, of which it is not yet known whether they are a run worth mapping.
    zeros: ZeroRun,
}

/// Zero sectors `[start, end)` that were written and neither stored nor mapped yet.
#[derive(Clone, Copy, Debug, Default)]
struct ZeroRun {
    start: u64,
    end: u64,
}

/// Keeps the first chunk, whose hash must wait for its final bytes.
#[derive(Debug)]
struct Tee<W> {
    out: W,
    head: Vec<u8>,
    keep: bool,
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let count = self.out.write(buf)?;
        if self.keep {
            self.head.extend(buf.iter().take(count));
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl<W: Write + Seek> LayerWriter<W> {
    /// Begins a blob at the current position of `out`.
    ///
    /// # Errors
    /// If the options are outside their bounds, or `out` cannot be written.
    pub fn new(out: W, options: LayerOptions) -> Result<Self, WriteLayerError> {
        Self::with_workers(out, options, Workers::none())
    }

    /// As [`new`](Self::new), with `workers` compressing. The blob is the same.
    ///
    /// # Errors
    /// If the options are outside their bounds, or `out` cannot be written.
    pub fn with_workers(
        out: W,
        options: LayerOptions,
        workers: Workers,
    ) -> Result<Self, WriteLayerError> {
        options.check()?;
        let tee = Tee {
            out,
            head: Vec::new(),
            keep: true,
        };
        let mut chunks = ChunkWriter::new(tee, options.hash, options.chunk_len);
        chunks.write_uncut(&[0; REWRITTEN_LEN])?;
        let settings = BlockSettings {
            codec: options.codec,
            level: options.level,
            block_len: options.block_len,
        };
        let mut blocks = BlockWriter::new(chunks, settings, workers)?;
        let header = Header {
            index_offset: 0,
            record_count: 0,
            virtual_size: 0,
            uuid: options.uuid,
            parent: options.parent,
        };
        blocks.write(&header.encode())?;
        // The headers are a chunk of their own: it is the one that must be hashed last, and the one that every reader
        // needs first.
        blocks.cut()?;
        blocks.settle()?;
        blocks.inner_mut().keep = false;
        Ok(Self {
            options,
            blocks,
            runs: Runs::default(),
            zeros: ZeroRun::default(),
        })
    }

    /// Writes `data`, whole sectors, to the device from `at` on. Places may come in any order; what is written later wins.
    ///
    /// Runs of zeros of a block's length and more, in whole pages of the device, are not stored: the index says that they are
    /// zeros. Shorter ones are, as their block is read with its neighbours anyway, in which they compress to nearly nothing,
    /// while a mapping of their own would cost two records. So are their ends within a page: left out, they would move all
    /// that follows, and a page that a reader asks for would then lie across two blocks.
    ///
    /// # Errors
    /// If `data` is not whole sectors or lies beyond what stock readers can address, or `out` cannot be written.
    pub fn write(&mut self, at: Sector, data: &[u8]) -> Result<(), WriteLayerError> {
        let (sectors, rest) = data.as_chunks::<{ ZERO_SECTOR.len() }>();
        if !rest.is_empty() {
            return Err(WriteLayerError::NotWholeSectors { len: data.len() });
        }
        check_bounds(at, sectors.len() as u64)?;
        if at.0 != self.zeros.end {
            self.settle_zeros()?;
        }
        let mut start = at.0;
        for run in sectors.chunk_by(|one, next| (one == &ZERO_SECTOR) == (next == &ZERO_SECTOR)) {
            let end = start.saturating_add(run.len() as u64);
            if run.first() == Some(&ZERO_SECTOR) {
                if self.zeros.end != start {
                    self.zeros = ZeroRun { start, end: start };
                }
                self.zeros.end = end;
            } else {
                self.settle_zeros()?;
                self.store(start, end, run.as_flattened())?;
                self.zeros = ZeroRun { start: end, end };
            }
            start = end;
        }
        Ok(())
    }

    /// Makes `sectors` sectors from `at` on read as zeros, whatever lower layers hold there.
    ///
    /// # Errors
    /// If they lie beyond what stock readers can address, or `out` cannot be written.
    pub fn zero(&mut self, at: Sector, sectors: u64) -> Result<(), WriteLayerError> {
        let end = check_bounds(at, sectors)?;
        self.settle_zeros()?;
        self.runs.set(at.0, end, Place::Zeroed);
        Ok(())
    }

    /// Makes the next data begin a new block and a new chunk, so that equal data after a cut is stored as equal chunks.
    ///
    /// # Errors
    /// If `out` cannot be written.
    pub fn cut(&mut self) -> Result<(), WriteLayerError> {
        self.settle_zeros()?;
        self.zeros = ZeroRun::default();
        self.blocks.cut()?;
        Ok(())
    }

    /// Writes index, trailers and chunk table, and goes back to complete the headers. `virtual_size` is the size of the
    /// whole device in bytes; 0 takes the lower layer's. `out` is given back positioned behind the blob.
    ///
    /// # Errors
    /// If there are more mappings than stock readers accept, the size is beyond what they can address, or `out` cannot be
    /// written.
    pub fn finish(mut self, virtual_size: u64) -> Result<(W, LayerSummary), WriteLayerError> {
        check_bounds(Sector(0), virtual_size.div_ceil(SECTOR_LEN))?;
        self.settle_zeros()?;
        self.write_index(virtual_size)?;
        let (mut chunks, block_header) = self.blocks.finish()?;
        let payload_len = chunks.len().saturating_sub(envelope::HEADER_LEN as u64);
        let padding = envelope::padded(payload_len).saturating_sub(payload_len);
        chunks.write_any(
            ZERO_SECTOR
                .get(..usize::try_from(padding).unwrap_or(0))
                .unwrap_or(&[]),
        )?;
        let table_len = encoded_len(chunks.count_with_more()) as u64;
        if table_len > MAX_TABLE_LEN {
            return Err(WriteLayerError::TooManyChunks {
                count: chunks.count_with_more(),
            });
        }
        chunks.write_uncut(&envelope::chunks_header(table_len))?;
        let covered_len = chunks.len();

        let rewritten = [envelope::header(payload_len).as_slice(), &block_header].concat();
        let head = &mut chunks.inner_mut().head;
        crate::field::put(head, 0, &rewritten);
        let first = self.options.hash.hash(head);
        let (tee, table) = chunks.finish(first);
        let table_bytes = table.encode();
        let end = vec![
            0;
            usize::try_from(envelope::padded(table_len).saturating_sub(table_len))
                .unwrap_or(0)
                .saturating_add(envelope::END_LEN)
        ];
        let mut out = tee.out;
        out.write_all(&table_bytes)?;
        out.write_all(&end)?;
        let len = covered_len
            .saturating_add(table_len)
            .saturating_add(end.len() as u64);
        rewrite_start(&mut out, len, &rewritten)?;

        let chunks = ChunkTableRef {
            digest: Digest::of(&table_bytes),
            offset: covered_len,
            len: table_len,
        };
        let mapped_len = self.runs.sectors().saturating_mul(SECTOR_LEN);
        Ok((
            out,
            LayerSummary {
                len,
                virtual_size,
                chunks,
                mapped_len,
                chunk_count: table.count(),
            },
        ))
    }

    /// The index, padded to whole pages, and the trailer.
    fn write_index(&mut self, virtual_size: u64) -> Result<(), WriteLayerError> {
        let index_offset = self.blocks.plain_len();
        let mut index: Vec<u8> = Vec::new();
        for mapping in self.runs.mappings() {
            index.extend_from_slice(&mapping.encode());
        }
        // An index without any record would be a file that stock tools never made.
        let count = (index.len() / MAPPING_LEN)
            .max(1)
            .next_multiple_of(PAGE_RECORDS);
        while index.len() < count.saturating_mul(MAPPING_LEN) {
            index.extend_from_slice(&Mapping::padding());
        }
        let record_count = count as u64;
        if record_count > MAX_RECORDS {
            return Err(WriteLayerError::TooManyMappings {
                count: record_count,
            });
        }
        let LayerOptions { uuid, parent, .. } = self.options;
        let trailer = Header {
            index_offset,
            record_count,
            virtual_size,
            uuid,
            parent,
        };
        self.blocks.write(&index)?;
        self.blocks.write(&trailer.encode_trailer())?;
        Ok(())
    }

    /// Stores data and maps `[start, end)` to it.
    fn store(&mut self, start: u64, end: u64, data: &[u8]) -> io::Result<()> {
        let at = Sector::of_byte(self.blocks.plain_len());
        self.blocks.write(data)?;
        self.runs.set(start, end, Place::Stored(at));
        Ok(())
    }

    /// Decides about the zeros at the end of what was written so far.
    fn settle_zeros(&mut self) -> io::Result<()> {
        let ZeroRun { start, end } = self.zeros;
        self.zeros = ZeroRun { start: end, end };
        let worth_mapping = u64::from(self.options.block_len) / SECTOR_LEN;
        let first_page = start.next_multiple_of(PAGE_SECTORS);
        let last_page = end - end % PAGE_SECTORS;
        if last_page.saturating_sub(first_page) < worth_mapping {
            return self.store_zeros(start, end);
        }
        self.store_zeros(start, first_page)?;
        self.runs.set(first_page, last_page, Place::Zeroed);
        self.store_zeros(last_page, end)
    }

    /// Stores the zeros of `[start, end)`, fewer than a block and two pages.
    fn store_zeros(&mut self, start: u64, end: u64) -> io::Result<()> {
        if start == end {
            return Ok(());
        }
        let len = end.saturating_sub(start).saturating_mul(SECTOR_LEN);
        self.store(start, end, &vec![0; usize::try_from(len).unwrap_or(0)])
    }
}

/// Behind the last of `count` sectors from `start` on, if stock readers can address them.
fn check_bounds(start: Sector, count: u64) -> Result<u64, WriteLayerError> {
    let end = start.0.saturating_add(count);
    if end > SECTOR_LIMIT {
        return Err(WriteLayerError::BeyondDevice {
            start: start.0,
            end,
        });
    }
    Ok(end)
}

/// Goes back over a blob of `len` bytes to write its first ones again, and forth again.
fn rewrite_start<W: Write + Seek>(out: &mut W, len: u64, bytes: &[u8]) -> io::Result<()> {
    let end = out.stream_position()?;
    let start = end.checked_sub(len).ok_or(io::ErrorKind::InvalidInput)?;
    out.seek(SeekFrom::Start(start))?;
    out.write_all(bytes)?;
    out.seek(SeekFrom::Start(end))?;
    out.flush()
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSummary {
    /// Length of the blob in bytes.
    pub len: u64,
    /// Size of the device in bytes, as given.
    pub virtual_size: u64,
    /// Where the chunk table lies in the blob, and its digest.
    pub chunks: ChunkTableRef,
    /// Bytes of the device that the layer's mappings cover, zeroed ones included.
    pub mapped_len: u64,
    /// Number of chunks.
    pub chunk_count: u32,
}

#[cfg(test)]
mod tests;
