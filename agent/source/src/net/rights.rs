//! How a node comes to its grants, keeps them fresh, and hears those of others.
//!
//! An image is opened at the tracker with the proof that is at hand. Where there is none and the tracker
//! does not grant the image, one is got from the registry, and the image opened once more: so nothing is
//! shown that is not needed, and nobody waits for what is not needed either.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tranship_format::Digest;
use tranship_format::wire::{Grant, Member, PeerId, Prove, PullProof};
use tranship_swarm::node::{Input, Right};

use super::certificate::unix_seconds;
use super::driver::Driver;
use super::event::Event;
use super::lent::Proved;
use super::session::Opened;

/// A grant is renewed when one part in so many of its life is left, and tried again after such parts of that.
const RENEW_SHARE: u32 = 3;
/// A proof may take so long to get.
const PATIENCE: Duration = Duration::from_secs(20);

impl Driver {
    /// Opens the images of these blobs at the tracker.
    pub(super) fn open_blobs(&mut self, blobs: &[Digest]) {
        for manifest in self.images.of_blobs(blobs) {
            self.open_image(&manifest, None);
        }
    }

    /// Opens an image at the tracker, with a proof that was got for it or that is at hand.
    pub(super) fn open_image(&mut self, manifest: &Digest, proof: Option<PullProof>) {
        let Some(image) = self.images.image(manifest) else {
            return;
        };
        let now = unix_seconds();
        let grant = image.grant.as_ref().map(|own| &own.grant);
        let grant = grant.filter(|grant| grant.covers(now)).cloned();
        let renewed_at = image.renew_at;
        let is_fresh = grant.is_some() && renewed_at.is_some_and(|at| at > Instant::now());
        let proof = match proof {
            Some(proof) => proof,
            None if is_fresh => PullProof::None,
            None => image.origin.pull_proof_at_hand(),
        };
        let showed_proof = proof != PullProof::None;
        let (source, blobs) = (image.source.clone(), self.images.infos(image));
        self.sessions.open(&source, grant.as_ref(), &proof, &blobs);
        if let Some(image) = self.images.image_mut(manifest) {
            image.showed_proof = showed_proof;
        }
    }

    /// Asks the tracker for a proof, with the grant that we have if the image is open.
    pub(super) fn prove(&mut self, mut prove: Box<Prove>, reply: oneshot::Sender<Proved>) {
        let image = self.images.image(&prove.image.manifest);
        let grant = image.and_then(|image| image.grant.as_ref());
        let now = unix_seconds();
        prove.grant = grant
            .map(|own| &own.grant)
            .filter(|grant| grant.registry == prove.image.registry && grant.covers(now))
            .cloned();
        self.sessions.prove(self.now(), prove, reply);
    }

    /// OPENED.
    pub(super) fn opened(&mut self, opened: Opened) {
        let Opened {
            manifest,
            blobs,
            members,
            grant,
        } = opened;
        let until = grant.as_ref().map(|grant| self.ends_in(grant));
        if let Some(grant) = grant {
            if let Some(writing) = self.kept_grants.keep(&grant) {
                self.jobs.tasks.spawn_blocking(writing);
            }
            let renew_at = Instant::now() + renewal(&grant);
            self.images.keep(*grant, renew_at);
        } else if self.gets_proof(&manifest) {
            for blob in blobs {
                self.handle(Input::RightAwaited { blob });
            }
            return;
        }
        self.tell_members(&blobs, &members, until);
    }

    /// An image was opened for which a grant may be kept from before; gives when that ends.
    pub(super) fn use_kept_grant(&mut self, manifest: &Digest) -> Option<Duration> {
        let image = self.images.image(manifest)?;
        if image.grant.is_some() {
            return None;
        }
        let grant = self.kept_grants.of(&image.source.registry, manifest)?;
        let grant = grant.clone();
        let until = self.ends_in(&grant);
        let renew_at = Instant::now() + renewal(&grant);
        self.images.keep(grant, renew_at);
        Some(until)
    }

    pub(super) fn tell_members(
        &mut self,
        blobs: &[Digest],
        members: &[Arc<Member>],
        until: Option<Duration>,
    ) {
        for &blob in blobs {
            let members = members.to_vec();
            self.handle(Input::Members {
                blob,
                members,
                until,
            });
        }
    }

    /// The tracker gives no grant. Without a proof that may be what is missing, and one is got; else it is said once, since
    /// the image then costs the registry what peers could have given.
    fn gets_proof(&mut self, manifest: &Digest) -> bool {
        let Some(image) = self.images.image_mut(manifest) else {
            return false;
        };
        if !image.is_proving && image.showed_proof {
            if !std::mem::replace(&mut image.is_told, true) {
                let source = image.source.clone();
                say_refused(&source.registry, &source.repository, manifest);
            }
            return false;
        }
        self.get_pull_proof(manifest);
        true
    }

    /// Gets a proof of pull for an image; [`Driver::pull_proof_came`] hears of it.
    fn get_pull_proof(&mut self, manifest: &Digest) {
        let Some(image) = self.images.image_mut(manifest) else {
            return;
        };
        if std::mem::replace(&mut image.is_proving, true) {
            return;
        }
        let (manifest, origin) = (*manifest, Arc::clone(&image.origin));
        let jobs = self.jobs.clone();
        self.jobs.tasks.spawn(async move {
            let proof = tokio::time::timeout(PATIENCE, origin.pull_proof(manifest)).await;
            let proof = proof.unwrap_or_default();
            jobs.report(Event::PullProof { manifest, proof }).await;
        });
    }

    /// A proof came, or cannot be had.
    pub(super) fn pull_proof_came(&mut self, manifest: &Digest, proof: PullProof) {
        let Some(image) = self.images.image_mut(manifest) else {
            return;
        };
        image.is_proving = false;
        if proof != PullProof::None || image.grant.is_some() {
            return self.open_image(manifest, Some(proof));
        }
        if !std::mem::replace(&mut image.is_told, true) {
            let source = image.source.clone();
            say_refused(&source.registry, &source.repository, manifest);
        }
        let blobs = image.blobs.clone();
        self.tell_members(&blobs, &[], None);
    }

    /// Renews the grants that are due. One that cannot be renewed holds to its end.
    pub(super) fn renew_grants(&mut self) {
        let now = Instant::now();
        for manifest in self.images.due(now) {
            let Some(image) = self.images.image_mut(&manifest) else {
                continue;
            };
            let left = image
                .grant
                .as_ref()
                .map_or(0, |own| own.grant.expires_at.saturating_sub(unix_seconds()));
            // Nothing is left to renew: the image is opened anew with the others.
            image.renew_at = (left > 0).then(|| {
                now + (Duration::from_secs(left) / RENEW_SHARE).max(Duration::from_secs(1))
            });
            self.get_pull_proof(&manifest);
        }
    }

    /// A peer showed a grant that is good.
    pub(super) fn granted(&mut self, peer: PeerId, grant: Grant) {
        let until = self.ends_in(&grant);
        let right = Right {
            registry: grant.registry.into(),
            manifest: grant.manifest,
            blobs: grant.blobs.into_iter().collect(),
            until,
        };
        self.handle(Input::Granted { peer, right });
    }

    /// When a grant ends, on the machine's clock.
    fn ends_in(&self, grant: &Grant) -> Duration {
        let left = grant.expires_at.saturating_sub(unix_seconds());
        self.now().saturating_add(Duration::from_secs(left))
    }
}

/// How long until a grant is to be renewed.
fn renewal(grant: &Grant) -> Duration {
    let left = Duration::from_secs(grant.expires_at.saturating_sub(unix_seconds()));
    let life = Duration::from_secs(grant.expires_at.saturating_sub(grant.issued_at));
    let pause = left.checked_sub(life / RENEW_SHARE);
    let pause = pause.filter(|pause| !pause.is_zero());
    let pause = pause.unwrap_or(left / RENEW_SHARE);
    pause.max(Duration::from_secs(1))
}

fn say_refused(registry: &str, repository: &str, manifest: &Digest) {
    tracing::warn!(
        registry,
        repository,
        %manifest,
        "the tracker does not grant an image: peers give none of it, the registry alone is read"
    );
}
