//! For whom a joiner of a stripe may have room, as far as the stripe's table tells: most have their children, and are passed over.

/// What a stripe's table knows of where a joiner stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It is the seed: how many children it may have is not this table's to say.
    Seed,
    /// In the rack of this tag, which is neither of the two that mean nobody and anybody.
    Rack(Room),
}

/// For whom a joiner may have room, as far as its stripe's table tells: a short name of a rack, nobody, or anybody. Names may be those of two
/// racks, which costs a look more.
pub(super) type Room = u16;
/// It has its children.
pub(super) const FOR_NOBODY: Room = 0;
/// It has room for any child.
pub(super) const FOR_ANYBODY: Room = Room::MAX;

/// How many children a joiner may have.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FanOut {
    /// Wherever they are.
    pub(super) anywhere: usize,
    /// If they are in its rack.
    pub(super) in_rack: usize,
}

impl Place {
    /// That of a member of a rack.
    pub(super) fn in_rack(hash: u64) -> Self {
        let tag = Room::try_from(hash % u64::from(FOR_ANYBODY - 1)).unwrap_or(0) + 1;
        Self::Rack(tag)
    }
}
