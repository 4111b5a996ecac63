//! Images: tars converted to blobs, and what stands in the filesystem of their merged device.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::process::Command;
use std::sync::Arc;

use tranship_format::convert::{ConvertOptions, Converter, LowerLayer};
use tranship_format::erofs::{FileKind, Filesystem};
use tranship_format::{Disk, LayerSummary, ReadAt};

/// Everything that can be seen of a file.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) nlink: u32,
    pub(crate) rdev: u32,
    /// Of a file or symlink.
    pub(crate) content: Vec<u8>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first of its names.
    pub(crate) first_name: Vec<u8>,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:o} {}:{} {:?} nlink {} rdev {:x} first {} xattrs {:?} {} bytes, digest {}",
            self.mode,
            self.uid,
            self.gid,
            self.mtime,
            self.nlink,
            self.rdev,
            self.first_name.escape_ascii(),
            self.xattrs,
            self.content.len(),
            tranship_format::Digest::of(&self.content),
        )
    }
}

/// Paths to what is there.
pub(crate) type Listing = BTreeMap<Vec<u8>, Seen>;

/// An image: its blobs from the bottom up.
#[derive(Default)]
pub(crate) struct Image {
    pub(crate) blobs: Vec<Vec<u8>>,
    pub(crate) summaries: Vec<LayerSummary>,
}

impl Image {
    pub(crate) fn convert(tars: &[Vec<u8>]) -> Self {
        let mut converter = Converter::new(ConvertOptions::default());
        let mut image = Self::default();
        for tar in tars {
            image.push(&mut converter, tar);
        }
        image
    }

    pub(crate) fn push(&mut self, converter: &mut Converter, tar: &[u8]) {
        let (blob, summary) = converter.layer(tar, Cursor::new(Vec::new())).unwrap();
        self.blobs.push(blob.into_inner());
        self.summaries.push(summary);
    }

    /// The lowest `count` layers, as a converter goes on above them.
    pub(crate) fn lower(&self, count: usize) -> Vec<LowerLayer> {
        let layers = self.blobs[..count].iter().zip(&self.summaries);
        let lower = layers.map(|(blob, summary)| LowerLayer {
            blob: Arc::new(blob.clone()),
            chunks: summary.chunks.digest,
        });
        lower.collect()
    }

    /// Converts the tars above the lowest `count` layers by a converter that has seen only these layers' blobs.
    pub(crate) fn resumed(&self, count: usize, tars: &[Vec<u8>]) -> Self {
        let converter = Converter::new(ConvertOptions::default());
        let mut converter = converter.resume(&self.lower(count)).unwrap();
        let mut image = Self {
            blobs: self.blobs[..count].to_vec(),
            summaries: self.summaries[..count].to_vec(),
        };
        for tar in tars {
            image.push(&mut converter, tar);
        }
        image
    }

    /// The merged device of the lowest `count` layers.
    pub(crate) fn disk(&self, count: usize) -> Disk {
        let blobs = self.blobs[..count].iter();
        let blobs = blobs.map(|blob| Arc::new(blob.clone()) as Arc<dyn ReadAt>);
        Disk::open(blobs.collect(), 1 << 20).unwrap()
    }

    /// The bytes of that device.
    pub(crate) fn device(&self, count: usize) -> Vec<u8> {
        let disk = self.disk(count);
        let mut bytes = vec![0; usize::try_from(disk.len()).unwrap()];
        disk.read_at(0, &mut bytes).unwrap();
        bytes
    }

    /// What stands in the filesystem of that device.
    pub(crate) fn listing(&self, count: usize) -> Listing {
        listing(&Filesystem::open(self.disk(count)).unwrap())
    }
}

/// Everything in a filesystem.
pub(crate) fn listing<R: ReadAt>(filesystem: &Filesystem<R>) -> Listing {
    let mut out = Listing::new();
    let mut first_names = BTreeMap::<_, Vec<u8>>::new();
    let mut nids = BTreeMap::new();
    for step in filesystem.walk() {
        let step = step.unwrap();
        let inode = step.inode;
        let content = match inode.kind {
            FileKind::Regular => {
                let mut content = vec![0xee; usize::try_from(inode.size).unwrap() + 1];
                let len = filesystem.read(&inode, 0, &mut content).unwrap();
                content.truncate(len);
                content
            }
            FileKind::Symlink => filesystem.read_link(&inode).unwrap(),
            _ => Vec::new(),
        };
        let xattrs = filesystem.xattrs(&inode).unwrap().into_iter();
        assert_eq!(filesystem.lookup(&step.path).unwrap(), inode);
        let first_name = first_names
            .entry(inode.nid)
            .or_insert_with(|| step.path.clone());
        if step.path < *first_name {
            first_name.clone_from(&step.path);
        }
        nids.insert(step.path.clone(), inode.nid);
        let seen = Seen {
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            mtime: (inode.mtime, inode.mtime_nsec),
            nlink: inode.nlink,
            rdev: inode.rdev,
            content,
            xattrs: xattrs.map(|xattr| (xattr.name, xattr.value)).collect(),
            first_name: Vec::new(),
        };
        assert!(out.insert(step.path, seen).is_none(), "a path came twice");
    }
    for (path, seen) in &mut out {
        seen.first_name.clone_from(&first_names[&nids[path]]);
    }
    out
}

/// Has erofs-utils check a device, if it is installed; says so if not.
pub(crate) fn fsck(device: &[u8]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), device).unwrap();
    match Command::new("fsck.erofs").arg(file.path()).output() {
        Err(error) => eprintln!("fsck.erofs is not here ({error}): not checked by it"),
        Ok(output) => assert!(
            output.status.success(),
            "fsck.erofs: {} {}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}
