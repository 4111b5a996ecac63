//! A device whose bytes lie in memory: what tests of front ends read from, and the probe's tiny image.

use crate::block_read::{Allocation, BlockRead, BlockReadError};

/// Unit in which [`Memory`] looks for zeros, in bytes: the block length of filesystems that matter here.
const ZERO_UNIT_LEN: usize = 4096;

/// A device over bytes in memory.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    bytes: Vec<u8>,
}

impl Memory {
    /// A device that holds exactly `bytes`.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    fn range(&self, offset: u64, len: u64) -> Result<&[u8], BlockReadError> {
        let device_len = self.len();
        BlockReadError::check_range(offset, len, device_len)?;
        let start = usize::try_from(offset).ok();
        let end = usize::try_from(offset.saturating_add(len)).ok();
        start
            .zip(end)
            .and_then(|(start, end)| self.bytes.get(start..end))
            .ok_or(BlockReadError::OutOfRange {
                offset,
                len,
                device_len,
            })
    }
}

impl From<Vec<u8>> for Memory {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl BlockRead for Memory {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockReadError> {
        buf.copy_from_slice(self.range(offset, buf.len() as u64)?);
        Ok(())
    }

    fn allocation(&self, offset: u64, len: u64) -> Vec<Allocation> {
        let mut runs: Vec<Allocation> = Vec::new();
        for part in self
            .range(offset, len)
            .unwrap_or_default()
            .chunks(ZERO_UNIT_LEN)
        {
            let zero = part.iter().all(|byte| *byte == 0);
            match runs.last_mut() {
                Some(run) if run.zero == zero => run.len += part.len() as u64,
                _ => runs.push(Allocation {
                    len: part.len() as u64,
                    zero,
                }),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_give_the_bytes_at_the_offset() {
        let memory = Memory::new((0..=255).collect());
        let mut buf = [0; 3];
        memory.read_at(253, &mut buf).unwrap();
        assert_eq!(buf, [253, 254, 255]);
        assert!(memory.read_at(254, &mut buf).is_err());
    }

    #[test]
    fn runs_of_zeros_are_told_and_cover_the_range() {
        let mut bytes = vec![0; 5 * ZERO_UNIT_LEN];
        bytes[2 * ZERO_UNIT_LEN] = 1;
        let memory = Memory::new(bytes);
        let unit = ZERO_UNIT_LEN as u64;
        let run = |len, zero| Allocation { len, zero };
        assert_eq!(
            memory.allocation(0, 5 * unit),
            [run(2 * unit, true), run(unit, false), run(2 * unit, true)]
        );
        assert_eq!(memory.allocation(0, unit), [run(unit, true)]);
    }
}
