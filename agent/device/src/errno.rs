//! Errno, and nothing else of this crate: which number a failed read becomes, and what a number from the kernel means.
//!
//! One place, so that a table of what users see can be checked against one `match`, and so that code elsewhere asks
//! "is it busy?" instead of comparing numbers. Linux and NBD number their errors alike, so one table serves both.

use std::io;

use crate::block_read::BlockReadError;

/// An error as a front end's protocol states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Errno {
    /// The bytes could not be had.
    Io,
    /// The bytes could not be had in time.
    TimedOut,
    /// The request makes no sense.
    Invalid,
    /// The device is read-only, or the reader may not read it.
    NotPermitted,
    /// There is no such name.
    NoEntry,
    /// The request's answer cannot be expressed.
    Overflow,
    /// This kind of request is not served, now and in future.
    NoSuchCall,
    /// This kind of request is not served.
    NotSupported,
    /// The server goes away.
    ShutDown,
}

impl Errno {
    /// The positive number, as Linux and NBD have it.
    pub(crate) const fn code(self) -> i32 {
        match self {
            Self::Io => libc::EIO,
            Self::TimedOut => libc::ETIMEDOUT,
            Self::Invalid => libc::EINVAL,
            Self::NotPermitted => libc::EPERM,
            Self::NoEntry => libc::ENOENT,
            Self::Overflow => libc::EOVERFLOW,
            Self::NoSuchCall => libc::ENOSYS,
            Self::NotSupported => libc::EOPNOTSUPP,
            Self::ShutDown => libc::ESHUTDOWN,
        }
    }
}

impl From<&BlockReadError> for Errno {
    fn from(error: &BlockReadError) -> Self {
        match error {
            BlockReadError::OutOfRange { .. } => Self::Invalid,
            // To a filesystem all of these are a medium that does not answer; it knows no other word for it.
            BlockReadError::Unavailable { .. }
            | BlockReadError::Corrupt { .. }
            | BlockReadError::Denied { .. } => Self::Io,
            BlockReadError::TimedOut { .. } => Self::TimedOut,
            BlockReadError::Stopping => Self::ShutDown,
        }
    }
}

/// What a system call's error means to a caller that can do something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// In use by another; may pass.
    Busy,
    /// The arguments, or an option among them, are not accepted.
    Invalid,
    /// A signal came first.
    Interrupted,
    /// There is nothing to do at present.
    WouldBlock,
    /// There is no such thing, or no longer.
    NoEntry,
    /// The device or the connection behind a descriptor has ended.
    Ended,
    /// A block device is wanted.
    NotBlockDevice,
    /// The kernel does not know the filesystem or the device.
    Unknown,
    /// The caller lacks the privilege.
    NotPermitted,
    /// The address is taken.
    InUse,
    /// The name is taken.
    Exists,
    /// Nobody listens there.
    NobodyListens,
    /// Anything else: nothing to do but to report it.
    Other,
}

/// Sorts the error of a system call.
pub(crate) fn refusal(error: &io::Error) -> Refusal {
    match error.raw_os_error() {
        Some(libc::EBUSY) => Refusal::Busy,
        Some(libc::EINVAL) => Refusal::Invalid,
        Some(libc::EINTR) => Refusal::Interrupted,
        Some(libc::EAGAIN) => Refusal::WouldBlock,
        Some(libc::ENOENT) => Refusal::NoEntry,
        Some(libc::ECONNABORTED) => Refusal::Ended,
        Some(libc::ENOTBLK) => Refusal::NotBlockDevice,
        Some(libc::ENODEV | libc::ENXIO) => Refusal::Unknown,
        Some(libc::EPERM | libc::EACCES) => Refusal::NotPermitted,
        Some(libc::EADDRINUSE) => Refusal::InUse,
        Some(libc::EEXIST) => Refusal::Exists,
        Some(libc::ECONNREFUSED) => Refusal::NobodyListens,
        _ => Refusal::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failed_read_has_its_errno() {
        let (offset, len) = (0, 1);
        let source = || "why".into();
        for (error, code) in [
            (BlockReadError::check_range(9, 1, 9).unwrap_err(), 22),
            (
                BlockReadError::Unavailable {
                    offset,
                    len,
                    source: source(),
                },
                5,
            ),
            (BlockReadError::TimedOut { offset, len }, 110),
            (
                BlockReadError::Corrupt {
                    offset,
                    len,
                    source: source(),
                },
                5,
            ),
            (BlockReadError::Denied { offset, len }, 5),
            (BlockReadError::Stopping, 108),
        ] {
            assert_eq!(Errno::from(&error).code(), code, "{error}");
        }
    }

    #[test]
    fn the_numbers_are_those_of_the_nbd_protocol() {
        assert_eq!(Errno::NotPermitted.code(), 1);
        assert_eq!(Errno::Io.code(), 5);
        assert_eq!(Errno::Invalid.code(), 22);
        assert_eq!(Errno::Overflow.code(), 75);
        assert_eq!(Errno::NotSupported.code(), 95);
        assert_eq!(Errno::ShutDown.code(), 108);
    }
}
