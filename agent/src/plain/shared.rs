//! A new plain file takes no disk for what plain files of other devices here hold at the same offsets.
//!
//! Two devices of one image are the same bytes, and a layer that two images share lies at the same offsets of both. Where the
//! filesystem can have two files take the same blocks (XFS, Btrfs), they do. The kernel itself compares what is to be shared, only
//! the new file, which nobody reads yet, is changed, and what it holds is looked at again from the disk afterwards.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};
use tranship_device::{SharedBytes, share_bytes};

use super::{PIECE_LEN, PlainError, failed, for_pieces};

/// What is shared or not as a whole, in bytes, and begins at a multiple of this. No less, so that no file is in too many parts,
/// and whole blocks of each filesystem: pages, and so blocks, have 64 KiB at most.
const UNIT_LEN: usize = 64 << 10;

/// Has the synced `file` of `len` bytes at `path`, which must be open for reading and writing, share what it can with the files at
/// `neighbours`, the likeliest first. That it shares nothing is no error.
///
/// Each neighbour costs one more pass of reading at most. Its readers wait while the kernel compares, for one piece of 1 MiB that
/// is in memory already.
pub(super) fn share(
    file: &File,
    len: u64,
    path: &Path,
    neighbours: &[PathBuf],
    is_stopping: &dyn Fn() -> bool,
) -> Result<(), PlainError> {
    // One that is not there any more, or not yet, has nothing to share.
    let mut neighbours: Vec<File> = neighbours
        .iter()
        .filter_map(|neighbour| File::open(neighbour).ok())
        .collect();
    // What counts is what the disk holds. Nobody misses the pages: loop devices read past them. Where the filesystem does not listen, the second look
    // at the new file still sees what is wrong.
    for neighbour in &neighbours {
        let _ = fadvise(neighbour, 0, None, Advice::DontNeed);
    }
    if neighbours.is_empty() {
        return Ok(());
    }
    let (mut theirs, mut shared_len) = (vec![0; PIECE_LEN], 0_u64);
    for_pieces(len, |offset, own| {
        if is_stopping() {
            return Err(PlainError::Stopping);
        }
        if neighbours.is_empty() {
            return Ok(());
        }
        file.read_exact_at(own, offset)
            .map_err(failed("read", path))?;
        let mut piece = Piece::new(offset, own);
        neighbours.retain(|neighbour| {
            match piece.share_with(file, neighbour, &mut theirs) {
                Ok(Some(len)) => {
                    shared_len = shared_len.saturating_add(len);
                    true
                }
                Ok(None) => false,
                Err(error) => {
                    tracing::debug!(path = %path.display(), %error, "a plain file shares no more with another one");
                    false
                }
            }
        });
        Ok(())
    })?;
    if shared_len > 0 {
        tracing::info!(
            path = %path.display(),
            shared_len,
            "a plain file shares bytes with those of other devices"
        );
    }
    Ok(())
}

/// A part of the new file, and what of it is still its own alone.
struct Piece<'p> {
    offset: u64,
    bytes: &'p [u8],
    /// Of each unit, whether it takes blocks that it shares with nobody.
    is_own: Vec<bool>,
}

impl<'p> Piece<'p> {
    fn new(offset: u64, bytes: &'p [u8]) -> Self {
        // Zeros take no blocks.
        let is_own = bytes
            .chunks(UNIT_LEN)
            .map(|unit| unit.iter().any(|byte| *byte != 0))
            .collect();
        Self {
            offset,
            bytes,
            is_own,
        }
    }

    /// Has `file`, whose part this is, share with `neighbour` what it can; gives how many bytes that are, or `None` if there is no
    /// use in asking for more. `room` is as long as a piece at least.
    fn share_with(
        &mut self,
        file: &File,
        neighbour: &File,
        room: &mut [u8],
    ) -> io::Result<Option<u64>> {
        let mut shared_len = 0_u64;
        let Some(theirs) = room.get_mut(..self.bytes.len()) else {
            return Ok(None);
        };
        if !self.is_own.contains(&true) {
            return Ok(Some(0));
        }
        match neighbour.read_exact_at(theirs, self.offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        // Compared here first: the kernel then has the bytes of both in memory, and is asked in vain for none.
        for run in self.equal_runs(theirs) {
            let at = self.offset.saturating_add(run.start as u64);
            match share_bytes(neighbour, file, at, run.len() as u64)? {
                SharedBytes::Shared(len) => {
                    shared_len = shared_len.saturating_add(len);
                    self.note_shared(&run);
                }
                SharedBytes::Different => {}
                SharedBytes::NotHere => return Ok(None),
            }
        }
        let len = NonZeroU64::new(self.bytes.len() as u64);
        let _ = fadvise(neighbour, self.offset, len, Advice::DontNeed);
        Ok(Some(shared_len))
    }

    /// Runs of whole units that are own still and equal in `theirs`, as places in the piece.
    fn equal_runs(&self, theirs: &[u8]) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        let mut at = 0_usize;
        let units = self.bytes.chunks(UNIT_LEN).zip(theirs.chunks(UNIT_LEN));
        for ((own, theirs), is_own) in units.zip(&self.is_own) {
            let end = at.saturating_add(own.len());
            if *is_own && own == theirs {
                match runs.last_mut() {
                    Some(last) if last.end == at => last.end = end,
                    _ => runs.push(at..end),
                }
            }
            at = end;
        }
        runs
    }

    fn note_shared(&mut self, run: &Range<usize>) {
        let units = run.start / UNIT_LEN..run.end.div_ceil(UNIT_LEN);
        if let Some(units) = self.is_own.get_mut(units) {
            units.fill(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A piece of units that each hold one byte, and an odd end.
    fn filled(units: &[u8]) -> Vec<u8> {
        let mut bytes: Vec<u8> = units
            .iter()
            .flat_map(|byte| std::iter::repeat_n(*byte, UNIT_LEN))
            .collect();
        bytes.truncate(bytes.len() - 512);
        bytes
    }

    #[test]
    fn runs_are_what_looking_at_each_byte_finds() {
        // Each way in which four units can be zeros, equal or different.
        for way in 0..81_u32 {
            let kinds: Vec<u32> = (0..4).map(|unit| way / 3_u32.pow(unit) % 3).collect();
            let own: Vec<u8> = kinds.iter().map(|kind| u8::from(*kind > 0)).collect();
            let own = filled(&own);
            let mut theirs = own.clone();
            for unit in (0..4).filter(|unit| kinds[*unit] == 2) {
                // One byte of it, another one in each.
                theirs[unit * UNIT_LEN + unit * 1000] = 9;
            }
            let mut piece = Piece::new(0, &own);
            let runs = piece.equal_runs(&theirs);
            for (at, byte) in own.iter().enumerate() {
                let wanted = kinds[at / UNIT_LEN] == 1;
                let found = runs.iter().filter(|run| run.contains(&at)).count();
                assert_eq!(found, usize::from(wanted), "{kinds:?} at {at}: {byte}");
            }
            assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
            for run in &runs {
                piece.note_shared(run);
            }
            assert!(piece.equal_runs(&theirs).is_empty(), "once is enough");
            let own_still: Vec<bool> = kinds.iter().map(|kind| *kind == 2).collect();
            assert_eq!(piece.is_own, own_still);
        }
    }

    #[test]
    fn file_holds_the_same_whomever_it_shares_with() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let bytes = filled(&[7; 40]);
        let mut other = bytes.clone();
        other[20 * UNIT_LEN] = 8;
        fs::write(at("own"), &bytes).unwrap();
        fs::write(at("other"), &other).unwrap();
        fs::write(at("short"), &bytes[..UNIT_LEN]).unwrap();
        let own = File::options()
            .read(true)
            .write(true)
            .open(at("own"))
            .unwrap();
        own.sync_all().unwrap();
        let neighbours = ["gone", "short", "other"].map(at);
        let len = bytes.len() as u64;
        let shared = share(&own, len, &at("own"), &neighbours, &|| true);
        assert!(matches!(shared, Err(PlainError::Stopping)));
        share(&own, len, &at("own"), &neighbours, &|| false).unwrap();
        assert!(fs::read(at("own")).unwrap() == bytes);
        assert!(fs::read(at("other")).unwrap() == other);
    }
}
