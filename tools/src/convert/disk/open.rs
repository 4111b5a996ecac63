//! Disks as files: raw ones as they are, qcow2 through `qemu-img`, which knows all that qcow2 can be.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::failure::{Exit, Explain, Failure, Outcome};

const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";
/// What the superblocks of filesystems begin with, and where.
const FILESYSTEMS: [(&str, u64, &[u8]); 3] = [
    ("ext4", 1080, b"\x53\xef"),
    ("erofs", 1024, b"\xe2\xe1\xf5\xe0"),
    ("xfs", 0, b"XFSB"),
];
const SECTOR_LEN: u64 = 512;

/// A disk whose sectors can be read.
#[derive(Debug)]
pub(super) struct OpenDisk {
    /// As the user named it.
    pub(super) named: String,
    pub(super) file: File,
    /// Bytes, in whole sectors: the last one may go beyond the file.
    pub(super) len: u64,
}

/// Opens a disk. One that is not raw is unpacked, with its holes, to a file in `tmp_dir` that has no name.
pub(super) fn open(path: &Path, tmp_dir: &Path) -> Outcome<OpenDisk> {
    let named = path.display().to_string();
    let what = || format!("cannot open the disk {named}");
    let mut file = File::open(path).explain_as(Exit::NotFound, what)?;
    let mut magic = Vec::new();
    (&mut file)
        .take(QCOW2_MAGIC.len() as u64)
        .read_to_end(&mut magic)
        .explain(what)?;
    if magic == QCOW2_MAGIC {
        file = unpack(path, tmp_dir)?;
    }
    // Block devices tell their length only so.
    let len = file.seek(SeekFrom::End(0)).explain(what)?;
    let len = len.next_multiple_of(SECTOR_LEN);
    Ok(OpenDisk { named, file, len })
}

impl OpenDisk {
    /// Fills `buf` from `offset` on; behind the file's end are zeros.
    pub(super) fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            match self.file.read_at(buf, offset) {
                Ok(0) => {
                    buf.fill(0);
                    return Ok(());
                }
                Ok(len) => {
                    offset = offset.saturating_add(len as u64);
                    buf = buf.get_mut(len..).unwrap_or_default();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The filesystem that takes all of the disk, if it is known; `raw` for anything else, such as a disk with partitions.
    pub(super) fn filesystem(&self) -> &'static str {
        let holds = |at: u64, magic: &[u8]| {
            let mut found = vec![0; magic.len()];
            self.read_at(at, &mut found).is_ok() && found == magic
        };
        let known = FILESYSTEMS.iter().find(|(_, at, magic)| holds(*at, magic));
        known.map_or("raw", |(name, ..)| name)
    }
}

/// Unpacks a qcow2 file.
fn unpack(path: &Path, tmp_dir: &Path) -> Outcome<File> {
    let what = || format!("cannot read the qcow2 disk {}", path.display());
    let told = qemu_img(&["info", "--output=json", "-f", "qcow2"], &[path], &what)?;
    let info: Value = serde_json::from_slice(&told.stdout).explain(what)?;
    let details = info.pointer("/format-specific/data");
    let elsewhere = info
        .get("backing-filename")
        .or_else(|| details?.get("data-file"));
    if let Some(file) = elsewhere {
        // A disk from somewhere could name any file of this machine and take it into the image.
        return Err(Failure::new(Exit::Unsupported, what())
            .why(format!("part of it is in another file, {file}"))
            .next("`qemu-img convert -O qcow2 DISK WHOLE` puts it all into one file"));
    }
    let unpacked = tempfile::NamedTempFile::new_in(tmp_dir)
        .explain(|| format!("cannot spool a disk to {}", tmp_dir.display()))?;
    qemu_img(
        &["convert", "-q", "-f", "qcow2", "-O", "raw"],
        &[path, unpacked.path()],
        &what,
    )?;
    // The file's name goes with `unpacked`, what it holds with the handle.
    unpacked.reopen().explain(what)
}

fn qemu_img(arguments: &[&str], paths: &[&Path], what: &dyn Fn() -> String) -> Outcome<Output> {
    // A relative name with a colon would be taken for a protocol.
    let paths = paths.iter().map(|path| path.canonicalize());
    let paths: Vec<_> = paths.collect::<Result<_, _>>().explain(what)?;
    let output = Command::new("qemu-img")
        .args(arguments)
        .args(paths)
        .output();
    let output = match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::new(Exit::Unsupported, what())
                .why("qemu-img, which reads qcow2, is not installed")
                .next("install it (Debian: qemu-utils), or give a raw disk"));
        }
        other => other.explain(what)?,
    };
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(Exit::Failed, what()).why(said.trim().to_owned()))
}
