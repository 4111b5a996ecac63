//! Containers read, and the agent reads ahead of them.

use tranship_format::wire::{ChunkId, Class};
use tranship_swarm::node::Input;

use super::{Event, REGISTRY, World};
use crate::host::{HostNo, ImageChunk, Reader};

impl World {
    /// The agent of a host opens the image: from now on the swarm may know of it.
    pub(super) fn open(&mut self, host: HostNo) {
        let (now, layer_chunks) = (self.now, self.layer_chunks);
        let lens = self.chunk_lens.clone();
        let layers = self.layers.clone();
        let Some(this) = self.host(host).filter(|this| this.is_alive) else {
            return;
        };
        this.has_begun = true;
        for (layer, blob) in (0_u32..).zip(layers) {
            let first = layer * layer_chunks;
            let input = Input::OpenBlob {
                blob,
                registries: vec![REGISTRY.into()],
                chunk_lens: lens.clone(),
                present: this.present(first..first + layer_chunks),
            };
            this.node.handle(now, input);
        }
        self.act(host);
    }

    /// A reader asks for what comes next, as far as its window goes.
    pub(super) fn read_on(&mut self, host: HostNo, reader: u16) {
        let thinks = !self.scenario.containers.think.is_zero();
        loop {
            let Some(this) = self.host(host).filter(|this| this.is_alive) else {
                return;
            };
            let Some(reading) = this.readers.get_mut(usize::from(reader)) else {
                return;
            };
            if reading.open >= reading.window {
                return;
            }
            if reading.next >= reading.end && !self.opens_file(host, reader) {
                self.ends(host, reader);
                return;
            }
            let Some(chunk) = self.next_chunk(host, reader) else {
                return;
            };
            self.read_ahead(host, chunk);
            let Some(this) = self.host(host) else {
                return;
            };
            let Some(reading) = this.readers.get_mut(usize::from(reader)) else {
                return;
            };
            let class = reading.class;
            let has = this.has(chunk);
            if has && !(thinks && class == Class::Demand) {
                continue;
            }
            if let Some(reading) = self.reader(host, reader) {
                reading.open += 1;
            }
            if has {
                self.read_done(host, reader);
                continue;
            }
            if self.wait_for(host, reader, chunk) {
                self.totals.chunk_reads += 1;
            }
        }
    }

    /// The chunk that a reader comes to.
    fn next_chunk(&mut self, host: HostNo, reader: u16) -> Option<ImageChunk> {
        let reading = self.reader(host, reader)?;
        let chunk = reading.order.get(reading.next).copied();
        reading.next += 1;
        chunk
    }

    /// A reader of files takes the next one; false if there is none.
    fn opens_file(&mut self, host: HostNo, reader: u16) -> bool {
        let file = self.scenario.containers.file as usize;
        let Some(this) = self.host(host) else {
            return false;
        };
        let Some(reading) = this.readers.get_mut(usize::from(reader)) else {
            return false;
        };
        let begun = reading
            .container
            .and_then(|container| this.files.get_mut(container as usize));
        let Some(begun) = begun.filter(|begun| **begun < reading.order.len()) else {
            return false;
        };
        reading.next = *begun;
        *begun += file;
        reading.end = (*begun).min(reading.order.len());
        true
    }

    /// The agent reads ahead of somebody who reads a file in order.
    fn read_ahead(&mut self, host: HostNo, chunk: ImageChunk) {
        let now = self.now;
        let layer_chunks = self.layer_chunks.max(1);
        let Some(this) = self.host(host) else {
            return;
        };
        // The agent has one of these for each layer; here, readers of several are as well told apart by one.
        let end = (chunk / layer_chunks + 1) * layer_chunks;
        for ahead in this.ahead.touched(chunk, end) {
            let Some(id) = self.chunk_id(ahead) else {
                continue;
            };
            let Some(this) = self.host(host).filter(|this| !this.has(ahead)) else {
                continue;
            };
            let is_first = !this.waiting.contains_key(&ahead);
            this.waiting.entry(ahead).or_default();
            let wanted = Input::Wanted {
                chunk: id,
                class: Class::Prefetch,
                give_up_at: None,
            };
            this.node.handle(now, wanted);
            self.totals.chunk_reads += u64::from(is_first);
        }
    }

    /// A reader wants a chunk that is not here; false if somebody waits for it already.
    pub(super) fn wait_for(&mut self, host: HostNo, reader: u16, chunk: ImageChunk) -> bool {
        let now = self.now;
        let Some(id) = self.chunk_id(chunk) else {
            return false;
        };
        let class = self
            .reader(host, reader)
            .map_or(Class::Background, |reading| reading.class);
        let Some(this) = self.host(host) else {
            return false;
        };
        let is_first = !this.waiting.contains_key(&chunk);
        this.waiting.entry(chunk).or_default().push(reader);
        this.node.handle(
            now,
            Input::Wanted {
                chunk: id,
                class,
                give_up_at: None,
            },
        );
        is_first
    }

    fn reader(&mut self, host: HostNo, reader: u16) -> Option<&mut Reader> {
        self.host(host)?.readers.get_mut(usize::from(reader))
    }

    /// A chunk that readers wait for is here, or will not come.
    pub(super) fn settled(&mut self, host: HostNo, chunk: ChunkId, came: bool) {
        let Some(chunk) = self.image_chunk(chunk) else {
            return;
        };
        let waited = self.host(host).and_then(|this| this.waiting.remove(&chunk));
        for reader in waited.unwrap_or_default() {
            let is_container = self
                .reader(host, reader)
                .is_some_and(|reading| reading.is_container());
            self.totals.read_errors += u64::from(!came && is_container);
            self.read_done(host, reader);
        }
    }

    /// A reader has a chunk: a container works on it first.
    fn read_done(&mut self, host: HostNo, reader: u16) {
        let (now, think) = (self.now, self.scenario.containers.think);
        let Some(reading) = self.reader(host, reader) else {
            return;
        };
        if reading.is_container() && !think.is_zero() {
            self.plan(now + think, Event::Thought(host, reader));
        } else {
            reading.open = reading.open.saturating_sub(1);
            self.plan(now, Event::Read(host, reader));
        }
    }

    pub(super) fn thought(&mut self, host: HostNo, reader: u16) {
        if let Some(reading) = self.reader(host, reader) {
            reading.open = reading.open.saturating_sub(1);
        }
        self.read_on(host, reader);
        self.act(host);
    }

    /// A reader has asked for all there is.
    fn ends(&mut self, host: HostNo, reader: u16) {
        let now = self.now;
        let Some(this) = self.host(host) else {
            return;
        };
        let Some(reading) = this.readers.get_mut(usize::from(reader)) else {
            return;
        };
        if reading.open > 0 || reading.ready_at.is_some() {
            return;
        }
        reading.ready_at = Some(now);
        if reading.is_container() && this.is_ready() {
            self.unready = self.unready.saturating_sub(1);
        }
    }
}
