//! Where things lie in the store's directory, and the two small files that say what they are.
//!
//! ```text
//! layout                 "tranship store 1\n"; written first, read before anything else is touched
//! lock                   held by the process that has the store open
//! blobs/<hex>/about      length of the blob and its chunk table, under a SHA-256
//! blobs/<hex>/data       sparse; each stored byte at its own offset
//! blobs/<hex>/present    four bytes a chunk: bit 0 present, bit 1 zero, the rest a generation; little-endian
//! ```
//!
//! A directory that holds anything else is somebody's, and is refused before a single byte of it is changed: two programs
//! that share a cache directory destroy each other's files.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tranship_format::{ChunkTable, Digest};

use crate::StoreError;
use crate::file::failed;

/// The layout that this version reads and writes.
pub(crate) const VERSION: u32 = 1;

const LAYOUT: &str = "layout";
const LOCK: &str = "lock";
const BLOBS: &str = "blobs";
/// Begins an `about` file.
const MAGIC: &[u8; 8] = b"trshblob";
/// Longest `about` file that is read: the table of a blob of some terabytes.
const MAX_ABOUT_LEN: u64 = 1 << 30;
/// Names that may stand in the directory before the layout file does.
const HARMLESS: [&str; 4] = [LOCK, "layout.new", "probe", "lost+found"];

/// The store's directory, known to be ours and held against other processes.
#[derive(Debug)]
pub(crate) struct Layout {
    dir: PathBuf,
    /// The lock lasts as long as this file is open, so it ends with the process however that ends.
    _lock: File,
}

impl Layout {
    /// Makes sure that `dir` is a store of this version, or makes one of an empty directory.
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(failed("make", dir))?;
        let layout = dir.join(LAYOUT);
        let wanted = format!("tranship store {VERSION}\n");
        let known = match fs::read(&layout) {
            Ok(found) if found == wanted.as_bytes() => true,
            Ok(found) => {
                let shown = found.get(..found.len().min(64)).unwrap_or_default();
                return Err(StoreError::OtherLayout {
                    path: dir.to_path_buf(),
                    found: String::from_utf8_lossy(shown).trim_end().to_owned(),
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(failed("read", &layout)(error)),
        };
        if !known {
            for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
                let name = entry.map_err(failed("list", dir))?.file_name();
                if !HARMLESS.iter().any(|harmless| name == *harmless) {
                    return Err(StoreError::Foreign {
                        path: dir.to_path_buf(),
                    });
                }
            }
        }
        let lock_path = dir.join(LOCK);
        let lock = File::create(&lock_path).map_err(failed("make", &lock_path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
            let source = io::Error::from(errno);
            if source.kind() == io::ErrorKind::WouldBlock {
                return StoreError::InUse {
                    path: dir.to_path_buf(),
                };
            }
            failed("lock", &lock_path)(source)
        })?;
        if !known {
            replace(&layout, wanted.as_bytes())?;
        }
        let blobs = dir.join(BLOBS);
        fs::create_dir_all(&blobs).map_err(failed("make", &blobs))?;
        Ok(Self {
            dir: dir.to_path_buf(),
            _lock: lock,
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory of one blob.
    pub(crate) fn blob_dir(&self, digest: &Digest) -> PathBuf {
        blob_dir(&self.dir, digest)
    }

    /// The blobs that have a directory. What is not named like one is left alone.
    pub(crate) fn blobs(&self) -> Result<Vec<Digest>, StoreError> {
        let dir = self.dir.join(BLOBS);
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir).map_err(failed("list", &dir))? {
            let name = entry.map_err(failed("list", &dir))?.file_name();
            let digest = name
                .to_str()
                .and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
            if let Some(digest) = digest {
                found.push(digest);
            } else {
                let name = name.display();
                tracing::warn!(%name, dir = %dir.display(), "a name in the store that is no digest is left alone");
            }
        }
        Ok(found)
    }
}

/// The directory of one blob of the store in `store_dir`.
pub(crate) fn blob_dir(store_dir: &Path, digest: &Digest) -> PathBuf {
    store_dir.join(BLOBS).join(digest.hex())
}

/// What a blob's `about` file says.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub(crate) len: u64,
    pub(crate) table: ChunkTable,
}

impl About {
    fn encode(&self) -> Vec<u8> {
        let table = self.table.encode();
        let mut bytes = Vec::with_capacity(table.len().saturating_add(48));
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.len.to_le_bytes());
        bytes.extend_from_slice(&table);
        let check = Digest::of(&bytes);
        bytes.extend_from_slice(check.bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, check) = bytes.split_last_chunk::<32>()?;
        if Digest::of(body).bytes() != check {
            return None;
        }
        let rest = body.strip_prefix(MAGIC)?;
        let (len, table) = rest.split_first_chunk::<8>()?;
        Some(Self {
            len: u64::from_le_bytes(*len),
            table: ChunkTable::decode(table).ok()?,
        })
    }

    /// Writes it into the blob's directory.
    pub(crate) fn save(&self, blob_dir: &Path) -> Result<(), StoreError> {
        fs::create_dir_all(blob_dir).map_err(failed("make", blob_dir))?;
        replace(&blob_dir.join("about"), &self.encode())
    }

    /// Reads it; `None` when it is not there or is damaged, in either case nothing beside it can be verified.
    pub(crate) fn load(blob_dir: &Path) -> Result<Option<Self>, StoreError> {
        let path = blob_dir.join("about");
        let len = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("look at", &path)(error)),
        };
        if len > MAX_ABOUT_LEN {
            return Ok(None);
        }
        let bytes = fs::read(&path).map_err(failed("read", &path))?;
        Ok(Self::decode(&bytes))
    }
}

/// Replaces a small file in one step, so that a crash leaves the old one or the new one.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let new = path.with_extension("new");
    fs::write(&new, bytes).map_err(|source| {
        if source.kind() == io::ErrorKind::StorageFull {
            let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            return StoreError::Full { len };
        }
        failed("write", &new)(source)
    })?;
    fs::rename(&new, path).map_err(failed("name", path))
}
