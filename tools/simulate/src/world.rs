//! The swarm in virtual time: what happens, in order, until everybody is ready.

mod doing;
mod origin;
mod reading;
mod setup;
mod tracking;
mod transfer;
mod trouble;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::{ChunkId, TrackerReply, TrackerRequest};
use tranship_swarm::node::{Counters, Input};
use tranship_swarm::tracker::Tracker;

use crate::host::{Boot, Host, HostNo, ImageChunk, Parcel};
use crate::link::{Inbound, Outbound};
use crate::queue::Queue;
use crate::random::Random;
use crate::scenario::Scenario;

/// Where the image is.
const REGISTRY: &str = "registry.example";

/// What happens.
#[derive(Debug)]
enum Event {
    /// An agent opens the image.
    Open(HostNo),
    /// A reader starts, or has worked on what it read.
    Read(HostNo, u16),
    /// A reader is through with a chunk.
    Thought(HostNo, u16),
    Wake(HostNo, Boot),
    /// A host is told something.
    Tell(HostNo, Boot, Box<Input>),
    /// A piece has left a host.
    Left(HostNo, Boot),
    /// A piece has left the registry.
    LeftRegistry,
    /// A piece reaches the link of a host.
    Lands {
        from: HostNo,
        parcel: Parcel,
        len: u64,
        is_last: bool,
    },
    /// A piece is through the link of a host.
    Through {
        from: HostNo,
        parcel: Parcel,
        len: u64,
    },
    /// A chunk is here, verified and kept.
    Arrives {
        from: HostNo,
        parcel: Parcel,
    },
    /// The registry begins to answer.
    Answers {
        to: HostNo,
        boot: Boot,
        read: u64,
        chunks: std::ops::Range<ImageChunk>,
    },
    /// A request reaches the tracker.
    Asks(HostNo, u32, Box<TrackerRequest>),
    /// The tracker's processor comes to it.
    Serves(HostNo, u32, Box<TrackerRequest>),
    /// An answer of the tracker reaches a host.
    Hears(HostNo, u64, u32, Box<TrackerReply>),
    WakeTracker,
    TrackerLost,
    TrackerBack,
    RegistryLost,
    Join(HostNo),
    Heartbeat(HostNo, Boot),
    /// The tracker notices that a host is gone.
    Gone(HostNo),
    Dies(HostNo),
    Restarts(HostNo),
}

/// Totals that the hosts do not count themselves.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) tracker_messages: u64,
    pub(crate) read_errors: u64,
    pub(crate) chunk_reads: u64,
    pub(crate) registry_reads: u64,
    pub(crate) refused_reads: u64,
    pub(crate) between_len: u64,
    /// Chunks that came when nobody waited for them any more.
    pub(crate) late_chunks: u64,
    pub(crate) events: u64,
    /// What agents that were restarted had counted.
    pub(crate) counters: Vec<Counters>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) now: Duration,
    pub(crate) hosts: Vec<Host>,
    pub(crate) totals: Totals,
    /// The order in which a start reads.
    pub(crate) order: Arc<[ImageChunk]>,
    pub(crate) registry: Outbound<(HostNo, u64), Parcel>,
    queue: Queue<Event>,
    random: Random,
    layers: Vec<Digest>,
    layer_chunks: u32,
    chunk_lens: Arc<[u32]>,
    registry_is_lost: bool,
    /// Registry reads under way.
    reads: BTreeSet<(HostNo, Boot, u64)>,
    tracker: Option<Tracker>,
    tracker_began_at: Duration,
    tracker_free_at: Duration,
    tracker_wake_at: Option<Duration>,
    tracker_link: Inbound,
    epoch: u64,
    /// Links between zones, by number of the one and the other.
    between: Vec<Inbound>,
    /// Hosts that send wrong chunks.
    liars: BTreeSet<HostNo>,
    /// Hosts whose containers are not ready.
    unready: u32,
}

impl World {
    /// Lives until everybody is ready or the scenario's limit is over.
    pub(crate) fn run(&mut self) {
        while self.unready > 0
            && let Some((at, event)) = self.queue.next()
            && at <= self.scenario.limit
        {
            self.now = at;
            self.totals.events += 1;
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Open(host) => self.open(host),
            Event::Read(host, reader) => {
                self.read_on(host, reader);
                self.act(host);
            }
            Event::Thought(host, reader) => self.thought(host, reader),
            Event::Wake(host, boot) => {
                if let Some(this) = self.living(host, boot) {
                    this.wake_at = None;
                    self.act(host);
                }
            }
            Event::Tell(host, boot, input) => {
                let now = self.now;
                if let Some(this) = self.living(host, boot) {
                    this.node.handle(now, *input);
                    self.act(host);
                }
            }
            Event::Left(host, boot) => self.left(host, boot),
            Event::LeftRegistry => self.left_registry(),
            Event::Lands {
                from,
                parcel,
                len,
                is_last,
            } => self.lands(from, parcel, len, is_last),
            Event::Through { from, parcel, len } => self.through(from, parcel, len),
            Event::Arrives { from, parcel } => self.arrives(from, parcel),
            Event::Answers {
                to,
                boot,
                read,
                chunks,
            } => self.registry_answers(to, boot, read, chunks),
            Event::Asks(from, request, message) => self.asks(from, request, message),
            Event::Serves(from, request, message) => self.serves(from, request, *message),
            Event::Hears(to, epoch, request, reply) => self.hears(to, epoch, request, *reply),
            Event::WakeTracker => {
                self.tracker_wake_at = None;
                self.tracker_acts();
            }
            Event::TrackerLost => self.tracker_lost(),
            Event::TrackerBack => self.tracker_back(),
            Event::RegistryLost => self.registry_lost(),
            Event::Join(host) => self.join(host),
            Event::Heartbeat(host, boot) => self.heartbeat(host, boot),
            Event::Gone(host) => self.gone(host),
            Event::Dies(host) => self.dies(host),
            Event::Restarts(host) => self.restarts(host),
        }
    }

    fn plan(&mut self, at: Duration, event: Event) {
        self.queue.plan(at.max(self.now), event);
    }

    fn host(&mut self, host: HostNo) -> Option<&mut Host> {
        self.hosts.get_mut(host as usize)
    }

    /// The host, if it still lives the run that was meant.
    fn living(&mut self, host: HostNo, boot: Boot) -> Option<&mut Host> {
        self.host(host)
            .filter(|this| this.is_alive && this.boot == boot)
    }

    /// Number of a chunk in the image.
    fn image_chunk(&self, chunk: ChunkId) -> Option<ImageChunk> {
        let layer = self.layers.iter().position(|layer| *layer == chunk.blob)?;
        Some(u32::try_from(layer).ok()? * self.layer_chunks + chunk.number)
    }

    /// Where a chunk of the image is.
    fn chunk_id(&self, chunk: ImageChunk) -> Option<ChunkId> {
        let layer = chunk.checked_div(self.layer_chunks)?;
        Some(ChunkId {
            blob: *self.layers.get(layer as usize)?,
            number: chunk % self.layer_chunks,
        })
    }

    fn chunk_len(&self, number: u32) -> u64 {
        self.chunk_lens
            .get(number as usize)
            .map_or(0, |&len| u64::from(len))
    }
}
