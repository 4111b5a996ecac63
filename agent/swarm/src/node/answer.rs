//! What peers answer to our requests, and what follows.

use std::time::Duration;

use tranship_format::wire::{ChunkId, Fault, Member, PeerId};

use super::Node;
use super::action::{Action, Origin};
use super::blob::Stripe;
use super::input::Arrival;
use super::timer::Timer;
use super::wanted::Attempt;

/// Times a chunk may be answered BUSY before it pauses instead of following the next alternative.
const MAX_BUSY: u32 = 8;
/// Hops beyond which a line of waiting nodes is taken for a ring.
const MAX_HOPS: u8 = 24;

impl Node {
    /// Takes a request of ours out, if it is open; the chunk stays wanted.
    fn close(&mut self, now: Duration, peer: PeerId, request: u32) -> Option<(ChunkId, Attempt)> {
        let chunk = *self.peers.requests.get(&(peer, request))?;
        let attempts = &self.wants.get(&chunk)?.attempts;
        let attempt = *attempts.iter().find(|attempt| attempt.request == request)?;
        self.drop_attempt(chunk, attempt);
        self.peers.mark_here(now, peer);
        Some((chunk, attempt))
    }

    pub(super) fn data(&mut self, now: Duration, peer: PeerId, request: u32, arrival: Arrival) {
        let Some((chunk, attempt)) = self.close(now, peer, request) else {
            return;
        };
        if arrival == Arrival::Wrong {
            self.counters.wrong_chunks += 1;
            self.actions.push_back(Action::Report {
                fault: Fault::WrongChunk,
                peer,
                chunk,
            });
            self.shun(now, peer);
            self.needs_source(now, chunk);
            return;
        }
        let len = self.chunk_len(chunk);
        // What it waited for itself says nothing of the peer.
        let since = match (attempt.alive_at, attempt.here_at) {
            (None, _) => Some(attempt.sent_at),
            (Some(_), here_at) => here_at,
        };
        self.pace.note_journey(now.saturating_sub(attempt.sent_at));
        if let Some(since) = since {
            let took = now.saturating_sub(since);
            self.pace.note(took);
            self.peers.note_sent(peer, len, took);
        }
        self.counters.chunks_from_peers += 1;
        self.counters.bytes_from_peers += len;
        let mut beaten = None;
        if attempt.is_hedge {
            self.counters.hedge_wins += 1;
            let wanted = self.wants.get(&chunk);
            let is_own = |beaten: &Attempt| beaten.alive_at.is_none() || beaten.here_at.is_some();
            beaten = wanted
                .and_then(|wanted| wanted.attempts.first().copied())
                .filter(is_own);
        }
        self.arrived(now, chunk, arrival, Origin::Peer(peer));
        if let Some(beaten) = beaten {
            self.strike(now, beaten, chunk);
        }
    }

    /// A chunk is here and verified: readers and waiting peers get it.
    pub(super) fn arrived(
        &mut self,
        now: Duration,
        chunk: ChunkId,
        arrival: Arrival,
        from: Origin,
    ) {
        let kept = arrival == Arrival::Kept;
        let id = self.stripe_of(chunk);
        let by_tracker = self.stripe(id).is_some_and(Stripe::is_by_tracker);
        if kept && let Some(blob) = self.blobs.get_mut(&chunk.blob) {
            // Whom the tracker gave a route it knows to be getting the stripe.
            let is_news = blob.present_in(id.number) == 0 && !by_tracker;
            if blob.set(chunk.number) || is_news {
                self.announce_soon(now, chunk.blob);
            }
        }
        let Some(wanted) = self.finish(now, chunk) else {
            return;
        };
        if wanted.local.is_some() {
            self.actions.push_back(Action::Complete { chunk, from });
        }
        for child in wanted.children {
            self.waiters.remove(&(child.peer, child.request));
            self.deliver(now, child, chunk, kept);
        }
    }

    pub(super) fn wait(
        &mut self,
        now: Duration,
        peer: PeerId,
        request: u32,
        idle: Duration,
        hops: u8,
    ) {
        if hops > MAX_HOPS {
            if self.peers.requests.contains_key(&(peer, request)) {
                self.actions.push_back(Action::SendCancel { peer, request });
            }
            return self.miss(now, peer, request);
        }
        let Some(&chunk) = self.peers.requests.get(&(peer, request)) else {
            return;
        };
        let Some(wanted) = self.wants.get_mut(&chunk) else {
            return;
        };
        let alive_at = now.saturating_sub(idle);
        for attempt in wanted
            .attempts
            .iter_mut()
            .filter(|attempt| attempt.request == request)
        {
            attempt.alive_at = Some(attempt.alive_at.map_or(alive_at, |at| at.max(alive_at)));
            attempt.hops = hops;
            if hops == 0 {
                attempt.here_at.get_or_insert(now);
            }
        }
        let gained = alive_at.saturating_sub(wanted.progress_at);
        wanted.progress_at = wanted.progress_at.max(alive_at);
        self.peers.mark_here(now, peer);
        // Good news that is unusually new must not wait for the next repetition: children may be about
        // to lose their patience.
        if gained > self.options.wait_repeat * 3 / 2 {
            self.tell_waiters(now, chunk);
        }
    }

    pub(super) fn busy(
        &mut self,
        now: Duration,
        peer: PeerId,
        request: u32,
        retry: Duration,
        alternatives: &[Member],
    ) {
        let Some((chunk, _)) = self.close(now, peer, request) else {
            return;
        };
        self.counters.busy_received += 1;
        let me = self.me.peer;
        let named: Vec<_> = alternatives
            .iter()
            .filter(|other| other.peer != me && other.peer != peer)
            .map(|other| self.peers.meet(other))
            .collect();
        let retry = retry.min(self.options.bulk_patience);
        let Some(wanted) = self.wants.get_mut(&chunk) else {
            return;
        };
        wanted.refuse(peer, Some(now + retry));
        wanted.busy += 1;
        if wanted.busy % MAX_BUSY == 0 {
            wanted.alternatives.clear();
            if wanted.attempts.is_empty() && wanted.read.is_none() {
                self.timers.insert((now + retry, Timer::Retry(chunk)));
            }
            // A queue that is full again and again is longer than its link is fast: others may have less to do.
            return self.ask_for_others(now, chunk, peer);
        }
        let new = named
            .into_iter()
            .filter(|other| wanted.refused_until(&other.peer) <= now);
        let new: Vec<_> = new.collect();
        wanted.alternatives.extend(new);
        self.needs_source(now, chunk);
    }

    pub(super) fn miss(&mut self, now: Duration, peer: PeerId, request: u32) {
        let Some((chunk, _)) = self.close(now, peer, request) else {
            return;
        };
        self.counters.misses_received += 1;
        if let Some(wanted) = self.wants.get_mut(&chunk)
            && !wanted.is_asked_of(&peer)
        {
            wanted.refuse(peer, None);
        }
        self.needs_source(now, chunk);
    }

    /// Looks for a source for a chunk unless another request or read for it is under way: one of a peer that says
    /// nothing is none.
    pub(super) fn needs_source(&mut self, now: Duration, chunk: ChunkId) {
        let attempts = self.wants.get(&chunk).map(|wanted| &wanted.attempts);
        let unheard =
            |attempt: &Attempt| attempt.alive_at.is_none() && self.is_silent(now, &attempt.peer);
        let lost = attempts
            .filter(|attempts| attempts.iter().all(unheard))
            .cloned();
        for attempt in lost.unwrap_or_default() {
            self.drop_attempt(chunk, attempt);
            let (peer, request) = (attempt.peer, attempt.request);
            self.actions.push_back(Action::SendCancel { peer, request });
        }
        let Some(wanted) = self.wants.get_mut(&chunk) else {
            return;
        };
        if wanted.read.is_some() {
            return;
        }
        match wanted.attempts.first().copied() {
            None => {
                // A request that ended without an answer does not use up the one hedge.
                wanted.hedged = false;
                self.make_idle(chunk);
            }
            // The one that is left may turn out to be gone: then others are asked, and not the registry.
            Some(left) if wanted.hedged && left.alive_at.is_none() => {
                self.hedge_soon(now, chunk, left);
            }
            Some(_) => {}
        }
    }

    /// A peer is gone: what was asked of it is asked of others at once, what it asked is forgotten.
    pub(super) fn peer_gone(&mut self, now: Duration, peer: PeerId) {
        let open = self.peers.requests_at(peer);
        self.peers.mark_gone(peer, now + self.options.avoid);
        if let Some(&(_, chunk)) = open.first() {
            self.actions.push_back(Action::Report {
                fault: Fault::Dead,
                peer,
                chunk,
            });
        }
        self.void(now, peer);
    }

    /// Voids all that is under way with a peer, in both directions.
    fn void(&mut self, now: Duration, peer: PeerId) {
        self.leaving.remove(&peer);
        self.rights.forget(&peer);
        self.void_requests(now, peer);
        self.forget_child(now, peer);
    }

    fn void_requests(&mut self, now: Duration, peer: PeerId) {
        for (request, chunk) in self.peers.requests_at(peer) {
            self.forget_request(peer, request, chunk);
            if let Some(wanted) = self.wants.get_mut(&chunk) {
                wanted.attempts.retain(|attempt| attempt.request != request);
            }
            self.needs_source(now, chunk);
        }
    }

    /// Asks a peer for nothing for a while: it sent something wrong. It still gets what it asks for, since it may have
    /// that anyway, and would read it of the registry, alone.
    fn shun(&mut self, now: Duration, peer: PeerId) {
        self.peers.shun(peer, now + self.options.ban);
        for (request, _) in self.peers.requests_at(peer) {
            self.actions.push_back(Action::SendCancel { peer, request });
        }
        self.void_requests(now, peer);
    }

    /// Has nothing to do with a peer for a while: the tracker says so.
    pub(super) fn ban(&mut self, now: Duration, peer: PeerId) {
        self.peers.ban(peer, now + self.options.ban);
        self.void(now, peer);
        self.actions.push_back(Action::Disconnect { peer });
    }
}
