//! An image of one layer with random bytes, cut into chunks.

use std::collections::BTreeMap;

use bytes::Bytes;
use tranship_format::{
    ChunkTable, ChunkTableBuilder, ChunkTableRef, Digest, HashAlgorithm, LayerAnnotations,
};
use tranship_source::manifest::{Descriptor, ImageManifest, Manifest};

/// Bytes of each chunk but the last.
pub(crate) const CHUNK_LEN: usize = 256 << 10;

/// An image that a registry can serve and a node can open.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// The layer's stored bytes, its chunk table at their end.
    pub(crate) blob: Bytes,
    pub(crate) digest: Digest,
    pub(crate) table: ChunkTable,
    pub(crate) manifest: Manifest,
}

impl Image {
    /// An image with `len` bytes that follow from `seed`.
    pub(crate) fn random(len: usize, seed: u64) -> Self {
        let mut state = seed | 1;
        let mut data = Vec::with_capacity(len);
        while data.len() < len {
            // xorshift64: any bytes will do that no chunk shares with another.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            data.extend_from_slice(&state.to_le_bytes());
        }
        data.truncate(len);
        let mut builder = ChunkTableBuilder::new(HashAlgorithm::Blake3);
        for chunk in data.chunks(CHUNK_LEN) {
            builder.update(chunk);
            builder.cut();
        }
        let table = builder.finish();
        let encoded = table.encode();
        let at = ChunkTableRef {
            digest: Digest::of(&encoded),
            offset: data.len() as u64,
            len: encoded.len() as u64,
        };
        data.extend_from_slice(&encoded);
        let digest = Digest::of(&data);
        let mut layer = Descriptor::new(
            "application/vnd.oci.image.layer.v1.tar",
            digest,
            data.len() as u64,
        );
        layer.annotations = LayerAnnotations::new(digest, data.len() as u64, "erofs", at)
            .to_map()
            .into_iter()
            .collect::<BTreeMap<_, _>>();
        let config = Descriptor::new(
            "application/vnd.oci.image.config.v1+json",
            Digest::of(b"{}"),
            2,
        );
        let manifest = Manifest::from_image(&ImageManifest::new(config, vec![layer])).unwrap();
        Self {
            blob: data.into(),
            digest,
            table,
            manifest,
        }
    }

    /// The same bytes as another converter would push them: nothing tells of the chunk table, and the table is the proof's.
    pub(crate) fn without_table(mut self) -> Self {
        let mut image = self.manifest.image().unwrap();
        for layer in &mut image.layers {
            layer.annotations.clear();
        }
        self.manifest = Manifest::from_image(&image).unwrap();
        self.table = ChunkTable::proof(self.blob.as_ref()).unwrap();
        self
    }

    /// Bytes that all chunks have together.
    pub(crate) fn covered_len(&self) -> u64 {
        self.table.covered_len()
    }
}
