//! Hosts do what their decisions say.

use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::{BlobInfo, ImageSource, Open, PullProof, TrackerRequest};
use tranship_swarm::node::{Action, Input, Right};

use super::{Event, REGISTRY, World};
use crate::host::{Asked, HostNo, host_of};

impl World {
    /// Does all that a host has decided, and sees to it that it is woken when it asked for it.
    pub(super) fn act(&mut self, host: HostNo) {
        let now = self.now;
        while let Some(action) = self
            .host(host)
            .filter(|this| this.is_alive)
            .and_then(|this| this.node.poll(now))
        {
            self.act_one(host, action);
        }
        let Some(this) = self.host(host).filter(|this| this.is_alive) else {
            return;
        };
        if let Some(at) = this.node.wake_at()
            && this.wake_at.is_none_or(|before| at < before)
        {
            this.wake_at = Some(at);
            let boot = this.boot;
            self.plan(at, Event::Wake(host, boot));
        }
    }

    fn act_one(&mut self, host: HostNo, action: Action) {
        let Some(me) = self.host(host).map(|this| this.member.peer) else {
            return;
        };
        match action {
            Action::SendWant { to, request, want } => {
                let peer = me;
                self.want(
                    host,
                    host_of(&to.peer),
                    Input::Want {
                        peer,
                        request,
                        want,
                    },
                );
            }
            Action::Introduce { to, .. } => {
                let right = self.right();
                let shown = Input::Granted { peer: me, right };
                self.want(host, host_of(&to.peer), shown);
            }
            Action::SendCancel { peer, request } => {
                self.send(host, &peer, Input::Cancel { peer: me, request });
            }
            Action::SendData {
                peer,
                request,
                chunk,
                class,
            } => {
                if let Some(to) = host_of(&peer) {
                    self.send_chunk(host, to, request, chunk, class);
                }
            }
            Action::SendWait {
                peer,
                request,
                idle,
                hops,
            } => {
                let wait = Input::Wait {
                    peer: me,
                    request,
                    idle,
                    hops,
                };
                self.send(host, &peer, wait);
            }
            Action::SendBusy {
                peer,
                request,
                retry,
                alternatives,
            } => {
                let busy = Input::Busy {
                    peer: me,
                    request,
                    retry,
                    alternatives: alternatives.iter().map(|other| (**other).clone()).collect(),
                };
                self.send(host, &peer, busy);
            }
            Action::SendMiss { peer, request } => {
                self.send(host, &peer, Input::Miss { peer: me, request });
            }
            Action::Disconnect { peer } => self.disconnect(host, host_of(&peer)),
            Action::ReadRegistry {
                read, blob, chunks, ..
            } => self.read_registry(host, read, blob, chunks),
            Action::Complete { chunk, .. } => self.settled(host, chunk, true),
            Action::Fail { chunk, .. } => self.settled(host, chunk, false),
            action => self.act_at_tracker(host, action),
        }
    }

    fn act_at_tracker(&mut self, host: HostNo, action: Action) {
        let (message, asked) = match action {
            Action::OpenBlobs { blobs } => (self.open_message(&blobs), Asked::Open(blobs)),
            Action::Lookup { blob, stripes } => {
                let asked = Asked::Lookup(blob, stripes.clone());
                (TrackerRequest::Lookup { blob, stripes }, asked)
            }
            Action::Progress {
                lease,
                done_len,
                state,
            } => {
                let message = TrackerRequest::Progress {
                    lease,
                    done_len,
                    state,
                };
                (message, Asked::Other)
            }
            Action::Announce { blob, runs } => {
                (TrackerRequest::Announce { blob, runs }, Asked::Other)
            }
            Action::Report { fault, peer, chunk } => {
                (TrackerRequest::Report { fault, peer, chunk }, Asked::Other)
            }
            _ => return,
        };
        self.ask_tracker(host, message, asked);
    }

    fn open_message(&self, blobs: &[Digest]) -> TrackerRequest {
        let len = self.chunk_lens.iter().map(|&len| u64::from(len)).sum();
        let infos = blobs.iter().map(|&digest| BlobInfo {
            digest,
            len,
            chunk_count: self.layer_chunks,
        });
        TrackerRequest::Open(Box::new(Open {
            image: ImageSource {
                registry: REGISTRY.to_owned(),
                repository: String::new(),
                manifest: Digest::of(b"image"),
            },
            grant: None,
            proof: PullProof::None,
            blobs: infos.collect(),
        }))
    }

    /// Everybody may have the image, and shows it with the first message.
    fn right(&self) -> Right {
        Right {
            registry: REGISTRY.into(),
            manifest: Digest::of(b"image"),
            blobs: self.layers.iter().copied().collect(),
            until: Duration::MAX,
        }
    }

    /// A message to a host with which there is a connection.
    fn send(&mut self, from: HostNo, to: &tranship_format::wire::PeerId, input: Input) {
        let now = self.now;
        let Some(to) = host_of(to) else {
            return;
        };
        let up_at = self
            .host(from)
            .and_then(|this| this.connected.get(&to).copied());
        let at = up_at.map(|at| at.max(now) + self.latency(from, to));
        let boot = self.host(to).map(|that| that.boot);
        if let (Some(at), Some(boot)) = (at, boot) {
            self.plan(at, Event::Tell(to, boot, Box::new(input)));
        }
    }

    /// What is said to a member, for which a connection is made if there is none.
    fn want(&mut self, from: HostNo, to: Option<HostNo>, input: Input) {
        let Some(to) = to else {
            return;
        };
        let Some((boot, member, is_up)) = self.host(from).map(|this| {
            let is_up = this.connected.contains_key(&to);
            (this.boot, this.member.clone(), is_up)
        }) else {
            return;
        };
        let noticed_at = self.now + self.scenario.trouble.noticed_after;
        let up_at = self.now + self.scenario.hosts.handshake + self.latency(from, to) * 4;
        let Some(that) = self.host(to) else {
            return;
        };
        if !that.is_alive {
            // Nobody answers. Whoever had a connection is told when the others are.
            if !is_up {
                let peer = that.member.peer;
                let gone = Box::new(Input::PeerGone { peer });
                self.plan(noticed_at, Event::Tell(from, boot, gone));
            }
            return;
        }
        let peer = that.member.peer;
        if !is_up {
            let right = self.right();
            let Some(that) = self.host(to) else {
                return;
            };
            let theirs = (that.boot, that.member.clone());
            that.connected.insert(from, up_at);
            if let Some(this) = self.host(from) {
                this.connected.insert(to, up_at);
            }
            for (host, boot, other) in [(to, theirs.0, member), (from, boot, theirs.1)] {
                let peer = other.peer;
                let up = Box::new(Input::PeerUp { member: other });
                self.plan(up_at, Event::Tell(host, boot, up));
                let right = right.clone();
                let granted = Box::new(Input::Granted { peer, right });
                self.plan(up_at, Event::Tell(host, boot, granted));
            }
        }
        self.send(from, &peer, input);
    }

    fn disconnect(&mut self, host: HostNo, other: Option<HostNo>) {
        let Some(other) = other else {
            return;
        };
        let at = self.now + self.latency(host, other);
        let Some(peer) = self.host(host).map(|this| {
            this.connected.remove(&other);
            this.member.peer
        }) else {
            return;
        };
        if let Some(that) = self.host(other) {
            that.connected.remove(&host);
            let boot = that.boot;
            let gone = Box::new(Input::PeerGone { peer });
            self.plan(at, Event::Tell(other, boot, gone));
        }
    }

    /// Ends a host's connections; those at the other ends are told at `at`.
    pub(super) fn cut_off(&mut self, host: HostNo, at: Duration) {
        let Some(this) = self.host(host) else {
            return;
        };
        let others = std::mem::take(&mut this.connected);
        let peer = this.member.peer;
        for other in others.into_keys() {
            if let Some(that) = self.host(other).filter(|that| that.is_alive) {
                let boot = that.boot;
                let gone = Box::new(Input::PeerGone { peer });
                self.plan(at, Event::Tell(other, boot, gone));
            }
        }
    }
}
