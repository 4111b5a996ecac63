//! Who may have which blobs: peers of this node, and this node of them.
//!
//! A peer that may not have a chunk is answered as if the chunk were not here. A node that may not
//! have a blob asks nobody for it but the registry, which decides for itself.

use std::collections::BTreeMap;
use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::PeerId;

use super::blob::{Blob, Park, Route};
use super::input::Right;
use super::{Node, StripeId};

/// Most blobs in the rights of one peer; what ends first is forgotten first.
const MAX_BLOBS: usize = 16_384;

/// Whether this node may ask peers for a blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum OwnRight {
    /// The tracker has not said yet.
    #[default]
    Unknown,
    /// The tracker wants a proof, which is being got of the registry.
    Awaited,
    /// The tracker does not grant it.
    Refused,
    /// Until then.
    Held { until: Duration },
}

impl OwnRight {
    pub(super) fn holds(self, now: Duration) -> bool {
        matches!(self, Self::Held { until } if until > now)
    }

    /// Whether there is no use in asking the tracker about stripes.
    pub(super) fn is_refused(self, now: Duration) -> bool {
        match self {
            Self::Unknown | Self::Awaited => false,
            Self::Refused => true,
            Self::Held { until } => until <= now,
        }
    }

    /// Whether the tracker hears nothing of the blob from this node.
    pub(super) fn is_unheard(self, now: Duration) -> bool {
        self == Self::Awaited || self.is_refused(now)
    }
}

/// Rights of peers, as long as they are connected.
#[derive(Debug, Default)]
pub(super) struct Rights {
    given: BTreeMap<PeerId, Vec<Right>>,
}

impl Rights {
    /// Takes a right in; it takes the place of an earlier one to the same image.
    pub(super) fn give(&mut self, now: Duration, peer: PeerId, right: Right) {
        let given = self.given.entry(peer).or_default();
        given.retain(|other| {
            let same = other.manifest == right.manifest && other.registry == right.registry;
            !same && other.until > now
        });
        given.push(right);
        while given.iter().map(|right| right.blobs.len()).sum::<usize>() > MAX_BLOBS {
            let ends_first = given
                .iter()
                .enumerate()
                .min_by_key(|(_, right)| right.until)
                .map(|(place, _)| place);
            match ends_first {
                Some(place) => given.swap_remove(place),
                None => return,
            };
        }
    }

    pub(super) fn forget(&mut self, peer: &PeerId) {
        self.given.remove(peer);
    }

    fn cover(&self, now: Duration, peer: &PeerId, digest: &Digest, blob: &Blob) -> bool {
        let given = self.given.get(peer).map(Vec::as_slice).unwrap_or_default();
        given.iter().any(|right| {
            right.until > now
                && right.blobs.contains(digest)
                && blob.registries.contains(&right.registry)
        })
    }
}

impl Node {
    /// A peer showed a right of its own.
    pub(super) fn granted(&mut self, now: Duration, peer: PeerId, right: Right) {
        let shared: Vec<Digest> = self
            .blobs
            .iter()
            .filter(|(digest, blob)| {
                right.blobs.contains(*digest) && blob.registries.contains(&right.registry)
            })
            .map(|(digest, _)| *digest)
            .collect();
        self.rights.give(now, peer, right);
        self.learn_of(&peer, shared.into_iter());
    }

    /// Whether a peer may have chunks of a blob now.
    pub(super) fn may_have(&self, now: Duration, peer: &PeerId, digest: &Digest) -> bool {
        self.blobs
            .get(digest)
            .is_some_and(|blob| self.rights.cover(now, peer, digest, blob))
    }

    /// Whether the tracker does not let this node have a blob, so that there is no use in asking about it.
    pub(super) fn is_refused(&self, now: Duration, digest: &Digest) -> bool {
        self.blobs
            .get(digest)
            .is_some_and(|blob| blob.right.is_refused(now))
    }

    /// Whether the tracker will say whether this node may have a blob, and has not yet: what is read of it then would be read of the
    /// registry alone, by each node that starts the image.
    pub(super) fn is_right_awaited(&self, digest: &Digest) -> bool {
        self.blobs
            .get(digest)
            .is_some_and(|blob| blob.right == OwnRight::Awaited)
    }

    /// The tracker wants a proof for a blob, and it is being got.
    pub(super) fn await_right(&mut self, digest: Digest) {
        if let Some(blob) = self.blobs.get_mut(&digest)
            && blob.right == OwnRight::Unknown
        {
            blob.right = OwnRight::Awaited;
        }
    }

    /// Nobody is there any more who would say anything.
    pub(super) fn await_no_right(&mut self) {
        for blob in self.blobs.values_mut() {
            if blob.right == OwnRight::Awaited {
                blob.right = OwnRight::Unknown;
            }
        }
    }

    /// Whether peers give this node chunks of a blob now.
    pub(super) fn may_ask_peers(&self, now: Duration, digest: &Digest) -> bool {
        self.blobs
            .get(digest)
            .is_some_and(|blob| blob.right.holds(now))
    }

    /// A stripe of a blob that only the registry gives to this node.
    pub(super) fn route_to_registry(&mut self, id: StripeId) {
        if let Some(stripe) = self.stripe_mut(id)
            && !matches!(stripe.route, Route::Lease(_) | Route::Direct)
        {
            stripe.route = Route::Direct;
        }
    }

    /// The tracker says until when this node may have a blob. A refusal takes nothing away before its time.
    pub(super) fn hold_right(&mut self, now: Duration, digest: Digest, until: Option<Duration>) {
        let Some(blob) = self.blobs.get_mut(&digest) else {
            return;
        };
        let before = blob.right;
        match (until, before) {
            (Some(until), OwnRight::Held { until: known }) => {
                blob.right = OwnRight::Held {
                    until: until.max(known),
                };
            }
            (Some(until), _) => blob.right = OwnRight::Held { until },
            (None, right) if right.holds(now) => {}
            (None, _) => blob.right = OwnRight::Refused,
        }
        let after = blob.right;
        if after.holds(now) && !before.holds(now) && self.tracker.is_some() {
            if before.is_unheard(now) {
                // Nothing that was told before was heard.
                self.tell_all(now, digest);
            }
            // What is read at the registry for want of a right, or waits for it, may come from peers now.
            let has_waited = before == OwnRight::Awaited;
            self.route_anew(digest, |route| match route {
                Route::Direct => true,
                Route::Unknown | Route::Hold { .. } => has_waited,
                _ => false,
            });
        } else if after.is_refused(now) && !before.is_refused(now) {
            // What the tracker was asked about will not come from peers.
            self.route_anew(digest, |route| !matches!(route, Route::Lease(_)));
        }
    }

    fn route_anew(&mut self, digest: Digest, which: impl Fn(&Route) -> bool) {
        for id in self.stripes_of(digest) {
            if let Some(stripe) = self.stripe_mut(id)
                && which(&stripe.route)
            {
                stripe.route = Route::Unknown;
                self.unpark(id, &[Park::Route, Park::Window]);
            }
        }
    }
}
