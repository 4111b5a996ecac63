//! The open images' blobs: where each is stored, where it is read, whose it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use tranship_format::Digest;
use tranship_format::wire::{BlobInfo, ImageSource};
use tranship_store::BlobStore;

use super::OpenImage;
use crate::fetch::BlobOrigin;

/// One open blob.
#[derive(Debug)]
pub(crate) struct OpenBlob {
    pub(crate) store: BlobStore,
    pub(crate) origin: Arc<dyn BlobOrigin>,
    pub(crate) image: ImageSource,
    /// What its origin failed with last, for people.
    pub(crate) failure: String,
    /// Open images that it is part of.
    users: usize,
}

impl OpenBlob {
    pub(crate) fn info(&self) -> BlobInfo {
        BlobInfo {
            digest: self.store.digest(),
            len: self.store.len(),
            chunk_count: self.store.table().count(),
        }
    }

    /// Stored bytes of each chunk, in order.
    pub(crate) fn chunk_lens(&self) -> Arc<[u32]> {
        let table = self.store.table();
        let len = |index| u32::try_from(table.range(index).len()).unwrap_or(u32::MAX);
        table.all().map(len).collect()
    }
}

/// All that is open.
#[derive(Debug, Default)]
pub(crate) struct Images {
    blobs: BTreeMap<Digest, OpenBlob>,
    images: BTreeMap<Digest, (Vec<Digest>, usize)>,
}

impl Images {
    /// Counts an image in; gives the blobs that were not open before.
    pub(crate) fn open(&mut self, image: OpenImage) -> Vec<Digest> {
        let mut fresh = Vec::new();
        let digests = image.blobs.iter().map(BlobStore::digest).collect();
        let (_, count) = self
            .images
            .entry(image.manifest)
            .or_insert_with(|| (digests, 0));
        *count += 1;
        if *count > 1 {
            return fresh;
        }
        for store in image.blobs {
            let digest = store.digest();
            let blob = self.blobs.entry(digest).or_insert_with(|| {
                fresh.push(digest);
                OpenBlob {
                    store,
                    origin: Arc::clone(&image.origin),
                    image: ImageSource {
                        registry: image.registry.clone(),
                        repository: image.repository.clone(),
                        manifest: image.manifest,
                    },
                    failure: String::new(),
                    users: 0,
                }
            });
            blob.users += 1;
        }
        fresh
    }

    /// Counts an image out; gives the blobs that no image uses any more.
    pub(crate) fn close(&mut self, manifest: &Digest) -> Vec<Digest> {
        let Some((_, count)) = self.images.get_mut(manifest) else {
            return Vec::new();
        };
        *count = count.saturating_sub(1);
        if *count > 0 {
            return Vec::new();
        }
        let Some((digests, _)) = self.images.remove(manifest) else {
            return Vec::new();
        };
        let mut unused = Vec::new();
        for digest in digests {
            if let Some(blob) = self.blobs.get_mut(&digest) {
                blob.users = blob.users.saturating_sub(1);
                if blob.users == 0 {
                    self.blobs.remove(&digest);
                    unused.push(digest);
                }
            }
        }
        unused
    }

    pub(crate) fn blob(&self, digest: &Digest) -> Option<&OpenBlob> {
        self.blobs.get(digest)
    }

    pub(crate) fn blob_mut(&mut self, digest: &Digest) -> Option<&mut OpenBlob> {
        self.blobs.get_mut(digest)
    }

    pub(crate) fn count(&self) -> usize {
        self.blobs.len()
    }
}
