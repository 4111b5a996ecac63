//! Compares what a lazy device shows with what a full pull unpacked, path by path: kinds, modes, link targets, bytes.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tranship_format::Digest;
use tranship_format::erofs::{Filesystem, Inode};

use super::nbd_device::NbdDevice;

/// How a lazy image is looked at.
#[derive(Debug)]
pub(crate) enum View {
    /// Mounted by the kernel.
    Mounted(PathBuf),
    /// Read through a socket by our own filesystem reader.
    Device(Box<Filesystem<NbdDevice>>),
}

/// What stands at a path.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Directory { mode: u32, names: BTreeSet<Vec<u8>> },
    File { mode: u32, len: u64, digest: Digest },
    Link { target: Vec<u8> },
    Other { mode: u32 },
}

/// The result of a comparison.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Compared {
    /// Files, directories and links looked at.
    pub(crate) looked_at: u64,
    /// Those that differ.
    pub(crate) wrong: u64,
    /// Bytes of the files.
    pub(crate) bytes: u64,
    /// The first that differ.
    pub(crate) examples: Vec<String>,
}

/// More examples than a person reads.
const MOST_EXAMPLES: usize = 10;
const KIND_AND_PERMISSIONS: u32 = 0o177_777;

impl Compared {
    /// Adds another comparison's counts.
    pub(crate) fn add(&mut self, other: Self) {
        self.looked_at += other.looked_at;
        self.wrong += other.wrong;
        self.bytes += other.bytes;
        self.examples.extend(other.examples);
        self.examples.truncate(MOST_EXAMPLES);
    }

    fn count(&mut self, path: &Path, expected: &Seen, found: io::Result<Seen>) {
        self.looked_at += 1;
        if let Seen::File { len, .. } = expected {
            self.bytes += len;
        }
        let example = match found {
            Ok(found) if found == *expected => return,
            Ok(found) => format!("{}: {found:?} and not {expected:?}", path.display()),
            Err(error) => format!("{}: {error}", path.display()),
        };
        self.wrong += 1;
        if self.examples.len() < MOST_EXAMPLES {
            self.examples.push(example);
        }
    }
}

/// Compares these paths (absolute in the image) only.
///
/// # Errors
/// The unpacked files cannot be read.
pub(crate) fn some(unpacked: &Path, view: &View, paths: &[PathBuf]) -> io::Result<Compared> {
    let mut result = Compared::default();
    for path in paths {
        let inner = path.strip_prefix("/").unwrap_or(path);
        result.count(path, &look(&unpacked.join(inner))?, view.look(inner));
    }
    Ok(result)
}

/// Compares everything.
///
/// # Errors
/// The unpacked files cannot be read.
pub(crate) fn all(unpacked: &Path, view: &View) -> io::Result<Compared> {
    let mut result = Compared::default();
    let mut waiting = vec![PathBuf::new()];
    while let Some(inner) = waiting.pop() {
        let expected = look(&unpacked.join(&inner))?;
        if let Seen::Directory { names, .. } = &expected {
            waiting.extend(
                names
                    .iter()
                    .map(|name| inner.join(std::ffi::OsStr::from_bytes(name))),
            );
        }
        // Who unpacks makes the root itself; its mode is no part of any layer.
        if !inner.as_os_str().is_empty() {
            result.count(&Path::new("/").join(&inner), &expected, view.look(&inner));
        }
    }
    Ok(result)
}

impl View {
    /// Reads a whole file, as a start would.
    ///
    /// # Errors
    /// There is no such file, or its bytes cannot be had.
    pub(crate) fn read(&self, path: &Path) -> io::Result<u64> {
        let inner = path.strip_prefix("/").unwrap_or(path);
        match self.look(inner)? {
            Seen::File { len, .. } => Ok(len),
            _ => Ok(0),
        }
    }

    fn look(&self, inner: &Path) -> io::Result<Seen> {
        match self {
            Self::Mounted(root) => look(&root.join(inner)),
            Self::Device(filesystem) => look_inside(filesystem, inner),
        }
    }
}

fn look(path: &Path) -> io::Result<Seen> {
    let found: Metadata = fs::symlink_metadata(path)?;
    let mode = found.mode() & KIND_AND_PERMISSIONS;
    if found.is_symlink() {
        return Ok(Seen::Link {
            target: fs::read_link(path)?.into_os_string().into_vec(),
        });
    }
    if found.is_dir() {
        let names: io::Result<_> = fs::read_dir(path)?
            .map(|entry| Ok(entry?.file_name().into_vec()))
            .collect();
        return Ok(Seen::Directory {
            mode,
            names: names?,
        });
    }
    if found.is_file() {
        let (digest, len) = Digest::from_reader(File::open(path)?)?;
        return Ok(Seen::File { mode, len, digest });
    }
    Ok(Seen::Other { mode })
}

fn look_inside(filesystem: &Filesystem<NbdDevice>, inner: &Path) -> io::Result<Seen> {
    let inode = filesystem
        .lookup(inner.as_os_str().as_bytes())
        .map_err(io::Error::other)?;
    let mode = u32::from(inode.mode);
    if inode.is_dir() {
        let entries = filesystem.read_dir(&inode).map_err(io::Error::other)?;
        return Ok(Seen::Directory {
            mode,
            names: entries.into_iter().map(|entry| entry.name).collect(),
        });
    }
    match inode.kind {
        tranship_format::erofs::FileKind::Symlink => Ok(Seen::Link {
            target: filesystem.read_link(&inode).map_err(io::Error::other)?,
        }),
        tranship_format::erofs::FileKind::Regular => {
            let (digest, len) = Digest::from_reader(FileReader {
                filesystem,
                inode,
                offset: 0,
            })?;
            Ok(Seen::File { mode, len, digest })
        }
        _ => Ok(Seen::Other { mode }),
    }
}

/// Reads a file of a device from its beginning.
struct FileReader<'f> {
    filesystem: &'f Filesystem<NbdDevice>,
    inode: Inode,
    offset: u64,
}

impl Read for FileReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self
            .filesystem
            .read(&self.inode, self.offset, buf)
            .map_err(io::Error::other)?;
        self.offset += u64::try_from(len).unwrap_or(0);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_trees_have_nothing_wrong_and_each_difference_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        for root in [&one, &other] {
            fs::create_dir_all(root.join("d")).unwrap();
            fs::write(root.join("d/file"), "bytes").unwrap();
            std::os::unix::fs::symlink("file", root.join("d/link")).unwrap();
        }
        let view = View::Mounted(other.clone());
        let same = all(&one, &view).unwrap();
        assert_eq!((same.looked_at, same.wrong, same.bytes), (3, 0, 5));

        fs::write(other.join("d/file"), "bytEs").unwrap();
        assert_eq!(all(&one, &view).unwrap().wrong, 1);
        assert_eq!(
            some(&one, &view, &[PathBuf::from("/d/file")])
                .unwrap()
                .wrong,
            1
        );
        assert_eq!(
            some(&one, &view, &[PathBuf::from("/d/link")])
                .unwrap()
                .wrong,
            0
        );
        fs::write(other.join("d/more"), "").unwrap();
        assert_eq!(
            all(&one, &view).unwrap().wrong,
            2,
            "the directory has a name too many"
        );
    }
}
