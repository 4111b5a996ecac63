//! The sectors of a disk that a layer has to say something about.
//!
//! The disk is looked at in pieces at fixed places, whatever holes its file has, so that equal disks become equal layers.

use std::io::{self, Seek, Write};

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use tranship_format::{ByteRange, Disk, LayerWriter, Sector, WriteLayerError};

use super::open::OpenDisk;
use crate::progress::Task;

/// Bytes that are looked at together.
const PIECE_LEN: u64 = 1 << 20;
const SECTOR: usize = 512;
const ZEROS: [u8; SECTOR] = [0; SECTOR];
/// Sectors of zeros that are worth a hole between two mappings: as many as are compressed at once.
const LONG_RUN: usize = 64;

/// Why the sectors could not be brought into the layer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    /// The disk's file.
    #[error("the disk cannot be read")]
    Disk(#[source] io::Error),
    /// The image below.
    #[error("the base cannot be read")]
    Base(#[source] io::Error),
    /// The layer.
    #[error("its layer cannot be written")]
    Write(#[from] WriteLayerError),
}

/// Writes what `disk` has; with `below`, what it has otherwise than that.
pub(super) fn write<W: Write + Seek>(
    disk: &OpenDisk,
    below: Option<&Disk>,
    out: &mut LayerWriter<W>,
    task: &Task,
) -> Result<(), CopyError> {
    let mut bytes = Vec::new();
    let mut old = Vec::new();
    let mut data = DataRanges::default();
    let mut at = 0;
    while at < disk.len {
        let range = ByteRange::new(at, disk.len.min(at.saturating_add(PIECE_LEN)));
        let len = usize::try_from(range.len()).unwrap_or_default();
        task.advance(range.len());
        let below = below.filter(|below| !below.stored_ranges(range).is_empty());
        let has_data = data.any(disk, range).map_err(CopyError::Disk)?;
        if has_data || below.is_some() {
            bytes.clear();
            bytes.resize(len, 0);
            if has_data {
                disk.read_at(at, &mut bytes).map_err(CopyError::Disk)?;
            }
            match below {
                None => write_all(at, &bytes, out)?,
                Some(below) => {
                    old.clear();
                    old.resize(len, 0);
                    read_below(below, range, &mut old).map_err(CopyError::Base)?;
                    write_changes(at, &bytes, &old, out)?;
                }
            }
        }
        at = range.end;
    }
    Ok(())
}

/// The base's bytes, zeros behind its end.
fn read_below(below: &Disk, range: ByteRange, buf: &mut [u8]) -> io::Result<()> {
    let held = range.end.min(below.len()).saturating_sub(range.start);
    let held = usize::try_from(held).unwrap_or_default();
    buf.get_mut(..held)
        .map_or(Ok(()), |buf| below.read_at(range.start, buf))
}

/// Writes sectors over nothing: long runs of zeros are there already.
fn write_all<W: Write + Seek>(
    at: u64,
    bytes: &[u8],
    out: &mut LayerWriter<W>,
) -> Result<(), WriteLayerError> {
    let (sectors, _) = bytes.as_chunks::<SECTOR>();
    let mut at = Sector::of_byte(at).0;
    for run in sectors.chunk_by(|one, next| (*one == ZEROS) == (*next == ZEROS)) {
        if run.len() < LONG_RUN || run.first() != Some(&ZEROS) {
            out.write(Sector(at), run.as_flattened())?;
        }
        at = at.saturating_add(run.len() as u64);
    }
    Ok(())
}

/// What becomes of a sector that has something below it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Same,
    Zeroed,
    Stored,
}

/// Writes the sectors that differ.
fn write_changes<W: Write + Seek>(
    at: u64,
    bytes: &[u8],
    old: &[u8],
    out: &mut LayerWriter<W>,
) -> Result<(), WriteLayerError> {
    let (sectors, _) = bytes.as_chunks::<SECTOR>();
    let (old, _) = old.as_chunks::<SECTOR>();
    let fate = |(new, old): (&[u8; SECTOR], &[u8; SECTOR])| match (new == old, *new == ZEROS) {
        (true, _) => Fate::Same,
        (false, true) => Fate::Zeroed,
        (false, false) => Fate::Stored,
    };
    let fates: Vec<Fate> = sectors.iter().zip(old).map(fate).collect();
    let mut start = 0_usize;
    for run in fates.chunk_by(|one, next| one == next) {
        let end = start.saturating_add(run.len());
        let first = Sector(Sector::of_byte(at).0.saturating_add(start as u64));
        match run.first() {
            Some(Fate::Zeroed) => out.zero(first, run.len() as u64)?,
            Some(Fate::Stored) => {
                let run = sectors.get(start..end).unwrap_or_default();
                out.write(first, run.as_flattened())?;
            }
            Some(Fate::Same) | None => {}
        }
        start = end;
    }
    Ok(())
}

/// Where a file has data, asked in order.
#[derive(Debug, Default)]
struct DataRanges {
    /// The data that was found last; nothing before it and behind the last question.
    found: Option<ByteRange>,
}

impl DataRanges {
    /// Whether any of `range` is data. Questions must come in rising order.
    fn any(&mut self, disk: &OpenDisk, range: ByteRange) -> io::Result<bool> {
        let known = self.found.filter(|found| found.end > range.start);
        let found = match known {
            Some(found) => found,
            None => next_data(disk, range.start)?,
        };
        self.found = Some(found);
        Ok(!found.intersection(range).is_empty())
    }
}

/// The first data at `at` or behind it; an empty range at the end of all ranges if there is none. A file that cannot tell
/// is all data.
fn next_data(disk: &OpenDisk, at: u64) -> io::Result<ByteRange> {
    let start = match rustix::fs::seek(&disk.file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(ByteRange::new(u64::MAX, u64::MAX)),
        Err(Errno::INVAL) => return Ok(ByteRange::new(at, u64::MAX)),
        Err(error) => return Err(error.into()),
    };
    let end = rustix::fs::seek(&disk.file, SeekFrom::Hole(start))?;
    Ok(ByteRange::new(start, end))
}
