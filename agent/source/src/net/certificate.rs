//! Membership and rights: the tracker signs, every peer checks offline.
//!
//! The tracker's public key is part of its peer id, which each agent has in its
//! configuration, so a swarm checks its members while the tracker is away. What
//! is signed is `wire`'s business; here are the key, the clock and the identity
//! that TLS proved.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libp2p::PeerId;
use libp2p::identity::PublicKey;
use thiserror::Error;
use tranship_format::Digest;
use tranship_format::wire::{self, Certificate, Grant, Member};

use super::identity::Identity;

/// How far clocks may differ: a certificate counts from this long before it was
/// issued, so that a node whose clock is behind is let in at once.
const CLOCK_SKEW: Duration = Duration::from_mins(5);

/// Why a certificate of membership or a grant is not believed.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateError {
    /// It names another peer than the one that TLS proved.
    #[error("the certificate is that of another peer")]
    OtherPeer,
    /// It was signed for another swarm.
    #[error("the certificate is that of another tracker")]
    OtherTracker,
    /// It is not valid now.
    #[error("the certificate is valid from {issued_at} to {expires_at}, the time is {now}")]
    NotNow {
        /// Seconds since the Unix epoch.
        issued_at: u64,
        /// Seconds since the Unix epoch.
        expires_at: u64,
        /// Seconds since the Unix epoch.
        now: u64,
    },
    /// The tracker's key did not sign it.
    #[error("the certificate's signature is wrong")]
    WrongSignature,
    /// The tracker's peer id does not hold its key (it is the hash of a long one).
    #[error("the tracker's peer id does not contain its public key; it must have an Ed25519 key")]
    HiddenKey,
}

/// Seconds since the Unix epoch, by the clock of this machine.
pub fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// A libp2p peer id as the protocol writes it.
pub fn wire_peer(peer: PeerId) -> Option<wire::PeerId> {
    wire::PeerId::from_bytes(&peer.to_bytes()).ok()
}

/// The libp2p peer id in what the protocol wrote, if it is one.
pub fn libp2p_peer(peer: &wire::PeerId) -> Option<PeerId> {
    PeerId::from_bytes(peer.as_bytes()).ok()
}

/// Checks what trackers signed: the one place that knows whose signatures count.
#[derive(Clone, Debug)]
pub struct Authority {
    keys: BTreeMap<wire::PeerId, PublicKey>,
}

impl Authority {
    /// The authority of the tracker with this peer id, whose key the id contains.
    pub fn of(tracker: PeerId) -> Result<Self, CertificateError> {
        // An Ed25519 key is short enough to stand in the id itself, under the
        // identity hash (code 0).
        let multihash = tracker.as_ref();
        if multihash.code() != 0 {
            return Err(CertificateError::HiddenKey);
        }
        let key = PublicKey::try_decode_protobuf(multihash.digest())
            .map_err(|_| CertificateError::HiddenKey)?;
        let peer = wire_peer(tracker).ok_or(CertificateError::HiddenKey)?;
        Ok(Self {
            keys: BTreeMap::from([(peer, key)]),
        })
    }

    /// The authority of several trackers: what any of them signed is believed.
    pub fn of_all(trackers: impl IntoIterator<Item = PeerId>) -> Result<Self, CertificateError> {
        let mut keys = BTreeMap::new();
        for tracker in trackers {
            keys.extend(Self::of(tracker)?.keys);
        }
        Ok(Self { keys })
    }

    /// Believes the certificate, or says why not. `peer` is who TLS proved to be
    /// at the other end, `now` is in seconds since the Unix epoch.
    pub fn check(
        &self,
        certificate: &Certificate,
        peer: &wire::PeerId,
        now: u64,
    ) -> Result<(), CertificateError> {
        if certificate.member.peer != *peer {
            return Err(CertificateError::OtherPeer);
        }
        let Certificate {
            issued_at,
            expires_at,
            ..
        } = *certificate;
        in_time(issued_at, expires_at, now)?;
        self.check_signature(
            &certificate.tracker,
            &certificate.signed_bytes(),
            &certificate.signature,
        )
    }

    /// Believes the grant, or says why not; as [`Authority::check`].
    pub fn check_grant(
        &self,
        grant: &Grant,
        peer: &wire::PeerId,
        now: u64,
    ) -> Result<(), CertificateError> {
        if grant.peer != *peer {
            return Err(CertificateError::OtherPeer);
        }
        in_time(grant.issued_at, grant.expires_at, now)?;
        self.check_signature(&grant.tracker, &grant.signed_bytes(), &grant.signature)
    }

    /// Whether it is `tracker` that signed these bytes, and one that counts here.
    pub(super) fn check_signature(
        &self,
        tracker: &wire::PeerId,
        signed: &[u8],
        signature: &[u8],
    ) -> Result<(), CertificateError> {
        let key = self.keys.get(tracker);
        let key = key.ok_or(CertificateError::OtherTracker)?;
        if key.verify(signed, signature) {
            Ok(())
        } else {
            Err(CertificateError::WrongSignature)
        }
    }
}

/// Whether `now` is within the time of what was signed, or so little before it as clocks differ.
fn in_time(issued_at: u64, expires_at: u64, now: u64) -> Result<(), CertificateError> {
    let skewed = now.saturating_add(CLOCK_SKEW.as_secs());
    if issued_at <= skewed && now < expires_at {
        return Ok(());
    }
    Err(CertificateError::NotNow {
        issued_at,
        expires_at,
        now,
    })
}

/// The tracker's word that `member` belongs, from `now` (seconds since the Unix
/// epoch) for `life`. `None` if the key refuses to sign, which Ed25519 never does.
pub fn issue(tracker: &Identity, member: Member, now: u64, life: Duration) -> Option<Certificate> {
    let mut certificate = Certificate {
        member,
        issued_at: now,
        expires_at: now.saturating_add(life.as_secs()),
        tracker: wire_peer(tracker.libp2p_peer())?,
        signature: Vec::new(),
    };
    certificate.signature = tracker.keypair().sign(&certificate.signed_bytes()).ok()?;
    Some(certificate)
}

/// The tracker's word that `peer` may have the blobs of the image `manifest`, as `registry` says; as [`issue`].
pub fn issue_grant(
    tracker: &Identity,
    peer: wire::PeerId,
    (registry, manifest): (String, Digest),
    blobs: Vec<Digest>,
    now: u64,
    life: Duration,
) -> Option<Grant> {
    let mut grant = Grant {
        peer,
        registry,
        manifest,
        blobs,
        issued_at: now,
        expires_at: now.saturating_add(life.as_secs()),
        tracker: wire_peer(tracker.libp2p_peer())?,
        signature: Vec::new(),
    };
    grant.signature = tracker.keypair().sign(&grant.signed_bytes()).ok()?;
    Some(grant)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tranship_format::wire::Role;

    const NOW: u64 = 1_700_000_000;

    fn member(identity: &Identity) -> Member {
        Member {
            peer: wire_peer(identity.libp2p_peer()).unwrap(),
            addresses: vec!["/ip4/127.0.0.1/tcp/1".to_owned()],
            zone: String::new(),
            rack: String::new(),
            role: Role::Agent,
        }
    }

    #[test]
    fn a_certificate_is_believed_offline_and_only_as_it_was_signed() {
        let (tracker, node, other) = (
            Identity::generate(),
            Identity::generate(),
            Identity::generate(),
        );
        let authority = Authority::of(tracker.libp2p_peer()).unwrap();
        let peer = member(&node).peer;
        let hour = Duration::from_hours(1);
        let good = issue(&tracker, member(&node), NOW, hour).unwrap();
        assert_eq!(authority.check(&good, &peer, NOW), Ok(()));
        assert_eq!(authority.check(&good, &peer, NOW - 60), Ok(()));
        assert_eq!(
            authority.check(&good, &member(&other).peer, NOW),
            Err(CertificateError::OtherPeer)
        );
        assert!(matches!(
            authority.check(&good, &peer, NOW + 3600),
            Err(CertificateError::NotNow { .. })
        ));
        let mut changed = good.clone();
        changed.member.zone = "hall-2".to_owned();
        assert_eq!(
            authority.check(&changed, &peer, NOW),
            Err(CertificateError::WrongSignature)
        );
        let mut forged = issue(&other, member(&node), NOW, hour).unwrap();
        assert_eq!(
            authority.check(&forged, &peer, NOW),
            Err(CertificateError::OtherTracker)
        );
        let both = Authority::of_all([tracker.libp2p_peer(), other.libp2p_peer()]).unwrap();
        assert_eq!(both.check(&forged, &peer, NOW), Ok(()));
        assert_eq!(both.check(&good, &peer, NOW), Ok(()));
        forged.tracker = good.tracker;
        assert_eq!(
            authority.check(&forged, &peer, NOW),
            Err(CertificateError::WrongSignature)
        );
    }

    #[test]
    fn a_grant_is_believed_offline_of_its_peer_alone_and_only_as_it_was_signed() {
        let (tracker, node, other) = (
            Identity::generate(),
            Identity::generate(),
            Identity::generate(),
        );
        let authority = Authority::of(tracker.libp2p_peer()).unwrap();
        let peer = member(&node).peer;
        let image = ("registry.example".to_owned(), Digest::of(b"manifest"));
        let blobs = vec![Digest::of(b"layer")];
        let hour = Duration::from_hours(1);
        let grant =
            |by: &Identity| issue_grant(by, peer, image.clone(), blobs.clone(), NOW, hour).unwrap();
        let good = grant(&tracker);
        assert_eq!(authority.check_grant(&good, &peer, NOW), Ok(()));
        assert_eq!(
            authority.check_grant(&good, &member(&other).peer, NOW),
            Err(CertificateError::OtherPeer)
        );
        assert!(matches!(
            authority.check_grant(&good, &peer, NOW + 3600),
            Err(CertificateError::NotNow { .. })
        ));
        assert_eq!(
            authority.check_grant(&grant(&other), &peer, NOW),
            Err(CertificateError::OtherTracker)
        );
        let forgeries: [fn(&mut Grant); 4] = [
            |grant| grant.blobs.push(Digest::of(b"another layer")),
            |grant| grant.registry.push('x'),
            |grant| grant.manifest = Digest::of(b"another"),
            |grant| grant.expires_at += 1,
        ];
        for forge in forgeries {
            let mut changed = good.clone();
            forge(&mut changed);
            assert_eq!(
                authority.check_grant(&changed, &peer, NOW),
                Err(CertificateError::WrongSignature)
            );
        }
        // A membership is no grant, though the same key signed it.
        let membership = issue(&tracker, member(&node), NOW, hour).unwrap();
        let mut crossed = good.clone();
        crossed.signature = membership.signature;
        assert_eq!(
            authority.check_grant(&crossed, &peer, NOW),
            Err(CertificateError::WrongSignature)
        );
    }
}
