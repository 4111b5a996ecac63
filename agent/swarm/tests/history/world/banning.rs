//! Bans by the operator: whoever is banned stays out, at the tracker and at all who heard of it.
//!
//! A node hears of a ban with its next heartbeat. Until then it may go on with the banned one; from then on it sends it
//! nothing but MISS, which tells nothing, and names it to nobody. The banned one may go on as it likes: it keeps asking
//! whom it knows, and tries to join again and again.

use std::time::Duration;

use tranship_format::wire::{PeerId, TrackerReply, TrackerRequest};
use tranship_swarm::node::Input;
use tranship_swarm::tracker::{self, Tracker};

use super::{Event, HEARTBEAT, World};

/// Between the attempts of a banned node to join.
const TRIES_EVERY: Duration = Duration::from_millis(300);
/// For the way to the tracker and back, beside the time between two heartbeats.
const WAY: Duration = Duration::from_millis(100);

impl World {
    pub(crate) fn ban_at(&mut self, at: Duration, host: usize) {
        self.at(at, Event::Ban(host));
    }

    /// The operator bans a host; one whose tracker is away cannot.
    pub(super) fn ban(&mut self, host: usize) {
        let peer = self.hosts[host].member.peer;
        if self.tracker.is_some() {
            self.tell_tracker(tracker::Input::Ban { peer });
            assert!(self.banned.contains_key(&peer), "a ban comes to nothing");
        }
    }

    /// The tracker has banned a peer: the server closes its stream.
    pub(super) fn is_now_banned(&mut self, peer: PeerId) {
        let host = self.by_peer[&peer];
        self.banned.entry(peer).or_insert(self.now);
        self.hosts[host].joined = false;
        self.at(self.now, Event::ToNode(host, Input::TrackerDown));
        self.at(self.now + TRIES_EVERY, Event::Join(host));
    }

    /// A banned host joins all the same, and asks.
    pub(super) fn join_banned(&mut self, host: usize) {
        let member = self.hosts[host].member.clone();
        let from = member.peer;
        let boot_id = [0; 16];
        self.tell_tracker(tracker::Input::Joined { member, boot_id });
        let message = TrackerRequest::Heartbeat {
            load_permille: 0,
            epoch: self.epoch,
            goodputs: Vec::new(),
        };
        self.tell_tracker(tracker::Input::Request {
            from,
            request: 1,
            message,
        });
        self.at(self.now + TRIES_EVERY, Event::Join(host));
    }

    /// The tracker tells a banned peer nothing but that it is none of its members.
    pub(super) fn check_reply_to_banned(&self, to: PeerId, reply: &TrackerReply) {
        assert!(
            !self.banned.contains_key(&to) || matches!(reply, TrackerReply::Error { .. }),
            "a banned peer is told {reply:?}"
        );
    }

    /// The tracker sends nobody to a banned peer and leaves it nothing to do.
    pub(super) fn check_none_banned(&self, tracker: &Tracker) {
        for view in tracker.stripes() {
            let holder = view.lease_holder.into_iter();
            let joiners = view.joiners.iter();
            let parents = joiners
                .clone()
                .flat_map(|(_, parents, _)| parents)
                .flatten();
            for peer in holder
                .chain(joiners.map(|joiner| joiner.0))
                .chain(parents.copied())
            {
                let is_banned = self.banned.contains_key(&peer);
                assert!(!is_banned, "a banned peer is in a stripe: {view:?}");
            }
        }
    }

    /// A node has to do with a peer, or names it to another.
    pub(super) fn check_not_banned(&self, host: usize, peer: PeerId) {
        let this = &self.hosts[host];
        assert!(
            !this.ledger.knows_banned(&peer),
            "a banned peer is dealt with"
        );
        if let (Some(banned_at), true) = (self.banned.get(&peer), this.joined) {
            let told_by = this.joined_at.max(*banned_at) + HEARTBEAT + WAY;
            assert!(self.now <= told_by, "a member never hears of a ban");
        }
    }
}
