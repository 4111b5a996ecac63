//! Who has which blob open: as long as a grant says so, and not a moment longer.
//!
//! Whoever may not have an image is answered as if there were no such image: OPENED without members,
//! and LOOKUP with the error for a blob that nobody opened.

use std::collections::BTreeSet;
use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::{BlobInfo, ErrorCode, ImageSource, PeerId, TrackerReply};

use super::blobs::key;
use super::event::Rights;
use super::members::Held;
use super::stripe::MemberNo;
use super::{Action, Tracker, refuse};
use crate::StripeId;

/// A right that ends so little later than the one known is the same one.
const SAME: Duration = Duration::from_secs(1);

impl Tracker {
    pub(super) fn open(
        &mut self,
        now: Duration,
        me: MemberNo,
        image: ImageSource,
        blobs: &[BlobInfo],
        rights: Option<Box<Rights>>,
    ) -> TrackerReply {
        let Some(rank) = self.members.get(me).map(|standing| standing.rank) else {
            return refuse(ErrorCode::NotAMember, "not a member; join first");
        };
        if blobs
            .iter()
            .any(|info| info.chunk_count > self.options.blob_chunks)
        {
            return refuse(ErrorCode::Overloaded, "a blob has too many chunks");
        }
        let Some(rights) = rights.filter(|rights| rights.until > now) else {
            return TrackerReply::Opened {
                grant: None,
                members: Vec::new(),
            };
        };
        let Rights { grant, until } = *rights;
        let is_shunned = self.is_member_shunned(me);
        let mut fresh = Vec::new();
        let mut together = BTreeSet::new();
        for info in blobs
            .iter()
            .filter(|info| grant.blobs.contains(&info.digest))
        {
            let key = key(&grant.registry, &info.digest);
            while self.blobs.get(&key).is_none() && self.blobs.len() >= self.options.blobs {
                self.forget_oldest_blob();
            }
            if !self.hold(now, me, info.digest, Held { key, until }) {
                continue;
            }
            let (blob, new) = self.blobs.open(now, key, info);
            if !is_shunned {
                blob.members.insert((rank, me));
            }
            together.extend(
                blob.members
                    .iter()
                    .take(self.options.opened_members)
                    .copied(),
            );
            if new {
                fresh.push(*info);
            }
        }
        if !fresh.is_empty() {
            self.actions.push_back(Action::Opened {
                image,
                blobs: fresh,
            });
        }
        let told = together.into_iter().take(self.options.opened_members);
        let members = told.filter_map(|(_, number)| self.members.told(number));
        TrackerReply::Opened {
            members: members.collect(),
            grant: Some(Box::new(grant)),
        }
    }

    /// Notes a right, or that it lasts longer. False if the member has the blob open by the word of
    /// another registry: until that ends it stays among those.
    fn hold(&mut self, now: Duration, me: MemberNo, blob: Digest, held: Held) -> bool {
        let known = self
            .members
            .get(me)
            .and_then(|standing| standing.blobs.get(&blob).copied());
        let known = known.filter(|known| known.until > now);
        match known {
            Some(known) if known.key != held.key => return false,
            Some(known) if held.until <= known.until.saturating_add(SAME) => return true,
            _ => {}
        }
        if let Some(standing) = self.members.get_mut(me) {
            standing.blobs.insert(blob, held);
            self.ends.insert((held.until, me, blob));
        }
        true
    }

    /// The key of a blob that a member has open now.
    pub(super) fn key_of(&self, now: Duration, me: MemberNo, blob: &Digest) -> Option<Digest> {
        let held = self.members.get(me)?.blobs.get(blob)?;
        (held.until > now && self.blobs.get(&held.key).is_some()).then_some(held.key)
    }

    /// Whether a peer has a blob open now.
    pub fn has_open(&self, now: Duration, peer: &PeerId, blob: &Digest) -> bool {
        let number = self.members.number(peer);
        number.is_some_and(|me| self.key_of(now, me, blob).is_some())
    }

    /// Takes out of blobs those whose rights are over; their leases and children go to others.
    pub(super) fn end_rights(&mut self, now: Duration) {
        while let Some(&(at, me, blob)) = self.ends.first()
            && at <= now
        {
            self.ends.pop_first();
            let Some(standing) = self.members.get_mut(me) else {
                continue;
            };
            // Renewed, or the number is another member's by now.
            let Some(held) = standing.blobs.get(&blob).filter(|held| held.until == at) else {
                continue;
            };
            let (key, rank) = (held.key, standing.rank);
            standing.blobs.remove(&blob);
            let of_blob = |number| StripeId { blob: key, number };
            let registered = standing
                .stripes
                .range(of_blob(0)..=of_blob(u32::MAX))
                .copied();
            for id in registered.collect::<Vec<_>>() {
                self.take_out(now, id, me);
            }
            if let Some(blob) = self.blobs.get_mut(&key) {
                blob.members.remove(&(rank, me));
            }
        }
    }
}
