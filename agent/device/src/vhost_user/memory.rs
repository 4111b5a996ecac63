//! A guest's memory as this process sees it, and every access to it.
//!
//! The guest changes its memory while it is read here, so nothing of it is ever borrowed: bytes are copied out and in, and indexes that both
//! sides watch are read and written as atoms. All addresses come from the guest; one that lies in no region is an answer, never an access.

use std::io;
use std::os::fd::OwnedFd;

use super::protocol::Region;
use crate::mapping::Mapping;

/// Memory that is read and written at addresses. Outside of it nothing happens but the answer.
pub(crate) trait Memory {
    /// Copies the bytes at `address` out; whether all of them are there.
    fn read(&self, address: u64, buf: &mut [u8]) -> bool;
    /// Copies bytes in at `address`; whether there is room for all of them.
    fn write(&self, address: u64, bytes: &[u8]) -> bool;
    /// The index at `address`, with all that was written before it.
    fn load(&self, address: u64) -> Option<u16>;
    /// Writes the index at `address`, behind all that was written before.
    fn store(&self, address: u64, index: u16) -> bool;
}

impl Memory for Mapping {
    fn read(&self, address: u64, buf: &mut [u8]) -> bool {
        Self::read(self, address, buf)
    }

    fn write(&self, address: u64, bytes: &[u8]) -> bool {
        Self::write(self, address, bytes)
    }

    fn load(&self, address: u64) -> Option<u16> {
        Self::load(self, address)
    }

    fn store(&self, address: u64, index: u16) -> bool {
        Self::store(self, address, index)
    }
}

/// All regions of a guest's memory.
#[derive(Debug, Default)]
pub(super) struct GuestMemory {
    regions: Vec<(Region, Mapping)>,
}

impl GuestMemory {
    /// Maps the regions, each from its file.
    pub(super) fn map(regions: Vec<Region>, files: Vec<OwnedFd>) -> io::Result<Self> {
        if regions.len() != files.len() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{} regions of memory came with {} files",
                    regions.len(),
                    files.len()
                ),
            ));
        }
        let mapped = regions.into_iter().zip(files).map(|(region, file)| {
            let mapping = Mapping::new(file, region.offset, region.len)?;
            Ok((region, mapping))
        });
        Ok(Self {
            regions: mapped.collect::<io::Result<_>>()?,
        })
    }

    /// The guest's address of what the front end has at `user`.
    pub(super) fn guest_address(&self, user: u64) -> Option<u64> {
        self.regions.iter().find_map(|(region, _)| {
            let inside = user.checked_sub(region.user)?;
            (inside < region.len).then_some(region.guest + inside)
        })
    }

    /// The mapping that `address` lies in, where in it, and how many bytes are left there.
    fn find(&self, address: u64) -> Option<(&Mapping, u64, u64)> {
        self.regions.iter().find_map(|(region, mapping)| {
            let inside = address.checked_sub(region.guest)?;
            let left = region.len.checked_sub(inside)?;
            (left > 0).then_some((mapping, inside, left))
        })
    }
}

impl Memory for GuestMemory {
    fn read(&self, mut address: u64, mut buf: &mut [u8]) -> bool {
        while !buf.is_empty() {
            let Some((mapping, inside, left)) = self.find(address) else {
                return false;
            };
            // Regions may lie side by side, and a run of bytes reach from one into the next.
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
            let (now, rest) = buf.split_at_mut(len);
            if !mapping.read(inside, now) {
                return false;
            }
            address = address.saturating_add(len as u64);
            buf = rest;
        }
        true
    }

    fn write(&self, mut address: u64, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let Some((mapping, inside, left)) = self.find(address) else {
                return false;
            };
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            let (now, rest) = bytes.split_at(len);
            if !mapping.write(inside, now) {
                return false;
            }
            address = address.saturating_add(len as u64);
            bytes = rest;
        }
        true
    }

    fn load(&self, address: u64) -> Option<u16> {
        let (mapping, inside, _) = self.find(address)?;
        mapping.load(inside)
    }

    fn store(&self, address: u64, index: u16) -> bool {
        self.find(address)
            .is_some_and(|(mapping, inside, _)| mapping.store(inside, index))
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    fn file(len: u64) -> OwnedFd {
        let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, len).unwrap();
        file
    }

    fn region(guest: u64, len: u64) -> Region {
        Region {
            guest,
            len,
            user: guest + 0x7000_0000,
            offset: 0,
        }
    }

    #[test]
    fn bytes_reach_from_a_region_into_the_next_and_no_further() {
        let regions = vec![region(0x1000, 0x1000), region(0x2000, 0x1000)];
        let memory = GuestMemory::map(regions, vec![file(0x1000), file(0x1000)]).unwrap();
        assert!(memory.write(0x1ffe, b"abcd"));
        let mut buf = [0; 4];
        assert!(memory.read(0x1ffe, &mut buf));
        assert_eq!(&buf, b"abcd");
        assert!(!memory.write(0x2ffe, b"abcd"), "behind the end");
        assert!(!memory.read(0xffe, &mut buf), "before the beginning");
        assert!(!memory.read(u64::MAX, &mut buf));
        assert_eq!(memory.guest_address(0x7000_1800), Some(0x1800));
        assert_eq!(memory.guest_address(0x7000_3000), None);
    }

    #[test]
    fn an_index_is_aligned_and_inside() {
        let memory = GuestMemory::map(vec![region(0, 0x1000)], vec![file(0x1000)]).unwrap();
        assert!(memory.store(0xffe, 0x1234));
        assert_eq!(memory.load(0xffe), Some(0x1234));
        let mut bytes = [0; 2];
        assert!(memory.read(0xffe, &mut bytes));
        assert_eq!(bytes, [0x34, 0x12], "little-endian");
        assert_eq!(memory.load(1), None);
        assert_eq!(memory.load(0x1000), None);
    }

    #[test]
    fn a_file_that_is_too_short_is_refused() {
        assert!(Mapping::new(file(0x1000), 0, 0x1001).is_err());
        assert!(Mapping::new(file(0x1000), u64::MAX, 2).is_err());
        assert!(Mapping::new(file(0x1000), 0, 0).is_err());
        assert!(GuestMemory::map(vec![region(0, 0x1000)], vec![]).is_err());
    }
}
