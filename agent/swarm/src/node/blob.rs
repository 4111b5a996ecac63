//! What a node knows of a blob it uses: the chunks it has, and each stripe's route and open wants.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tranship_format::wire::{Class, Member, PeerId, StripeRun, StripeState};

use super::rights::OwnRight;
use super::wanted::Order;
use super::{Node, StripeId};

/// Where the chunks of a stripe come from.
#[derive(Clone, Debug, Default)]
pub(super) enum Route {
    /// Nobody was asked yet.
    #[default]
    Unknown,
    /// The tracker was asked.
    Asked { until: Duration },
    /// The tracker, or a failure, says to ask again later.
    Hold { until: Duration },
    /// From the registry, by lease.
    Lease(Lease),
    /// From these peers, best first. `by_tracker` is false for a tree of our own reckoning.
    Parents {
        parents: Vec<Arc<Member>>,
        by_tracker: bool,
    },
    /// From the registry, because there is neither tracker nor peer to spare it.
    Direct,
}

impl Route {
    /// Whether the tracker made a peer the parent for even chunks or for odd ones.
    pub(super) fn is_child_of(&self, peer: &PeerId) -> bool {
        let Self::Parents {
            parents,
            by_tracker: true,
        } = self
        else {
            return false;
        };
        parents.iter().take(2).any(|parent| parent.peer == *peer)
    }
}

/// A lease of this node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub(super) id: u64,
    /// Bytes that came, as they stream in.
    pub(super) streamed_len: u64,
    /// Bytes of whole chunks that came.
    pub(super) whole_len: u64,
    /// What the tracker was told last: bytes, and whether the lease rests.
    pub(super) told: Option<(u64, bool)>,
    pub(super) told_at: Duration,
}

/// Why a stripe with open wants starts nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Park {
    /// Its route is not known yet.
    Route,
    /// All that may be in flight is.
    Credit,
    /// Enough other stripes are under way.
    Window,
}

/// A stripe.
#[derive(Debug, Default)]
pub(super) struct Stripe {
    pub(super) route: Route,
    /// Numbers of all chunks wanted.
    pub(super) wanted: BTreeSet<u32>,
    /// Those of them that need a source, most urgent first.
    pub(super) idle: BTreeSet<(Class, Order, u32)>,
    pub(super) parked: Option<Park>,
    /// Its key among the stripes that can start something.
    pub(super) ready: Option<(Class, Order)>,
    /// Questions to the tracker in a row that were not answered.
    pub(super) unanswered: u32,
    /// Times in a row that the tracker could not decide.
    pub(super) undecided: u32,
}

impl Stripe {
    /// Whether it is decided where it comes from. Others may have been sent here for it then, whether anything of it is wanted here yet or not.
    pub(super) const fn is_decided(&self) -> bool {
        matches!(
            self.route,
            Route::Lease(_) | Route::Parents { .. } | Route::Direct
        )
    }

    /// Whether its route is the tracker's word.
    pub(super) const fn is_by_tracker(&self) -> bool {
        matches!(
            self.route,
            Route::Lease(_)
                | Route::Parents {
                    by_tracker: true,
                    ..
                }
        )
    }
}

/// A blob.
#[derive(Debug)]
pub(super) struct Blob {
    chunk_lens: Arc<[u32]>,
    /// Whose word counts when a peer wants chunks of it.
    pub(super) registries: Vec<Arc<str>>,
    /// Whether this node may ask peers for it.
    pub(super) right: OwnRight,
    stripe_chunks: u32,
    present: Vec<u8>,
    /// Chunks present in each stripe.
    counts: Vec<u32>,
    pub(super) stripes: BTreeMap<u32, Stripe>,
    /// The registry asked to be left alone until then.
    pub(super) rests_until: Duration,
    /// Other members that use it, ordered by identity.
    pub(super) members: BTreeMap<PeerId, Arc<Member>>,
    /// Those who heard of this node from itself, since it is the first of a stripe.
    pub(super) introduced_to: BTreeSet<PeerId>,
    /// The tracker told of as many members as it can.
    pub(super) is_full: bool,
    /// It did, and this node is not among them.
    pub(super) is_left_out: bool,
    /// Since when the tracker's picture of it is out of date.
    pub(super) unannounced: bool,
    pub(super) announced_at: Option<Duration>,
}

impl Blob {
    pub(super) fn new(chunk_lens: Arc<[u32]>, present: &[u8], stripe_chunks: u32) -> Self {
        let stripe_chunks = stripe_chunks.max(1);
        let mut blob = Self {
            counts: vec![0; chunk_lens.len().div_ceil(stripe_chunks as usize)],
            present: vec![0; chunk_lens.len().div_ceil(8)],
            chunk_lens,
            registries: Vec::new(),
            right: OwnRight::default(),
            stripe_chunks,
            stripes: BTreeMap::new(),
            rests_until: Duration::ZERO,
            members: BTreeMap::new(),
            introduced_to: BTreeSet::new(),
            is_full: false,
            is_left_out: false,
            unannounced: true,
            announced_at: None,
        };
        blob.replace_present(present);
        blob
    }

    pub(super) fn replace_present(&mut self, present: &[u8]) {
        self.present.fill(0);
        self.counts.fill(0);
        for number in 0..self.chunk_count() {
            let byte = present.get(number as usize / 8).copied().unwrap_or(0);
            if byte & (1 << (number % 8)) != 0 {
                self.set(number);
            }
        }
    }

    pub(super) fn chunk_count(&self) -> u32 {
        u32::try_from(self.chunk_lens.len()).unwrap_or(u32::MAX)
    }

    /// Stored bytes of a chunk, `None` if the blob has no such chunk.
    pub(super) fn chunk_len(&self, number: u32) -> Option<u64> {
        self.chunk_lens
            .get(number as usize)
            .map(|&len| u64::from(len))
    }

    pub(super) fn has(&self, number: u32) -> bool {
        let byte = self.present.get(number as usize / 8).copied().unwrap_or(0);
        byte & (1 << (number % 8)) != 0
    }

    /// Marks a chunk present; true if its stripe is complete by it.
    pub(super) fn set(&mut self, number: u32) -> bool {
        if self.has(number) {
            return false;
        }
        if let Some(byte) = self.present.get_mut(number as usize / 8) {
            *byte |= 1 << (number % 8);
        }
        let stripe = number / self.stripe_chunks;
        if let Some(count) = self.counts.get_mut(stripe as usize) {
            *count += 1;
        }
        self.is_complete(stripe)
    }

    /// Marks a chunk absent; true if its stripe was complete before.
    pub(super) fn clear(&mut self, number: u32) -> bool {
        if !self.has(number) {
            return false;
        }
        let stripe = number / self.stripe_chunks;
        let was_complete = self.is_complete(stripe);
        if let Some(byte) = self.present.get_mut(number as usize / 8) {
            *byte &= !(1 << (number % 8));
        }
        if let Some(count) = self.counts.get_mut(stripe as usize) {
            *count -= 1;
        }
        was_complete
    }

    pub(super) fn stripe_count(&self) -> u32 {
        u32::try_from(self.counts.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn present_in(&self, stripe: u32) -> u32 {
        self.counts.get(stripe as usize).copied().unwrap_or(0)
    }

    /// Nothing of it is present, and nothing wanted.
    pub(super) fn is_untouched(&self) -> bool {
        self.counts.iter().all(|&count| count == 0)
            && self.stripes.values().all(|stripe| stripe.wanted.is_empty())
    }

    fn is_complete(&self, stripe: u32) -> bool {
        let first = stripe.saturating_mul(self.stripe_chunks);
        let size = self
            .chunk_count()
            .saturating_sub(first)
            .min(self.stripe_chunks);
        size > 0 && self.present_in(stripe) == size
    }

    /// What the tracker is to be told of each stripe, in order.
    pub(super) fn runs(&self) -> Vec<StripeRun> {
        let mut runs: Vec<StripeRun> = Vec::new();
        for number in 0..self.stripe_count() {
            let busy = self
                .stripes
                .get(&number)
                .is_some_and(|stripe| !stripe.wanted.is_empty() || stripe.is_decided());
            let state = if self.is_complete(number) {
                StripeState::Complete
            } else if busy || self.present_in(number) > 0 {
                StripeState::InFlight
            } else {
                StripeState::None
            };
            match runs.last_mut() {
                Some(run) if run.state == state => run.count += 1,
                _ => runs.push(StripeRun { state, count: 1 }),
            }
        }
        runs
    }
}

impl Node {
    pub(super) fn stripe(&self, id: StripeId) -> Option<&Stripe> {
        self.blobs.get(&id.blob)?.stripes.get(&id.number)
    }

    /// The stripe, made if its blob is open and has it.
    pub(super) fn stripe_mut(&mut self, id: StripeId) -> Option<&mut Stripe> {
        Some(
            self.blobs
                .get_mut(&id.blob)?
                .stripes
                .entry(id.number)
                .or_default(),
        )
    }
}
