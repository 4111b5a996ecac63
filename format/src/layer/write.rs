//! Writing a layer's blob.

use std::io::{self, Seek, Write};

use super::options::LayerOptions;
use crate::address::Sector;
use crate::annotation::ChunkTableRef;

/// Writes a layer while its data comes, in memory bounded by the number of its mappings.
#[derive(Debug)]
pub struct LayerWriter<W: Write + Seek> {
    out: W,
}

impl<W: Write + Seek> LayerWriter<W> {
    /// Begins a blob at the current position of `out`.
    ///
    /// # Errors
    /// If the options are outside their bounds, or `out` cannot be written.
    pub fn new(out: W, _options: LayerOptions) -> Result<Self, WriteLayerError> {
        Ok(Self { out })
    }

    /// Writes `data`, whole sectors, to the device from `at` on. Places may come in any order; what is written later wins.
    ///
    /// # Errors
    /// If `data` is not whole sectors or lies beyond what stock readers can address, or `out` cannot be written.
    pub fn write(&mut self, _at: Sector, _data: &[u8]) -> Result<(), WriteLayerError> {
        Ok(())
    }

    /// Makes `sectors` sectors from `at` on read as zeros, whatever lower layers hold there.
    ///
    /// # Errors
    /// If they lie beyond what stock readers can address.
    pub fn zero(&mut self, _at: Sector, _sectors: u64) -> Result<(), WriteLayerError> {
        Ok(())
    }

    /// Makes the next data begin a new block and a new chunk, so that equal data after a cut is stored as equal chunks.
    ///
    /// # Errors
    /// If `out` cannot be written.
    pub fn cut(&mut self) -> Result<(), WriteLayerError> {
        Ok(())
    }

    /// Writes index, trailers and chunk table, and goes back to complete the headers. `virtual_size` is the size of the
    /// whole device in bytes; 0 takes the lower layer's.
    ///
    /// # Errors
    /// If there are more mappings than stock readers accept, the size is beyond what they can address, or `out` cannot be
    /// written.
    pub fn finish(self, virtual_size: u64) -> Result<(W, LayerSummary), WriteLayerError> {
        let chunks = ChunkTableRef {
            digest: crate::Digest::of(b""),
            offset: 0,
            len: 0,
        };
        Ok((
            self.out,
            LayerSummary {
                len: 0,
                virtual_size,
                chunks,
                mapped_len: 0,
                chunk_count: 0,
            },
        ))
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSummary {
    /// Length of the blob in bytes.
    pub len: u64,
    /// Size of the device in bytes.
    pub virtual_size: u64,
    /// Where the chunk table lies in the blob, and its digest.
    pub chunks: ChunkTableRef,
    /// Bytes of the device that the layer's mappings cover, zeroed ones included.
    pub mapped_len: u64,
    /// Number of chunks.
    pub chunk_count: u32,
}

/// A layer that cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteLayerError {
    /// An option is outside its bounds.
    #[error("{name} is {value} and must be {must}")]
    Option {
        /// The option.
        name: &'static str,
        /// Its value.
        value: u64,
        /// Its bounds, for people.
        must: &'static str,
    },
    /// Data that is not whole sectors.
    #[error("{len} bytes of data are not whole sectors")]
    NotWholeSectors {
        /// Length of the data in bytes.
        len: usize,
    },
    /// A place beyond the 2 TiB that stock readers address.
    #[error("sectors {start} to {end} are not all below 2^32")]
    BeyondDevice {
        /// First sector.
        start: u64,
        /// Behind the last sector.
        end: u64,
    },
    /// More mappings than stock readers accept.
    #[error("{count} mappings: a layer has at most 1000000")]
    TooManyMappings {
        /// How many there are.
        count: u64,
    },
    /// The blob cannot be written.
    #[error("cannot write the blob")]
    Write(#[from] io::Error),
}
