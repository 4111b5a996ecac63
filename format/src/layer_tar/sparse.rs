//! Sparse files: which parts of a file a tar stores, in the four forms that GNU tar has used.

use super::error::{ReadTarError, shown};
use super::header::BLOCK_LEN;
use super::number;

/// Most runs of one file. A million runs describe 4 GiB with a hole after every block, and take 16 MiB to hold.
const MAX_RUNS: usize = 1 << 20;

/// Bytes of one record in the old GNU form: offset and length.
const OLD_RECORD_LEN: usize = 24;
/// Bytes of records in a block that continues the old GNU form.
const OLD_EXTENSION_LEN: usize = 21 * OLD_RECORD_LEN;

/// A part of a file that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Where it belongs in the file.
    pub(super) offset: u64,
    /// How long it is, in bytes.
    pub(super) len: u64,
}

fn bad(path: &[u8], why: &'static str) -> ReadTarError {
    ReadTarError::Sparse {
        entry: shown(path),
        why,
    }
}

/// Reads the records of the old GNU form; an empty one ends them.
pub(super) fn old_records(
    bytes: &[u8],
    runs: &mut Vec<Run>,
    path: &[u8],
) -> Result<(), ReadTarError> {
    for record in bytes.chunks_exact(OLD_RECORD_LEN) {
        if record.first().is_none_or(|byte| *byte == 0) {
            break;
        }
        let (offset, len) = record.split_at(OLD_RECORD_LEN / 2);
        let number = |bytes| number::field(bytes).and_then(|value| u64::try_from(value).ok());
        let (Some(offset), Some(len)) = (number(offset), number(len)) else {
            return Err(bad(path, "a record is not a number"));
        };
        runs.push(Run { offset, len });
    }
    if runs.len() > MAX_RUNS {
        return Err(bad(path, "it has more than a million runs"));
    }
    Ok(())
}

/// Reads a block that continues the old GNU form; returns whether another follows.
pub(super) fn old_extension(
    block: &[u8; BLOCK_LEN],
    runs: &mut Vec<Run>,
    path: &[u8],
) -> Result<bool, ReadTarError> {
    let (records, rest) = block.split_at(OLD_EXTENSION_LEN);
    // A chain of empty blocks would go on without adding anything.
    let before = runs.len();
    old_records(records, runs, path)?;
    let more = rest.first().is_some_and(|byte| *byte != 0);
    if more && runs.len() == before {
        return Err(bad(path, "an empty block of it is followed by another"));
    }
    Ok(more)
}

/// Reads the list of format 0.1: offset, length, offset, length…
pub(super) fn comma_map(value: &[u8]) -> Result<Vec<Run>, ReadTarError> {
    let wrong = || ReadTarError::Pax {
        why: "the sparse map is not a list of pairs",
    };
    let mut runs = Vec::new();
    let mut numbers = value
        .split(|byte| *byte == b',')
        .filter(|number| !number.is_empty())
        .map(|digits| number::decimal(digits).ok_or_else(wrong));
    while let Some(offset) = numbers.next() {
        let len = numbers.next().ok_or_else(wrong)??;
        runs.push(Run {
            offset: offset?,
            len,
        });
    }
    Ok(runs)
}

/// The map of format 1.0, which stands in front of the data: lines of one number, the first their count.
#[derive(Debug, Default)]
pub(super) struct LeadingMap {
    digits: Vec<u8>,
    count: Option<u64>,
    offset: Option<u64>,
    runs: Vec<Run>,
}

impl LeadingMap {
    /// Takes the next block; the runs once all have come. What is left of the last block is padding.
    pub(super) fn add(
        &mut self,
        block: &[u8; BLOCK_LEN],
        path: &[u8],
    ) -> Result<Option<Vec<Run>>, ReadTarError> {
        for byte in block {
            if *byte != b'\n' {
                // No number is longer than the 20 digits of 2^64.
                if self.digits.len() >= 20 {
                    return Err(bad(path, "a line of it is too long"));
                }
                self.digits.push(*byte);
                continue;
            }
            let value = number::decimal(&self.digits)
                .ok_or_else(|| bad(path, "a line of it is not a number"))?;
            self.digits.clear();
            match (self.count, self.offset.take()) {
                (None, _) if value > MAX_RUNS as u64 => {
                    return Err(bad(path, "it has more than a million runs"));
                }
                (None, _) => self.count = Some(value),
                (_, None) => self.offset = Some(value),
                (_, Some(offset)) => self.runs.push(Run { offset, len: value }),
            }
            if self.count == Some(self.runs.len() as u64) && self.offset.is_none() {
                return Ok(Some(std::mem::take(&mut self.runs)));
            }
        }
        Ok(None)
    }
}

/// Checks that `runs` go forward, stay within the file's `size` and take no more than the `stored` bytes.
pub(super) fn check(runs: &[Run], size: u64, stored: u64, path: &[u8]) -> Result<(), ReadTarError> {
    let (mut end, mut total) = (0_u64, 0_u64);
    for run in runs {
        if run.offset < end {
            return Err(bad(path, "its runs overlap or go backwards"));
        }
        end = run
            .offset
            .checked_add(run.len)
            .ok_or_else(|| bad(path, "a run ends beyond any file"))?;
        total = total.saturating_add(run.len);
    }
    if end > size {
        return Err(bad(path, "a run ends behind the file's end"));
    }
    if total > stored {
        return Err(bad(path, "its runs are longer than the stored data"));
    }
    Ok(())
}
