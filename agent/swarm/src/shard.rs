//! Which of several trackers answers for which blob.
//!
//! Each blob has a ranking of all trackers that nobody has to agree on: by the hash of the blob and the tracker's name. The
//! first of those that can be reached answers for the blob; the second is told the same of it, so that when the first is lost
//! the second knows who has what and the origin is not read again. A node needs to know nothing of this: it speaks to one
//! tracker, and [`Shards`] says which that is.
//!
//! A tracker that comes back, or comes later than the others, knows nothing yet. It is told at once and asked only when the
//! others had the time to find it, too: until then its stand-in, which knows, is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::{Member, PeerId};

use crate::node::{Input, TrackerChange};

/// Longest that a node takes to find a tracker that is back, and a little more.
const SETTLE: Duration = Duration::from_secs(10);
/// Trackers that take a node in within this time were there all along.
const START: Duration = Duration::from_secs(5);
/// Leases remembered; a node holds far fewer at once.
const MAX_LEASES: usize = 4096;

/// Where blobs are asked about now, and where they are told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Charge {
    asked: Option<PeerId>,
    stand_in: Option<PeerId>,
}

#[derive(Clone, Copy, Debug)]
struct Standing {
    epoch: u64,
    /// When it may be asked.
    settled_at: Duration,
}

/// What a node knows of its trackers.
#[derive(Debug, Default)]
pub struct Shards {
    up: BTreeMap<PeerId, Standing>,
    /// When the first of them took this node in.
    began_at: Option<Duration>,
    /// Trackers that were lost once: what they knew may be gone.
    lost: BTreeSet<PeerId>,
    blobs: BTreeMap<Digest, Charge>,
    /// Trackers that are no longer told of a blob and do not know it yet.
    left: Vec<(PeerId, Digest)>,
    /// Each tracker counts its leases for itself, so they are numbered anew for the node.
    leases: BTreeMap<u64, (PeerId, u64)>,
    numbers: BTreeMap<(PeerId, u64), u64>,
    last_lease: u64,
    /// Times that there was a tracker again after several were lost.
    starts: u64,
}

impl Shards {
    /// A tracker took us in, or told of a new epoch. Gives what the node is to hear.
    pub fn up(
        &mut self,
        now: Duration,
        tracker: PeerId,
        epoch: u64,
        seed: Option<Member>,
    ) -> Vec<Input> {
        let is_first = self.up.is_empty();
        let began_at = *self.began_at.get_or_insert(now);
        let is_alone = self.lost.iter().all(|lost| *lost == tracker);
        let before = self.up.get(&tracker).copied();
        let settled_at = match before {
            Some(standing) if standing.epoch == epoch => standing.settled_at,
            // It forgot, as if it had been lost.
            Some(_) => now + SETTLE,
            None if self.lost.contains(&tracker) || now > began_at + START => now + SETTLE,
            None => Duration::ZERO,
        };
        self.up.insert(tracker, Standing { epoch, settled_at });
        let (moved, told) = self.assign(now);
        if is_first {
            // Blobs may have been another's before: nothing that was told then holds.
            self.starts += u64::from(!is_alone);
            let epoch = epoch.wrapping_add(self.starts);
            return vec![Input::TrackerUp { epoch, seed }];
        }
        let mut inputs = changes(moved, told);
        if before.is_some_and(|before| before.epoch != epoch) {
            // There is no other to ask.
            let blobs = self.asked_of(&tracker);
            let change = TrackerChange::Forgot;
            if !blobs.is_empty() {
                inputs.push(Input::TrackerChanged { blobs, change });
            }
        }
        inputs
    }

    /// A tracker is lost.
    pub fn down(&mut self, now: Duration, tracker: &PeerId) -> Vec<Input> {
        if self.up.remove(tracker).is_none() {
            return Vec::new();
        }
        self.lost.insert(*tracker);
        let (moved, told) = self.assign(now);
        if self.up.is_empty() {
            return vec![Input::TrackerDown];
        }
        changes(moved, told)
    }

    /// Time has passed: trackers that are back for long enough are asked again.
    pub fn tick(&mut self, now: Duration) -> Vec<Input> {
        if self.wake_at().is_none_or(|at| at > now) {
            return Vec::new();
        }
        for standing in self.up.values_mut() {
            if standing.settled_at <= now {
                standing.settled_at = Duration::ZERO;
            }
        }
        let (moved, told) = self.assign(now);
        changes(moved, told)
    }

    /// When [`Shards::tick`] is due.
    pub fn wake_at(&self) -> Option<Duration> {
        let settling = self.up.values().map(|standing| standing.settled_at);
        settling.filter(|&at| at > Duration::ZERO).min()
    }

    /// This node uses a blob.
    pub fn open(&mut self, now: Duration, blob: Digest) {
        let charge = self.charge(now, &blob);
        self.blobs.insert(blob, charge);
    }

    /// It no longer does.
    pub fn close(&mut self, blob: &Digest) {
        self.blobs.remove(blob);
    }

    /// The tracker to ask about a blob that this node may not use yet; `None` while none can be reached.
    pub fn to_ask(&self, now: Duration, blob: &Digest) -> Option<PeerId> {
        self.asked(blob).or_else(|| self.charge(now, blob).asked)
    }

    /// The tracker that is asked about a blob in use; `None` while none can be reached.
    pub fn asked(&self, blob: &Digest) -> Option<PeerId> {
        self.blobs.get(blob)?.asked
    }

    /// The trackers that are told of a blob.
    pub fn told(&self, blob: &Digest) -> impl Iterator<Item = PeerId> + use<> {
        let charge = self.blobs.get(blob).copied().unwrap_or_default();
        charge.asked.into_iter().chain(charge.stand_in)
    }

    /// Trackers that are told of a blob no more, each once: they should hear that nothing of it is here.
    pub fn take_left(&mut self) -> Vec<(PeerId, Digest)> {
        std::mem::take(&mut self.left)
    }

    /// The node's number for a tracker's lease.
    pub fn number(&mut self, tracker: PeerId, lease: u64) -> u64 {
        if let Some(&number) = self.numbers.get(&(tracker, lease)) {
            return number;
        }
        if self.leases.len() >= MAX_LEASES
            && let Some((_, oldest)) = self.leases.pop_first()
        {
            self.numbers.remove(&oldest);
        }
        self.last_lease += 1;
        self.leases.insert(self.last_lease, (tracker, lease));
        self.numbers.insert((tracker, lease), self.last_lease);
        self.last_lease
    }

    /// The tracker that gave a lease, and its own number for it.
    pub fn lease(&self, number: u64) -> Option<(PeerId, u64)> {
        self.leases.get(&number).copied()
    }

    fn asked_of(&self, tracker: &PeerId) -> Vec<Digest> {
        let blobs = self.blobs.iter();
        let asked = blobs.filter(|(_, charge)| charge.asked == Some(*tracker));
        asked.map(|(blob, _)| *blob).collect()
    }

    /// Works out who answers for each blob: gives those whose tracker is another one now, and those of which another
    /// one must be told.
    fn assign(&mut self, now: Duration) -> (BTreeSet<Digest>, BTreeSet<Digest>) {
        let (mut moved, mut told) = (BTreeSet::new(), BTreeSet::new());
        let blobs: Vec<Digest> = self.blobs.keys().copied().collect();
        for blob in blobs {
            let after = self.charge(now, &blob);
            let before = self.blobs.insert(blob, after).unwrap_or_default();
            let was_told = before.asked.into_iter().chain(before.stand_in);
            let no_more = was_told
                .filter(|was| self.up.contains_key(was))
                .filter(|was| after.asked != Some(*was) && after.stand_in != Some(*was));
            self.left.extend(no_more.map(|was| (was, blob)));
            if after.asked != before.asked {
                moved.insert(blob);
            } else if after.stand_in != before.stand_in {
                told.insert(blob);
            }
        }
        (moved, told)
    }

    fn charge(&self, now: Duration, blob: &Digest) -> Charge {
        let trackers = self
            .up
            .iter()
            .map(|(tracker, standing)| (*tracker, *standing));
        let mut ranked: Vec<(Digest, PeerId, Standing)> = trackers
            .map(|(tracker, standing)| (rank(blob, &tracker), tracker, standing))
            .collect();
        ranked.sort_unstable_by(|(one, ..), (other, ..)| other.cmp(one));
        let settled = ranked
            .iter()
            .find(|(.., standing)| standing.settled_at <= now);
        let asked = settled.or(ranked.first()).map(|(_, tracker, _)| *tracker);
        let others = ranked.iter().map(|(_, tracker, _)| *tracker);
        let stand_in = others.into_iter().find(|other| Some(*other) != asked);
        Charge { asked, stand_in }
    }
}

/// A tracker's place for a blob; the greatest answers for it.
pub fn rank(blob: &Digest, tracker: &PeerId) -> Digest {
    let mut bytes = blob.bytes().to_vec();
    bytes.extend_from_slice(tracker.as_bytes());
    Digest::of(&bytes)
}

fn changes(moved: BTreeSet<Digest>, told: BTreeSet<Digest>) -> Vec<Input> {
    let all = [
        (moved, TrackerChange::Asked),
        (told, TrackerChange::StandIn),
    ];
    let some = all.into_iter().filter(|(blobs, _)| !blobs.is_empty());
    some.map(|(blobs, change)| Input::TrackerChanged {
        blobs: blobs.into_iter().collect(),
        change,
    })
    .collect()
}

#[cfg(test)]
mod tests;
