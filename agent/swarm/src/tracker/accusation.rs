//! Who accuses whom: a member's word counts once, and for a while.

use std::collections::BTreeMap;
use std::time::Duration;

use super::stripe::MemberNo;

/// Most accusers remembered for each accused; two are enough to decide.
const MAX_ACCUSERS: usize = 4;
/// Most victims of one accuser that count, so that one member cannot be half of every ban.
const MAX_VICTIMS: usize = 8;

/// Accusations of one kind.
#[derive(Debug, Default)]
pub(super) struct Accusations {
    by_accused: BTreeMap<MemberNo, BTreeMap<MemberNo, Duration>>,
}

impl Accusations {
    /// Counts an accusation that holds for `hold`, and gives how many different accusers there are.
    pub(super) fn add(
        &mut self,
        now: Duration,
        by: MemberNo,
        of: MemberNo,
        hold: Duration,
    ) -> usize {
        self.by_accused.retain(|_, accusers| {
            accusers.retain(|_, until| *until > now);
            !accusers.is_empty()
        });
        let victims = self
            .by_accused
            .iter()
            .filter(|&(&accused, accusers)| accused != of && accusers.contains_key(&by))
            .count();
        let accusers = self.by_accused.entry(of).or_default();
        if by != of && victims < MAX_VICTIMS && accusers.len() < MAX_ACCUSERS {
            accusers.insert(by, now + hold);
        }
        accusers.len()
    }

    /// Forgets a member, whose number may be given to another.
    pub(super) fn forget(&mut self, member: MemberNo) {
        self.by_accused.remove(&member);
        for accusers in self.by_accused.values_mut() {
            accusers.remove(&member);
        }
    }
}
