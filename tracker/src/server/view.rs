//! What the server shows of what it and the machine know.

use tranship_format::Digest;
use tranship_format::wire::{BlobInfo, Role};
use tranship_swarm::tracker::StripeCount;

use super::{Server, name};
use crate::message::{BlobDetail, ImageDetail, StripeDetail};
use crate::status::{BlobStatus, ImageStatus, MemberStatus, Status};

impl Server {
    pub(super) fn status(&self) -> Status {
        let census = self.tracker.census();
        Status {
            epoch: self.tracker.epoch(),
            uptime_seconds: self.now().as_secs(),
            members: self.members(),
            images: self.images(),
            blobs: self.blobs(),
            lease_count: census.leases as u64,
            ban_count: census.bans as u64,
            request_count: self.request_count,
            refused_join_count: self.refused_join_count,
            granted_count: self.granted_count,
            ungranted_count: self.ungranted_count,
            ..Status::default()
        }
    }

    fn members(&self) -> Vec<MemberStatus> {
        let connected = |peer| {
            let session = self.sessions.get(peer);
            session.is_some_and(|session| session.gone_at.is_none())
        };
        let standings = self.tracker.standings(self.now());
        standings
            .map(|standing| MemberStatus {
                peer_id: name(&standing.member.peer),
                role: match standing.member.role {
                    Role::Agent => "agent".to_owned(),
                    Role::Seed => "seed".to_owned(),
                },
                zone: standing.member.zone.clone(),
                rack: standing.member.rack.clone(),
                load_permille: standing.load_permille,
                is_slow: standing.is_slow,
                is_shunned: standing.is_shunned,
                blob_count: standing.blob_count as u64,
                addresses: standing.member.addresses.clone(),
                connected: connected(&standing.member.peer),
            })
            .collect()
    }

    fn images(&self) -> Vec<ImageStatus> {
        let images = self.images.values();
        images
            .map(|seen| ImageStatus {
                registry: seen.source.registry.clone(),
                repository: seen.source.repository.clone(),
                manifest: seen.source.manifest.to_string(),
                open_count: seen.open_count,
            })
            .collect()
    }

    fn blobs(&self) -> Vec<BlobStatus> {
        let count = |stripes: &[StripeCount], is: fn(&StripeCount) -> bool| {
            stripes.iter().filter(|stripe| is(stripe)).count() as u64
        };
        let all = |stripe: &StripeCount| stripe.holder_count + stripe.in_flight_count;
        let blobs = self.tracker.blobs();
        blobs
            .map(|(digest, view)| BlobStatus {
                digest: digest.to_string(),
                member_count: view.member_count as u64,
                stripe_count: view.stripes.len() as u64,
                complete_count: count(&view.stripes, |stripe| stripe.holder_count > 0),
                leased_count: count(&view.stripes, |stripe| stripe.lease_holder.is_some()),
                registration_count: view.stripes.iter().map(all).sum::<usize>() as u64,
                origin_len: view.origin_len,
            })
            .collect()
    }

    pub(super) fn image(&self, manifest: &Digest) -> Option<ImageDetail> {
        let seen = self.images.get(manifest)?;
        let source = &seen.source;
        Some(ImageDetail {
            registry: source.registry.clone(),
            repository: source.repository.clone(),
            manifest: source.manifest.to_string(),
            open_count: seen.open_count,
            seeding: None,
            blobs: seen
                .blobs
                .values()
                .map(|info| self.blob(&source.registry, info))
                .collect(),
        })
    }

    fn blob(&self, registry: &str, info: &BlobInfo) -> BlobDetail {
        // One that was forgotten since has no members and no stripes.
        let view = self
            .tracker
            .blob(registry, &info.digest)
            .unwrap_or_default();
        let stripe = |stripe: &StripeCount| StripeDetail {
            number: stripe.number,
            holder_count: stripe.holder_count as u64,
            in_flight_count: stripe.in_flight_count as u64,
            lease_holder: stripe.lease_holder.as_ref().map(name),
        };
        BlobDetail {
            digest: info.digest.to_string(),
            len: info.len,
            chunk_count: info.chunk_count,
            stripe_count: info.chunk_count.div_ceil(self.options.stripe_chunks.max(1)),
            member_count: view.member_count as u64,
            origin_len: view.origin_len,
            stripes: view.stripes.iter().map(stripe).collect(),
        }
    }
}
