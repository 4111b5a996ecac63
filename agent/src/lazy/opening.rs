//! A layer's blob while the layer is opened: each byte is of a chunk that was hashed for this opening.
//!
//! A device's reads trust a chunk that was hashed once since the start: what the disk loses after that breaks the checksum of a block, and
//! then the chunk is looked at again. Opening cannot wait for such a sign. A tar header that is gone means that there is no envelope, and
//! a blob without an envelope may be anything; so damage that came since the last hash would be taken for what the image is.
//! Opening is rare and reads little, so it trusts nothing that was found earlier.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tranship_format::{ChunkIndex, ReadAt};

use super::{LazyBlob, read_in_chunks};
use crate::recent::Recent;

/// See the module's words.
pub(crate) struct Opening {
    layer: Arc<LazyBlob>,
    /// Opening reads a chunk in many small parts; what was hashed is what they are taken from.
    hashed: Recent,
}

impl Opening {
    pub(crate) fn new(layer: Arc<LazyBlob>) -> Self {
        Self {
            layer,
            hashed: Recent::new(),
        }
    }

    /// The blob as a device reads it.
    pub(crate) fn into_blob(self) -> Arc<dyn ReadAt> {
        self.layer
    }

    fn chunk(&self, index: ChunkIndex) -> io::Result<Bytes> {
        if let Some(bytes) = self.hashed.get(index.get()) {
            return Ok(bytes);
        }
        self.layer.read_on(index);
        let bytes = match self.layer.blob.get(index) {
            Ok(Some(chunk)) => chunk.into_bytes(),
            // It is not here, or was damaged and is dropped.
            Ok(None) => self.layer.elsewhere(index)?,
            Err(error) => {
                self.layer.tell_unreadable(index, &error);
                self.layer.elsewhere(index)?
            }
        };
        self.hashed.insert(index.get(), bytes.clone());
        Ok(bytes)
    }
}

impl ReadAt for Opening {
    fn len(&self) -> u64 {
        self.layer.len()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let table = self.layer.blob.table();
        read_in_chunks(table, offset, buf, |index, offset, part| {
            let within = offset.saturating_sub(table.range(index).start);
            self.chunk(index)?.read_exact_at(within, part)
        })
    }
}
