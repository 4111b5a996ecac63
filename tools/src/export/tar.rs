//! The merged filesystem as one tar in PAX form: extended attributes, times to the nanosecond, long names, hard links
//! and devices are all kept, and the order is the tree's, so that equal images give equal tars.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use tranship_format::erofs::{
    ErofsError, FileKind, Inode, Nid, WalkEntry, device_major, device_minor,
};

use crate::image::ImageFilesystem;
use crate::progress::Task;

/// The name field of a tar header.
const NAME_LEN: usize = 100;
/// The largest number in eight octal digits' field, less its end.
const OCTAL_8_LIMIT: u64 = 0o7_777_777;
/// The largest number in twelve octal digits' field, less its end.
const OCTAL_12_LIMIT: u64 = 0o77_777_777_777;
const BUFFER_LEN: usize = 1 << 20;

/// Why a tar was not written.
#[derive(Debug)]
pub(super) enum TarError {
    /// The image could not be read.
    Read(ErofsError),
    /// The output could not be written.
    Write(io::Error),
}

/// Writes the tar; the paths of what a tar cannot hold come back.
pub(super) fn write(
    filesystem: &ImageFilesystem,
    out: impl Write,
    task: &Task,
) -> Result<Vec<String>, TarError> {
    let mut tar = tar::Builder::new(out);
    let mut links: BTreeMap<Nid, Vec<u8>> = BTreeMap::new();
    let mut skipped = Vec::new();
    for entry in filesystem.walk() {
        let WalkEntry { path, inode } = entry.map_err(TarError::Read)?;
        if inode.kind == FileKind::Socket {
            skipped.push(String::from_utf8_lossy(&path).into_owned());
            continue;
        }
        let mut record = Record::new(&path, &inode);
        if inode.nlink > 1 && !inode.is_dir() {
            if let Some(first) = links.get(&inode.nid) {
                record.link(first);
                record
                    .append(&mut tar, io::empty())
                    .map_err(TarError::Write)?;
                continue;
            }
            links.insert(inode.nid, path.clone());
        }
        describe(filesystem, &inode, &mut record)?;
        let mut content = Content {
            filesystem,
            inode: &inode,
            offset: 0,
            failed: None,
            task,
        };
        let len = if inode.kind == FileKind::Regular {
            inode.size
        } else {
            0
        };
        let buffered = io::BufReader::with_capacity(BUFFER_LEN, &mut content).take(len);
        let appended = record.append(&mut tar, buffered);
        if let Some(error) = content.failed {
            return Err(TarError::Read(error));
        }
        appended.map_err(TarError::Write)?;
    }
    tar.into_inner()
        .and_then(|mut out| out.flush())
        .map_err(TarError::Write)?;
    Ok(skipped)
}

/// What is peculiar to a kind of file, and the extended attributes.
fn describe(
    filesystem: &ImageFilesystem,
    inode: &Inode,
    record: &mut Record,
) -> Result<(), TarError> {
    for xattr in filesystem.xattrs(inode).map_err(TarError::Read)? {
        record.extend(
            format!("SCHILY.xattr.{}", String::from_utf8_lossy(&xattr.name)),
            xattr.value,
        );
    }
    match inode.kind {
        FileKind::Symlink => {
            let target = filesystem.read_link(inode).map_err(TarError::Read)?;
            record.target(tar::EntryType::Symlink, &target);
        }
        FileKind::CharDevice => record.device(tar::EntryType::Char, inode.rdev),
        FileKind::BlockDevice => record.device(tar::EntryType::Block, inode.rdev),
        FileKind::Fifo => record.header.set_entry_type(tar::EntryType::Fifo),
        FileKind::Directory => record.header.set_entry_type(tar::EntryType::Directory),
        FileKind::Regular => record.len(inode.size),
        FileKind::Socket => {}
    }
    Ok(())
}

/// A header and the PAX records for what does not fit into it.
struct Record {
    header: tar::Header,
    pax: BTreeMap<String, Vec<u8>>,
}

impl Record {
    fn new(path: &[u8], inode: &Inode) -> Self {
        let mut record = Self {
            header: tar::Header::new_ustar(),
            pax: BTreeMap::new(),
        };
        let mut name = if path.is_empty() {
            b".".to_vec()
        } else {
            path.to_vec()
        };
        if inode.is_dir() {
            name.push(b'/');
        }
        if !put(&mut record.header.as_old_mut().name, &name) {
            record.extend("path".into(), name);
        }
        record.header.set_entry_type(tar::EntryType::Regular);
        record.header.set_mode(u32::from(inode.permissions()));
        record.header.set_size(0);
        record.number("uid", inode.uid.into(), OCTAL_8_LIMIT, tar::Header::set_uid);
        record.number("gid", inode.gid.into(), OCTAL_8_LIMIT, tar::Header::set_gid);
        record.time(inode);
        record
    }

    fn number(&mut self, key: &str, value: u64, limit: u64, set: fn(&mut tar::Header, u64)) {
        if value <= limit {
            set(&mut self.header, value);
        } else {
            set(&mut self.header, 0);
            self.extend(key.into(), value.to_string().into_bytes());
        }
    }

    fn time(&mut self, inode: &Inode) {
        let whole = u64::try_from(inode.mtime)
            .ok()
            .filter(|seconds| *seconds <= OCTAL_12_LIMIT);
        self.header.set_mtime(whole.unwrap_or(0));
        if whole.is_some() && inode.mtime_nsec == 0 {
            return;
        }
        // PAX times are decimal fractions: before 1970 the fraction counts down from the next second.
        let text = match (inode.mtime < 0, inode.mtime_nsec) {
            (_, 0) => inode.mtime.to_string(),
            (false, nanos) => format!("{}.{nanos:09}", inode.mtime),
            (true, nanos) => format!("-{}.{:09}", -(inode.mtime + 1), 1_000_000_000 - nanos),
        };
        self.extend("mtime".into(), text.into_bytes());
    }

    fn len(&mut self, len: u64) {
        self.number("size", len, OCTAL_12_LIMIT, tar::Header::set_size);
    }

    fn link(&mut self, first: &[u8]) {
        self.target(tar::EntryType::Link, first);
    }

    fn target(&mut self, kind: tar::EntryType, target: &[u8]) {
        self.header.set_entry_type(kind);
        if !put(&mut self.header.as_old_mut().linkname, target) {
            self.extend("linkpath".into(), target.to_vec());
        }
    }

    fn device(&mut self, kind: tar::EntryType, number: u32) {
        self.header.set_entry_type(kind);
        // A ustar header has these fields; the call only fails for the older form.
        let _has_fields = self.header.set_device_major(device_major(number));
        let _has_fields = self.header.set_device_minor(device_minor(number));
    }

    fn extend(&mut self, key: String, value: Vec<u8>) {
        self.pax.insert(key, value);
    }

    fn append<W: Write>(mut self, tar: &mut tar::Builder<W>, content: impl Read) -> io::Result<()> {
        if !self.pax.is_empty() {
            tar.append_pax_extensions(
                self.pax
                    .iter()
                    .map(|(key, value)| (key.as_str(), value.as_slice())),
            )?;
        }
        self.header.set_cksum();
        tar.append(&self.header, content)
    }
}

/// Puts a name into a header field; false if it does not fit (its beginning is put then, for old readers).
fn put(field: &mut [u8; NAME_LEN], name: &[u8]) -> bool {
    let len = name.len().min(NAME_LEN);
    if let (Some(to), Some(from)) = (field.get_mut(..len), name.get(..len)) {
        to.copy_from_slice(from);
    }
    name.len() <= NAME_LEN
}

/// A file's bytes; an error of the filesystem is kept, since `io::Error` would blur whose it is.
struct Content<'f> {
    filesystem: &'f ImageFilesystem,
    inode: &'f Inode,
    offset: u64,
    failed: Option<ErofsError>,
    task: &'f Task,
}

impl Read for Content<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.filesystem.read(self.inode, self.offset, buf) {
            Ok(len) => {
                let done = u64::try_from(len).unwrap_or(0);
                self.offset += done;
                self.task.advance(done);
                Ok(len)
            }
            Err(error) => {
                self.failed = Some(error);
                Err(io::Error::other("the image cannot be read"))
            }
        }
    }
}
