//! Who may have an image: whoever its registry lets pull it.
//!
//! The tracker asks the registry itself, with nothing at first and then with what the node gave it, and
//! signs what the answer allows. A grant that still holds needs no asking: so a restart of the tracker, or
//! a registry that is away, takes nothing from those who have one.

use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::{BlobInfo, Grant, ImageSource, Open, PeerId, Prove};
use tranship_source::net::certificate::{Authority, issue_grant, unix_seconds};
use tranship_source::net::identity::Identity;

use crate::config::Check;

mod pull;

pub(crate) use pull::{Answer, Puller};

/// A grant is good enough while more than one part in so many of its life is left.
const RENEW_SHARE: u64 = 3;

/// Judges those who open images, and signs for those who may have them.
#[derive(Debug)]
pub(crate) struct Rights {
    identity: Identity,
    authority: Authority,
    check: Check,
    life: Duration,
}

/// What is asked for, and the grant that was shown with it.
#[derive(Debug)]
pub(crate) struct Plea<'a> {
    image: &'a ImageSource,
    grant: Option<&'a Grant>,
    blobs: Vec<Digest>,
}

impl<'a> From<&'a Open> for Plea<'a> {
    fn from(open: &'a Open) -> Self {
        let blobs = open.blobs.iter().map(|info: &BlobInfo| info.digest);
        Self {
            image: &open.image,
            grant: open.grant.as_ref(),
            blobs: blobs.collect(),
        }
    }
}

impl<'a> From<&'a Prove> for Plea<'a> {
    fn from(prove: &'a Prove) -> Self {
        Self {
            image: &prove.image,
            grant: prove.grant.as_ref(),
            blobs: vec![prove.blob],
        }
    }
}

/// What becomes of a plea.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// The sender may have this.
    Granted(Grant),
    /// The registry must be asked; until it answers, and if it does not, this holds.
    Ask { held: Option<Grant> },
}

impl Rights {
    pub(crate) fn new(
        identity: Identity,
        authority: Authority,
        check: Check,
        life: Duration,
    ) -> Self {
        Self {
            identity,
            authority,
            check,
            life,
        }
    }

    /// Judges a plea as far as that needs nobody else. The seed has read the manifest itself, with
    /// credentials of its own.
    pub(crate) fn judge(&self, plea: &Plea<'_>, peer: &PeerId, is_seed: bool) -> Judgement {
        let now = unix_seconds();
        let held = plea.grant.cloned().filter(|grant| {
            grant.manifest == plea.image.manifest
                && grant.registry == plea.image.registry
                && self.authority.check_grant(grant, peer, now).is_ok()
        });
        let is_enough = is_seed || self.check == Check::Members;
        // Where no manifest was asked for, a grant names what its bearer had opened then.
        let is_whole =
            |grant: &Grant| !is_enough || plea.blobs.iter().all(|blob| grant.blobs.contains(blob));
        let is_fresh = |grant: &Grant| {
            let life = grant.expires_at.saturating_sub(grant.issued_at);
            grant.expires_at.saturating_sub(now) > life / RENEW_SHARE
        };
        if let Some(grant) = held.clone().filter(is_fresh).filter(is_whole) {
            return Judgement::Granted(grant);
        }
        if is_enough && let Some(grant) = self.sign(plea.image, peer, plea.blobs.clone()) {
            return Judgement::Granted(grant);
        }
        Judgement::Ask { held }
    }

    /// The grant that follows from what the registry said, or that holds whatever it said.
    pub(crate) fn conclude(
        &self,
        answer: Answer,
        image: &ImageSource,
        peer: &PeerId,
        held: Option<Grant>,
    ) -> Option<Grant> {
        let held = held.filter(|grant| grant.covers(unix_seconds()));
        match answer {
            Answer::Yes(blobs) => self.sign(image, peer, blobs.to_vec()).or(held),
            Answer::No | Answer::Unknown => held,
        }
    }

    fn sign(&self, image: &ImageSource, peer: &PeerId, blobs: Vec<Digest>) -> Option<Grant> {
        let place = (image.registry.clone(), image.manifest);
        issue_grant(
            &self.identity,
            *peer,
            place,
            blobs,
            unix_seconds(),
            self.life,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tranship_format::wire::PullProof;
    use tranship_source::net::certificate::wire_peer;

    const HOUR: Duration = Duration::from_hours(1);

    fn rights(identity: &Identity, check: Check, life: Duration) -> Rights {
        let authority = Authority::of(identity.libp2p_peer()).unwrap();
        Rights::new(identity.clone(), authority, check, life)
    }

    fn open(grant: Option<Grant>) -> Open {
        Open {
            image: ImageSource {
                registry: "registry.example".to_owned(),
                repository: "team/app".to_owned(),
                manifest: Digest::of(b"manifest"),
            },
            grant,
            proof: PullProof::None,
            blobs: vec![BlobInfo {
                digest: Digest::of(b"layer"),
                len: 1,
                chunk_count: 1,
            }],
        }
    }

    fn peer() -> PeerId {
        wire_peer(Identity::generate().libp2p_peer()).unwrap()
    }

    #[test]
    fn a_fresh_grant_needs_no_registry_and_only_for_its_peer_and_image() {
        let tracker = Identity::generate();
        let (rights, peer) = (rights(&tracker, Check::Registry, HOUR), peer());
        let yes = Answer::Yes([Digest::of(b"layer")].into());
        let image = open(None).image;
        let grant = rights.conclude(yes.clone(), &image, &peer, None).unwrap();
        assert_eq!(grant.blobs, [Digest::of(b"layer")]);
        assert_eq!(
            rights.judge(&(&open(Some(grant.clone()))).into(), &peer, false),
            Judgement::Granted(grant.clone())
        );
        let ask = Judgement::Ask { held: None };
        assert_eq!(rights.judge(&(&open(None)).into(), &peer, false), ask);
        assert_eq!(
            rights.judge(&(&open(Some(grant.clone()))).into(), &self::peer(), false),
            ask
        );
        let mut other = open(Some(grant.clone()));
        other.image.manifest = Digest::of(b"another");
        assert_eq!(rights.judge(&(&other).into(), &peer, false), ask);
        let mut other = open(Some(grant.clone()));
        other.image.registry.push('x');
        assert_eq!(rights.judge(&(&other).into(), &peer, false), ask);
        let mut changed = grant;
        changed.blobs.push(Digest::of(b"another layer"));
        assert_eq!(
            rights.judge(&(&open(Some(changed))).into(), &peer, false),
            ask
        );
    }

    #[test]
    fn an_old_grant_is_renewed_and_holds_if_it_cannot_be() {
        let tracker = Identity::generate();
        let (rights, peer) = (rights(&tracker, Check::Registry, HOUR), peer());
        let image = open(None).image;
        let place = (image.registry.clone(), image.manifest);
        let layer = Digest::of(b"layer");
        // Issued so long ago that less than a third of its life is left.
        let then = unix_seconds() - 50 * 60;
        let old = issue_grant(&tracker, peer, place, vec![layer], then, HOUR).unwrap();
        let judged = rights.judge(&(&open(Some(old.clone()))).into(), &peer, false);
        let held = Some(old.clone());
        assert_eq!(judged, Judgement::Ask { held: held.clone() });
        for answer in [Answer::No, Answer::Unknown] {
            let kept = rights.conclude(answer.clone(), &image, &peer, held.clone());
            assert_eq!(kept, held);
            assert_eq!(rights.conclude(answer.clone(), &image, &peer, None), None);
        }
        let yes = Answer::Yes([layer].into());
        let renewed = rights.conclude(yes.clone(), &image, &peer, held).unwrap();
        assert!(renewed.expires_at > old.expires_at);
    }

    #[test]
    fn the_seed_and_every_member_where_that_is_enough_get_what_they_open() {
        let tracker = Identity::generate();
        let peer = peer();
        for (check, is_seed) in [(Check::Registry, true), (Check::Members, false)] {
            let rights = rights(&tracker, check, HOUR);
            let Judgement::Granted(grant) = rights.judge(&(&open(None)).into(), &peer, is_seed)
            else {
                panic!("{check:?} is granted");
            };
            assert_eq!(grant.blobs, [Digest::of(b"layer")]);
            // Opened again with one more, for which a proof was made meanwhile.
            let mut more = open(Some(grant));
            more.blobs.push(BlobInfo {
                digest: Digest::of(b"another layer"),
                ..more.blobs[0]
            });
            let Judgement::Granted(grant) = rights.judge(&(&more).into(), &peer, is_seed) else {
                panic!("{check:?} is granted again");
            };
            assert!(grant.blobs.contains(&Digest::of(b"another layer")));
        }
    }
}
