//! The node, one decision at a time.

mod asking;
mod introduce;
mod reading;
mod rights;
mod serving;
mod silent;
mod slow;
mod trackers;

use std::sync::Arc;
use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::{
    ChunkId, Class, Member, PeerId, Role, Route, StripeRoute, StripeRun, StripeState, Want,
};

use super::*;

/// A right without an end.
const FOR_EVER: Duration = Duration::MAX;
const CHUNK_LEN: u32 = 256 << 10;

/// A node, its clock, and what it wanted done.
struct Bench {
    node: Node,
    now: Duration,
}

fn peer(name: u8) -> PeerId {
    PeerId::from_bytes(&[name]).unwrap()
}

fn member(name: u8) -> Member {
    Member {
        peer: peer(name),
        addresses: Vec::new(),
        zone: String::new(),
        rack: String::new(),
        role: Role::Agent,
    }
}

fn blob() -> Digest {
    Digest::of(b"blob")
}

fn chunk(number: u32) -> ChunkId {
    ChunkId {
        blob: blob(),
        number,
    }
}

/// The parent for even chunks, the one for odd ones, and reserves.
fn parents(names: &[u8]) -> Route {
    Route::Parents(names.iter().map(|&name| Arc::new(member(name))).collect())
}

impl Bench {
    /// The node 0 with a blob of 192 chunks, three stripes, none of them present.
    fn new(change: impl FnOnce(&mut NodeOptions)) -> Self {
        let mut options = NodeOptions::new(member(0), 7);
        change(&mut options);
        let mut bench = Self {
            node: Node::new(options),
            now: Duration::from_secs(100),
        };
        let chunk_lens: Arc<[u32]> = vec![CHUNK_LEN; 192].into();
        bench.tell(Input::OpenBlob {
            blob: blob(),
            registries: vec!["registry".into()],
            chunk_lens,
            present: Vec::new(),
        });
        bench.members(&[], Some(FOR_EVER));
        for name in 1..=80 {
            bench.grant(name, "registry", FOR_EVER);
        }
        bench
    }

    /// The same with a tracker, and stripe 0 routed to peer 1, with peer 2 in reserve.
    fn routed() -> Self {
        let mut bench = Self::new(|_| {});
        bench.tell(Input::TrackerUp {
            epoch: 1,
            seed: None,
        });
        bench.want(0, Class::Demand);
        bench.route(0, parents(&[1, 1, 2]));
        bench.tell(Input::Unwanted { chunk: chunk(0) });
        bench
    }

    fn tell(&mut self, input: Input) -> Vec<Action> {
        self.node.handle(self.now, input);
        self.act()
    }

    fn act(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.node.poll(self.now)).collect()
    }

    /// Turns the clock on by so many milliseconds, stopping at each moment the node asks for.
    fn pass(&mut self, ms: u64) -> Vec<Action> {
        let end = self.now + Duration::from_millis(ms);
        let mut actions = Vec::new();
        while let Some(at) = self.node.wake_at().filter(|&at| at <= end) {
            self.now = self.now.max(at);
            actions.extend(self.act());
        }
        self.now = end;
        actions
    }

    fn want(&mut self, number: u32, class: Class) -> Vec<Action> {
        self.tell(Input::Wanted {
            chunk: chunk(number),
            class,
            give_up_at: None,
        })
    }

    fn route(&mut self, stripe: u32, route: Route) -> Vec<Action> {
        let routes = vec![StripeRoute { stripe, route }];
        self.tell(Input::Routes {
            blob: blob(),
            routes,
        })
    }

    /// A peer asks for a chunk.
    fn asked(&mut self, name: u8, request: u32, number: u32, class: Class) -> Vec<Action> {
        let want = Want {
            class,
            chunk: chunk(number),
            hash: None,
        };
        self.tell(Input::Want {
            peer: peer(name),
            request,
            want,
        })
    }

    fn hold(&mut self, numbers: impl IntoIterator<Item = u32>) {
        let mut present = vec![0; 24];
        for number in numbers {
            present[number as usize / 8] |= 1 << (number % 8);
        }
        let chunk_lens: Arc<[u32]> = vec![CHUNK_LEN; 192].into();
        self.tell(Input::OpenBlob {
            blob: blob(),
            registries: vec!["registry".into()],
            chunk_lens,
            present,
        });
    }

    /// The tracker names members, and says until when the node may have the blob.
    fn members(&mut self, names: &[u8], until: Option<Duration>) -> Vec<Action> {
        self.tell(Input::Members {
            blob: blob(),
            members: names.iter().map(|&name| Arc::new(member(name))).collect(),
            until,
        })
    }

    /// A peer shows that it may have the blob by the word of a registry.
    fn grant(&mut self, name: u8, registry: &str, until: Duration) {
        let right = Right {
            registry: registry.into(),
            manifest: Digest::of(b"manifest"),
            blobs: [blob()].into(),
            until,
        };
        let peer = peer(name);
        self.tell(Input::Granted { peer, right });
    }
}

/// WANTs among actions: to whom, request, chunk.
fn wants(actions: &[Action]) -> Vec<(u8, u32, u32)> {
    let want = |action: &Action| match action {
        Action::SendWant { to, request, want } => {
            Some((to.peer.as_bytes()[0], *request, want.chunk.number))
        }
        _ => None,
    };
    actions.iter().filter_map(want).collect()
}

/// Registry reads among actions: number, first chunk, end.
fn reads(actions: &[Action]) -> Vec<(u64, u32, u32)> {
    let read = |action: &Action| match action {
        Action::ReadRegistry { read, chunks, .. } => Some((*read, chunks.start, chunks.end)),
        _ => None,
    };
    actions.iter().filter_map(read).collect()
}

fn completed(actions: &[Action]) -> Vec<u32> {
    let complete = |action: &Action| match action {
        Action::Complete { chunk, .. } => Some(chunk.number),
        _ => None,
    };
    actions.iter().filter_map(complete).collect()
}

fn failed(actions: &[Action]) -> Vec<FailReason> {
    let fail = |action: &Action| match action {
        Action::Fail { why, .. } => Some(*why),
        _ => None,
    };
    actions.iter().filter_map(fail).collect()
}

fn looked_up(actions: &[Action]) -> Vec<u32> {
    let lookup = |action: &Action| match action {
        Action::Lookup { stripes, .. } => Some(stripes.clone()),
        _ => None,
    };
    actions.iter().filter_map(lookup).flatten().collect()
}

fn cancelled(actions: &[Action]) -> Vec<u32> {
    let cancel = |action: &Action| match action {
        Action::SendCancel { request, .. } => Some(*request),
        _ => None,
    };
    actions.iter().filter_map(cancel).collect()
}
