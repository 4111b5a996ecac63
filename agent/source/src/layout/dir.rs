//! The layout as a directory.
//!
//! Blobs are written under a name of their own and renamed when they are known to be right. `index.json` is replaced
//! as a whole, under a lock on the `oci-layout` file, so two processes that push lose neither image.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use rustix::fs::{AtFlags, CWD, linkat};
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tranship_format::{ByteRange, Digest, DigestWriter};

use super::stored::{StoredBlob, check};
use super::{LayoutFailure, blocking, images};
use crate::blob::BlobBody;
use crate::manifest::{ImageIndex, MANIFEST_LEN_MAX};

/// The file that marks a layout, and what we write into it.
pub(super) const MARK: &str = "oci-layout";
const MARK_CONTENT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// The longest such file that is read, in bytes.
const MARK_LEN_MAX: u64 = 4 << 10;

/// The list of images.
pub(super) const INDEX: &str = "index.json";

/// Where blobs lie, each named by the hexadecimal digits of its digest.
pub(super) const BLOBS: &str = "blobs/sha256";

/// Bytes copied at a time: large enough for few calls.
const PIECE_LEN: usize = 256 << 10;

/// How files of a layout are made: everybody may read an image.
const FILE_MODE: u32 = 0o644;

#[derive(Debug)]
pub(super) struct Dir {
    path: PathBuf,
}

impl Dir {
    pub(super) fn open(path: &Path) -> Result<Self, LayoutFailure> {
        let mark = read_bounded(&path.join(MARK), MARK_LEN_MAX);
        match mark {
            Ok(mark) if is_version_1(&mark) => Ok(Self {
                path: path.to_owned(),
            }),
            Ok(_) => Err(LayoutFailure::NotALayout),
            Err(LayoutFailure::Io(error)) if error.kind() == ErrorKind::NotFound => {
                // Whether the directory itself is missing matters to whoever mistyped it.
                fs::metadata(path).map_err(LayoutFailure::Io)?;
                Err(LayoutFailure::NotALayout)
            }
            Err(failure) => Err(failure),
        }
    }

    pub(super) fn create(path: &Path) -> Result<Self, LayoutFailure> {
        match fs::exists(path.join(MARK)) {
            Ok(true) => return Self::open(path),
            Ok(false) => {}
            Err(error) => return Err(LayoutFailure::Io(error)),
        }
        fs::create_dir_all(path).map_err(LayoutFailure::Io)?;
        let mut entries = fs::read_dir(path).map_err(LayoutFailure::Io)?;
        if entries.next().is_some() {
            return Err(LayoutFailure::NotEmpty);
        }
        let dir = Self {
            path: path.to_owned(),
        };
        fs::create_dir_all(path.join(BLOBS)).map_err(LayoutFailure::Io)?;
        dir.write_index(&ImageIndex::new(Vec::new()))?;
        // Last, so that a layout which has its mark has everything.
        dir.replace(MARK, MARK_CONTENT.as_bytes())?;
        Ok(dir)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn index_bytes(&self) -> Result<Vec<u8>, LayoutFailure> {
        read_bounded(&self.path.join(INDEX), MANIFEST_LEN_MAX)
    }

    pub(super) fn stored(&self, digest: &Digest) -> Result<StoredBlob, LayoutFailure> {
        let file = File::open(self.blob_path(digest)).map_err(|error| match error.kind() {
            ErrorKind::NotFound => LayoutFailure::NoSuchBlob(*digest),
            _ => LayoutFailure::Io(error),
        })?;
        let len = file.metadata().map_err(LayoutFailure::Io)?.len();
        Ok(StoredBlob::new(file, ByteRange::new(0, len), *digest))
    }

    pub(super) async fn write_blob(
        &self,
        digest: &Digest,
        len: u64,
        mut body: BlobBody,
    ) -> Result<(), LayoutFailure> {
        let folder = self.path.join(BLOBS);
        fs::create_dir_all(&folder).map_err(LayoutFailure::Io)?;
        let scratch = scratch_file(&folder)?;
        if let Some(source) = body.hashed().map(Path::to_owned) {
            let to = self.blob_path(digest);
            return blocking(move || take_over(&source, len, scratch, &to)).await;
        }
        let mut reader = body.open().await.map_err(LayoutFailure::ReadSource)?;
        let file = scratch.reopen().map_err(LayoutFailure::Io)?;
        let mut file = tokio::fs::File::from_std(file);
        let mut hasher = DigestWriter::new(io::sink());
        let mut left = len;
        let mut piece = BytesMut::with_capacity(PIECE_LEN);
        loop {
            piece.clear();
            // One byte more than is left would show that there is too much.
            let room = left.saturating_add(1).min(PIECE_LEN as u64);
            let got = (&mut reader)
                .take(room)
                .read_buf(&mut piece)
                .await
                .map_err(LayoutFailure::ReadSource)?;
            if got == 0 {
                break;
            }
            let Some(rest) = left.checked_sub(got as u64) else {
                return Err(LayoutFailure::TooLong { limit: len });
            };
            left = rest;
            hasher.write_all(&piece).map_err(LayoutFailure::Io)?;
            file.write_all(&piece).await.map_err(LayoutFailure::Io)?;
        }
        check(hasher, *digest, len)?;
        file.flush().await.map_err(LayoutFailure::Io)?;
        file.sync_all().await.map_err(LayoutFailure::Io)?;
        keep(scratch, &self.blob_path(digest))
    }

    /// Reads the list of images, changes it and writes it back, with nobody in between.
    pub(super) fn change_index(
        &self,
        change: impl FnOnce(&mut ImageIndex),
    ) -> Result<(), LayoutFailure> {
        let lock = File::open(self.path.join(MARK)).map_err(LayoutFailure::Io)?;
        lock.lock().map_err(LayoutFailure::Io)?;
        let mut index = images::parse(&self.index_bytes()?)?;
        change(&mut index);
        self.write_index(&index)
    }

    fn write_index(&self, index: &ImageIndex) -> Result<(), LayoutFailure> {
        let bytes = serde_json::to_vec(index).map_err(LayoutFailure::Index)?;
        self.replace(INDEX, &bytes)
    }

    fn replace(&self, name: &str, content: &[u8]) -> Result<(), LayoutFailure> {
        let mut scratch = scratch_file(&self.path)?;
        scratch.write_all(content).map_err(LayoutFailure::Io)?;
        scratch.as_file().sync_all().map_err(LayoutFailure::Io)?;
        keep(scratch, &self.path.join(name))
    }

    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path.join(BLOBS).join(digest.hex())
    }
}

/// A file in `folder` that vanishes unless it is kept.
pub(super) fn scratch_file(folder: &Path) -> Result<NamedTempFile, LayoutFailure> {
    tempfile::Builder::new()
        .prefix(".tranship-")
        .permissions(Permissions::from_mode(FILE_MODE))
        .tempfile_in(folder)
        .map_err(LayoutFailure::Io)
}

/// Takes over a file whose digest is known: under a name here, if it is on the same filesystem, else as a copy.
fn take_over(
    source: &Path,
    len: u64,
    mut scratch: NamedTempFile,
    to: &Path,
) -> Result<(), LayoutFailure> {
    let mut file = File::open(source).map_err(LayoutFailure::ReadSource)?;
    let metadata = file.metadata().map_err(LayoutFailure::ReadSource)?;
    if metadata.len() != len {
        let got = metadata.len();
        return Err(LayoutFailure::WrongLength { wanted: len, got });
    }
    let here = scratch.as_file().metadata().map_err(LayoutFailure::Io)?;
    if metadata.dev() == here.dev() {
        file.set_permissions(Permissions::from_mode(FILE_MODE))
            .and_then(|()| file.sync_all())
            .map_err(LayoutFailure::Io)?;
        // What is known by its descriptor alone gets a name by following the link of that descriptor.
        if linkat(CWD, source, CWD, to, AtFlags::SYMLINK_FOLLOW).is_ok() {
            return Ok(());
        }
    }
    let got = io::copy(&mut file, scratch.as_file_mut()).map_err(LayoutFailure::Io)?;
    if got != len {
        return Err(LayoutFailure::WrongLength { wanted: len, got });
    }
    scratch.as_file().sync_all().map_err(LayoutFailure::Io)?;
    keep(scratch, to)
}

/// Gives a finished file its name.
pub(super) fn keep(scratch: NamedTempFile, path: &Path) -> Result<(), LayoutFailure> {
    match scratch.persist(path) {
        Ok(_) => Ok(()),
        Err(error) => Err(LayoutFailure::Io(error.error)),
    }
}

pub(super) fn is_version_1(mark: &[u8]) -> bool {
    let version = serde_json::from_slice::<serde_json::Value>(mark)
        .ok()
        .and_then(|mark| Some(mark.get("imageLayoutVersion")?.as_str()?.to_owned()));
    version.is_some_and(|version| version.starts_with("1."))
}

fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, LayoutFailure> {
    let file = File::open(path).map_err(LayoutFailure::Io)?;
    let mut bytes = Vec::new();
    let mut bounded = file.take(limit.saturating_add(1));
    bounded.read_to_end(&mut bytes).map_err(LayoutFailure::Io)?;
    if bytes.len() as u64 > limit {
        return Err(LayoutFailure::TooLong { limit });
    }
    Ok(bytes)
}
