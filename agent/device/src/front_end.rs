//! Front ends: the ways to make a device, which of them this machine can do, and why not the others.
//!
//! Found out by trying, not by the kernel's version: distributions leave parts out and carry others back.

mod probe;

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

pub use probe::probe;

/// A way to make a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontEnd {
    /// EROFS mounted straight from a FUSE file, without a block device.
    ErofsFile,
    /// A loop device with direct I/O on a FUSE file.
    FuseLoop,
    /// A block device of the kernel's ublk driver.
    Ublk,
    /// A block device of the kernel's NBD driver, for machines without FUSE.
    KernelNbd,
    /// An NBD server on a unix socket: no block device on this machine, but one for virtual machines and copies.
    Nbd,
    /// A vhost-user-blk server on a unix socket: a disk for virtual machines, whose memory it shares.
    VhostUserBlk,
}

/// A name that no front end has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "there is no front end {name:?}; there are erofs-file, fuse-loop, ublk, kernel-nbd, nbd, vhost-user-blk"
)]
pub struct UnknownFrontEnd {
    /// The name.
    pub name: String,
}

impl FrontEnd {
    /// All front ends, the one to be preferred first.
    pub const ALL: [Self; 6] = [
        Self::ErofsFile,
        Self::FuseLoop,
        Self::Ublk,
        Self::KernelNbd,
        Self::Nbd,
        Self::VhostUserBlk,
    ];

    /// The name in options and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ErofsFile => "erofs-file",
            Self::FuseLoop => "fuse-loop",
            Self::Ublk => "ublk",
            Self::KernelNbd => "kernel-nbd",
            Self::Nbd => "nbd",
            Self::VhostUserBlk => "vhost-user-blk",
        }
    }
}

impl fmt::Display for FrontEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for FrontEnd {
    type Err = UnknownFrontEnd;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|front_end| front_end.name() == name)
            .ok_or_else(|| UnknownFrontEnd {
                name: name.to_owned(),
            })
    }
}

/// Whether this machine can do a front end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    /// The front end.
    pub front_end: FrontEnd,
    /// Why it cannot be used, in words; `None` when it can.
    pub obstacle: Option<String>,
}

impl Probed {
    /// Whether the front end can be used.
    pub fn is_available(&self) -> bool {
        self.obstacle.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for front_end in FrontEnd::ALL {
            assert_eq!(front_end.to_string().parse(), Ok(front_end));
        }
        assert!("scsi".parse::<FrontEnd>().is_err());
    }
}
