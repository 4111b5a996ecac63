//! How fast this node's own link carries chunks, learnt from how long each took.
//!
//! A connection takes in some bytes at once, whatever the link: the kernel's, the queue's before the link, and what a link that was
//! idle may send beyond its rate. So the first of what goes to a peer says little, and no short chunk says anything. What is still
//! under way after long says as much as what has gone.

use std::collections::BTreeMap;
use std::time::Duration;

use tranship_format::wire::PeerId;

/// A link that takes longer than this for a chunk of the usual length is no use to others, and what it sends to them
/// stands before this node's own questions, and before its receipts of what it is sent.
pub(super) const SLOW_LINK: Duration = Duration::from_millis(300);
/// Stored bytes of a chunk of the usual length.
const USUAL_LEN: u64 = 256 << 10;
/// Bytes to a peer that may be taken in at once.
const TAKEN_IN: u64 = 256 << 10;
/// A connection that carried nothing for so long takes in as much again.
const QUIET: Duration = Duration::from_secs(2);
/// Who takes nothing for so long is gone rather than slow.
const STALLED: Duration = Duration::from_secs(5);
/// Receivers by which a link is known, and for how long.
const MAX_RECEIVERS: usize = 16;
const LATELY: Duration = Duration::from_secs(10);

/// What is known of the way to one peer.
#[derive(Debug)]
struct Receiver {
    /// How long a chunk of the usual length takes, and since when that is known.
    pace: Option<(Duration, Duration)>,
    /// When something went to it last.
    at: Duration,
    /// Bytes that say nothing yet.
    room: u64,
    /// Those that were carried since it last was known, and how long that took.
    carried: u64,
    took: Duration,
}

/// See the module's words.
#[derive(Debug, Default)]
pub(super) struct Uplink {
    receivers: BTreeMap<PeerId, Receiver>,
}

impl Uplink {
    /// A chunk of `len` bytes that `beside` others shared the link with has gone to a peer, which took so long.
    pub(super) fn carried(
        &mut self,
        now: Duration,
        peer: PeerId,
        len: u64,
        took: Duration,
        beside: usize,
    ) {
        let share = in_u32(beside as u64).saturating_add(1);
        let took_alone = took / share;
        let receiver = self.receivers.entry(peer).or_insert(Receiver {
            pace: None,
            at: now,
            room: TAKEN_IN,
            carried: 0,
            took: Duration::ZERO,
        });
        if now.saturating_sub(took).saturating_sub(receiver.at) > QUIET {
            receiver.room = TAKEN_IN;
            receiver.carried = 0;
            receiver.took = Duration::ZERO;
        }
        receiver.at = now;
        let taken_in = receiver.room.min(len);
        receiver.room -= taken_in;
        receiver.carried += len - taken_in;
        if receiver.carried > 0 {
            receiver.took += took_alone;
        }
        if receiver.carried >= USUAL_LEN / 2 {
            let usual = receiver.took * in_u32(USUAL_LEN) / in_u32(receiver.carried);
            receiver.pace = Some((usual, now));
            receiver.carried = 0;
            receiver.took = Duration::ZERO;
        } else if took_alone > SLOW_LINK {
            receiver.pace = Some((took_alone, now));
        }
        if self.receivers.len() > MAX_RECEIVERS {
            let oldest = self.receivers.iter().min_by_key(|(_, of)| of.at);
            if let Some(oldest) = oldest.map(|(&peer, _)| peer) {
                self.receivers.remove(&oldest);
            }
        }
    }

    /// By how many receivers the link is known, and how long it takes for a chunk: as long as to whoever takes them
    /// fastest. `active` are receivers of what is under way, and since when each is.
    pub(super) fn pace(
        &self,
        now: Duration,
        active: impl ExactSizeIterator<Item = (PeerId, Duration)>,
    ) -> (usize, Duration) {
        let share = in_u32(active.len() as u64).max(1);
        let known = |(&peer, receiver): (&PeerId, &Receiver)| {
            let (pace, at) = receiver.pace?;
            (now.saturating_sub(at) < LATELY).then_some((peer, pace))
        };
        let mut paces: Vec<(PeerId, Duration)> = self.receivers.iter().filter_map(known).collect();
        for (peer, since) in active {
            let waited = now.saturating_sub(since);
            let alone = waited / share;
            if alone <= SLOW_LINK || waited >= STALLED {
                continue;
            }
            match paces.iter_mut().find(|(to, _)| *to == peer) {
                Some((_, pace)) => *pace = alone.max(*pace),
                None => paces.push((peer, alone)),
            }
        }
        let fastest = paces.iter().map(|(_, pace)| *pace).min();
        (paces.len(), fastest.unwrap_or_default())
    }
}

/// Whether `len` bytes that arrived in that time came over a link that is not slow.
pub(super) fn is_quick(len: u64, took: Duration) -> bool {
    took * in_u32(USUAL_LEN) < SLOW_LINK * in_u32(len)
}

fn in_u32(len: u64) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    // Whom the link was known by before a pause was not counted while the next chunk was under way.
    #[test]
    fn what_is_under_way_for_long_counts_whatever_was_known_long_ago() {
        let mut uplink = Uplink::default();
        let peers = [1, 2].map(|name| PeerId::from_bytes(&[name]).unwrap());
        for peer in peers {
            uplink.carried(500 * MS, peer, USUAL_LEN, 500 * MS, 0);
        }
        let now = Duration::from_mins(1);
        assert_eq!(uplink.pace(now, [].into_iter()), (0, Duration::ZERO));
        let active = peers.map(|peer| (peer, now.saturating_sub(700 * MS)));
        assert_eq!(uplink.pace(now, active.into_iter()), (2, 350 * MS));
        let stalled = peers.map(|peer| (peer, now.saturating_sub(STALLED)));
        assert_eq!(uplink.pace(now, stalled.into_iter()), (0, Duration::ZERO));
    }
}
