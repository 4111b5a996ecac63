//! What a node says to its tracker while it starts an image.

use std::collections::VecDeque;

use tranship_format::Digest;
use tranship_format::wire::{
    BlobInfo, ImageSource, LeaseState, Member, Open, PeerId, PullProof, Role, Route, STRIPE_CHUNKS,
    StripeRun, StripeState, TrackerReply, TrackerRequest,
};

use super::Load;

/// Bytes of a stripe: chunks of 256 KiB.
const STRIPE_LEN: u64 = 256 * 1024 * STRIPE_CHUNKS as u64;
/// Stripes that a node asks about at a time: the one it wants, and three behind it.
const ASKED: u32 = 4;
/// A heartbeat after so many stripes.
const HEARTBEAT_EVERY: u32 = 16;

/// One node's part.
#[derive(Debug)]
pub(super) struct Script {
    load: Load,
    next: u32,
    /// The routes of that stripe and those behind it, as far as they are known.
    routes: VecDeque<Route>,
    step: Step,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Open,
    Lookup,
    /// Under this lease.
    Reading(u64),
    Resting(u64),
    Announce,
    Heartbeat,
}

impl Script {
    pub(super) fn new(load: Load) -> Self {
        Self {
            load,
            next: 0,
            routes: VecDeque::new(),
            step: Step::Open,
        }
    }

    /// What it says next; `None` at the end.
    pub(super) fn next(&self) -> Option<TrackerRequest> {
        if self.next >= self.load.stripes {
            return None;
        }
        let blob = blob();
        Some(match self.step {
            Step::Open => TrackerRequest::Open(Box::new(Open {
                image: image(),
                grant: None,
                proof: PullProof::None,
                blobs: vec![info(self.load)],
            })),
            Step::Lookup => TrackerRequest::Lookup {
                blob,
                stripes: (self.next..self.load.stripes)
                    .take(ASKED as usize)
                    .collect(),
            },
            Step::Reading(lease) => TrackerRequest::Progress {
                lease,
                done_len: STRIPE_LEN / 2,
                state: LeaseState::Reading,
            },
            Step::Resting(lease) => TrackerRequest::Progress {
                lease,
                done_len: STRIPE_LEN,
                state: LeaseState::Resting,
            },
            Step::Announce => TrackerRequest::Announce {
                blob,
                runs: vec![StripeRun {
                    state: StripeState::Complete,
                    count: self.next + 1,
                }],
            },
            Step::Heartbeat => TrackerRequest::Heartbeat {
                load_permille: 100,
                epoch: 0,
                goodputs: Vec::new(),
            },
        })
    }

    /// Goes on after the answer to what was said last; `false` if it is not what such an answer should be.
    pub(super) fn heard(&mut self, reply: &TrackerReply) -> bool {
        self.step = match (self.step, reply) {
            (Step::Open, TrackerReply::Opened { .. }) => Step::Lookup,
            (Step::Lookup, TrackerReply::Routes { routes, .. }) => {
                if routes.is_empty() {
                    return false;
                }
                self.routes = routes.iter().map(|route| route.route.clone()).collect();
                self.begin()
            }
            // A lease may have been lost meanwhile: the stripe is got from somebody else then.
            (Step::Reading(lease), TrackerReply::ProgressAck { .. }) => Step::Resting(lease),
            (Step::Resting(_), TrackerReply::ProgressAck { .. }) => Step::Announce,
            (Step::Announce, TrackerReply::Ack) if self.next.is_multiple_of(HEARTBEAT_EVERY) => {
                Step::Heartbeat
            }
            (Step::Announce, TrackerReply::Ack)
            | (Step::Heartbeat, TrackerReply::HeartbeatAck { .. }) => {
                self.next += 1;
                self.begin()
            }
            _ => return false,
        };
        true
    }
}

impl Script {
    /// How the next stripe begins.
    fn begin(&mut self) -> Step {
        match self.routes.pop_front() {
            Some(Route::Origin { lease, .. }) => Step::Reading(lease),
            Some(Route::Parents(_) | Route::Wait { .. }) => Step::Announce,
            None => Step::Lookup,
        }
    }
}

/// Calls for each chunk that a node got.
pub(super) fn messages_per_chunk(load: Load, calls: u64) -> f64 {
    let chunks = load.nodes as u64 * u64::from(load.stripes) * u64::from(STRIPE_CHUNKS);
    #[expect(
        clippy::cast_precision_loss,
        reason = "no measurement makes 2^52 calls"
    )]
    let (calls, chunks) = (calls as f64, chunks as f64);
    calls / chunks
}

fn blob() -> Digest {
    Digest::of(b"the layer of the image that everybody starts")
}

fn image() -> ImageSource {
    ImageSource {
        registry: "registry.example".to_owned(),
        repository: "team/app".to_owned(),
        manifest: Digest::of(b"the image that everybody starts"),
    }
}

fn info(load: Load) -> BlobInfo {
    BlobInfo {
        digest: blob(),
        len: STRIPE_LEN * u64::from(load.stripes),
        chunk_count: STRIPE_CHUNKS * load.stripes,
    }
}

/// A node like those of a large site: two addresses, one of twenty racks in one of four zones.
pub(super) fn member(number: usize, peer: PeerId) -> Member {
    Member {
        peer,
        addresses: vec![
            format!("/ip4/10.0.{}.{}/tcp/9474", number / 250, number % 250 + 1),
            format!("/ip4/10.1.{}.{}/tcp/9474", number / 250, number % 250 + 1),
        ],
        zone: format!("zone-{}", number % 4),
        rack: format!("rack-{}", number % 20),
        role: Role::Agent,
    }
}
