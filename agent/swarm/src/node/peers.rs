//! What a node thinks of its peers: whom it may ask, how much it has asked, how fast they were.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tranship_format::wire::{ChunkId, Goodput, MAX_GOODPUTS, Member, PeerId};

use super::uplink::is_quick;

/// Peers remembered before those of whom there is nothing to remember are dropped.
const MAX_PEERS: usize = 8_192;
/// Slow answers in a row before a peer is avoided.
const MAX_STRIKES: u32 = 3;
/// Peers that may be avoided as slow however few are known.
const MIN_SLOW: usize = 2;

/// A peer that does not answer is not asked for this long.
const SILENT_FOR: Duration = Duration::from_secs(10);

/// A peer.
#[derive(Debug, Default)]
struct Peer {
    member: Option<Arc<Member>>,
    /// Bytes asked of it and not come yet.
    asked_len: u64,
    banned_until: Duration,
    shunned_until: Duration,
    gone_until: Duration,
    slow_until: Duration,
    strikes: u32,
    heard_at: Duration,
    /// When it was first asked for something since it was last heard.
    unanswered_since: Option<Duration>,
    /// Bytes it sent, and how long they took, since goodputs were last taken.
    sent_len: u64,
    sending: Duration,
}

/// All peers.
#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: BTreeMap<PeerId, Peer>,
    /// Requests of ours that are open, and the chunk of each.
    pub(super) requests: BTreeMap<(PeerId, u32), ChunkId>,
}

impl Peers {
    fn entry(&mut self, peer: PeerId) -> &mut Peer {
        if self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&peer) {
            self.peers.retain(|_, known| {
                known.asked_len > 0
                    || known.banned_until.max(known.shunned_until) > Duration::ZERO
                    || known.sent_len > 0
            });
        }
        self.peers.entry(peer).or_default()
    }

    /// Learns where a peer is; gives what is known, so that equal members are held once.
    pub(super) fn meet(&mut self, member: &Member) -> Arc<Member> {
        let known = &mut self.entry(member.peer).member;
        match known {
            Some(known) if **known == *member => Arc::clone(known),
            _ => Arc::clone(known.insert(Arc::new(member.clone()))),
        }
    }

    pub(super) fn member(&self, peer: &PeerId) -> Option<&Arc<Member>> {
        self.peers.get(peer)?.member.as_ref()
    }

    pub(super) fn asked_len(&self, peer: &PeerId) -> u64 {
        self.peers.get(peer).map_or(0, |known| known.asked_len)
    }

    pub(super) fn open_request(
        &mut self,
        now: Duration,
        peer: PeerId,
        request: u32,
        (chunk, len): (ChunkId, u64),
    ) {
        self.requests.insert((peer, request), chunk);
        let known = self.entry(peer);
        known.asked_len += len;
        // One that was left alone for so long is given another chance.
        let before = known.unanswered_since;
        let recent = before.filter(|since| now.saturating_sub(*since) < SILENT_FOR);
        known.unanswered_since = Some(recent.unwrap_or(now));
    }

    /// Forgets a request; false if there was none.
    pub(super) fn close_request(&mut self, peer: PeerId, request: u32, len: u64) -> bool {
        let open = self.requests.remove(&(peer, request)).is_some();
        if open {
            let known = self.entry(peer);
            known.asked_len = known.asked_len.saturating_sub(len);
        }
        open
    }

    /// Our open requests at a peer.
    pub(super) fn requests_at(&self, peer: PeerId) -> Vec<(u32, ChunkId)> {
        let all = (peer, 0)..=(peer, u32::MAX);
        self.requests
            .range(all)
            .map(|(&(_, request), &chunk)| (request, chunk))
            .collect()
    }

    pub(super) fn ban(&mut self, peer: PeerId, until: Duration) {
        let known = self.entry(peer);
        known.banned_until = known.banned_until.max(until);
    }

    pub(super) fn is_banned(&self, now: Duration, peer: &PeerId) -> bool {
        self.peers
            .get(peer)
            .is_some_and(|known| known.banned_until > now)
    }

    /// Asks a peer for nothing until then, whatever it asks itself.
    pub(super) fn shun(&mut self, peer: PeerId, until: Duration) {
        let known = self.entry(peer);
        known.shunned_until = known.shunned_until.max(until);
    }

    pub(super) fn is_shunned(&self, now: Duration, peer: &PeerId) -> bool {
        self.peers
            .get(peer)
            .is_some_and(|known| known.shunned_until > now)
    }

    pub(super) fn mark_gone(&mut self, peer: PeerId, until: Duration) {
        self.entry(peer).gone_until = until;
    }

    /// A peer that speaks is there.
    pub(super) fn mark_here(&mut self, now: Duration, peer: PeerId) {
        let known = self.entry(peer);
        known.gone_until = Duration::ZERO;
        known.heard_at = now;
        known.unanswered_since = None;
    }

    /// Whether a peer that was asked for something has said nothing at all for this long: whoever is there says
    /// WAIT at once, and then again and again.
    pub(super) fn is_silent(&self, now: Duration, peer: &PeerId, patience: Duration) -> bool {
        let known = self.peers.get(peer);
        let since = known.and_then(|known| known.unanswered_since);
        since.is_some_and(|since| (patience..SILENT_FOR).contains(&now.saturating_sub(since)))
    }

    /// When a peer last said anything.
    pub(super) fn heard_at(&self, peer: &PeerId) -> Duration {
        self.peers
            .get(peer)
            .map_or(Duration::ZERO, |known| known.heard_at)
    }

    /// Whether a peer may be asked at all.
    pub(super) fn is_usable(&self, now: Duration, peer: &PeerId) -> bool {
        self.peers.get(peer).is_none_or(|known| {
            known
                .banned_until
                .max(known.shunned_until)
                .max(known.gone_until)
                <= now
        })
    }

    pub(super) fn is_slow(&self, now: Duration, peer: &PeerId) -> bool {
        self.peers
            .get(peer)
            .is_some_and(|known| known.slow_until > now)
    }

    /// Counts a slow answer; true if it was one too many.
    pub(super) fn strike(&mut self, peer: PeerId) -> bool {
        let known = self.entry(peer);
        known.strikes += 1;
        known.strikes >= MAX_STRIKES
    }

    /// Avoids a peer for a while; true if it was not avoided before. Never more than a quarter of all
    /// known: when everybody is slow it is the network, and the registry would be no better.
    pub(super) fn mark_slow(&mut self, now: Duration, peer: PeerId, avoid: Duration) -> bool {
        let slow = self
            .peers
            .values()
            .filter(|known| known.slow_until > now)
            .count();
        let room = (self.peers.len() / 4).max(MIN_SLOW);
        let known = self.entry(peer);
        known.strikes = 0;
        let fresh = known.slow_until <= now;
        if fresh && slow >= room {
            return false;
        }
        known.slow_until = now + avoid;
        fresh
    }

    /// Counts a chunk that came without WAIT, so that it shows how fast the peer is.
    pub(super) fn note_sent(&mut self, peer: PeerId, len: u64, took: Duration) {
        let known = self.entry(peer);
        known.strikes = 0;
        if is_quick(len, took) {
            known.slow_until = Duration::ZERO;
        }
        known.sent_len += len;
        known.sending += took;
    }

    pub(super) fn take_goodputs(&mut self) -> Vec<Goodput> {
        let mut goodputs = Vec::new();
        for (&peer, known) in &mut self.peers {
            let micros = u64::try_from(known.sending.as_micros()).unwrap_or(u64::MAX);
            if goodputs.len() < MAX_GOODPUTS && known.sent_len > 0 && micros > 0 {
                let bytes_per_second = known.sent_len.saturating_mul(1_000_000) / micros;
                goodputs.push(Goodput {
                    peer,
                    bytes_per_second,
                });
                known.sent_len = 0;
                known.sending = Duration::ZERO;
            }
        }
        goodputs
    }

    /// Peers with requests of ours, for tests of what is bounded.
    pub(super) fn asked(&self) -> BTreeSet<PeerId> {
        self.requests.keys().map(|&(peer, _)| peer).collect()
    }
}
