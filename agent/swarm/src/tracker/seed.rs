//! The seed comes first: it is the root of every stripe that nobody has yet.
//!
//! It is asked for chunks, and reads of the registry what it is asked for and no more; so the registry
//! is read once, as when the first asker holds the lease, and what was read stays near the registry
//! when the nodes that wanted it have gone. It costs the first reader one hop more, to a machine
//! that is as near to the registry as any, and it spares the nodes' uplinks the first copies.

use std::time::Duration;

use super::Tracker;
use super::stripe::{MemberNo, Stripe};
use crate::StripeId;

impl Tracker {
    /// Enters the seed, with the lease, into a stripe that is about to get its first joiner. A seed that
    /// has not opened the blob, because it may not read it or is not so far yet, is left out.
    pub(super) fn seed_first(&mut self, now: Duration, id: StripeId, me: MemberNo) {
        // Within the grace somebody may yet tell that they have the stripe.
        let begun = self
            .blobs
            .stripe(id)
            .is_some_and(|stripe: &Stripe| !stripe.is_empty());
        if begun || now < self.grace_until {
            return;
        }
        let Some(seed) = self.blobs.get(&id.blob).and_then(|blob| {
            let numbers = blob.members.iter().map(|&(_, number)| number);
            let is_seed = |number: &MemberNo| self.members.is_seed(*number);
            numbers.into_iter().find(is_seed)
        }) else {
            return;
        };
        if seed == me || self.members.are_apart(now, me, seed) {
            return;
        }
        self.enter(id, seed, false);
        if let Some(route) = self.take_over(now, id, seed) {
            self.push(id, seed, route);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::{Action, Input, Rights, TrackerOptions};
    use tranship_format::Digest;
    use tranship_format::wire::{
        BlobInfo, Grant, ImageSource, Member, PeerId, Role, Route, TrackerReply, TrackerRequest,
    };

    const NOW: Duration = Duration::from_secs(10);

    fn peer(name: u8) -> PeerId {
        PeerId::from_bytes(&[name]).unwrap()
    }

    fn blob() -> Digest {
        Digest::of(b"blob")
    }

    fn join(tracker: &mut Tracker, name: u8, role: Role) {
        let member = Member {
            peer: peer(name),
            addresses: Vec::new(),
            zone: String::new(),
            rack: String::new(),
            role,
        };
        let boot_id = [name; 16];
        tracker.handle(NOW, Input::Joined { member, boot_id });
    }

    fn ask(
        tracker: &mut Tracker,
        name: u8,
        message: TrackerRequest,
    ) -> Vec<(PeerId, TrackerReply)> {
        let input = Input::Request {
            from: peer(name),
            request: 1,
            message,
        };
        tracker.handle(NOW, input);
        std::iter::from_fn(|| tracker.poll(NOW))
            .filter_map(|action| match action {
                Action::Reply { to, reply, .. } => Some((to, reply)),
                Action::Opened { .. } | Action::Banned { .. } | Action::Shunned { .. } => None,
            })
            .collect()
    }

    fn open(tracker: &mut Tracker, name: u8) {
        let image = ImageSource {
            registry: String::new(),
            repository: String::new(),
            manifest: blob(),
        };
        let info = BlobInfo {
            digest: blob(),
            len: 1 << 20,
            chunk_count: 64,
        };
        let grant = Grant {
            peer: peer(name),
            registry: String::new(),
            manifest: blob(),
            blobs: vec![blob()],
            issued_at: 0,
            expires_at: 0,
            tracker: peer(9),
            signature: Vec::new(),
        };
        let input = Input::Open {
            from: peer(name),
            request: 1,
            image,
            blobs: vec![info],
            rights: Some(Box::new(Rights {
                grant,
                until: Duration::MAX,
            })),
        };
        tracker.handle(NOW, input);
        while tracker.poll(NOW).is_some() {}
    }

    fn lookup(tracker: &mut Tracker, name: u8) -> Vec<(PeerId, Route)> {
        let request = TrackerRequest::Lookup {
            blob: blob(),
            stripes: vec![0],
        };
        ask(tracker, name, request)
            .into_iter()
            .filter_map(|(to, reply)| match reply {
                TrackerReply::Routes { routes, .. } => Some((to, routes[0].route.clone())),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn the_seed_gets_the_lease_of_a_stripe_that_a_node_asks_for_first() {
        let mut tracker = Tracker::new(TrackerOptions::default(), 1, []);
        join(&mut tracker, 1, Role::Agent);
        join(&mut tracker, 2, Role::Seed);
        open(&mut tracker, 1);
        open(&mut tracker, 2);
        let routes = lookup(&mut tracker, 1);
        assert!(matches!(&routes[0], (to, Route::Origin { .. }) if *to == peer(2)));
        assert!(
            matches!(&routes[1], (to, Route::Parents(parents)) if *to == peer(1) && parents[0].peer == peer(2))
        );
    }

    #[test]
    fn a_seed_that_has_not_opened_the_blob_is_left_out() {
        let mut tracker = Tracker::new(TrackerOptions::default(), 1, []);
        join(&mut tracker, 1, Role::Agent);
        join(&mut tracker, 2, Role::Seed);
        open(&mut tracker, 1);
        let routes = lookup(&mut tracker, 1);
        assert_eq!(routes.len(), 1);
        assert!(matches!(&routes[0], (to, Route::Origin { .. }) if *to == peer(1)));
    }
}
