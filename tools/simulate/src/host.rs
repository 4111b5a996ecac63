//! One host of the swarm: its agent's decisions, its links, what it holds, and the containers that read there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tranship_format::wire::{Class, Member, PeerId, Role};
use tranship_swarm::node::{Node, NodeOptions};
use tranship_swarm::read_ahead::ReadAhead;

use crate::link::{Inbound, Outbound};
use crate::rate::Rate;

/// Number of a host, which its peer identity spells.
pub(crate) type HostNo = u32;

/// Chunk of the image: numbered through all its layers.
pub(crate) type ImageChunk = u32;

/// Number of a host's run: what is on its way to an earlier one reaches nobody.
pub(crate) type Boot = u32;

/// What a link carries, and on which connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parcel {
    /// A chunk, for a request of the receiver.
    Chunk {
        to: HostNo,
        boot: Boot,
        request: u32,
        is_demand: bool,
    },
    /// A chunk of a registry read; the read ends with it or goes on.
    Read {
        to: HostNo,
        boot: Boot,
        read: u64,
        chunk: ImageChunk,
        ends: bool,
    },
}

impl Parcel {
    pub(crate) const fn to(&self) -> (HostNo, Boot) {
        match *self {
            Self::Chunk { to, boot, .. } | Self::Read { to, boot, .. } => (to, boot),
        }
    }
}

/// Connections of a host: one for demand and one for the rest with each other.
pub(crate) type Lane = (HostNo, bool);

/// Somebody who reads the image in order: a container, or the agent ahead of them.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) class: Class,
    pub(crate) order: Arc<[ImageChunk]>,
    pub(crate) next: usize,
    /// Chunks it waits for, or works on.
    pub(crate) open: u32,
    pub(crate) window: u32,
    /// Where in the order it stops, and takes another file of its container's if it reads files.
    pub(crate) end: usize,
    /// The container whose files it reads.
    pub(crate) container: Option<u32>,
    pub(crate) starts_at: Duration,
    pub(crate) ready_at: Option<Duration>,
}

impl Reader {
    pub(crate) fn new(class: Class, order: &Arc<[ImageChunk]>, window: u32, at: Duration) -> Self {
        Self {
            class,
            order: Arc::clone(order),
            next: 0,
            open: 0,
            window,
            end: order.len(),
            container: None,
            starts_at: at,
            ready_at: None,
        }
    }

    /// One of those who go through the files of a container.
    pub(crate) fn of_files(order: &Arc<[ImageChunk]>, container: u32, at: Duration) -> Self {
        Self {
            end: 0,
            container: Some(container),
            ..Self::new(Class::Demand, order, 1, at)
        }
    }

    /// Whether it is a container, whose readiness counts.
    pub(crate) fn is_container(&self) -> bool {
        self.class == Class::Demand
    }
}

/// What the tracker was asked, to make sense of the answer.
#[derive(Debug)]
pub(crate) enum Asked {
    Open(Vec<tranship_format::Digest>),
    Lookup(tranship_format::Digest, Vec<u32>),
    Heartbeat,
    Other,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) node: Node,
    pub(crate) member: Member,
    pub(crate) zone: u32,
    pub(crate) boot: Boot,
    pub(crate) is_alive: bool,
    pub(crate) has_joined: bool,
    pub(crate) has_begun: bool,
    pub(crate) up: Outbound<Lane, Parcel>,
    pub(crate) down: Inbound,
    pub(crate) cpu_free_at: Duration,
    pub(crate) holds: Vec<bool>,
    pub(crate) readers: Vec<Reader>,
    /// Where the next file begins that a container's readers have not begun, by container.
    pub(crate) files: Vec<usize>,
    /// How far it reads ahead of those who read files.
    pub(crate) ahead: ReadAhead,
    /// Which readers wait for which chunk.
    pub(crate) waiting: BTreeMap<ImageChunk, Vec<u16>>,
    /// With whom it is connected, and since when.
    pub(crate) connected: BTreeMap<HostNo, Duration>,
    pub(crate) asked: BTreeMap<u32, Asked>,
    pub(crate) last_request: u32,
    pub(crate) wake_at: Option<Duration>,
}

impl Host {
    pub(crate) fn new(
        options: NodeOptions,
        zone: u32,
        up: Rate,
        down: Rate,
        (turn, window): (u64, u64),
        chunks: u32,
    ) -> Self {
        let member = options.me.clone();
        Self {
            node: Node::new(options),
            member,
            zone,
            boot: 0,
            is_alive: true,
            has_joined: false,
            has_begun: false,
            up: Outbound::new(up, turn, window),
            down: Inbound::new(down),
            cpu_free_at: Duration::ZERO,
            holds: vec![false; chunks as usize],
            readers: Vec::new(),
            files: Vec::new(),
            ahead: ReadAhead::new(0),
            waiting: BTreeMap::new(),
            connected: BTreeMap::new(),
            asked: BTreeMap::new(),
            last_request: 0,
            wake_at: None,
        }
    }

    pub(crate) fn is_seed(&self) -> bool {
        self.member.role == Role::Seed
    }

    pub(crate) fn has(&self, chunk: ImageChunk) -> bool {
        self.holds.get(chunk as usize).copied().unwrap_or(false)
    }

    pub(crate) fn keep(&mut self, chunk: ImageChunk) {
        if let Some(held) = self.holds.get_mut(chunk as usize) {
            *held = true;
        }
    }

    /// Which chunks of a layer it holds, as the agent tells its decisions.
    pub(crate) fn present(&self, chunks: std::ops::Range<u32>) -> Vec<u8> {
        let mut bits = vec![0; chunks.len().div_ceil(8)];
        for (place, chunk) in chunks.enumerate() {
            if self.has(chunk)
                && let Some(byte) = bits.get_mut(place / 8)
            {
                *byte |= 1 << (place % 8);
            }
        }
        bits
    }

    /// Whether all its containers are ready.
    pub(crate) fn is_ready(&self) -> bool {
        let mut containers = self.readers.iter().filter(|reader| reader.is_container());
        containers.all(|reader| reader.ready_at.is_some())
    }
}

/// The identity that spells a host's number.
pub(crate) fn peer_of(host: HostNo) -> Option<PeerId> {
    PeerId::from_bytes(&host.to_le_bytes()).ok()
}

/// The number that an identity spells.
pub(crate) fn host_of(peer: &PeerId) -> Option<HostNo> {
    let bytes: [u8; 4] = peer.as_bytes().try_into().ok()?;
    Some(HostNo::from_le_bytes(bytes))
}
