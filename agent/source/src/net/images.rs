//! The open images and their blobs: where each is stored and read, and by what right peers give it to us.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;
use tranship_format::Digest;
use tranship_format::wire::{BlobInfo, Grant, ImageSource, PeerMessage};
use tranship_store::BlobStore;

use super::OpenImage;
use crate::fetch::BlobOrigin;

/// One open blob.
#[derive(Debug)]
pub(crate) struct OpenBlob {
    pub(crate) store: BlobStore,
    pub(crate) origin: Arc<dyn BlobOrigin>,
    /// What its origin failed with last, for people.
    pub(crate) failure: String,
    /// Manifests of the open images that it is part of.
    images: BTreeSet<Digest>,
}

impl OpenBlob {
    fn info(&self) -> BlobInfo {
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

/// A grant of ours, and the message that shows it.
#[derive(Debug)]
pub(crate) struct OwnGrant {
    pub(crate) grant: Grant,
    /// GRANT, encoded.
    pub(crate) frame: Vec<u8>,
}

impl OwnGrant {
    fn new(grant: Grant) -> Self {
        let mut frame = Vec::new();
        PeerMessage::Grant(Box::new(grant.clone())).encode(&mut frame);
        Self { grant, frame }
    }
}

/// One open image.
#[derive(Debug)]
pub(crate) struct OpenedImage {
    pub(crate) source: ImageSource,
    pub(crate) origin: Arc<dyn BlobOrigin>,
    pub(crate) grant: Option<Arc<OwnGrant>>,
    /// When the grant is to be renewed.
    pub(crate) renew_at: Option<Instant>,
    /// Whether the last OPEN showed a proof of pull.
    pub(crate) showed_proof: bool,
    /// Whether a proof of pull is being got.
    pub(crate) is_proving: bool,
    /// Whether people were told that the tracker does not grant it.
    pub(crate) is_told: bool,
    pub(crate) blobs: Vec<Digest>,
    users: usize,
}

/// All that is open.
#[derive(Debug, Default)]
pub(crate) struct Images {
    blobs: BTreeMap<Digest, OpenBlob>,
    images: BTreeMap<Digest, OpenedImage>,
}

impl Images {
    /// Counts an image in; gives those of its blobs that it was not open with before. Opened again, it may have some whose
    /// chunk tables were not known.
    pub(crate) fn open(&mut self, image: OpenImage) -> Vec<Digest> {
        let known = self.images.get(&image.manifest);
        let known = known.map_or_else(Vec::new, |known| known.blobs.clone());
        let is_new = |store: &BlobStore| !known.contains(&store.digest());
        let stores: Vec<BlobStore> = image.blobs.into_iter().filter(is_new).collect();
        let blobs: Vec<Digest> = stores.iter().map(BlobStore::digest).collect();
        for store in stores {
            let blob = self
                .blobs
                .entry(store.digest())
                .or_insert_with(|| OpenBlob {
                    store,
                    origin: Arc::clone(&image.origin),
                    failure: String::new(),
                    images: BTreeSet::new(),
                });
            blob.images.insert(image.manifest);
        }
        if let Some(known) = self.images.get_mut(&image.manifest) {
            known.users += 1;
            known.blobs.extend(&blobs);
            return blobs;
        }
        let opened = OpenedImage {
            source: ImageSource {
                registry: image.registry,
                repository: image.repository,
                manifest: image.manifest,
            },
            origin: image.origin,
            grant: None,
            renew_at: None,
            showed_proof: false,
            is_proving: false,
            is_told: false,
            blobs: blobs.clone(),
            users: 1,
        };
        self.images.insert(image.manifest, opened);
        blobs
    }

    /// Counts an image out; gives the blobs that no image uses any more, and those that others still do.
    pub(crate) fn close(&mut self, manifest: &Digest) -> (Vec<Digest>, Vec<Digest>) {
        let Some(image) = self.images.get_mut(manifest) else {
            return (Vec::new(), Vec::new());
        };
        image.users = image.users.saturating_sub(1);
        if image.users > 0 {
            return (Vec::new(), Vec::new());
        }
        let blobs = self.images.remove(manifest).map(|image| image.blobs);
        let (mut unused, mut left) = (Vec::new(), Vec::new());
        for digest in blobs.unwrap_or_default() {
            if let Some(blob) = self.blobs.get_mut(&digest) {
                blob.images.remove(manifest);
                if blob.images.is_empty() {
                    self.blobs.remove(&digest);
                    unused.push(digest);
                } else {
                    left.push(digest);
                }
            }
        }
        (unused, left)
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

    pub(crate) fn image(&self, manifest: &Digest) -> Option<&OpenedImage> {
        self.images.get(manifest)
    }

    pub(crate) fn image_mut(&mut self, manifest: &Digest) -> Option<&mut OpenedImage> {
        self.images.get_mut(manifest)
    }

    /// What the tracker is told of an image's blobs.
    pub(crate) fn infos(&self, image: &OpenedImage) -> Vec<BlobInfo> {
        let blobs = image.blobs.iter().filter_map(|blob| self.blobs.get(blob));
        blobs.map(OpenBlob::info).collect()
    }

    /// Manifests of the images that use any of these blobs.
    pub(crate) fn of_blobs(&self, blobs: &[Digest]) -> BTreeSet<Digest> {
        let blobs = blobs.iter().filter_map(|blob| self.blobs.get(blob));
        blobs.flat_map(|blob| blob.images.iter().copied()).collect()
    }

    /// The registries that a blob is open by.
    pub(crate) fn registries(&self, blob: &OpenBlob) -> Vec<Arc<str>> {
        let images = blob
            .images
            .iter()
            .filter_map(|image| self.images.get(image));
        let registries: BTreeSet<&str> =
            images.map(|image| image.source.registry.as_str()).collect();
        registries.into_iter().map(Arc::from).collect()
    }

    /// Keeps a grant for an open image.
    pub(crate) fn keep(&mut self, grant: Grant, renew_at: Instant) {
        let Some(image) = self.images.get_mut(&grant.manifest) else {
            return;
        };
        image.renew_at = Some(renew_at);
        image.is_told = false;
        let is_known = |known: &Arc<OwnGrant>| known.grant == grant;
        if !image.grant.as_ref().is_some_and(is_known) {
            image.grant = Some(Arc::new(OwnGrant::new(grant)));
        }
    }

    /// What to show to a peer that is asked for a blob: of each registry the grant that lasts longest.
    pub(crate) fn grants(&self, blob: &Digest) -> Vec<Arc<OwnGrant>> {
        let images = self.blobs.get(blob).map(|known| &known.images);
        let grants = images
            .into_iter()
            .flatten()
            .filter_map(|image| self.images.get(image)?.grant.as_ref())
            .filter(|own| own.grant.blobs.contains(blob));
        let mut best: BTreeMap<&str, &Arc<OwnGrant>> = BTreeMap::new();
        for own in grants {
            let known = best.entry(own.grant.registry.as_str()).or_insert(own);
            if known.grant.expires_at < own.grant.expires_at {
                *known = own;
            }
        }
        best.into_values().map(Arc::clone).collect()
    }

    /// When the next grant is to be renewed.
    pub(crate) fn renew_at(&self) -> Option<Instant> {
        self.images
            .values()
            .filter_map(|image| image.renew_at)
            .min()
    }

    /// Images whose grants are to be renewed by now.
    pub(crate) fn due(&self, now: Instant) -> Vec<Digest> {
        let due = |image: &&OpenedImage| image.renew_at.is_some_and(|at| at <= now);
        let images = self.images.values().filter(due);
        images.map(|image| image.source.manifest).collect()
    }
}
