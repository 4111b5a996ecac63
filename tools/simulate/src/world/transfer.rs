//! Bytes on their way: out of a host, over a thin link perhaps, into another.

use std::time::Duration;

use tranship_format::wire::{ChunkId, Class};
use tranship_swarm::node::{Arrival, Input};

use super::{Event, World};
use crate::host::{Boot, HostNo, Parcel, peer_of};
use crate::link::Piece;

/// The registry, where a host's number is due.
pub(super) const REGISTRY: HostNo = HostNo::MAX;

impl World {
    fn zone(&self, host: HostNo) -> u32 {
        self.hosts.get(host as usize).map_or(0, |this| this.zone)
    }

    /// One way between two hosts.
    pub(super) fn latency(&self, from: HostNo, to: HostNo) -> Duration {
        match self.scenario.between_zones {
            Some(between) if self.zone(from) != self.zone(to) => between.latency,
            _ => self.scenario.hosts.latency,
        }
    }

    pub(super) fn send_chunk(
        &mut self,
        host: HostNo,
        to: HostNo,
        request: u32,
        chunk: ChunkId,
        class: Class,
    ) {
        let now = self.now;
        let len = self.chunk_len(chunk.number);
        let image = self.image_chunk(chunk);
        let to_boot = self.hosts.get(to as usize).map_or(0, |that| that.boot);
        let Some(peer) = peer_of(to) else {
            return;
        };
        let Some(this) = self.host(host) else {
            return;
        };
        if !image.is_some_and(|image| this.has(image)) {
            let boot = this.boot;
            let failed = Input::SendFailed { peer, request };
            self.plan(now, Event::Tell(host, boot, Box::new(failed)));
            return;
        }
        let is_demand = class == Class::Demand;
        let parcel = Parcel::Chunk {
            to,
            boot: to_boot,
            request,
            is_demand,
        };
        this.up.put((to, is_demand), parcel, len);
        self.send_on(host);
    }

    fn send_on(&mut self, host: HostNo) {
        let now = self.now;
        let Some(this) = self.host(host) else {
            return;
        };
        let boot = this.boot;
        if let Some(takes) = this.up.begin() {
            self.plan(now + takes, Event::Left(host, boot));
        }
    }

    /// A piece has left a host.
    pub(super) fn left(&mut self, host: HostNo, boot: Boot) {
        let now = self.now;
        let Some(this) = self.living(host, boot) else {
            return;
        };
        let piece = this.up.end();
        self.send_on(host);
        let Some(Piece {
            parcel,
            len,
            is_last,
        }) = piece
        else {
            return;
        };
        if is_last
            && let Parcel::Chunk { to, request, .. } = parcel
            && let Some(peer) = peer_of(to)
            && let Some(this) = self.host(host)
        {
            this.node.handle(now, Input::Sent { peer, request });
            self.act(host);
        }
        let (to, _) = parcel.to();
        let at = self.crossed(host, to, len) + self.latency(host, to);
        let lands = Event::Lands {
            from: host,
            parcel,
            len,
            is_last,
        };
        self.plan(at, lands);
    }

    /// When a piece is over the link between two zones, if there is one on its way.
    fn crossed(&mut self, from: HostNo, to: HostNo, len: u64) -> Duration {
        let (now, one, other) = (self.now, self.zone(from), self.zone(to));
        if one == other {
            return now;
        }
        self.totals.between_len += len;
        let place = one * self.scenario.hosts.zones + other;
        let link = self.between.get_mut(place as usize);
        link.map_or(now, |link| link.pass(now, len))
    }

    /// A piece reaches a host's link: when it is through and the chunk is whole, the processor has it.
    pub(super) fn lands(&mut self, from: HostNo, parcel: Parcel, len: u64, is_last: bool) {
        let (now, verify) = (self.now, self.scenario.hosts.verify);
        let (to, boot) = parcel.to();
        let Some(this) = self.living(to, boot) else {
            return self.through(from, parcel, len);
        };
        let here_at = this.down.pass(now, len);
        self.plan(here_at, Event::Through { from, parcel, len });
        let Some(this) = self.living(to, boot) else {
            return;
        };
        if is_last {
            let at = this.cpu_free_at.max(here_at) + verify;
            this.cpu_free_at = at;
            self.plan(at, Event::Arrives { from, parcel });
        }
        if let Parcel::Read { read, .. } = parcel {
            let progress = Input::RegistryProgress { read, len };
            self.plan(here_at, Event::Tell(to, boot, Box::new(progress)));
        }
    }

    /// A piece is through: its sender may send another on that connection.
    pub(super) fn through(&mut self, from: HostNo, parcel: Parcel, len: u64) {
        match parcel {
            Parcel::Chunk { to, is_demand, .. } => {
                if let Some(that) = self.host(from) {
                    that.up.through(&(to, is_demand), len);
                }
                self.send_on(from);
            }
            Parcel::Read { to, read, .. } => {
                self.registry.through(&(to, read), len);
                self.registry_goes_on();
            }
        }
    }

    /// A chunk is whole and its hash known.
    pub(super) fn arrives(&mut self, from: HostNo, parcel: Parcel) {
        let (to, boot) = parcel.to();
        if self.living(to, boot).is_none() {
            return;
        }
        match parcel {
            Parcel::Chunk { request, .. } => self.chunk_came(from, to, request),
            Parcel::Read {
                read, chunk, ends, ..
            } => self.read_came(to, boot, read, chunk, ends),
        }
    }

    fn chunk_came(&mut self, from: HostNo, to: HostNo, request: u32) {
        let now = self.now;
        let lies = self.liars.contains(&from);
        let Some(peer) = peer_of(from) else {
            return;
        };
        let requested = self
            .host(to)
            .and_then(|this| this.node.requested(&peer, request));
        let Some(chunk) = requested else {
            self.totals.late_chunks += 1;
            return;
        };
        let arrival = if lies {
            Arrival::Wrong
        } else {
            self.keep(to, chunk);
            Arrival::Kept
        };
        if let Some(this) = self.host(to) {
            let data = Input::Data {
                peer,
                request,
                arrival,
            };
            this.node.handle(now, data);
        }
        self.act(to);
    }

    pub(super) fn keep(&mut self, host: HostNo, chunk: ChunkId) {
        if let Some(image) = self.image_chunk(chunk)
            && let Some(this) = self.host(host)
        {
            this.keep(image);
        }
    }
}
