//! Conversion: layer tars in, layer blobs out, one filesystem over them all.
//!
//! Each layer appends a region to the device: first file data, in the order of the tar and written while it is read,
//! then the metadata of the tree as it is with this layer, of which only sectors are stored that differ from those below.
//! An inode keeps its number for as long as it lives, so a layer that changes little stores little, whatever is
//! below it. `docs/format.md` draws the layout.

mod data;
mod directory;
mod emit;
mod metadata;
mod place;
mod resume;

use std::io::{Read, Seek, Write};

use thiserror::Error;

use crate::block::Workers;
use crate::digest::Digest;
use crate::erofs::{BLOCK_LEN, MAX_SYMLINK_LEN, XattrSet, device_number};
use crate::layer::{LayerOptions, LayerSummary, LayerWriter, Uuid, WriteLayerError};
use crate::layer_tar::{EntryKind, LayerTar, ReadTarError, TarEntry, shown};
pub use crate::tree::EntryError;
use crate::tree::{Attributes, Content, EntryPath, Meaning, Tree};
use data::FileData;
use metadata::MetadataImage;
pub use resume::{EDITION, LowerLayer, ResumeError};

/// Files of at least this many bytes begin and end on the edges of chunks, so that equal files are equal chunks whatever
/// stands around them. It is the length of a chunk: smaller files would only make chunks smaller.
const LARGE_FILE_LEN: u64 = 256 << 10;

/// Bytes of file data that are read at once.
const BUFFER_LEN: usize = 1 << 20;

/// Most blocks of a device: stock readers lose sectors from 2^32 on.
const MAX_BLOCKS: u64 = (1 << 32) * crate::address::SECTOR_LEN / BLOCK_LEN;

/// How an image is converted.
#[derive(Clone, Debug, Default)]
pub struct ConvertOptions {
    /// How each layer is written. `uuid` and `parent` are the converter's to set.
    pub layer: LayerOptions,
}

/// Why a layer was not converted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The tar could not be read.
    #[error("cannot read the layer's tar")]
    ReadTar(#[from] ReadTarError),
    /// An entry cannot be part of a filesystem.
    #[error("entry `{entry}` cannot be converted")]
    Entry {
        /// Its path, unprintable bytes replaced.
        entry: String,
        /// Why.
        #[source]
        source: EntryError,
    },
    /// The root's xattrs do not fit beside the superblock.
    #[error("the root has {len} bytes of extended attributes: at most {limit} are possible")]
    RootXattrs {
        /// Bytes that they take.
        len: usize,
        /// Most bytes.
        limit: usize,
    },
    /// The device would be too large.
    #[error("the files need a device of more than 2 TiB, which stock readers cannot address")]
    TooLarge,
    /// The blob could not be written.
    #[error("cannot write the layer's blob")]
    Write(#[from] WriteLayerError),
    /// An earlier layer was given up half-way.
    #[error("an earlier layer of this image could not be converted")]
    Failed,
}

/// Converts the layers of one image, the bottom one first. Its memory grows with the number of files, never with their
/// size, and its output depends on nothing but its input.
#[derive(Debug)]
pub struct Converter {
    options: ConvertOptions,
    workers: Workers,
    tree: Tree,
    metadata: MetadataImage,
    /// How many blocks the layers so far have taken.
    block_count: u64,
    below: Option<Below>,
    failed: bool,
}

/// What names the layer below.
#[derive(Clone, Copy, Debug)]
struct Below {
    uuid: Uuid,
    chunks: Digest,
}

impl Converter {
    /// A converter that has seen no layer.
    pub fn new(options: ConvertOptions) -> Self {
        Self::with_workers(options, Workers::none())
    }

    /// As [`new`](Self::new), with `workers` compressing. The blobs are the same.
    pub fn with_workers(options: ConvertOptions, workers: Workers) -> Self {
        Self {
            options,
            workers,
            tree: Tree::new(),
            metadata: MetadataImage::default(),
            // Block 0 is the superblock's and the root's.
            block_count: 1,
            below: None,
            failed: false,
        }
    }

    /// Converts the next layer: reads `tar`, which is not compressed, to the very end of the stream, and writes the blob
    /// to `out` from its current position.
    ///
    /// # Errors
    /// If the tar cannot be read or holds something that no layer may hold, or if `out` cannot be written. The converter
    /// is of no use after that: all further calls fail.
    pub fn layer<R: Read, W: Write + Seek>(
        &mut self,
        tar: R,
        out: W,
    ) -> Result<(W, LayerSummary), ConvertError> {
        if std::mem::replace(&mut self.failed, true) {
            return Err(ConvertError::Failed);
        }
        let uuid = self.uuid();
        let options = LayerOptions {
            uuid,
            parent: self.below.map(|below| below.uuid),
            ..self.options.layer.clone()
        };
        let mut out = LayerWriter::with_workers(out, options, self.workers.clone())?;
        self.tree.begin_layer();
        self.apply(LayerTar::new(tar), &mut out)?;
        out.cut()?;
        let plans = place::place(&mut self.tree, &mut self.metadata, &mut self.block_count)?;
        emit::emit(&self.tree, &plans, self.block_count, &mut self.metadata)?;
        self.metadata.write_changes(&mut out)?;
        let (out, summary) = out.finish(self.block_count * BLOCK_LEN)?;
        self.below = Some(Below {
            uuid,
            chunks: summary.chunks.digest,
        });
        self.failed = false;
        Ok((out, summary))
    }

    /// The layer's name. It is written before the layer's content is known, so it follows from what is below: the chain
    /// of names, and the chunk table of the last layer, which pins each of its bytes.
    fn uuid(&self) -> Uuid {
        let mut seed = b"tranship layer".to_vec();
        if let Some(below) = self.below {
            seed.extend(below.uuid.bytes());
            seed.extend(below.chunks.bytes());
        }
        Uuid::from_digest(&Digest::of(&seed))
    }

    fn apply<R: Read, W: Write + Seek>(
        &mut self,
        mut tar: LayerTar<R>,
        out: &mut LayerWriter<W>,
    ) -> Result<(), ConvertError> {
        let mut buffer = vec![0; BUFFER_LEN];
        while let Some(entry) = tar.next_entry()? {
            let refused = |source| ConvertError::Entry {
                entry: shown(&entry.path),
                source,
            };
            let path = EntryPath::parse(&entry.path).map_err(refused)?;
            match path.meaning().map_err(refused)? {
                Meaning::Nothing => {}
                Meaning::Opaque => self.tree.make_opaque(&path).map_err(refused)?,
                Meaning::Whiteout(hidden) => self.tree.white_out(&path, hidden).map_err(refused)?,
                Meaning::Add => {
                    if let EntryKind::HardLink { target } = &entry.kind {
                        self.tree.link(&path, target).map_err(refused)?;
                        continue;
                    }
                    let block = if let EntryKind::File { size } = entry.kind {
                        self.file_data(size, &mut tar, &mut buffer, out)?
                    } else {
                        0
                    };
                    let content = content(&entry, block).map_err(refused)?;
                    let attributes = attributes(&entry).map_err(refused)?;
                    self.tree.put(&path, attributes, content).map_err(refused)?;
                }
            }
        }
        tar.drain()?;
        Ok(())
    }

    /// Copies a file's data to blocks of its own; returns the first.
    fn file_data<R: Read, W: Write + Seek>(
        &mut self,
        size: u64,
        tar: &mut LayerTar<R>,
        buffer: &mut [u8],
        out: &mut LayerWriter<W>,
    ) -> Result<u32, ConvertError> {
        let block = reserve(&mut self.block_count, size.div_ceil(BLOCK_LEN))?;
        let is_large = size >= LARGE_FILE_LEN;
        if is_large {
            out.cut()?;
        }
        FileData::new(u64::from(block) * BLOCK_LEN, buffer, out).copy(tar)?;
        if is_large {
            out.cut()?;
        }
        Ok(block)
    }
}

/// Takes the next `count` blocks of the device; returns the first.
fn reserve(block_count: &mut u64, count: u64) -> Result<u32, ConvertError> {
    let start = *block_count;
    *block_count = start
        .checked_add(count)
        .filter(|end| *end <= MAX_BLOCKS)
        .ok_or(ConvertError::TooLarge)?;
    u32::try_from(start).map_err(|_| ConvertError::TooLarge)
}

fn attributes(entry: &TarEntry) -> Result<Attributes, EntryError> {
    Ok(Attributes {
        permissions: entry.permissions,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        xattrs: XattrSet::new(&entry.xattrs)?,
    })
}

/// What an entry holds; a file's data begins at `block`. Hard links hold nothing of their own and are not given here.
fn content(entry: &TarEntry, block: u32) -> Result<Content, EntryError> {
    let device =
        |major, minor| device_number(major, minor).ok_or(EntryError::DeviceNumber { major, minor });
    Ok(match &entry.kind {
        EntryKind::File { size } => Content::File { size: *size, block },
        EntryKind::Directory => Content::Directory(Box::default()),
        EntryKind::Symlink { target } | EntryKind::HardLink { target } => {
            if target.is_empty() || target.len() > MAX_SYMLINK_LEN {
                return Err(EntryError::SymlinkTarget {
                    len: target.len(),
                    limit: MAX_SYMLINK_LEN,
                });
            }
            Content::Symlink {
                target: target.clone().into_boxed_slice(),
                block: None,
            }
        }
        EntryKind::CharDevice { major, minor } => Content::CharDevice(device(*major, *minor)?),
        EntryKind::BlockDevice { major, minor } => Content::BlockDevice(device(*major, *minor)?),
        EntryKind::Fifo => Content::Fifo,
        EntryKind::Socket => Content::Socket,
    })
}
