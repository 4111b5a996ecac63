//! What nodes are told and what they do: stores, links between nodes, the registry.

use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::{
    BlobInfo, ChunkId, Class, ImageSource, Open, PeerId, PullProof, TrackerRequest,
};
use tranship_swarm::node::{Action, Arrival, Input, Right};

use super::{End, Event, REGISTRY, World};

impl World {
    pub(super) fn tell(&mut self, host: usize, input: Input) {
        if !self.hosts[host].alive {
            return;
        }
        let now = self.now;
        self.hosts[host].ledger.tell(now, &input);
        if let Input::Wait { peer, request, .. } = &input {
            self.check_ring(host, *peer, *request);
        }
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
            Input::Evicted { chunk } if !self.hosts[host].has.remove(chunk) => return,
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
    pub(super) fn keep(&mut self, host: usize, chunk: ChunkId) -> Arrival {
        if self.hosts[host].has.contains(&chunk) {
            self.hosts[host].ledger.comes_twice();
        }
        self.hosts[host].ledger.giving_up.comes(chunk);
        let full = self.hosts[host].full;
        if self.random.chance(full) {
            self.hosts[host].passed.insert(chunk);
            Arrival::Passed
        } else {
            self.hosts[host].has.insert(chunk);
            Arrival::Kept
        }
    }

    pub(super) fn act(&mut self, host: usize) {
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
    pub(super) fn do_it(&mut self, host: usize, action: Action) {
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
                    registry: REGISTRY.to_owned(),
                    repository: "library/thing".to_owned(),
                    manifest: Digest::of(b"manifest"),
                };
                let open = Open {
                    image,
                    grant: None,
                    proof: PullProof::None,
                    blobs,
                };
                self.ask_tracker(host, TrackerRequest::Open(Box::new(open)));
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
                self.check_not_banned(host, to.peer);
                self.check_own_trees(host, want.chunk);
                assert!(
                    !self.hosts[host].node.is_shunned(self.now, &to.peer),
                    "a shunned peer is asked for {:?}",
                    want.chunk
                );
                let other = self.by_peer[&to.peer];
                assert_ne!(other, host, "a node asks itself");
                let until = self.hosts[host].right_until;
                assert!(until > self.now, "a peer is asked without a right");
                let len = u64::from(self.blobs[&want.chunk.blob][want.chunk.number as usize]);
                let now = self.now;
                let this = &mut self.hosts[host];
                assert!(
                    !this.has.contains(&want.chunk),
                    "a chunk is asked for that is here"
                );
                this.ledger
                    .want(now, to.peer, request, want.chunk, want.class, len);
                self.connect(host, other);
                if self.hosts[other].alive {
                    self.show_grant(host, other);
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
            Action::Introduce { to, .. } => {
                self.check_not_banned(host, to.peer);
                let other = self.by_peer[&to.peer];
                assert_ne!(other, host, "a node meets itself");
                self.connect(host, other);
                if self.hosts[other].alive {
                    self.show_grant(host, other);
                }
            }
            Action::SendCancel { peer, request } => {
                self.hosts[host].ledger.cancel(peer, request);
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
                class,
            } => {
                let lens = &self.blobs[&blob];
                let len = |number: u32| (number, u64::from(lens[number as usize]));
                let lens = chunks.clone().map(len).collect();
                let giving_up = &mut self.hosts[host].ledger.giving_up;
                giving_up.read(read, blob, chunks.clone().collect());
                let first = ChunkId {
                    blob,
                    number: chunks.start,
                };
                self.hosts[host].ledger.read(read, first, class, lens);
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
                    this.waits.push(self.now.saturating_sub(asked_at));
                    self.at(self.now, Event::Read(host));
                }
            }
            Action::Fail { chunk, why } => {
                let this = &mut self.hosts[host];
                this.ledger.giving_up.gives_up(chunk, why);
                if this.open.remove(&chunk) {
                    match self.registry_backs_at {
                        Some(at) if at > self.now => {
                            this.failed.insert(chunk);
                        }
                        Some(_) => this.script.push((chunk, Class::Demand)),
                        None => panic!("{chunk:?} fails though the registry is well"),
                    }
                    self.at(self.now, Event::Read(host));
                }
            }
            Action::SendData {
                peer,
                request,
                chunk,
                class: _,
            } => {
                self.check_right(peer);
                self.check_not_banned(host, peer);
                self.send_data(host, self.by_peer[&peer], request, chunk);
            }
            Action::SendWait {
                peer,
                request,
                idle,
                hops,
            } => {
                self.check_right(peer);
                self.check_not_banned(host, peer);
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
                self.check_right(peer);
                self.check_not_banned(host, peer);
                for named in &alternatives {
                    self.check_right(named.peer);
                    self.check_not_banned(host, named.peer);
                }
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

    /// Whoever is never given a right is told nothing but MISS, and of nobody.
    pub(super) fn check_right(&self, peer: PeerId) {
        let host = &self.hosts[self.by_peer[&peer]];
        assert!(host.right.is_some(), "a node without rights is served");
    }

    /// Shows another the right of a host to all blobs.
    fn show_grant(&mut self, host: usize, other: usize) {
        let peer = self.hosts[host].member.peer;
        let right = Right {
            registry: REGISTRY.into(),
            manifest: Digest::of(b"manifest"),
            blobs: self.blobs.keys().copied().collect(),
            until: self.hosts[host].right_until,
        };
        self.send(host, other, Input::Granted { peer, right });
    }

    pub(super) fn connect(&mut self, host: usize, other: usize) {
        if self.hosts[host].connected.insert(other) {
            self.hosts[other].connected.insert(host);
            let member = self.hosts[host].member.clone();
            self.send(host, other, Input::PeerUp { member });
        }
    }

    /// A control message: in order between two nodes.
    pub(super) fn send(&mut self, from: usize, to: usize, input: Input) {
        let at = self.arrival(from, to);
        self.at(at, Event::ToNode(to, input));
    }

    pub(super) fn arrival(&mut self, from: usize, to: usize) -> Duration {
        let (least, most) = self.terms.latency_us;
        let at = self.now + self.random.micros(least, most);
        let before = self.last_at.entry((from, to)).or_default();
        *before = at.max(*before);
        *before
    }

    pub(super) fn send_data(&mut self, host: usize, to: usize, request: u32, chunk: ChunkId) {
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
}
