//! The way to the tracker and back: every message goes through its bytes.

use std::collections::BTreeMap;
use std::time::Duration;

use tranship_format::wire::{Grant, Open, PeerId, Route, TrackerReply, TrackerRequest};
use tranship_swarm::node::Input;
use tranship_swarm::tracker::{self, Rights, Tracker};

use super::{Event, TRACKER, World};

impl World {
    pub(super) fn ask_tracker(&mut self, host: usize, message: TrackerRequest) {
        if !self.hosts[host].joined {
            return;
        }
        let this = &mut self.hosts[host];
        this.last_tracker_request += 1;
        let request = this.last_tracker_request;
        this.asked_tracker.insert(request, message.clone());
        let mut bytes = Vec::new();
        message.encode(request, &mut bytes);
        let decoded = TrackerRequest::decode(&bytes);
        assert_eq!(
            decoded,
            Ok((request, message.clone())),
            "a request does not survive the wire"
        );
        let at = self.arrival(host, TRACKER);
        self.at(at, Event::ToTracker(host, request, message));
    }

    pub(super) fn tracker_hears(&mut self, from: usize, request: u32, message: TrackerRequest) {
        if self.tracker.is_none() || !self.hosts[from].joined {
            return;
        }
        self.tracker_messages += 1;
        let right = self.hosts[from].right;
        let from = self.hosts[from].member.peer;
        self.tell_tracker(match message {
            TrackerRequest::Open(open) => {
                let now = self.tracker_now();
                self.judged(now, from, request, *open, right)
            }
            message => tracker::Input::Request {
                from,
                request,
                message,
            },
        });
    }

    /// An OPEN as the server judges it.
    fn judged(
        &self,
        now: Duration,
        from: PeerId,
        request: u32,
        open: Open,
        right: Option<Duration>,
    ) -> tracker::Input {
        let Open { image, blobs, .. } = open;
        let rights = right.map(|life| {
            let until = now + life;
            let grant = Grant {
                peer: from,
                registry: image.registry.clone(),
                manifest: image.manifest,
                blobs: self.blobs.keys().copied().collect(),
                issued_at: 0,
                // On the clock of all.
                expires_at: u64::try_from((until + self.tracker_started_at).as_micros()).unwrap(),
                tracker: from,
                signature: Vec::new(),
            };
            Box::new(Rights { grant, until })
        });
        tracker::Input::Open {
            from,
            request,
            image,
            blobs,
            rights,
        }
    }

    pub(super) fn tracker_now(&self) -> Duration {
        self.now.saturating_sub(self.tracker_started_at)
    }

    pub(super) fn tell_tracker(&mut self, input: tracker::Input) {
        let now = self.tracker_now();
        if let Some(tracker) = &mut self.tracker {
            tracker.handle(now, input);
        }
        self.tracker_acts();
    }

    pub(super) fn tracker_acts(&mut self) {
        let now = self.tracker_now();
        let Some(mut tracker) = self.tracker.take() else {
            return;
        };
        self.tracker_free_at =
            self.tracker_free_at.max(self.now) + Duration::from_micros(self.terms.tracker_us);
        let mut acted = false;
        while let Some(action) = tracker.poll(now) {
            acted = true;
            match action {
                tracker::Action::Reply { to, request, reply } => {
                    self.check_routes(to, &reply);
                    self.check_reply_to_banned(to, &reply);
                    let mut bytes = Vec::new();
                    reply.encode(request, &mut bytes);
                    let decoded = TrackerReply::decode(&bytes);
                    assert_eq!(
                        decoded,
                        Ok((request, reply.clone())),
                        "a reply does not survive"
                    );
                    let to = self.by_peer[&to];
                    let at = self.arrival(TRACKER, to).max(self.tracker_free_at);
                    let epoch = tracker.epoch();
                    self.at(at, Event::FromTracker(to, epoch, request, reply));
                }
                tracker::Action::Opened { .. } => {}
                tracker::Action::Shunned { peer } => {
                    self.shunned.insert(peer);
                }
                tracker::Action::Banned { peer } => {
                    self.is_now_banned(peer);
                }
            }
        }
        if acted && self.hosts.len() <= 16 {
            check_graph(&tracker);
            self.check_none_banned(&tracker);
        }
        if let Some(at) = tracker.wake_at() {
            let at = at + self.tracker_started_at;
            if self.tracker_wake_at.is_none_or(|before| at < before) {
                self.tracker_wake_at = Some(at);
                self.at(at, Event::WakeTracker);
            }
        }
        self.tracker = Some(tracker);
    }

    pub(super) fn check_routes(&self, to: PeerId, reply: &TrackerReply) {
        let TrackerReply::Routes { routes, .. } = reply else {
            return;
        };
        for route in routes {
            if let Route::Parents(parents) = &route.route {
                for parent in parents {
                    self.check_right(parent.peer);
                    assert_ne!(parent.peer, to, "a node is its own parent");
                    assert!(
                        !self.banned.contains_key(&parent.peer)
                            && !self.shunned.contains(&parent.peer),
                        "a banned or shunned node is a parent"
                    );
                }
            }
        }
    }

    pub(super) fn node_hears_tracker(
        &mut self,
        host: usize,
        epoch: u64,
        request: u32,
        reply: TrackerReply,
    ) {
        if !self.hosts[host].joined || epoch != self.epoch || self.tracker.is_none() {
            return;
        }
        let asked = self.hosts[host].asked_tracker.remove(&request);
        match (reply, asked) {
            (TrackerReply::Opened { grant, members }, Some(TrackerRequest::Open(open))) => {
                for member in &members {
                    self.check_right(member.peer);
                }
                let until = grant.map(|grant| Duration::from_micros(grant.expires_at));
                let this = &mut self.hosts[host];
                this.right_until = this.right_until.max(until.unwrap_or_default());
                for blob in open.blobs {
                    let members = members.clone();
                    self.tell(
                        host,
                        Input::Members {
                            blob: blob.digest,
                            members,
                            until,
                        },
                    );
                }
            }
            (TrackerReply::Routes { blob, routes }, _) => {
                self.tell(host, Input::Routes { blob, routes });
            }
            (TrackerReply::ProgressAck { lease, expires_ms }, _) => {
                let expires_in = expires_ms.map(|ms| Duration::from_millis(u64::from(ms)));
                self.tell(host, Input::ProgressAck { lease, expires_in });
            }
            (TrackerReply::HeartbeatAck { bans, .. }, _) => {
                self.tell(host, Input::Bans { peers: bans });
            }
            (TrackerReply::Error { .. }, Some(TrackerRequest::Lookup { blob, stripes })) => {
                self.tell(host, Input::LookupFailed { blob, stripes });
            }
            (TrackerReply::Error { .. }, Some(TrackerRequest::Heartbeat { .. })) => {
                self.at(self.now, Event::Join(host));
            }
            _ => {}
        }
    }
}

/// Whoever waits for whom: never in a ring, in neither tree.
fn check_graph(tracker: &Tracker) {
    for view in tracker.stripes() {
        for tree in 0..2 {
            let parents: BTreeMap<PeerId, Option<PeerId>> = view
                .joiners
                .iter()
                .map(|&(peer, parents, _)| (peer, parents[tree]))
                .collect();
            for start in parents.keys() {
                let mut at = *start;
                let mut hops = 0;
                while let Some(parent) = parents.get(&at).copied().flatten() {
                    at = parent;
                    hops += 1;
                    assert!(hops <= parents.len(), "a ring of parents: {view:?}");
                }
            }
        }
    }
}
