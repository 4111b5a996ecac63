//! The registry: so many reads at once, each with its latency, all through one link.

use std::ops::Range;
use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::ChunkId;
use tranship_swarm::node::{Arrival, Input, RegistryFailure};

use super::transfer::REGISTRY;
use super::{Event, World};
use crate::host::{Boot, HostNo, ImageChunk, Parcel};
use crate::link::Piece;

impl World {
    pub(super) fn read_registry(
        &mut self,
        host: HostNo,
        read: u64,
        blob: Digest,
        chunks: Range<u32>,
    ) {
        let Some(boot) = self.host(host).map(|this| this.boot) else {
            return;
        };
        let terms = &self.scenario.registry;
        let at = self.now + terms.latency;
        let is_full = terms.reads > 0 && self.reads.len() >= terms.reads as usize;
        let retry_after = is_full.then_some(terms.retry_after);
        self.totals.registry_reads += 1;
        if self.registry_is_lost || is_full {
            self.totals.refused_reads += 1;
            self.read_fails(at, host, boot, read, retry_after);
            return;
        }
        self.reads.insert((host, boot, read));
        let Some(first) = self.image_chunk(ChunkId {
            blob,
            number: chunks.start,
        }) else {
            return;
        };
        let count = u32::try_from(chunks.len()).unwrap_or(0);
        let answers = Event::Answers {
            to: host,
            boot,
            read,
            chunks: first..first + count,
        };
        self.plan(at, answers);
    }

    fn read_fails(
        &mut self,
        at: Duration,
        host: HostNo,
        boot: Boot,
        read: u64,
        retry_after: Option<Duration>,
    ) {
        let failure = Some(RegistryFailure {
            retry_after,
            permanent: false,
        });
        let end = Input::RegistryEnd { read, failure };
        self.plan(at, Event::Tell(host, boot, Box::new(end)));
    }

    pub(super) fn registry_answers(
        &mut self,
        to: HostNo,
        boot: Boot,
        read: u64,
        chunks: Range<ImageChunk>,
    ) {
        if !self.reads.contains(&(to, boot, read)) {
            return;
        }
        let end = chunks.end;
        for chunk in chunks {
            let len = self.chunk_len(chunk % self.layer_chunks);
            let parcel = Parcel::Read {
                to,
                boot,
                read,
                chunk,
                ends: chunk + 1 == end,
            };
            self.registry.put((to, read), parcel, len);
        }
        self.registry_goes_on();
    }

    pub(super) fn registry_goes_on(&mut self) {
        if let Some(takes) = self.registry.begin() {
            self.plan(self.now + takes, Event::LeftRegistry);
        }
    }

    pub(super) fn left_registry(&mut self) {
        let piece = self.registry.end();
        self.registry_goes_on();
        if let Some(Piece {
            parcel,
            len,
            is_last,
        }) = piece
        {
            // Its latency was spent before the first byte.
            let lands = Event::Lands {
                from: REGISTRY,
                parcel,
                len,
                is_last,
            };
            self.plan(self.now, lands);
        }
    }

    /// A chunk of a read is here.
    pub(super) fn read_came(
        &mut self,
        to: HostNo,
        boot: Boot,
        read: u64,
        chunk: ImageChunk,
        ends: bool,
    ) {
        let now = self.now;
        let Some(ChunkId { blob, number }) = self.chunk_id(chunk) else {
            return;
        };
        self.keep(to, ChunkId { blob, number });
        if let Some(this) = self.host(to) {
            let whole = Input::RegistryChunk {
                read,
                number,
                arrival: Arrival::Kept,
            };
            this.node.handle(now, whole);
            if ends {
                let failure = None;
                this.node.handle(now, Input::RegistryEnd { read, failure });
            }
        }
        if ends {
            self.reads.remove(&(to, boot, read));
        }
        self.act(to);
    }

    /// The reads of a host that is gone end.
    pub(super) fn drop_reads(&mut self, host: HostNo) {
        self.registry.close(|&(to, _)| to == host);
        self.reads.retain(|&(to, _, _)| to != host);
    }

    pub(super) fn registry_lost(&mut self) {
        self.registry_is_lost = true;
        self.registry.clear();
        for (host, boot, read) in std::mem::take(&mut self.reads) {
            self.read_fails(self.now, host, boot, read, None);
        }
    }
}
