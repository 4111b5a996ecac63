//! The way to the tracker and back, and the tracker's own time.

use std::time::Duration;

use tranship_format::wire::{ErrorCode, Grant, Open, PeerId, Role, TrackerReply, TrackerRequest};
use tranship_swarm::node::Input;
use tranship_swarm::tracker::{self, Rights, Tracker, TrackerOptions};

use super::{Event, World};
use crate::host::{Asked, Boot, HostNo, host_of, peer_of};

/// Bytes of a member in an answer.
const MEMBER_LEN: u64 = 110;
/// Bytes of everything around.
const FRAME_LEN: u64 = 60;

impl World {
    /// Begins a run of the tracker. The hosts are members of the first one already: an agent joins when its node boots.
    pub(super) fn start_tracker(&mut self) {
        self.epoch += 1;
        let is_first = self.epoch == 1;
        let mut options = TrackerOptions::default();
        self.scenario.policy.of_tracker(&mut options);
        if is_first {
            options.grace = Duration::ZERO;
        }
        let heartbeat = options.heartbeat;
        self.tracker = Some(Tracker::new(options, self.epoch, []));
        self.tracker_began_at = self.now;
        self.tracker_wake_at = None;
        self.tracker_free_at = self.now;
        let count = HostNo::try_from(self.hosts.len()).unwrap_or(0);
        // The seed first: it is beside the tracker.
        for host in (0..count).rev() {
            if is_first {
                self.join(host);
            } else {
                let at = self.now + self.random.part(heartbeat / 5);
                self.plan(at, Event::Join(host));
            }
        }
    }

    pub(super) fn join(&mut self, host: HostNo) {
        let now = self.now;
        let heartbeat = TrackerOptions::default().heartbeat;
        let first_beat = now + self.random.part(heartbeat);
        let seed = self
            .hosts
            .last()
            .filter(|that| that.member.role == Role::Seed)
            .map(|that| that.member.clone());
        let Some(epoch) = self.tracker.as_ref().map(Tracker::epoch) else {
            return;
        };
        let Some(this) = self.host(host).filter(|this| this.is_alive) else {
            return;
        };
        let boot = this.boot;
        let mut boot_id = [0; 16];
        for (to, from) in boot_id.iter_mut().zip(boot.to_le_bytes()) {
            *to = from;
        }
        let member = this.member.clone();
        let seed = seed.filter(|seed| seed.peer != member.peer);
        this.has_joined = true;
        this.asked.clear();
        this.node.handle(now, Input::TrackerUp { epoch, seed });
        self.tell_tracker(tracker::Input::Joined { member, boot_id });
        self.act(host);
        self.plan(first_beat, Event::Heartbeat(host, boot));
    }

    pub(super) fn heartbeat(&mut self, host: HostNo, boot: Boot) {
        let again = self.now + TrackerOptions::default().heartbeat;
        let Some(this) = self.living(host, boot).filter(|this| this.has_joined) else {
            return;
        };
        let load_permille = this.node.load_permille();
        let goodputs = this.node.take_goodputs();
        let message = TrackerRequest::Heartbeat {
            load_permille,
            epoch: self.epoch,
            goodputs,
        };
        self.ask_tracker(host, message, Asked::Heartbeat);
        self.plan(again, Event::Heartbeat(host, boot));
    }

    pub(super) fn ask_tracker(&mut self, host: HostNo, message: TrackerRequest, asked: Asked) {
        let at = self.now + self.scenario.tracker.latency;
        let Some(this) = self.host(host).filter(|this| this.has_joined) else {
            return;
        };
        this.last_request += 1;
        let request = this.last_request;
        this.asked.insert(request, asked);
        self.plan(at, Event::Asks(host, request, Box::new(message)));
    }

    /// A request waits for the tracker's processor.
    pub(super) fn asks(&mut self, from: HostNo, request: u32, message: Box<TrackerRequest>) {
        if self.tracker.is_none() {
            return;
        }
        let terms = &self.scenario.tracker;
        let stripes = match &*message {
            TrackerRequest::Lookup { stripes, .. } => u32::try_from(stripes.len()).unwrap_or(0),
            _ => 0,
        };
        let service = terms.service + terms.stripe_service * stripes;
        let at = self.tracker_free_at.max(self.now) + service;
        self.tracker_free_at = at;
        self.plan(at, Event::Serves(from, request, message));
    }

    pub(super) fn serves(&mut self, from: HostNo, request: u32, message: TrackerRequest) {
        if let Some(peer) = peer_of(from) {
            self.totals.tracker_messages += 1;
            self.tell_tracker(match message {
                TrackerRequest::Open(open) => granted(peer, request, *open),
                message => tracker::Input::Request {
                    from: peer,
                    request,
                    message,
                },
            });
        }
    }

    fn tell_tracker(&mut self, input: tracker::Input) {
        let now = self.now.saturating_sub(self.tracker_began_at);
        if let Some(tracker) = &mut self.tracker {
            tracker.handle(now, input);
        }
        self.tracker_acts();
    }

    pub(super) fn tracker_acts(&mut self) {
        let now = self.now.saturating_sub(self.tracker_began_at);
        while let Some(action) = self.tracker.as_mut().and_then(|tracker| tracker.poll(now)) {
            match action {
                tracker::Action::Reply { to, request, reply } => {
                    let through = self.tracker_link.pass(self.now, reply_len(&reply));
                    let at = through + self.scenario.tracker.latency;
                    if let Some(to) = host_of(&to) {
                        self.plan(at, Event::Hears(to, self.epoch, request, Box::new(reply)));
                    }
                }
                tracker::Action::Opened { .. } | tracker::Action::Shunned { .. } => {}
                tracker::Action::Banned { peer } => {
                    if let Some(this) = host_of(&peer).and_then(|host| self.host(host)) {
                        this.has_joined = false;
                    }
                }
            }
        }
        let wake_at = self.tracker.as_ref().and_then(Tracker::wake_at);
        if let Some(at) = wake_at.map(|at| at + self.tracker_began_at)
            && self.tracker_wake_at.is_none_or(|before| at < before)
        {
            self.tracker_wake_at = Some(at);
            self.plan(at, Event::WakeTracker);
        }
    }

    /// An answer of the tracker, or news.
    pub(super) fn hears(&mut self, host: HostNo, epoch: u64, request: u32, reply: TrackerReply) {
        let now = self.now;
        let is_over = self.tracker.is_none() || epoch != self.epoch;
        let Some(this) = self.host(host).filter(|this| this.is_alive) else {
            return;
        };
        if is_over || !this.has_joined {
            return;
        }
        match (reply, this.asked.remove(&request)) {
            (TrackerReply::Opened { grant, members }, Some(Asked::Open(blobs))) => {
                let until = grant.map(|_| Duration::MAX);
                for blob in blobs {
                    let members = members.clone();
                    this.node.handle(
                        now,
                        Input::Members {
                            blob,
                            members,
                            until,
                        },
                    );
                }
            }
            (TrackerReply::Routes { blob, routes }, _) => {
                this.node.handle(now, Input::Routes { blob, routes });
            }
            (TrackerReply::ProgressAck { lease, expires_ms }, _) => {
                let expires_in = expires_ms.map(|ms| Duration::from_millis(u64::from(ms)));
                this.node
                    .handle(now, Input::ProgressAck { lease, expires_in });
            }
            (TrackerReply::HeartbeatAck { bans, .. }, _) => {
                this.node.handle(now, Input::Bans { peers: bans });
            }
            (TrackerReply::Error { code, .. }, Some(Asked::Lookup(blob, stripes))) => {
                this.node.handle(now, Input::LookupFailed { blob, stripes });
                if code == ErrorCode::NotAMember {
                    self.plan(now, Event::Join(host));
                }
            }
            (TrackerReply::Error { .. }, Some(Asked::Heartbeat)) => {
                self.plan(now, Event::Join(host));
            }
            _ => {}
        }
        self.act(host);
    }

    pub(super) fn tracker_lost(&mut self) {
        let now = self.now;
        self.tracker = None;
        let count = HostNo::try_from(self.hosts.len()).unwrap_or(0);
        for host in 0..count {
            if let Some(this) = self.host(host).filter(|this| this.is_alive) {
                this.has_joined = false;
                this.asked.clear();
                this.node.handle(now, Input::TrackerDown);
                self.act(host);
            }
        }
    }

    pub(super) fn tracker_back(&mut self) {
        self.start_tracker();
    }

    /// The tracker notices that a host's connection does not come back.
    pub(super) fn gone(&mut self, host: HostNo) {
        let is_gone = self.host(host).is_some_and(|this| !this.is_alive);
        if let Some(peer) = peer_of(host).filter(|_| is_gone) {
            self.tell_tracker(tracker::Input::Gone { peer });
        }
    }
}

/// An OPEN as the server judges it: everybody may have the image.
fn granted(from: PeerId, request: u32, open: Open) -> tracker::Input {
    let Open { image, blobs, .. } = open;
    let grant = Grant {
        peer: from,
        registry: image.registry.clone(),
        manifest: image.manifest,
        blobs: blobs.iter().map(|blob| blob.digest).collect(),
        issued_at: 0,
        expires_at: u64::MAX,
        tracker: from,
        signature: Vec::new(),
    };
    let until = Duration::MAX;
    tracker::Input::Open {
        from,
        request,
        image,
        blobs,
        rights: Some(Box::new(Rights { grant, until })),
    }
}

/// About how many bytes an answer has.
fn reply_len(reply: &TrackerReply) -> u64 {
    use tranship_format::wire::Route;
    let members = match reply {
        TrackerReply::Opened { members, .. } => members.len(),
        TrackerReply::Routes { routes, .. } => routes
            .iter()
            .map(|told| match &told.route {
                Route::Parents(parents) => parents.len(),
                _ => 1,
            })
            .sum(),
        _ => 0,
    };
    FRAME_LEN + MEMBER_LEN * members as u64
}
