//! What keeps a layer from being opened or written.

use std::io;

use crate::block::OpenBlocksError;
use crate::envelope::EnvelopeError;
use crate::error::DecodeError;

/// A blob that does not open as a layer, or layers that do not stack.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenLayerError {
    /// Bytes could not be had.
    #[error("cannot read the {what} of the layer")]
    Read {
        /// What was being read.
        what: &'static str,
        /// Why it could not.
        #[source]
        source: io::Error,
    },
    /// Bytes were had and break the format.
    #[error("the blob is not a layer")]
    Decode(#[from] DecodeError),
    /// One of several layers does not open.
    #[error("cannot open layer {position} (the bottom one is 0)")]
    Position {
        /// Which, counted from the bottom.
        position: usize,
        /// Why.
        #[source]
        source: Box<Self>,
    },
    /// No layers, or more than the format can number.
    #[error("a stack of {count} layers: it must have 1 to 255")]
    Count {
        /// How many were given.
        count: usize,
    },
    /// No layer says how large the device is.
    #[error("none of the layers says how large the device is")]
    NoVirtualSize,
}

impl From<EnvelopeError> for OpenLayerError {
    fn from(error: EnvelopeError) -> Self {
        match error {
            EnvelopeError::Read(source) => Self::Read {
                what: "tar envelope",
                source,
            },
            EnvelopeError::Decode(error) => Self::Decode(error),
        }
    }
}

impl From<OpenBlocksError> for OpenLayerError {
    fn from(error: OpenBlocksError) -> Self {
        match error {
            OpenBlocksError::Read(what, source) => Self::Read { what, source },
            OpenBlocksError::Decode(error) => Self::Decode(error),
        }
    }
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
    #[error("an index of {count} records: a layer has at most 1000000")]
    TooManyMappings {
        /// How many there are, padding included.
        count: u64,
    },
    /// More chunks than a table may hold.
    #[error("{count} chunks do not fit in a chunk table: aim at larger ones")]
    TooManyChunks {
        /// How many there are.
        count: u32,
    },
    /// The blob cannot be written.
    #[error("cannot write the blob")]
    Write(#[from] io::Error),
}
