//! Images in OCI's layout on disk: as a directory, or as a tar of such a directory.
//!
//! An archive is read where it lies, by the offsets of its members, so a range of a blob costs a range. It is
//! written by way of a directory beside it, because a tar that depends on nothing but its content
//! needs all members before it can put them in order. Whatever appears under its final name is whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tranship_format::{ByteRange, Digest};

use crate::blob::BlobBody;
use crate::manifest::{Descriptor, ImageIndex, MANIFEST_LEN_MAX, Manifest};
use crate::reference::ManifestSelector;

mod archive;
mod checked;
mod dir;
mod error;
mod images;
mod pack;
mod stored;

pub use checked::CheckedReader;
pub use error::{LayoutError, LayoutFailure};

use archive::Archive;
use dir::Dir;
use stored::StoredBlob;

/// A layout that is open for reading, or for reading and writing. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct OciLayout {
    place: Arc<Place>,
}

#[derive(Debug)]
enum Place {
    Dir(Dir),
    /// For reading only.
    Archive(Archive),
    /// An archive that will be written by `finish`.
    Draft {
        file: PathBuf,
        staged: Dir,
        /// Removes the staged files when the last user is gone.
        _scratch: tempfile::TempDir,
    },
}

impl OciLayout {
    /// Opens a directory that holds a layout.
    pub async fn open_dir(path: &Path) -> Result<Self, LayoutError> {
        Self::make(path, "open", |path| Dir::open(path).map(Place::Dir)).await
    }

    /// Opens an archive for reading.
    pub async fn open_archive(path: &Path) -> Result<Self, LayoutError> {
        Self::make(path, "open", |path| Archive::open(path).map(Place::Archive)).await
    }

    /// Opens a directory for writing; makes it, and an empty layout in it, where they are missing.
    pub async fn create_dir(path: &Path) -> Result<Self, LayoutError> {
        Self::make(path, "create", |path| Dir::create(path).map(Place::Dir)).await
    }

    /// Begins an archive, which appears, or replaces the file that is there, at [`finish`](Self::finish).
    pub async fn create_archive(path: &Path) -> Result<Self, LayoutError> {
        Self::make(path, "create", |path| {
            let scratch = pack::scratch_beside(path)?;
            Ok(Place::Draft {
                file: path.to_owned(),
                staged: Dir::create(scratch.path())?,
                _scratch: scratch,
            })
        })
        .await
    }

    async fn make(
        path: &Path,
        deed: &'static str,
        make: impl FnOnce(&Path) -> Result<Place, LayoutFailure> + Send + 'static,
    ) -> Result<Self, LayoutError> {
        let owned = path.to_owned();
        let opened = blocking(move || make(&owned)).await;
        let place = opened.map_err(|failure| LayoutError::new(path, deed, failure))?;
        Ok(Self {
            place: Arc::new(place),
        })
    }

    /// The directory or the archive file.
    pub fn path(&self) -> &Path {
        match &*self.place {
            Place::Dir(dir) => dir.path(),
            Place::Archive(archive) => archive.path(),
            Place::Draft { file, .. } => file,
        }
    }

    /// The images that `index.json` lists.
    pub async fn images(&self) -> Result<Vec<Descriptor>, LayoutError> {
        let index = self.run("list the images of", Place::index).await?;
        Ok(index.manifests)
    }

    /// The manifest or index that `which` names; without it, the only one that `index.json` lists.
    /// By digest, manifests that are listed inside an index are found too. Verified.
    pub async fn manifest(
        &self,
        which: Option<&ManifestSelector>,
    ) -> Result<Manifest, LayoutError> {
        let which = which.cloned();
        self.run("read a manifest of", move |place| {
            let index = place.index()?;
            let entry = match &which {
                Some(ManifestSelector::Digest(digest)) => images::by_digest(&index, digest),
                Some(ManifestSelector::Tag(name)) => images::by_name(&index, name)?.clone(),
                None => images::only(&index)?.clone(),
            };
            let bytes = place
                .stored(&entry.digest)?
                .read_checked(MANIFEST_LEN_MAX)?;
            let media_type = Some(entry.media_type.as_str()).filter(|kind| !kind.is_empty());
            Ok(Manifest::new(bytes, media_type))
        })
        .await
    }

    /// Reads a whole blob; the reader fails at the end if the digest is wrong.
    pub async fn blob(&self, digest: &Digest) -> Result<CheckedReader, LayoutError> {
        let wanted = *digest;
        let stored = self
            .run("read a blob of", move |place| place.stored(&wanted))
            .await?;
        let opened = stored.reader().await;
        opened.map_err(|source| {
            LayoutError::new(self.path(), "read a blob of", LayoutFailure::Io(source))
        })
    }

    /// Reads a whole blob of at most `limit` bytes into memory, verified.
    pub async fn blob_bytes(&self, digest: &Digest, limit: u64) -> Result<Bytes, LayoutError> {
        let digest = *digest;
        self.run("read a blob of", move |place| {
            place.stored(&digest)?.read_checked(limit)
        })
        .await
    }

    /// Reads exactly `range` of a blob, **not** verified: a digest covers the whole blob only.
    pub async fn blob_range(
        &self,
        digest: &Digest,
        range: ByteRange,
    ) -> Result<Bytes, LayoutError> {
        let digest = *digest;
        self.run("read a part of a blob of", move |place| {
            place.stored(&digest)?.read_range(range)
        })
        .await
    }

    /// Looks for a blob: its length in bytes, or `None` if it is not there.
    pub async fn blob_exists(&self, digest: &Digest) -> Result<Option<u64>, LayoutError> {
        let digest = *digest;
        self.run("look for a blob in", move |place| {
            match place.stored(&digest) {
                Ok(stored) => Ok(Some(stored.len())),
                Err(LayoutFailure::NoSuchBlob(_)) => Ok(None),
                Err(failure) => Err(failure),
            }
        })
        .await
    }

    /// Writes a blob of `len` bytes, unless it is there. Memory is bounded whatever its length.
    pub async fn push_blob(
        &self,
        digest: &Digest,
        len: u64,
        body: BlobBody,
    ) -> Result<(), LayoutError> {
        let deed = "write a blob to";
        if self.blob_exists(digest).await?.is_some() {
            return Ok(());
        }
        let written = match self.place.writable() {
            Ok(dir) => dir.write_blob(digest, len, body).await,
            Err(failure) => Err(failure),
        };
        written.map_err(|failure| LayoutError::new(self.path(), deed, failure))
    }

    /// Writes a manifest that an index will list, or that is to be found by digest only.
    pub async fn push_manifest(&self, manifest: &Manifest) -> Result<(), LayoutError> {
        let body = BlobBody::bytes(manifest.bytes().clone());
        let len = manifest.bytes().len() as u64;
        self.push_blob(&manifest.digest(), len, body).await
    }

    /// Writes a manifest and lists it in `index.json`, under `name` in place of what had that name.
    pub async fn push_image(
        &self,
        manifest: &Manifest,
        name: Option<&str>,
    ) -> Result<(), LayoutError> {
        self.push_manifest(manifest).await?;
        let entry = images::entry(manifest, name);
        self.run("list an image in", move |place| {
            place
                .writable()?
                .change_index(|index| images::put(index, entry))
        })
        .await
    }

    /// Writes a manifest that refers to another and lists it in `index.json`, so that [`referrers`](Self::referrers) finds it.
    pub async fn push_referrer(
        &self,
        manifest: &Manifest,
        name: Option<&str>,
    ) -> Result<(), LayoutError> {
        self.push_manifest(manifest).await?;
        let entry = images::referrer_entry(manifest, name);
        self.run("list a referrer in", move |place| {
            place
                .writable()?
                .change_index(|index| images::put(index, entry))
        })
        .await
    }

    /// What refers to `subject` of all that `index.json` lists.
    pub async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, LayoutError> {
        let subject = *subject;
        self.run("look for referrers in", move |place| {
            let mut found: Vec<Descriptor> = Vec::new();
            for entry in place.index()?.manifests {
                // What is listed and not there, or too long to be a manifest, refers to nothing that can be used.
                let Ok(bytes) = place
                    .stored(&entry.digest)
                    .and_then(|stored| stored.read_checked(MANIFEST_LEN_MAX))
                else {
                    continue;
                };
                let manifest = Manifest::new(bytes, Some(&entry.media_type));
                let listed = found.iter().any(|known| known.digest == entry.digest);
                if manifest.subject() == Some(subject) && !listed {
                    found.push(manifest.referrer_descriptor());
                }
            }
            Ok(found)
        })
        .await
    }

    /// Completes what was written: an archive appears under its name only now.
    pub async fn finish(self) -> Result<(), LayoutError> {
        self.run("write", |place| match place {
            Place::Dir(_) | Place::Archive(_) => Ok(()),
            Place::Draft { file, staged, .. } => pack::pack(staged, file),
        })
        .await
    }

    /// Runs `work`, which waits for the disk, where waiting is allowed.
    async fn run<T: Send + 'static>(
        &self,
        deed: &'static str,
        work: impl FnOnce(&Place) -> Result<T, LayoutFailure> + Send + 'static,
    ) -> Result<T, LayoutError> {
        let place = Arc::clone(&self.place);
        let done = blocking(move || work(&place)).await;
        done.map_err(|failure| LayoutError::new(self.path(), deed, failure))
    }
}

impl Place {
    fn index(&self) -> Result<ImageIndex, LayoutFailure> {
        let bytes = match self {
            Self::Dir(dir) | Self::Draft { staged: dir, .. } => dir.index_bytes()?,
            Self::Archive(archive) => archive.index_bytes()?.to_vec(),
        };
        images::parse(&bytes)
    }

    fn stored(&self, digest: &Digest) -> Result<StoredBlob, LayoutFailure> {
        match self {
            Self::Dir(dir) | Self::Draft { staged: dir, .. } => dir.stored(digest),
            Self::Archive(archive) => archive.stored(digest),
        }
    }

    fn writable(&self) -> Result<&Dir, LayoutFailure> {
        match self {
            Self::Dir(dir) | Self::Draft { staged: dir, .. } => Ok(dir),
            Self::Archive(_) => Err(LayoutFailure::ReadOnly),
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LayoutFailure> + Send + 'static,
) -> Result<T, LayoutFailure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(LayoutFailure::Io(std::io::Error::other(error))),
    }
}

#[cfg(test)]
mod tests;
