//! The plain file of a graduated device: the device's own bytes in a sparse local file, which the kernel reads without us.
//!
//! It is written beside and looked at again from the disk before anyone may read it: what was written is hashed on its way, what
//! the disk holds is hashed once more, and only if both are the same does the file get its name. That digest is kept with the
//! device, so that after a start the file is believed for what it holds and not for its name.

mod shared;

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise, statvfs};
use tranship_device::BlockReadError;
use tranship_format::{Digest, DigestWriter};

use crate::image::Image;

/// Name of the file in the device's directory.
const FILE: &str = "plain";
/// Its name while it is written.
const UNFINISHED: &str = "plain.new";
/// What is read, looked at and written at one time, in bytes.
const PIECE_LEN: usize = 1 << 20;
/// Unit in which zeros are left out, in bytes: the block of most filesystems.
const HOLE_LEN: usize = 4096;
/// Unit of the kernel's count of what a file takes, in bytes.
const SECTOR_LEN: u64 = 512;

/// Why a plain file was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlainError {
    /// The disk or the operator's bound does not allow it.
    #[error("the plain file takes more than the {room_len} bytes that it may")]
    NoRoom {
        /// Bytes that it might have taken.
        room_len: u64,
    },
    /// A chunk has left the store meanwhile.
    #[error("the image is no longer wholly here")]
    NotWhole,
    /// The device or the daemon goes.
    #[error("the device is stopping")]
    Stopping,
    /// The image's bytes.
    #[error("the image cannot be read")]
    Read(#[from] BlockReadError),
    /// The file.
    #[error("cannot {deed} {}", .path.display())]
    File {
        /// What was tried.
        deed: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The disk gives other bytes than it was given.
    #[error("the disk holds other bytes in {} than were written", .path.display())]
    Different {
        /// The file.
        path: PathBuf,
    },
}

/// What plain files may take of this node's disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlainBudget {
    /// Bytes of all of them.
    pub(crate) quota_len: u64,
    /// Bytes that stay free on the filesystem.
    pub(crate) free_floor_len: u64,
}

impl PlainBudget {
    /// Bytes that one more file may take where the others take `used_len` and `free_len` are free. Half of what is free above the
    /// floor, so that a file which is written is not in the way at once.
    pub(crate) fn room_len(self, used_len: u64, free_len: u64) -> u64 {
        let of_quota = self.quota_len.saturating_sub(used_len);
        of_quota.min(free_len.saturating_sub(self.free_floor_len) / 2)
    }

    /// Whether a file must go.
    pub(crate) fn is_passed(self, used_len: u64, free_len: u64) -> bool {
        used_len > self.quota_len || free_len < self.free_floor_len
    }
}

/// The plain file in a device's directory, there or not.
pub(crate) fn path_in(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// Bytes that the file takes on the disk; 0 if it is not there. What it shares with others counts in full for each of them, as in
/// any count of blocks: files that share take less than their sum, never more.
pub(crate) fn taken_len(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |about| about.blocks().saturating_mul(SECTOR_LEN))
}

/// Bytes that are free for others than root on the filesystem of `dir`.
pub(crate) fn free_len(dir: &Path) -> io::Result<u64> {
    let disk = statvfs(dir)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Removes the file, finished or not.
pub(crate) fn remove(dir: &Path) {
    for path in [dir.join(UNFINISHED), path_in(dir)] {
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "a plain file stays behind");
        }
    }
}

/// Whether the file in `dir` holds `len` bytes with that digest, read from the disk.
pub(crate) fn holds(
    dir: &Path,
    len: u64,
    digest: Digest,
    is_stopping: &dyn Fn() -> bool,
) -> Result<bool, PlainError> {
    let path = path_in(dir);
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened.map_err(failed("open", &path))?,
    };
    let about = file.metadata().map_err(failed("look at", &path))?;
    Ok(about.len() == len && digest_of(&file, len, &path, is_stopping)? == digest)
}

/// Writes the bytes of `image` to the file in `dir`, looks at them again, and gives their digest. The file takes `room_len` bytes
/// of the disk at most, less what it then shares with the plain files at `neighbours`, the likeliest first. What is there of an
/// earlier try is written over.
pub(crate) fn write(
    image: &Image,
    dir: &Path,
    room_len: u64,
    neighbours: &[PathBuf],
    is_stopping: &dyn Fn() -> bool,
) -> Result<Digest, PlainError> {
    let path = dir.join(UNFINISHED);
    let mut outcome = write_to(image, &path, room_len, neighbours, is_stopping);
    if matches!(outcome, Err(PlainError::Different { .. })) && !neighbours.is_empty() {
        // Blocks of another file may have rotted under pages that were right. Alone it has none of them.
        outcome = write_to(image, &path, room_len, &[], is_stopping);
    }
    let outcome = outcome.and_then(|digest| {
        fs::rename(&path, path_in(dir)).map_err(failed("rename", &path))?;
        // The name must be on the disk before the record says so.
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(failed("sync the directory of", &path))?;
        Ok(digest)
    });
    if outcome.is_err() {
        // Half a file is of no use; it may not be there at all.
        let _ = fs::remove_file(&path);
    }
    outcome
}

fn write_to(
    image: &Image,
    path: &Path,
    room_len: u64,
    neighbours: &[PathBuf],
    is_stopping: &dyn Fn() -> bool,
) -> Result<Digest, PlainError> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o400)
        .open(path)
        .map_err(failed("make", path))?;
    let len = image.len();
    file.set_len(len).map_err(failed("size", path))?;
    let (mut given, mut taken_len) = (DigestWriter::new(io::sink()), 0_u64);
    for_pieces(len, |offset, piece| {
        if is_stopping() {
            return Err(PlainError::Stopping);
        }
        if !image.is_whole() {
            return Err(PlainError::NotWhole);
        }
        image.read_plain(offset, piece)?;
        // Hashing into a sink cannot fail.
        let _infallible = io::Write::write_all(&mut given, piece);
        for run in runs(piece) {
            taken_len = taken_len.saturating_add(run.len() as u64);
            if taken_len > room_len {
                return Err(PlainError::NoRoom { room_len });
            }
            let at = offset.saturating_add(run.start as u64);
            file.write_all_at(piece.get(run).unwrap_or_default(), at)
                .map_err(failed("write", path))?;
        }
        Ok(())
    })?;
    file.sync_all().map_err(failed("sync", path))?;
    shared::share(&file, len, path, neighbours, is_stopping)?;
    let (_, given, _) = given.finish();
    if digest_of(&file, len, path, is_stopping)? != given {
        return Err(PlainError::Different {
            path: path.to_owned(),
        });
    }
    Ok(given)
}

/// The parts of `piece` that are not zeros, in whole blocks but for the last.
fn runs(piece: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut at = 0_usize;
    for block in piece.chunks(HOLE_LEN) {
        let end = at.saturating_add(block.len());
        if block.iter().any(|byte| *byte != 0) {
            match runs.last_mut() {
                Some(last) if last.end == at => last.end = end,
                _ => runs.push(at..end),
            }
        }
        at = end;
    }
    runs
}

/// The digest of what the disk holds: what is in the page cache is let go of first.
fn digest_of(
    file: &File,
    len: u64,
    path: &Path,
    is_stopping: &dyn Fn() -> bool,
) -> Result<Digest, PlainError> {
    // Where the filesystem does not listen, what it has in memory is looked at.
    let _ = fadvise(file, 0, None, Advice::DontNeed);
    let mut held = DigestWriter::new(io::sink());
    for_pieces(len, |offset, piece| {
        if is_stopping() {
            return Err(PlainError::Stopping);
        }
        file.read_exact_at(piece, offset)
            .map_err(failed("read", path))?;
        let _infallible = io::Write::write_all(&mut held, piece);
        Ok(())
    })?;
    let _ = fadvise(file, 0, None, Advice::DontNeed);
    let (_, held, _) = held.finish();
    Ok(held)
}

/// Calls `work` with the offset of and room for each piece of `len` bytes.
fn for_pieces(
    len: u64,
    mut work: impl FnMut(u64, &mut [u8]) -> Result<(), PlainError>,
) -> Result<(), PlainError> {
    let mut piece = vec![0; PIECE_LEN];
    let mut offset = 0;
    while offset < len {
        let left = usize::try_from(len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let part_len = left.min(PIECE_LEN);
        if let Some(part) = piece.get_mut(..part_len) {
            work(offset, part)?;
        }
        offset = offset.saturating_add(part_len as u64);
    }
    Ok(())
}

fn failed<'a>(deed: &'static str, path: &'a Path) -> impl Fn(io::Error) -> PlainError + 'a {
    move |source| PlainError::File {
        deed,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_what_quota_and_disk_both_leave() {
        let budget = PlainBudget {
            quota_len: 100,
            free_floor_len: 10,
        };
        assert_eq!(budget.room_len(0, 1000), 100);
        assert_eq!(budget.room_len(60, 1000), 40);
        assert_eq!(budget.room_len(0, 50), 20);
        assert_eq!(budget.room_len(0, 5), 0);
        assert!(!budget.is_passed(100, 10));
        assert!(budget.is_passed(101, 10) && budget.is_passed(0, 9));
    }

    #[test]
    fn blocks_of_zeros_are_left_out() {
        let mut piece = vec![0; 5 * HOLE_LEN + 10];
        piece[HOLE_LEN] = 1;
        piece[3 * HOLE_LEN - 1] = 1;
        piece[5 * HOLE_LEN + 9] = 1;
        assert_eq!(
            runs(&piece),
            [HOLE_LEN..3 * HOLE_LEN, 5 * HOLE_LEN..5 * HOLE_LEN + 10]
        );
        assert!(runs(&[0; 100]).is_empty());
    }

    #[test]
    fn file_is_believed_for_what_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = vec![7; PIECE_LEN + 5];
        let len = bytes.len() as u64;
        let digest = Digest::of(&bytes);
        let holds = |len| holds(dir.path(), len, digest, &|| false).unwrap();
        assert!(!holds(len), "there is none");
        fs::write(path_in(dir.path()), &bytes).unwrap();
        assert!(holds(len) && !holds(len + 1));
        let mut wrong = bytes;
        wrong[PIECE_LEN] ^= 1;
        fs::write(path_in(dir.path()), &wrong).unwrap();
        assert!(!holds(len));
        assert!(taken_len(&path_in(dir.path())) > 0);
        remove(dir.path());
        assert_eq!(taken_len(&path_in(dir.path())), 0);
    }
}
