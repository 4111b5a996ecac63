//! The tracker's side of the swarm: who has what, who reads the registry, who gets it from whom.
//!
//! Nodes register for a stripe *before* they have it: the first to ask is leased the read of the
//! registry, those after it become each other's parents in the order they came. So a thousand
//! nodes that start one image together read the registry once. All of this is soft state, learnt
//! again from ANNOUNCE after a restart under a new epoch; only bans outlive it, and those the server keeps.

mod accusation;
mod blobs;
mod census;
mod event;
mod leases;
mod members;
mod options;
mod outline;
mod parents;
mod requests;
mod rights;
mod room;
mod routing;
mod search;
mod seed;
mod stripe;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::{ErrorCode, Fault, Member, PeerId, TrackerReply, TrackerRequest};

use crate::StripeId;
use accusation::Accusations;
use blobs::Blobs;
use leases::Leases;
use members::Members;
use room::FanOut;
use stripe::MemberNo;

pub use census::{BlobView, Census, MemberView, StripeCount, StripeView};
pub use event::{Action, Input, Rights};
pub use options::TrackerOptions;

/// Most bans remembered here; the server keeps them all and admits none of them.
const MAX_REMEMBERED_BANS: usize = 65_536;

/// The decisions of the tracker.
#[derive(Debug)]
pub struct Tracker {
    options: TrackerOptions,
    epoch: u64,
    grace_until: Duration,
    members: Members,
    blobs: Blobs,
    leases: Leases,
    expiries: BTreeSet<(Duration, u64)>,
    /// When members' rights to blobs end.
    ends: BTreeSet<(Duration, MemberNo, Digest)>,
    registrations: usize,
    orphans: VecDeque<(StripeId, MemberNo)>,
    accusations: Accusations,
    obituaries: Accusations,
    slowness: Accusations,
    /// The latest last.
    bans: VecDeque<PeerId>,
    /// Those who sent wrong chunks by the word of two, the latest last.
    shunned: VecDeque<PeerId>,
    review_at: Duration,
    /// No lease is given any more.
    is_draining: bool,
    actions: VecDeque<Action>,
}

impl Tracker {
    /// A tracker that knows nobody. `epoch` must differ from every earlier one; `bans` are those
    /// kept on disk, oldest first. Its clock is at zero.
    pub fn new(
        options: TrackerOptions,
        epoch: u64,
        bans: impl IntoIterator<Item = PeerId>,
    ) -> Self {
        let mut bans: VecDeque<PeerId> = bans.into_iter().collect();
        bans.drain(..bans.len().saturating_sub(MAX_REMEMBERED_BANS));
        let fan_out = FanOut {
            anywhere: options.fan_out,
            in_rack: options.rack_fan_out,
        };
        Self {
            grace_until: options.grace,
            review_at: options.heartbeat,
            is_draining: false,
            options,
            epoch,
            members: Members::default(),
            blobs: Blobs::new(fan_out),
            leases: Leases::default(),
            expiries: BTreeSet::new(),
            ends: BTreeSet::new(),
            registrations: 0,
            orphans: VecDeque::new(),
            accusations: Accusations::default(),
            obituaries: Accusations::default(),
            slowness: Accusations::default(),
            bans,
            shunned: VecDeque::new(),
            actions: VecDeque::new(),
        }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Duration, input: Input) {
        match input {
            Input::Joined { member, boot_id } => self.joined(now, member, boot_id),
            Input::Gone { peer } => {
                if let Some(number) = self.members.number(&peer) {
                    self.remove_member(now, number);
                }
            }
            Input::Open {
                from,
                request,
                image,
                blobs,
                rights,
            } => self.reply(now, from, request, |tracker, me| {
                tracker.open(now, me, image, &blobs, rights)
            }),
            Input::Ban { peer } => self.ban(now, peer),
            Input::Unban { peer } => {
                self.bans.retain(|banned| *banned != peer);
                self.shunned.retain(|shunned| *shunned != peer);
            }
            Input::Request {
                from,
                request,
                message,
            } => self.reply(now, from, request, |tracker, me| {
                tracker.answer(now, me, message)
            }),
        }
        self.settle_orphans(now);
    }

    fn reply(
        &mut self,
        now: Duration,
        to: PeerId,
        request: u32,
        answer: impl FnOnce(&mut Self, MemberNo) -> TrackerReply,
    ) {
        let reply = match self.members.number(&to) {
            Some(me) => {
                if let Some(standing) = self.members.get_mut(me) {
                    standing.seen_at = now;
                }
                // Nobody is answered by a right that ended while nobody looked.
                self.end_rights(now);
                answer(self, me)
            }
            None if self.is_banned(&to) => refuse(ErrorCode::Banned, "banned"),
            None => refuse(ErrorCode::NotAMember, "not a member; join first"),
        };
        let reply = Action::Reply { to, request, reply };
        self.actions.push_back(reply);
    }

    /// The next thing to do now; to be called until `None`.
    pub fn poll(&mut self, now: Duration) -> Option<Action> {
        if self.wake_at().is_some_and(|at| at <= now) {
            self.end_rights(now);
            self.expire_leases(now);
            let patience = self.options.heartbeat * self.options.missed_heartbeats;
            while let Some(dead) = self.members.next_dead(now, patience) {
                self.remove_member(now, dead);
            }
            if self.review_at <= now {
                self.members.review(now, self.options.slow);
                self.review_at = now + self.options.heartbeat;
            }
            self.settle_orphans(now);
        }
        self.actions.pop_front()
    }

    /// When to poll next though nothing happened.
    pub fn wake_at(&self) -> Option<Duration> {
        let review = (self.members.len() > 0).then_some(self.review_at);
        let expiry = self.expiries.first().map(|&(at, _)| at);
        let end = self.ends.first().map(|&(at, ..)| at);
        [review, expiry, end, self.members.wake_at()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The epoch, for JOINED.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Gives no lease from now on, since the tracker stops: those that are out end by themselves.
    pub const fn drain(&mut self) {
        self.is_draining = true;
    }

    /// Leases whose holders read the registry at this moment: neither resting nor over their time.
    pub fn reading_count(&self) -> usize {
        self.leases.reading_count()
    }

    /// Whether a peer is banned, and so not to be admitted.
    pub fn is_banned(&self, peer: &PeerId) -> bool {
        self.bans.contains(peer)
    }

    fn joined(&mut self, now: Duration, member: Member, boot_id: [u8; 16]) {
        if let Some(number) = self.members.number(&member.peer) {
            let known = self
                .members
                .get(number)
                .is_some_and(|known| known.boot_id == boot_id);
            if known {
                self.members.move_to(number, member);
                if let Some(standing) = self.members.get_mut(number) {
                    standing.seen_at = now;
                }
                return;
            }
            self.remove_member(now, number);
        }
        // One too many is not refused here but at its first request, which says why.
        if self.members.len() < self.options.members && !self.is_banned(&member.peer) {
            let due_at = now + self.options.heartbeat * self.options.missed_heartbeats;
            self.members.insert(member, boot_id, now, due_at);
        }
    }

    fn answer(&mut self, now: Duration, me: MemberNo, message: TrackerRequest) -> TrackerReply {
        match message {
            TrackerRequest::Join(_) | TrackerRequest::Open(_) | TrackerRequest::Prove(_) => refuse(
                ErrorCode::Malformed,
                "JOIN, OPEN and PROVE are the server's to check",
            ),
            TrackerRequest::Lookup { blob, stripes } => {
                let Some(key) = self.key_of(now, me, &blob) else {
                    return refuse(ErrorCode::UnknownBlob, "blob is not open");
                };
                if let Some(blob) = self.blobs.get_mut(&key) {
                    blob.used_at = now;
                }
                self.lookup(now, me, (blob, key), stripes)
            }
            TrackerRequest::Progress {
                lease,
                done_len,
                state,
            } => self.progress(now, me, lease, done_len, state),
            TrackerRequest::Announce { blob, runs } => {
                let Some(key) = self.key_of(now, me, &blob) else {
                    return refuse(ErrorCode::UnknownBlob, "blob is not open");
                };
                self.announce(now, me, key, &runs);
                TrackerReply::Ack
            }
            TrackerRequest::Heartbeat {
                load_permille,
                epoch: _,
                goodputs,
            } => self.heartbeat(me, load_permille, &goodputs),
            TrackerRequest::Report {
                fault,
                peer,
                chunk: _,
            } => {
                // Of itself a member knows that it is slow, and nothing else.
                let of = self.members.number(&peer);
                if let Some(of) = of.filter(|&of| of != me || fault == Fault::Slow) {
                    self.report(now, me, fault, of);
                }
                TrackerReply::Ack
            }
            TrackerRequest::Leave => {
                self.remove_member(now, me);
                TrackerReply::Ack
            }
        }
    }

    fn ban(&mut self, now: Duration, peer: PeerId) {
        if self.is_banned(&peer) {
            return;
        }
        if let Some(number) = self.members.number(&peer) {
            self.remove_member(now, number);
        }
        if self.bans.len() >= MAX_REMEMBERED_BANS {
            self.bans.pop_front();
        }
        self.bans.push_back(peer);
        self.actions.push_back(Action::Banned { peer });
    }

    /// Two members' word that a chunk was wrong: nobody is sent to this one any more. It stays a member, and is sent to
    /// others for what it wants: whoever was banned read it of the registry, alone.
    fn shun(&mut self, now: Duration, number: MemberNo) {
        let Some(standing) = self.members.get_mut(number) else {
            return;
        };
        let peer = standing.member.peer;
        if self.shunned.contains(&peer) {
            return;
        }
        let rank = standing.rank;
        let stripes = std::mem::take(&mut standing.stripes);
        let keys: Vec<Digest> = standing.blobs.values().map(|held| held.key).collect();
        if self.shunned.len() >= MAX_REMEMBERED_BANS {
            self.shunned.pop_front();
        }
        self.shunned.push_back(peer);
        for id in stripes {
            self.take_out(now, id, number);
        }
        for key in keys {
            if let Some(blob) = self.blobs.get_mut(&key) {
                blob.members.remove(&(rank, number));
            }
        }
        self.actions.push_back(Action::Shunned { peer });
    }

    /// Whether nobody is sent to a peer, since it sent wrong chunks.
    pub fn is_shunned(&self, peer: &PeerId) -> bool {
        self.shunned.contains(peer)
    }

    fn is_member_shunned(&self, number: MemberNo) -> bool {
        let member = self.members.get(number);
        member.is_some_and(|standing| self.is_shunned(&standing.member.peer))
    }

    fn remove_member(&mut self, now: Duration, number: MemberNo) {
        let Some(standing) = self.members.get_mut(number) else {
            return;
        };
        let rank = standing.rank;
        let stripes = std::mem::take(&mut standing.stripes);
        let blobs = std::mem::take(&mut standing.blobs);
        for id in stripes {
            self.take_out(now, id, number);
        }
        for held in blobs.into_values() {
            if let Some(blob) = self.blobs.get_mut(&held.key) {
                blob.members.remove(&(rank, number));
            }
        }
        // Before the number is free: an orphan is told apart from its former parent by it.
        self.settle_orphans(now);
        self.accusations.forget(number);
        self.obituaries.forget(number);
        self.slowness.forget(number);
        self.members.remove(number);
    }

    fn forget_oldest_blob(&mut self) {
        let Some(key) = self.blobs.oldest() else {
            return;
        };
        let Some(blob) = self.blobs.remove(&key) else {
            return;
        };
        for (&number, stripe) in blob.stripes() {
            let id = StripeId { blob: key, number };
            self.registrations = self.registrations.saturating_sub(stripe.joiners().len());
            for joiner in stripe.joiners() {
                if let Some(standing) = self.members.get_mut(joiner.member) {
                    standing.stripes.remove(&id);
                }
            }
            if let Some(lease) = stripe.lease {
                self.leases.end(lease.id);
            }
        }
        for &(_, number) in &blob.members {
            if let Some(standing) = self.members.get_mut(number) {
                standing.blobs.remove(&blob.digest);
            }
        }
    }
}

fn refuse(code: ErrorCode, text: &str) -> TrackerReply {
    TrackerReply::Error {
        code,
        text: text.to_owned(),
    }
}
