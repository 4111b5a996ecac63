//! What is looked at of all members of a stripe when one of them asks for parents: few bytes each, and side by side, since a thousand are
//! looked through for one answer.

use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::{Member, Role};

use super::room::Place;

/// A member in short.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outline {
    /// Where it is, to be compared with where others are.
    pub(super) site: Site,
    /// Until then it is nobody's parent if there is another.
    pub(super) slow_until: Duration,
    /// How busy it said that it is, in thousandths.
    pub(super) load_permille: u16,
    pub(super) is_seed: bool,
}

impl Outline {
    /// That of a member of which nothing is known yet but what it says of itself.
    pub(super) fn of(member: &Member) -> Self {
        Self {
            site: Site::of(member),
            slow_until: Duration::ZERO,
            load_permille: 0,
            is_seed: matches!(member.role, Role::Seed),
        }
    }

    /// Where a stripe's table has it.
    pub(super) fn place(&self) -> Place {
        if self.is_seed {
            Place::Seed
        } else {
            Place::in_rack(self.site.zone ^ self.site.rack.unwrap_or(0).rotate_left(1))
        }
    }

    /// The member describes itself anew; what is known of it stays.
    pub(super) fn describe(&mut self, member: &Member) {
        let Self { site, is_seed, .. } = Self::of(member);
        (self.site, self.is_seed) = (site, is_seed);
    }
}

/// A member's zone and rack by their names' hashes. Two names with one hash would make two places seem one, which costs nothing but a longer
/// way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Site {
    zone: u64,
    rack: Option<u64>,
}

impl Site {
    fn of(member: &Member) -> Self {
        Self {
            zone: short_hash(member.zone.as_bytes()),
            rack: (!member.rack.is_empty()).then(|| short_hash(member.rack.as_bytes())),
        }
    }

    pub(super) const fn is_in_zone_of(self, other: Self) -> bool {
        self.zone == other.zone
    }

    /// Whether both are in one rack, and say so.
    pub(super) fn is_in_rack_of(self, other: Self) -> bool {
        self.is_in_zone_of(other) && self.rack.is_some() && self.rack == other.rack
    }
}

/// The first eight bytes of the digest.
pub(super) fn short_hash(bytes: &[u8]) -> u64 {
    let digest = Digest::of(bytes);
    digest
        .bytes()
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
