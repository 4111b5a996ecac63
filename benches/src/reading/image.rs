//! The image that is read: three layers of real bytes, each in a file.
//!
//! The bottom layer holds a tree's files one behind the other; the middle one changes runs of 64 KiB here and there, the
//! top one single pages, so that reads cross layers as they do in images that were built in steps.

use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tranship_format::{
    ChunkTableRef, Codec, Disk, LayerOptions, LayerWriter, ReadAt, SECTOR_LEN, Sector,
};

/// Layers of the image.
pub(super) const LAYER_COUNT: usize = 3;
/// Bytes of the device, unless the tree has fewer.
const MAX_LEN: usize = 96 << 20;
/// Fewer measure the processor's caches.
const MIN_LEN: usize = 8 << 20;
/// What the upper layers change: every so often, so much.
const MIDDLE: (usize, usize) = (512 << 10, 64 << 10);
const TOP: (usize, usize) = (1 << 20, 4 << 10);

/// The content of the files under `root`, in the order of their names, one behind the other.
pub(super) fn bytes_of(root: &Path) -> Result<Vec<u8>> {
    let (mut bytes, mut waiting) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = waiting.pop()
        && bytes.len() < MAX_LEN
    {
        let entries = dir
            .read_dir()
            .with_context(|| format!("reading {}", dir.display()))?;
        let mut entries = entries
            .collect::<io::Result<Vec<_>>>()
            .with_context(|| format!("reading {}", dir.display()))?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let (path, kind) = (entry.path(), entry.file_type().context("a file's type")?);
            if kind.is_dir() {
                waiting.push(path);
            } else if kind.is_file() {
                let rest = MAX_LEN.saturating_sub(bytes.len()) as u64;
                // A file that is not for this user is left out.
                if let Ok(file) = File::open(&path) {
                    let read = file.take(rest).read_to_end(&mut bytes);
                    read.with_context(|| format!("reading {}", path.display()))?;
                }
            }
        }
    }
    bytes.truncate(bytes.len() / TOP.0 * TOP.0);
    ensure!(
        bytes.len() >= MIN_LEN,
        "{} holds {} bytes of files, and {MIN_LEN} are the least to measure with",
        root.display(),
        bytes.len()
    );
    Ok(bytes)
}

/// The layers' files.
#[derive(Debug)]
pub(super) struct Image {
    layers: [PathBuf; LAYER_COUNT],
    chunks: [ChunkTableRef; LAYER_COUNT],
    codec: Codec,
    len: u64,
}

impl Image {
    /// Writes the layers of a device with `plain` on it to `dir`.
    pub(super) fn make(plain: &[u8], codec: Codec, block_len: u32, dir: &Path) -> Result<Self> {
        let name = |layer| dir.join(format!("{codec:?}-{block_len}-{layer}"));
        let layers = [name(0), name(1), name(2)];
        let len = plain.len() as u64;
        let options = LayerOptions {
            block_len,
            codec,
            ..LayerOptions::default()
        };
        // Bytes from elsewhere on the device, so that a change is as real as what it replaces.
        let changed = |every: usize, len: usize| {
            let from = plain.chunks(every).rev();
            let pieces = from
                .enumerate()
                .map(move |(at, from)| (at * every + every / 2, from.get(..len)));
            pieces.filter_map(|(at, from)| Some((at as u64, from?)))
        };
        let [bottom, middle, top] = &layers;
        let chunks = [
            write(bottom, &options, core::iter::once((0, plain)), len)?,
            write(middle, &options, changed(MIDDLE.0, MIDDLE.1), 0)?,
            write(top, &options, changed(TOP.0, TOP.1), 0)?,
        ];
        Ok(Self {
            layers,
            chunks,
            codec,
            len,
        })
    }

    /// Bytes of the device.
    pub(super) fn device_len(&self) -> u64 {
        self.len
    }

    /// How its blocks are compressed.
    pub(super) fn codec(&self) -> Codec {
        self.codec
    }

    /// The layers' files and where their chunk tables are, the bottom one first.
    pub(super) fn layers(&self) -> impl Iterator<Item = (&PathBuf, ChunkTableRef)> {
        self.layers.iter().zip(self.chunks)
    }

    /// The layers' files, opened.
    pub(super) fn blobs(&self) -> Result<Vec<Arc<dyn ReadAt>>> {
        let open = |path: &PathBuf| {
            let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
            let len = file.metadata().context("a blob's length")?.len();
            Ok(Arc::new(Blob { file, len }) as Arc<dyn ReadAt>)
        };
        self.layers.iter().map(open).collect()
    }

    /// The image, opened.
    pub(super) fn open(&self, kept_len: u64) -> Result<Disk> {
        Disk::open(self.blobs()?, kept_len).context("opening the image")
    }
}

fn write<'a>(
    path: &Path,
    options: &LayerOptions,
    pieces: impl Iterator<Item = (u64, &'a [u8])>,
    virtual_size: u64,
) -> Result<ChunkTableRef> {
    let file = File::create(path).with_context(|| format!("making {}", path.display()))?;
    let mut writer = LayerWriter::new(file, options.clone()).context("beginning a layer")?;
    for (at, bytes) in pieces {
        writer
            .write(Sector(at / SECTOR_LEN), bytes)
            .context("writing a layer")?;
    }
    let (_, summary) = writer.finish(virtual_size).context("finishing a layer")?;
    Ok(summary.chunks)
}

struct Blob {
    file: File,
    len: u64,
}

impl ReadAt for Blob {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}
