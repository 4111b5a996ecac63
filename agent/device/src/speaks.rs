//! The versions of a protocol that a process speaks, and the one that two of them have in common.
//!
//! Processes of this node outlive upgrades of each other, so two that meet may be of different releases. Each says the oldest and the
//! newest version that it speaks, and both speak the newest that both know: a release that adds one still speaks the one before.

use std::fmt;

/// The versions that one side speaks, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speaks {
    /// The oldest.
    pub oldest: u8,
    /// The newest, which is not below the oldest: a range that is the other way round has no version in common with any.
    pub newest: u8,
}

impl Speaks {
    /// One version and no other.
    #[must_use]
    pub const fn only(version: u8) -> Self {
        Self {
            oldest: version,
            newest: version,
        }
    }

    /// Whether `version` is among them.
    #[must_use]
    pub const fn includes(self, version: u8) -> bool {
        self.oldest <= version && version <= self.newest
    }

    /// The newest version that both speak; `None` when there is none.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u8> {
        let newest = self.newest.min(other.newest);
        (self.includes(newest) && other.includes(newest)).then_some(newest)
    }
}

impl fmt::Display for Speaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.oldest == self.newest {
            write!(f, "version {}", self.oldest)
        } else {
            write!(f, "versions {} to {}", self.oldest, self.newest)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_that_both_speak_is_taken() {
        let speaks = |oldest, newest| Speaks { oldest, newest };
        for (one, other, common) in [
            (speaks(1, 1), speaks(1, 1), Some(1)),
            (speaks(1, 1), speaks(1, 2), Some(1)),
            (speaks(1, 3), speaks(2, 5), Some(3)),
            (speaks(1, 5), speaks(2, 3), Some(3)),
            (speaks(1, 1), speaks(2, 2), None),
            (speaks(1, 2), speaks(4, 9), None),
            (speaks(3, 1), speaks(1, 3), None),
            (speaks(0, 255), speaks(255, 255), Some(255)),
        ] {
            assert_eq!(one.common(other), common, "{one:?} {other:?}");
            assert_eq!(other.common(one), common, "{other:?} {one:?}");
        }
    }

    #[test]
    fn ranges_are_said_in_words() {
        assert_eq!(Speaks::only(1).to_string(), "version 1");
        let both = Speaks {
            oldest: 1,
            newest: 2,
        };
        assert_eq!(both.to_string(), "versions 1 to 2");
    }
}
