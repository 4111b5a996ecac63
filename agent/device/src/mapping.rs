//! Memory that this process shares with others, and every access to it.
//!
//! Others change it while it is read here, so nothing of it is ever borrowed: bytes are copied out and in, and numbers that both
//! sides watch are read and written as atoms.

#![expect(
    unsafe_code,
    reason = "memory that another process shares is reached through raw pointers alone"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A part of a file that is mapped into this process, shared.
#[derive(Debug)]
pub(crate) struct Mapping {
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
    pub(crate) fn new(file: OwnedFd, offset: u64, len: u64) -> io::Result<Self> {
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

    /// Copies the bytes at `address` out; whether all of them are there.
    pub(crate) fn read(&self, address: u64, buf: &mut [u8]) -> bool {
        let Some(place) = self.place(address, buf.len()) else {
            return false;
        };
        // SAFETY: the source lies inside the mapping and the target is `buf`, which is this process's own: they do not overlap. What
        // another process writes meanwhile may arrive in part, as bytes like any others.
        unsafe { ptr::copy_nonoverlapping(place.as_ptr(), buf.as_mut_ptr(), buf.len()) };
        true
    }

    /// Copies bytes in at `address`; whether there is room for all of them.
    pub(crate) fn write(&self, address: u64, bytes: &[u8]) -> bool {
        let Some(place) = self.place(address, bytes.len()) else {
            return false;
        };
        // SAFETY: the target lies inside the mapping, of which no Rust reference exists but to atoms, and does not overlap with `bytes`,
        // which are this process's own.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), place.as_ptr(), bytes.len()) };
        true
    }

    /// The little-endian index at `address`, with all that was written before it.
    pub(crate) fn load(&self, address: u64) -> Option<u16> {
        self.index(address)
            .map(|index| u16::from_le(index.load(Ordering::Acquire)))
    }

    /// Writes the index at `address`, behind all that was written before.
    pub(crate) fn store(&self, address: u64, index: u16) -> bool {
        // Sequentially consistent, because what follows reads whether the other side wants to be told.
        self.index(address)
            .map(|place| place.store(index.to_le(), Ordering::SeqCst))
            .is_some()
    }

    /// The number at `address`, in this machine's byte order.
    pub(crate) fn number(&self, address: u64) -> Option<&AtomicU64> {
        let place = self.place(address, size_of::<u64>())?.cast::<u64>();
        if !place.is_aligned() {
            return None;
        }
        // SAFETY: eight bytes inside the mapping, which lives as long as the borrow of `self`; aligned; any bits are a number; everybody
        // here accesses them atomically, or by copies whose outcome does not matter when another writes meanwhile.
        Some(unsafe { AtomicU64::from_ptr(place.as_ptr()) })
    }

    /// Reads from a descriptor to `address`, `len` bytes at most; how many came.
    pub(crate) fn receive(
        &self,
        from: BorrowedFd<'_>,
        address: u64,
        len: usize,
    ) -> io::Result<usize> {
        let Some(place) = self.place(address, len) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        // SAFETY: the descriptor is open, and `len` bytes from `place` on lie inside the mapping, of which no Rust reference exists but
        // to atoms. Not by a slice, since another process may write there meanwhile.
        let count = unsafe { libc::read(from.as_raw_fd(), place.as_ptr().cast(), len) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this very mapping was made by `new`, and all borrows of it have ended.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        if let Err(error) = unmapped {
            tracing::warn!(%error, "shared memory stays mapped");
        }
    }
}
