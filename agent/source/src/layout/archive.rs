//! The layout as a tar, read where it lies.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tranship_format::{ByteRange, Digest};

use super::LayoutFailure;
use super::dir::{BLOBS, INDEX, MARK, is_version_1};
use super::stored::StoredBlob;
use crate::manifest::MANIFEST_LEN_MAX;

/// How compressed files begin: gzip, zstd, bzip2, xz.
const COMPRESSED: [&[u8]; 4] = [
    &[0x1f, 0x8b],
    &[0x28, 0xb5, 0x2f, 0xfd],
    b"BZh",
    &[0xfd, b'7', b'z', b'X', b'Z'],
];

/// An archive, and where its members' bytes lie.
#[derive(Debug)]
pub(super) struct Archive {
    path: PathBuf,
    file: File,
    blobs: BTreeMap<Digest, ByteRange>,
    index: ByteRange,
}

impl Archive {
    pub(super) fn open(path: &Path) -> Result<Self, LayoutFailure> {
        let file = File::open(path).map_err(LayoutFailure::Io)?;
        refuse_compressed(&file)?;
        let mut blobs = BTreeMap::new();
        let mut index = None;
        let mut mark = None;
        let mut tar = tar::Archive::new(&file);
        for entry in tar.entries_with_seek().map_err(LayoutFailure::Tar)? {
            let entry = entry.map_err(LayoutFailure::Tar)?;
            if entry.header().entry_type() != tar::EntryType::Regular {
                continue;
            }
            let start = entry.raw_file_position();
            let range = ByteRange::at(start, entry.size()).ok_or(LayoutFailure::NotALayout)?;
            let name = entry.path_bytes();
            let name = name.strip_prefix(b"./").unwrap_or(&name);
            match std::str::from_utf8(name) {
                Ok(INDEX) => index = Some(range),
                Ok(MARK) => mark = Some(range),
                Ok(name) => {
                    if let Some(digest) = blob_digest(name) {
                        blobs.insert(digest, range);
                    }
                }
                Err(_) => {}
            }
        }
        let (Some(index), Some(mark)) = (index, mark) else {
            return Err(LayoutFailure::NotALayout);
        };
        if !is_version_1(&read_part(&file, mark)?) {
            return Err(LayoutFailure::NotALayout);
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            blobs,
            index,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn index_bytes(&self) -> Result<Bytes, LayoutFailure> {
        read_part(&self.file, self.index)
    }

    pub(super) fn stored(&self, digest: &Digest) -> Result<StoredBlob, LayoutFailure> {
        let range = self.blobs.get(digest);
        let range = *range.ok_or(LayoutFailure::NoSuchBlob(*digest))?;
        // Opened again, because a reader moves the position that clones of a file share.
        let file = File::open(&self.path).map_err(LayoutFailure::Io)?;
        Ok(StoredBlob::new(file, range, *digest))
    }
}

fn blob_digest(name: &str) -> Option<Digest> {
    let hex = name.strip_prefix(BLOBS)?.strip_prefix('/')?;
    format!("sha256:{hex}").parse().ok()
}

fn refuse_compressed(mut file: &File) -> Result<(), LayoutFailure> {
    let mut head = Vec::new();
    file.take(8)
        .read_to_end(&mut head)
        .map_err(LayoutFailure::Io)?;
    std::io::Seek::rewind(&mut file).map_err(LayoutFailure::Io)?;
    if COMPRESSED.iter().any(|magic| head.starts_with(magic)) {
        return Err(LayoutFailure::Compressed);
    }
    Ok(())
}

/// A small document of the archive. Its length comes from the tar, so it is checked before memory is taken.
fn read_part(file: &File, range: ByteRange) -> Result<Bytes, LayoutFailure> {
    let limit = MANIFEST_LEN_MAX;
    if range.len() > limit {
        return Err(LayoutFailure::TooLong { limit });
    }
    let len = usize::try_from(range.len()).map_err(|_| LayoutFailure::TooLong { limit })?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, range.start)
        .map_err(LayoutFailure::Io)?;
    Ok(bytes.into())
}
