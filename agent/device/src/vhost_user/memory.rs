//! A guest's memory as this process sees it, and every access to it.
//!
//! The guest changes its memory while it is read here, so nothing of it is ever borrowed: bytes are copied out and in, and indexes that both
//! sides watch are read and written as atoms. All addresses come from the guest; one that lies in no region is an answer, never an access.

#![expect(
    unsafe_code,
    reason = "memory that another process shares is reached through raw pointers alone"
)]

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::protocol::Region;

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

/// A part of a file that is mapped into this process, shared.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory belongs to nobody here in particular; every access copies or is atomic, from whichever thread.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes at `offset` of `file`. A file that is shorter is refused, since an access behind its end would be this process's
    /// death; whoever shortens it afterwards must be trusted not to, and is, because he was given the socket.
    pub(super) fn new(file: OwnedFd, offset: u64, len: u64) -> io::Result<Self> {
        let file = File::from(file);
        let end = offset.checked_add(len);
        let file_len = file.metadata()?.len();
        if len == 0 || end.is_none_or(|end| end > file_len) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{len} bytes at {offset} do not lie in a file of {file_len} bytes"),
            ));
        }
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: no address is asked for, so that nothing else is mapped over; the kernel checks all the rest.
        let start = unsafe {
            mmap(
                ptr::null_mut(),
                len,
                access,
                MapFlags::SHARED,
                &file,
                offset,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// Where `len` bytes at `offset` lie, if they lie inside.
    fn place(&self, offset: u64, len: usize) -> Option<NonNull<u8>> {
        let offset = usize::try_from(offset).ok()?;
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: `offset` is not above the mapping's length, so the result is inside it or just behind.
        Some(unsafe { self.start.add(offset) })
    }

    /// The same for an index, which must be aligned.
    fn index(&self, offset: u64) -> Option<&AtomicU16> {
        let place = self.place(offset, size_of::<u16>())?.cast::<u16>();
        if !place.is_aligned() {
            return None;
        }
        // SAFETY: two bytes inside the mapping, which lives as long as the borrow of `self`; aligned; any bits are a number; everybody
        // here accesses them atomically, or by copies whose outcome does not matter when another writes meanwhile.
        Some(unsafe { AtomicU16::from_ptr(place.as_ptr()) })
    }
}

impl Memory for Mapping {
    fn read(&self, address: u64, buf: &mut [u8]) -> bool {
        let Some(place) = self.place(address, buf.len()) else {
            return false;
        };
        // SAFETY: the source lies inside the mapping and the target is `buf`, which is this process's own: they do not overlap. What
        // another process writes meanwhile may arrive in part, as bytes like any others.
        unsafe { ptr::copy_nonoverlapping(place.as_ptr(), buf.as_mut_ptr(), buf.len()) };
        true
    }

    fn write(&self, address: u64, bytes: &[u8]) -> bool {
        let Some(place) = self.place(address, bytes.len()) else {
            return false;
        };
        // SAFETY: the target lies inside the mapping, of which no Rust reference exists but to atoms, and does not overlap with `bytes`,
        // which are this process's own.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), place.as_ptr(), bytes.len()) };
        true
    }

    fn load(&self, address: u64) -> Option<u16> {
        self.index(address)
            .map(|index| u16::from_le(index.load(Ordering::Acquire)))
    }

    fn store(&self, address: u64, index: u16) -> bool {
        // Sequentially consistent, because what follows reads whether the other side wants to be told.
        self.index(address)
            .map(|place| place.store(index.to_le(), Ordering::SeqCst))
            .is_some()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this very mapping was made by `new`, and all borrows of it have ended.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        if let Err(error) = unmapped {
            tracing::warn!(%error, "a guest's memory stays mapped");
        }
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
