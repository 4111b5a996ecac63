//! Addresses: sectors of a device and ranges of bytes.
//!
//! Two units that are both "a number" in most code. Here they are two types, so that a sector is never taken for a byte.

use core::fmt;

/// Bytes in a sector. overlaybd's unit of device addresses, whatever the block size of the kernel or the filesystem.
pub const SECTOR_LEN: u64 = 512;

/// The number of a sector on a device, counted from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sector(pub u64);

impl Sector {
    /// The sector that holds the byte at `offset`.
    pub const fn of_byte(offset: u64) -> Self {
        Self(offset / SECTOR_LEN)
    }

    /// Offset of the first byte of the sector; `None` if it does not fit 64 bits.
    pub const fn byte(self) -> Option<u64> {
        self.0.checked_mul(SECTOR_LEN)
    }
}

impl fmt::Display for Sector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sector {}", self.0)
    }
}

/// Bytes `[start, end)` of a blob, a device or a file: half open, `start <= end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteRange {
    /// Offset of the first byte.
    pub start: u64,
    /// Offset behind the last byte.
    pub end: u64,
}

impl ByteRange {
    /// Bytes `[start, end)`; empty at `start` if `end` lies before it.
    pub const fn new(start: u64, end: u64) -> Self {
        Self {
            start,
            end: if end < start { start } else { end },
        }
    }

    /// `len` bytes from `start`; `None` if the end does not fit 64 bits.
    pub const fn at(start: u64, len: u64) -> Option<Self> {
        match start.checked_add(len) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// Number of bytes.
    pub const fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether there is no byte in the range.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the byte at `offset` is in the range.
    pub const fn contains(&self, offset: u64) -> bool {
        self.start <= offset && offset < self.end
    }

    /// Whether every byte of `other` is in this range. An empty range is in every range.
    pub const fn contains_range(&self, other: Self) -> bool {
        other.is_empty() || (self.start <= other.start && other.end <= self.end)
    }

    /// Whether there is a byte that is in both ranges.
    pub const fn overlaps(&self, other: Self) -> bool {
        !self.intersection(other).is_empty()
    }

    /// The bytes that are in both ranges; empty if there are none.
    #[must_use]
    pub const fn intersection(&self, other: Self) -> Self {
        let start = if self.start > other.start {
            self.start
        } else {
            other.start
        };
        let end = if self.end < other.end {
            self.end
        } else {
            other.end
        };
        Self::new(start, end)
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {}..{}", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_half_open() {
        let range = ByteRange::new(10, 20);
        assert_eq!(range.len(), 10);
        assert!(range.contains(10) && range.contains(19) && !range.contains(20));
        assert!(!range.overlaps(ByteRange::new(20, 30)));
        assert!(range.overlaps(ByteRange::new(19, 30)));
        assert_eq!(
            range.intersection(ByteRange::new(15, 90)),
            ByteRange::new(15, 20)
        );
        assert!(
            range.contains_range(ByteRange::new(10, 20))
                && !range.contains_range(ByteRange::new(10, 21))
        );
    }

    #[test]
    fn a_backward_range_is_empty() {
        assert!(ByteRange::new(5, 3).is_empty());
        assert!(ByteRange { start: 5, end: 3 }.is_empty());
        assert!(ByteRange::new(0, 9).contains_range(ByteRange::new(50, 50)));
    }

    #[test]
    fn addresses_that_do_not_fit_are_refused() {
        assert_eq!(ByteRange::at(u64::MAX, 1), None);
        assert_eq!(Sector(u64::MAX / 2).byte(), None);
        assert_eq!(Sector(3).byte(), Some(1536));
        assert_eq!(Sector::of_byte(1535), Sector(2));
    }
}
