//! Nodes, a tracker and a registry in virtual time: everything that the two machines do not decide.
//!
//! Control messages between two nodes arrive in order after a random latency; chunks leave a node one
//! after the other at the rate of its uplink; the registry answers after its latency at its own rate.
//! Whatever the machines ask for is checked here against what may never happen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::{
    BlobInfo, ChunkId, Class, ImageSource, Member, PeerId, Role, Route, TrackerReply,
    TrackerRequest,
};
use tranship_swarm::node::{self, Action, Arrival, Input, Node, NodeOptions, RegistryFailure};
use tranship_swarm::tracker::{self, Tracker, TrackerOptions};

use crate::random::Random;

/// What does not change during a history.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) latency_us: (u64, u64),
    pub(crate) uplink: u64,
    pub(crate) registry_latency: Duration,
    pub(crate) registry_rate: u64,
    pub(crate) tracker_us: u64,
    pub(crate) stripe_chunks: u32,
    /// Demand reads that a reader has outstanding.
    pub(crate) readahead: usize,
    pub(crate) racks: bool,
}

/// How a node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Its connections are reset: everybody knows at once.
    Crash,
    /// It falls silent: others find out after three seconds.
    Vanish,
}

#[derive(Clone, Debug)]
enum Event {
    ToNode(usize, Input),
    ToTracker(usize, u32, TrackerRequest),
    FromTracker(usize, u64, u32, TrackerReply),
    Join(usize),
    Gone(usize),
    Heartbeat(usize),
    WakeNode(usize),
    WakeTracker,
    Read(usize),
    End(usize, End),
    EndLeaseHolder,
    TrackerDown,
    TrackerBack,
}

pub(crate) struct Host {
    pub(crate) node: Node,
    pub(crate) member: Member,
    pub(crate) alive: bool,
    ended: Option<End>,
    pub(crate) lies: bool,
    pub(crate) slow: u64,
    /// Chance in percent that its store has no room for a chunk.
    pub(crate) full: u64,
    pub(crate) has: BTreeSet<ChunkId>,
    /// Chunks it verified but could not keep, which it may still pass on.
    passed: BTreeSet<ChunkId>,
    pub(crate) open: BTreeSet<ChunkId>,
    pub(crate) done: BTreeSet<ChunkId>,
    pub(crate) failed: BTreeSet<ChunkId>,
    pub(crate) script: Vec<(ChunkId, Class)>,
    pub(crate) done_at: Duration,
    pub(crate) waits: Vec<Duration>,
    asked_at: BTreeMap<ChunkId, Duration>,
    pub(crate) sent_len: u64,
    uplink_free_at: Duration,
    connected: BTreeSet<usize>,
    asked_tracker: BTreeMap<u32, TrackerRequest>,
    last_tracker_request: u32,
    wake_at: Option<Duration>,
    reads: BTreeMap<u64, (Digest, std::ops::Range<u32>)>,
    joined: bool,
}

pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) terms: Terms,
    pub(crate) random: Random,
    events: BTreeMap<(Duration, u64), Event>,
    last_event: u64,
    pub(crate) hosts: Vec<Host>,
    by_peer: BTreeMap<PeerId, usize>,
    pub(crate) blobs: BTreeMap<Digest, Arc<[u32]>>,
    pub(crate) tracker: Option<Tracker>,
    tracker_started_at: Duration,
    epoch: u64,
    pub(crate) banned: BTreeSet<PeerId>,
    tracker_free_at: Duration,
    tracker_wake_at: Option<Duration>,
    last_at: BTreeMap<(usize, usize), Duration>,
    registry_free_at: Duration,
    /// Chance in percent that a registry read fails.
    pub(crate) registry_fails: u64,
    pub(crate) registry_len: u64,
    pub(crate) tracker_messages: u64,
    steps: u64,
    /// More events than this are a swarm that talks without getting anywhere.
    pub(crate) max_steps: u64,
    /// Whether each event is printed.
    tells: bool,
}

const TRACKER: usize = usize::MAX;
const HEARTBEAT: Duration = Duration::from_secs(1);

impl World {
    pub(crate) fn new(terms: Terms, seed: u64) -> Self {
        Self {
            now: Duration::ZERO,
            terms,
            random: Random(seed),
            events: BTreeMap::new(),
            last_event: 0,
            hosts: Vec::new(),
            by_peer: BTreeMap::new(),
            blobs: BTreeMap::new(),
            tracker: None,
            tracker_started_at: Duration::ZERO,
            epoch: 0,
            banned: BTreeSet::new(),
            tracker_free_at: Duration::ZERO,
            tracker_wake_at: None,
            last_at: BTreeMap::new(),
            registry_free_at: Duration::ZERO,
            registry_fails: 0,
            registry_len: 0,
            tracker_messages: 0,
            steps: 0,
            max_steps: 50_000_000,
            tells: crate::number("TRANSHIP_SWARM_TELL").is_some(),
        }
    }

    pub(crate) fn start_tracker(&mut self) {
        self.epoch += 1;
        let options = TrackerOptions {
            stripe_chunks: self.terms.stripe_chunks,
            heartbeat: HEARTBEAT,
            grace: if self.epoch == 1 {
                Duration::ZERO
            } else {
                Duration::from_millis(200)
            },
            ..TrackerOptions::default()
        };
        self.tracker = Some(Tracker::new(
            options,
            self.epoch,
            self.banned.iter().copied(),
        ));
        self.tracker_started_at = self.now;
        self.tracker_wake_at = None;
    }

    pub(crate) fn add_blob(&mut self, name: &str, lens: Vec<u32>) -> Digest {
        let digest = Digest::of(name.as_bytes());
        self.blobs.insert(digest, lens.into());
        digest
    }

    /// A node that opens `blobs`, joins and starts reading its script at `start`.
    pub(crate) fn add_host(
        &mut self,
        role: Role,
        zone: &str,
        blobs: &[Digest],
        script: Vec<(ChunkId, Class)>,
        start: Duration,
    ) -> usize {
        let number = self.hosts.len();
        let peer = PeerId::from_bytes(format!("node-{number:05}").as_bytes()).unwrap();
        let rack = if self.terms.racks {
            format!("{zone}-{}", number / 8)
        } else {
            String::new()
        };
        let member = Member {
            peer,
            addresses: vec![format!("/memory/{number}")],
            zone: zone.to_owned(),
            rack,
            role,
        };
        let mut options = NodeOptions::new(member.clone(), self.random.next());
        options.stripe_chunks = self.terms.stripe_chunks;
        self.hosts.push(Host {
            node: Node::new(options),
            member,
            alive: true,
            ended: None,
            lies: false,
            slow: 1,
            full: 0,
            has: BTreeSet::new(),
            passed: BTreeSet::new(),
            open: BTreeSet::new(),
            done: BTreeSet::new(),
            failed: BTreeSet::new(),
            script,
            done_at: Duration::ZERO,
            waits: Vec::new(),
            asked_at: BTreeMap::new(),
            sent_len: 0,
            uplink_free_at: Duration::ZERO,
            connected: BTreeSet::new(),
            asked_tracker: BTreeMap::new(),
            last_tracker_request: 0,
            wake_at: None,
            reads: BTreeMap::new(),
            joined: false,
        });
        self.by_peer.insert(peer, number);
        self.at(Duration::ZERO, Event::Join(number));
        for &blob in blobs {
            let chunk_lens = Arc::clone(&self.blobs[&blob]);
            let input = Input::OpenBlob {
                blob,
                chunk_lens,
                present: Vec::new(),
            };
            self.at(start, Event::ToNode(number, input));
        }
        self.at(start, Event::Read(number));
        number
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.last_event += 1;
        self.events
            .insert((at.max(self.now), self.last_event), event);
    }

    pub(crate) fn end_at(&mut self, at: Duration, host: usize, end: End) {
        self.at(at, Event::End(host, end));
    }

    pub(crate) fn end_lease_holder_at(&mut self, at: Duration) {
        self.at(at, Event::EndLeaseHolder);
    }

    pub(crate) fn tracker_down_at(&mut self, at: Duration) {
        self.at(at, Event::TrackerDown);
    }

    pub(crate) fn tracker_back_at(&mut self, at: Duration) {
        self.at(at, Event::TrackerBack);
    }

    pub(crate) fn tell_at(&mut self, at: Duration, host: usize, input: Input) {
        self.at(at, Event::ToNode(host, input));
    }

    /// Lives on until every living honest node has what it wants, or `limit` is over.
    pub(crate) fn run(&mut self, limit: Duration) {
        while let Some(((at, _), event)) = self.events.pop_first() {
            if at > limit || self.is_over() {
                return;
            }
            self.now = at;
            self.steps += 1;
            assert!(self.steps < self.max_steps, "the swarm talks without end");
            if self.tells {
                println!("{at:?} {event:?}");
            }
            self.happen(event);
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.hosts
            .iter()
            .all(|host| !host.alive || (host.script.is_empty() && host.open.is_empty()))
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::ToNode(host, input) => self.tell(host, input),
            Event::ToTracker(from, request, message) => self.tracker_hears(from, request, message),
            Event::FromTracker(to, epoch, request, reply) => {
                self.node_hears_tracker(to, epoch, request, reply);
            }
            Event::Join(host) => self.join(host),
            Event::Gone(host) => {
                let peer = self.hosts[host].member.peer;
                self.tell_tracker(tracker::Input::Gone { peer });
            }
            Event::Heartbeat(host) => self.heartbeat(host),
            Event::WakeNode(host) => {
                self.hosts[host].wake_at = None;
                self.act(host);
            }
            Event::WakeTracker => {
                self.tracker_wake_at = None;
                self.tracker_acts();
            }
            Event::Read(host) => self.read_on(host),
            Event::End(host, end) => self.end(host, end),
            Event::EndLeaseHolder => {
                let views: Vec<_> = self.tracker.iter().flat_map(Tracker::stripes).collect();
                let holder = views.iter().find_map(|view| view.lease_holder);
                if let Some(&host) = holder.and_then(|peer| self.by_peer.get(&peer)) {
                    self.end(host, End::Crash);
                }
            }
            Event::TrackerDown => {
                self.tracker = None;
                for host in 0..self.hosts.len() {
                    self.hosts[host].joined = false;
                    self.tell(host, Input::TrackerDown);
                }
            }
            Event::TrackerBack => {
                self.start_tracker();
                for host in 0..self.hosts.len() {
                    let at = self.now + self.random.micros(0, 50_000);
                    self.at(at, Event::Join(host));
                }
            }
        }
    }

    fn join(&mut self, host: usize) {
        let member = self.hosts[host].member.clone();
        let Some(tracker) = &self.tracker else { return };
        if !self.hosts[host].alive || tracker.is_banned(&member.peer) {
            return;
        }
        let epoch = tracker.epoch();
        self.tell_tracker(tracker::Input::Joined {
            member,
            boot_id: [0; 16],
        });
        self.hosts[host].joined = true;
        self.hosts[host].asked_tracker.clear();
        self.tell(host, Input::TrackerUp { epoch, seed: None });
        self.at(self.now + HEARTBEAT, Event::Heartbeat(host));
    }

    fn heartbeat(&mut self, host: usize) {
        if self.hosts[host].alive && self.hosts[host].joined {
            let node = &mut self.hosts[host].node;
            let (load_permille, goodputs) = (node.load_permille(), node.take_goodputs());
            let epoch = self.epoch;
            self.ask_tracker(
                host,
                TrackerRequest::Heartbeat {
                    load_permille,
                    epoch,
                    goodputs,
                },
            );
            self.at(self.now + HEARTBEAT, Event::Heartbeat(host));
        }
    }

    /// The reader of a node asks for the next chunks of its script.
    fn read_on(&mut self, host: usize) {
        loop {
            let this = &mut self.hosts[host];
            if !this.alive || this.open.len() >= self.terms.readahead || this.script.is_empty() {
                return;
            }
            let (chunk, class) = this.script.remove(0);
            if this.has.contains(&chunk) || this.done.contains(&chunk) {
                this.done.insert(chunk);
                continue;
            }
            this.open.insert(chunk);
            this.asked_at.insert(chunk, self.now);
            self.tell(
                host,
                Input::Wanted {
                    chunk,
                    class,
                    give_up_at: None,
                },
            );
        }
    }

    fn end(&mut self, host: usize, end: End) {
        if !std::mem::replace(&mut self.hosts[host].alive, false) {
            return;
        }
        self.hosts[host].ended = Some(end);
        let peer = self.hosts[host].member.peer;
        let noticed = match end {
            End::Crash => Duration::from_millis(1),
            End::Vanish => Duration::from_secs(3),
        };
        for other in self.hosts[host].connected.clone() {
            self.at(
                self.now + noticed,
                Event::ToNode(other, Input::PeerGone { peer }),
            );
        }
        if end == End::Crash {
            self.at(self.now + noticed * 50, Event::Gone(host));
        }
    }

    fn tell(&mut self, host: usize, input: Input) {
        if !self.hosts[host].alive {
            return;
        }
        let now = self.now;
        match &input {
            Input::Data { peer, request, .. }
                if self.hosts[host].node.requested(peer, *request).is_none() =>
            {
                return;
            }
            Input::RegistryChunk { read, number, .. } => {
                if let Some((blob, _)) = self.hosts[host].reads.get(read) {
                    let chunk = ChunkId {
                        blob: *blob,
                        number: *number,
                    };
                    self.keep(host, chunk);
                }
            }
            Input::RegistryEnd { read, .. } => {
                self.hosts[host].reads.remove(read);
            }
            Input::Evicted { chunk } => {
                if !self.hosts[host].has.remove(chunk) {
                    return;
                }
            }
            _ => {}
        }
        let input = match input {
            Input::Data {
                peer,
                request,
                arrival: Arrival::Kept,
            } => {
                let chunk = self.hosts[host].node.requested(&peer, request).unwrap();
                let arrival = self.keep(host, chunk);
                Input::Data {
                    peer,
                    request,
                    arrival,
                }
            }
            Input::RegistryChunk { read, number, .. } => {
                let blob = self.hosts[host].reads.get(&read).map(|(blob, _)| *blob);
                let kept = blob
                    .is_some_and(|blob| self.hosts[host].has.contains(&ChunkId { blob, number }));
                let arrival = if kept { Arrival::Kept } else { Arrival::Passed };
                Input::RegistryChunk {
                    read,
                    number,
                    arrival,
                }
            }
            other => other,
        };
        self.hosts[host].node.handle(now, input);
        self.act(host);
    }

    /// A verified chunk goes into a node's store if there is room.
    fn keep(&mut self, host: usize, chunk: ChunkId) -> Arrival {
        let full = self.hosts[host].full;
        if self.random.chance(full) {
            self.hosts[host].passed.insert(chunk);
            Arrival::Passed
        } else {
            self.hosts[host].has.insert(chunk);
            Arrival::Kept
        }
    }

    fn act(&mut self, host: usize) {
        while self.hosts[host].alive
            && let Some(action) = self.hosts[host].node.poll(self.now)
        {
            self.do_it(host, action);
        }
        let alive = self.hosts[host].alive;
        let wake_at = self.hosts[host].node.wake_at().filter(|_| alive);
        if let Some(at) = wake_at
            && self.hosts[host].wake_at.is_none_or(|before| at < before)
        {
            self.hosts[host].wake_at = Some(at);
            self.at(at, Event::WakeNode(host));
        }
    }

    #[expect(
        clippy::too_many_lines,
        reason = "one arm for each action, nothing else"
    )]
    fn do_it(&mut self, host: usize, action: Action) {
        let me = self.hosts[host].member.peer;
        match action {
            Action::OpenBlobs { blobs } => {
                let info = |blob: &Digest| BlobInfo {
                    digest: *blob,
                    len: self.blobs[blob].iter().map(|&len| u64::from(len)).sum(),
                    chunk_count: u32::try_from(self.blobs[blob].len()).unwrap(),
                };
                let blobs = blobs.iter().map(info).collect();
                let image = ImageSource {
                    registry: "registry.example".to_owned(),
                    repository: "library/thing".to_owned(),
                    manifest: Digest::of(b"manifest"),
                };
                self.ask_tracker(host, TrackerRequest::Open { image, blobs });
            }
            Action::Lookup { blob, stripes } => {
                assert!(stripes.len() <= 64, "LOOKUP has a bound");
                self.ask_tracker(host, TrackerRequest::Lookup { blob, stripes });
            }
            Action::Progress {
                lease,
                done_len,
                state,
            } => {
                self.ask_tracker(
                    host,
                    TrackerRequest::Progress {
                        lease,
                        done_len,
                        state,
                    },
                );
            }
            Action::Announce { blob, runs } => {
                self.ask_tracker(host, TrackerRequest::Announce { blob, runs });
            }
            Action::Report { fault, peer, chunk } => {
                self.ask_tracker(host, TrackerRequest::Report { fault, peer, chunk });
            }
            Action::SendWant { to, request, want } => {
                assert!(
                    !self.hosts[host].node.is_banned(self.now, &to.peer),
                    "a banned peer is asked for {:?}",
                    want.chunk
                );
                let other = self.by_peer[&to.peer];
                assert_ne!(other, host, "a node asks itself");
                self.connect(host, other);
                if self.hosts[other].alive {
                    self.send(
                        host,
                        other,
                        Input::Want {
                            peer: me,
                            request,
                            want,
                        },
                    );
                } else if self.hosts[other].ended == Some(End::Crash) {
                    let at = self.now + Duration::from_millis(1);
                    self.at(at, Event::ToNode(host, Input::PeerGone { peer: to.peer }));
                } else {
                    let at = self.now + Duration::from_secs(3);
                    self.at(at, Event::ToNode(host, Input::PeerGone { peer: to.peer }));
                }
            }
            Action::SendCancel { peer, request } => {
                self.send(
                    host,
                    self.by_peer[&peer],
                    Input::Cancel { peer: me, request },
                );
            }
            Action::Disconnect { peer } => {
                let other = self.by_peer[&peer];
                self.hosts[host].connected.remove(&other);
                self.hosts[other].connected.remove(&host);
                self.send(host, other, Input::PeerGone { peer: me });
            }
            Action::ReadRegistry {
                read,
                blob,
                chunks,
                class: _,
            } => {
                self.read_registry(host, read, blob, chunks);
            }
            Action::Complete { chunk, from: _ } => {
                let this = &mut self.hosts[host];
                assert!(
                    this.has.contains(&chunk) || this.passed.contains(&chunk),
                    "a chunk is complete that never came verified"
                );
                if this.open.remove(&chunk) {
                    this.done.insert(chunk);
                    this.done_at = self.now;
                    let asked_at = this.asked_at[&chunk];
                    this.waits.push(self.now - asked_at);
                    self.at(self.now, Event::Read(host));
                }
            }
            Action::Fail { chunk, why } => {
                let _ = why;
                if self.hosts[host].open.remove(&chunk) {
                    self.hosts[host].failed.insert(chunk);
                    self.at(self.now, Event::Read(host));
                }
            }
            Action::SendData {
                peer,
                request,
                chunk,
                class: _,
            } => {
                self.send_data(host, self.by_peer[&peer], request, chunk);
            }
            Action::SendWait {
                peer,
                request,
                idle,
                hops,
            } => {
                self.send(
                    host,
                    self.by_peer[&peer],
                    Input::Wait {
                        peer: me,
                        request,
                        idle,
                        hops,
                    },
                );
            }
            Action::SendBusy {
                peer,
                request,
                retry,
                alternatives,
            } => {
                assert!(alternatives.len() <= 4, "BUSY has a bound");
                let alternatives = alternatives.iter().map(|other| (**other).clone()).collect();
                let busy = Input::Busy {
                    peer: me,
                    request,
                    retry,
                    alternatives,
                };
                self.send(host, self.by_peer[&peer], busy);
            }
            Action::SendMiss { peer, request } => {
                self.send(host, self.by_peer[&peer], Input::Miss { peer: me, request });
            }
        }
    }

    fn connect(&mut self, host: usize, other: usize) {
        if self.hosts[host].connected.insert(other) {
            self.hosts[other].connected.insert(host);
            let member = self.hosts[host].member.clone();
            self.send(host, other, Input::PeerUp { member });
        }
    }

    /// A control message: in order between two nodes.
    fn send(&mut self, from: usize, to: usize, input: Input) {
        let at = self.arrival(from, to);
        self.at(at, Event::ToNode(to, input));
    }

    fn arrival(&mut self, from: usize, to: usize) -> Duration {
        let (least, most) = self.terms.latency_us;
        let at = self.now + self.random.micros(least, most);
        let last = self.last_at.entry((from, to)).or_default();
        *last = at.max(*last);
        *last
    }

    fn send_data(&mut self, host: usize, to: usize, request: u32, chunk: ChunkId) {
        let len = u64::from(self.blobs[&chunk.blob][chunk.number as usize]);
        let this = &mut self.hosts[host];
        let peer = this.member.peer;
        let to_peer = self.hosts[to].member.peer;
        let this = &mut self.hosts[host];
        if !this.has.contains(&chunk) && !this.passed.contains(&chunk) {
            self.at(
                self.now,
                Event::ToNode(
                    host,
                    Input::SendFailed {
                        peer: to_peer,
                        request,
                    },
                ),
            );
            return;
        }
        let rate = self.terms.uplink / this.slow;
        let begins = this.uplink_free_at.max(self.now);
        this.uplink_free_at = begins + Duration::from_nanos(len * 1_000_000_000 / rate.max(1));
        this.sent_len += len;
        let sent_at = this.uplink_free_at;
        let arrival = if this.lies {
            Arrival::Wrong
        } else {
            Arrival::Kept
        };
        let (least, most) = self.terms.latency_us;
        let latency = self.random.micros(least, most);
        self.at(
            sent_at,
            Event::ToNode(
                host,
                Input::Sent {
                    peer: to_peer,
                    request,
                },
            ),
        );
        let data = Input::Data {
            peer,
            request,
            arrival,
        };
        self.at(sent_at + latency, Event::ToNode(to, data));
    }

    fn read_registry(
        &mut self,
        host: usize,
        read: u64,
        blob: Digest,
        chunks: std::ops::Range<u32>,
    ) {
        let lens = Arc::clone(&self.blobs[&blob]);
        self.hosts[host].reads.insert(read, (blob, chunks.clone()));
        let fails_after = if self.random.chance(self.registry_fails) {
            Some(self.random.below(u64::from(chunks.end - chunks.start)))
        } else {
            None
        };
        let mut at = self.now + self.terms.registry_latency;
        let mut run_len = 0_u64;
        for (place, number) in chunks.enumerate() {
            if fails_after == Some(place as u64) {
                let failure = Some(RegistryFailure {
                    retry_after: None,
                    permanent: false,
                });
                self.at(
                    at,
                    Event::ToNode(host, Input::RegistryEnd { read, failure }),
                );
                return;
            }
            let len = u64::from(lens[number as usize]);
            run_len += len;
            let begins = self.registry_free_at.max(at);
            at = begins + Duration::from_nanos(len * 1_000_000_000 / self.terms.registry_rate);
            self.registry_free_at = at;
            self.registry_len += len;
            self.at(
                at,
                Event::ToNode(host, Input::RegistryProgress { read, len }),
            );
            let arrival = Arrival::Kept;
            self.at(
                at,
                Event::ToNode(
                    host,
                    Input::RegistryChunk {
                        read,
                        number,
                        arrival,
                    },
                ),
            );
        }
        let longest = lens.iter().map(|&len| u64::from(len)).max().unwrap();
        assert!(
            run_len <= (4 << 20).max(longest),
            "a registry read is too long"
        );
        self.at(
            at,
            Event::ToNode(
                host,
                Input::RegistryEnd {
                    read,
                    failure: None,
                },
            ),
        );
    }

    fn ask_tracker(&mut self, host: usize, message: TrackerRequest) {
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

    fn tracker_hears(&mut self, from: usize, request: u32, message: TrackerRequest) {
        if self.tracker.is_none() || !self.hosts[from].joined {
            return;
        }
        self.tracker_messages += 1;
        let from = self.hosts[from].member.peer;
        self.tell_tracker(tracker::Input::Request {
            from,
            request,
            message,
        });
    }

    fn tracker_now(&self) -> Duration {
        self.now.saturating_sub(self.tracker_started_at)
    }

    fn tell_tracker(&mut self, input: tracker::Input) {
        let now = self.tracker_now();
        if let Some(tracker) = &mut self.tracker {
            tracker.handle(now, input);
        }
        self.tracker_acts();
    }

    fn tracker_acts(&mut self) {
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
                tracker::Action::Banned { peer } => {
                    self.banned.insert(peer);
                    self.hosts[self.by_peer[&peer]].joined = false;
                }
            }
        }
        if acted && self.hosts.len() <= 16 {
            check_graph(&tracker);
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

    fn check_routes(&self, to: PeerId, reply: &TrackerReply) {
        let TrackerReply::Routes { routes, .. } = reply else {
            return;
        };
        for route in routes {
            if let Route::Parents(parents) = &route.route {
                for parent in parents {
                    assert_ne!(parent.peer, to, "a node is its own parent");
                    assert!(
                        !self.banned.contains(&parent.peer),
                        "a banned node is a parent"
                    );
                }
            }
        }
    }

    fn node_hears_tracker(&mut self, host: usize, epoch: u64, request: u32, reply: TrackerReply) {
        if !self.hosts[host].joined || epoch != self.epoch || self.tracker.is_none() {
            return;
        }
        let asked = self.hosts[host].asked_tracker.remove(&request);
        match (reply, asked) {
            (TrackerReply::Opened { members }, Some(TrackerRequest::Open { blobs, .. })) => {
                for blob in blobs {
                    let members = members.clone();
                    self.tell(
                        host,
                        Input::Members {
                            blob: blob.digest,
                            members,
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

    /// Sums a counter over all nodes.
    pub(crate) fn sum(&self, of: impl Fn(&node::Counters) -> u64) -> u64 {
        self.hosts.iter().map(|host| of(host.node.counters())).sum()
    }
}

/// Whoever waits for whom: never in a ring.
fn check_graph(tracker: &Tracker) {
    for view in tracker.stripes() {
        let parents: BTreeMap<PeerId, Option<PeerId>> = view
            .joiners
            .iter()
            .map(|&(peer, parent, _)| (peer, parent))
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
