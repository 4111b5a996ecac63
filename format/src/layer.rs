//! One layer: a blob that holds some sectors of a device.

mod options;
mod uuid;
mod write;

pub use options::{Codec, LayerOptions};
pub use uuid::{ParseUuidError, Uuid};
pub use write::{LayerSummary, LayerWriter, WriteLayerError};

use std::io;

use crate::error::DecodeError;
use crate::read_at::ReadAt;

/// A layer's blob, opened: any combination of tar envelope, compression and the layer format itself.
pub struct Layer<R> {
    blob: R,
}

impl<R: ReadAt> Layer<R> {
    /// Finds out what `blob` is made of and reads its index.
    ///
    /// # Errors
    /// If it cannot be read, or is not a sealed layer.
    pub fn open(blob: R) -> Result<Self, OpenLayerError> {
        Ok(Self { blob })
    }

    /// The blob.
    pub fn blob(&self) -> &R {
        &self.blob
    }
}

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
