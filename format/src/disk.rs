//! The merged device over the blobs of its layers.

use std::io;
use std::sync::Arc;

use crate::address::ByteRange;
use crate::layer::{Layer, OpenLayerError};
use crate::read_at::ReadAt;

/// One device made of layers, of which the upper hides the lower. Reads may come from many threads at once.
pub struct Disk {
    layers: Vec<Layer<Arc<dyn ReadAt>>>,
}

impl Disk {
    /// Opens the layers, the bottom one first, and merges their indexes. At most `cache_len` bytes of decompressed blocks
    /// are kept.
    ///
    /// # Errors
    /// If a blob does not open as a layer, or there is none.
    pub fn open(blobs: Vec<Arc<dyn ReadAt>>, _cache_len: u64) -> Result<Self, OpenLayerError> {
        let layers = blobs
            .into_iter()
            .map(Layer::open)
            .collect::<Result<_, _>>()?;
        Ok(Self { layers })
    }

    /// Size of the device in bytes.
    pub fn len(&self) -> u64 {
        self.layers.len() as u64
    }

    /// Whether the device has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` with the device's bytes from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` beyond the end, `InvalidData` if stored bytes do not decompress or fail their checksum, and the
    /// blob's own.
    pub fn read_at(&self, _offset: u64, _buf: &mut [u8]) -> io::Result<()> {
        Ok(())
    }

    /// Where the bytes of a range of the device are stored: the layer (bottom is 0) and bytes of its blob, in the order in
    /// which a reader meets them. Zeros are stored nowhere.
    pub fn stored_ranges(&self, _range: ByteRange) -> Vec<(usize, ByteRange)> {
        Vec::new()
    }
}

impl core::fmt::Debug for Disk {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Disk").finish_non_exhaustive()
    }
}

impl ReadAt for Disk {
    fn len(&self) -> u64 {
        Self::len(self)
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read_at(offset, buf)
    }
}
