//! Has two files take the same blocks of the disk where they hold equal bytes: `FIDEDUPERANGE` of `linux/fs.h`.
//!
//! The kernel compares the bytes under the locks of both files, and changes nothing where they differ: whoever asks need not be
//! believed, and a reader of either file sees the bytes that it had. From then on a write to one copies what it writes to.

#![expect(
    unsafe_code,
    reason = "this ioctl is offered by no safe interface: rustix has only those that do not compare"
)]

use std::fs::File;
use std::io;
use std::mem::offset_of;
use std::os::fd::AsRawFd;

use rustix::io::Errno;

/// `FIDEDUPERANGE`: `_IOWR(0x94, 54, struct file_dedupe_range)`, whose size is that of its fixed part.
const DEDUPE_RANGE: libc::Ioctl = 0xC018_9436;
/// `FILE_DEDUPE_RANGE_SAME`
const SAME: i32 = 0;
/// `FILE_DEDUPE_RANGE_DIFFERS`
const DIFFERS: i32 = 1;

/// `struct file_dedupe_range` with room for one destination, a `struct file_dedupe_range_info`.
#[repr(C)]
struct Request {
    from_offset: u64,
    from_len: u64,
    to_count: u16,
    reserved: [u16; 3],
    to_fd: i64,
    to_offset: u64,
    shared_len: u64,
    status: i32,
    reserved_too: u32,
}

const _: () = assert!(size_of::<Request>() == 56 && offset_of!(Request, to_fd) == 24);

/// What the kernel said about sharing a range.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SharedBytes {
    /// So many bytes from the range's beginning on are shared. They may be fewer than were asked for.
    Shared(u64),
    /// The two files hold other bytes there; nothing has changed.
    Different,
    /// These files cannot share, or not there: the filesystem does not do it, they lie on two, or the range is none of whole
    /// blocks. Nothing has changed.
    NotHere,
}

/// Has `to` share the `len` bytes at `offset` with `from`, where both hold the same ones.
///
/// `to` must be open for writing. Offset and end are bytes of whole filesystem blocks, but for an end that is both files'. What
/// was written is written out by the kernel first. Some filesystems take 16 MiB at a time at most. Meanwhile both files are
/// locked: readers of either wait for as long as the range takes to compare.
pub fn share_bytes(from: &File, to: &File, offset: u64, len: u64) -> io::Result<SharedBytes> {
    let mut request = Request {
        from_offset: offset,
        from_len: len,
        to_count: 1,
        reserved: [0; 3],
        to_fd: to.as_raw_fd().into(),
        to_offset: offset,
        shared_len: 0,
        status: SAME,
        reserved_too: 0,
    };
    // SAFETY: this ioctl reads and writes one `struct file_dedupe_range` and as many destinations behind it as that says: one,
    // which `Request` is by layout (its size is checked above; of its fields any bits are valid). `request` is borrowed by nobody
    // else and outlives the call, and both descriptors are open for its duration.
    let answer = unsafe { libc::ioctl(from.as_raw_fd(), DEDUPE_RANGE, &raw mut request) };
    let error = match (answer, request.status) {
        (0, SAME) => return Ok(SharedBytes::Shared(request.shared_len)),
        (0, DIFFERS) => return Ok(SharedBytes::Different),
        (0, status) => io::Error::from_raw_os_error(status.saturating_neg()),
        _ => io::Error::last_os_error(),
    };
    match Errno::from_io_error(&error) {
        Some(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::XDEV | Errno::NOSYS) => {
            Ok(SharedBytes::NotHere)
        }
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::os::unix::fs::FileExt;

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    const LEN: u64 = 256 << 10;

    #[test]
    fn what_is_equal_is_shared_if_anything_is() {
        let dir = tempfile::tempdir().unwrap();
        let made = |name: &str, byte: u8| {
            let path = dir.path().join(name);
            fs::write(&path, vec![byte; LEN.try_into().unwrap()]).unwrap();
            let file = OpenOptions::new().read(true).write(true).open(&path);
            file.unwrap()
        };
        let (from, to, other) = (made("from", 1), made("to", 1), made("other", 2));
        // What the filesystem of this machine's scratch folder does is not ours to say.
        let outcome = share_bytes(&from, &to, 0, LEN).unwrap();
        if outcome == SharedBytes::NotHere {
            return;
        }
        assert_eq!(outcome, SharedBytes::Shared(LEN));
        let outcome = share_bytes(&from, &other, 0, LEN).unwrap();
        assert_eq!(outcome, SharedBytes::Different);
        let outcome = share_bytes(&from, &to, 1, LEN / 2).unwrap();
        assert_eq!(outcome, SharedBytes::NotHere);
        to.write_all_at(&[3], 0).unwrap();
        let mut byte = [0];
        from.read_exact_at(&mut byte, 0).unwrap();
        assert_eq!(byte, [1]);
    }

    #[test]
    fn a_filesystem_that_shares_nothing_says_so() {
        let made = || {
            let file = File::from(memfd_create("bytes", MemfdFlags::empty()).unwrap());
            file.set_len(LEN).unwrap();
            file
        };
        let outcome = share_bytes(&made(), &made(), 0, LEN).unwrap();
        assert_eq!(outcome, SharedBytes::NotHere);
    }
}
