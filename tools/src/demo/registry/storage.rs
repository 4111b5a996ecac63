//! Where the embedded registry keeps blobs (files named by digest), uploads under way and manifests (in memory).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use axum::body::{Body, Bytes};
use futures::StreamExt;
use tokio::io::AsyncWriteExt;
use tranship_format::Digest;

/// A manifest as it was pushed.
#[derive(Clone, Debug)]
pub(super) struct StoredManifest {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) bytes: Bytes,
}

/// The registry's content.
#[derive(Debug)]
pub(super) struct Storage {
    blobs: PathBuf,
    uploads: PathBuf,
    next_upload: AtomicU64,
    /// By repository and by tag or digest.
    manifests: Mutex<BTreeMap<(String, String), StoredManifest>>,
}

impl Storage {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let (blobs, uploads) = (dir.join("blobs"), dir.join("uploads"));
        std::fs::create_dir_all(&blobs)?;
        std::fs::create_dir_all(&uploads)?;
        Ok(Self {
            blobs,
            uploads,
            next_upload: AtomicU64::new(0),
            manifests: Mutex::default(),
        })
    }

    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    pub(super) fn manifest(&self, name: &str, reference: &str) -> Option<StoredManifest> {
        let manifests = self
            .manifests
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        manifests
            .get(&(name.to_owned(), reference.to_owned()))
            .cloned()
    }

    /// `None`: the reference is a digest and the bytes have another one.
    pub(super) fn put_manifest(
        &self,
        name: &str,
        reference: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Option<Digest> {
        let digest = Digest::of(&bytes);
        if reference
            .parse::<Digest>()
            .is_ok_and(|named| named != digest)
        {
            return None;
        }
        let stored = StoredManifest {
            media_type: media_type.to_owned(),
            digest,
            bytes,
        };
        let mut manifests = self
            .manifests
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        manifests.insert((name.to_owned(), digest.to_string()), stored.clone());
        manifests.insert((name.to_owned(), reference.to_owned()), stored);
        Some(digest)
    }

    pub(super) fn tags(&self, name: &str) -> Vec<String> {
        let manifests = self
            .manifests
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let of_name = manifests
            .keys()
            .filter(|(repository, _)| repository == name);
        of_name
            .filter(|(_, reference)| !reference.contains(':'))
            .map(|(_, tag)| tag.clone())
            .collect()
    }

    pub(super) fn begin_upload(&self) -> io::Result<String> {
        let id = self.next_upload.fetch_add(1, Ordering::Relaxed).to_string();
        std::fs::File::create_new(self.uploads.join(&id))?;
        Ok(id)
    }

    fn upload_path(&self, id: &str) -> io::Result<PathBuf> {
        // Ids are numbers that we gave out: anything else would be a path of the client's choice.
        let number: u64 = id
            .parse()
            .map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(self.uploads.join(number.to_string()))
    }

    /// Adds a body to an upload; the length so far comes back.
    pub(super) async fn append(&self, id: &str, body: Body) -> io::Result<u64> {
        let mut file = tokio::fs::OpenOptions::new()
            .append(true)
            .open(self.upload_path(id)?)
            .await?;
        let mut stream = body.into_data_stream();
        while let Some(piece) = stream.next().await {
            file.write_all(&piece.map_err(io::Error::other)?).await?;
        }
        file.flush().await?;
        Ok(file.metadata().await?.len())
    }

    /// Makes an upload the blob it claims to be; false if its digest is another.
    pub(super) async fn finish_upload(&self, id: &str, digest: Digest) -> io::Result<bool> {
        let (from, to) = (self.upload_path(id)?, self.blob_path(&digest));
        let checked = tokio::task::spawn_blocking(move || {
            let (found, _) = Digest::from_reader(std::fs::File::open(&from)?)?;
            if found == digest {
                std::fs::rename(&from, &to).map(|()| true)
            } else {
                Ok(false)
            }
        });
        checked.await.map_err(io::Error::other)?
    }
}
