//! What the server shows of what it and the machine know.

use std::collections::BTreeMap;

use tranship_format::Digest;
use tranship_format::wire::Role;

use super::{Server, name};
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
        let members = self.tracker.members();
        members
            .map(|member| MemberStatus {
                peer_id: name(&member.peer),
                role: match member.role {
                    Role::Agent => "agent".to_owned(),
                    Role::Seed => "seed".to_owned(),
                },
                zone: member.zone.clone(),
                addresses: member.addresses.clone(),
                connected: connected(&member.peer),
            })
            .collect()
    }

    fn images(&self) -> Vec<ImageStatus> {
        let images = self.images.values();
        images
            .map(|(image, count)| ImageStatus {
                registry: image.registry.clone(),
                repository: image.repository.clone(),
                manifest: image.manifest.to_string(),
                open_count: *count,
            })
            .collect()
    }

    fn blobs(&self) -> Vec<BlobStatus> {
        let open = self.tracker.blobs().map(|(digest, members)| {
            let blob = BlobStatus {
                digest: digest.to_string(),
                member_count: members as u64,
                stripe_count: 0,
                complete_count: 0,
                leased_count: 0,
                registration_count: 0,
            };
            (digest, blob)
        });
        let mut blobs: BTreeMap<Digest, BlobStatus> = open.collect();
        for view in self.tracker.stripes() {
            let Some(blob) = blobs.get_mut(&view.stripe.blob) else {
                continue;
            };
            blob.stripe_count += 1;
            blob.complete_count += u64::from(view.joiners.iter().any(|(_, _, complete)| *complete));
            blob.leased_count += u64::from(view.lease_holder.is_some());
            blob.registration_count += view.joiners.len() as u64;
        }
        blobs.into_values().collect()
    }
}
