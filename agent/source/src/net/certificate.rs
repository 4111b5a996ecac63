//! Membership: the tracker signs, every peer checks offline.
//!
//! The tracker's public key is part of its peer id, which each agent has in its
//! configuration, so a swarm checks its members while the tracker is away. What
//! is signed is `wire`'s business; here are the key, the clock and the identity
//! that TLS proved.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libp2p::PeerId;
use libp2p::identity::PublicKey;
use thiserror::Error;
use tranship_format::wire::{self, Certificate, Member};

use super::identity::Identity;

/// How far clocks may differ: a certificate counts from this long before it was
/// issued, so that a node whose clock is behind is let in at once.
const CLOCK_SKEW: Duration = Duration::from_mins(5);

/// Why a membership certificate is not believed.
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

/// Checks certificates of one tracker.
#[derive(Clone, Debug)]
pub struct Authority {
    peer: wire::PeerId,
    key: PublicKey,
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
        Ok(Self { peer, key })
    }

    /// The tracker's identity.
    pub fn peer(&self) -> wire::PeerId {
        self.peer
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
        if certificate.tracker != self.peer {
            return Err(CertificateError::OtherTracker);
        }
        let skewed = now.saturating_add(CLOCK_SKEW.as_secs());
        let is_early = now < certificate.issued_at && certificate.covers(skewed);
        if !certificate.covers(now) && !is_early {
            return Err(CertificateError::NotNow {
                issued_at: certificate.issued_at,
                expires_at: certificate.expires_at,
                now,
            });
        }
        if !self
            .key
            .verify(&certificate.signed_bytes(), &certificate.signature)
        {
            return Err(CertificateError::WrongSignature);
        }
        Ok(())
    }
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
        forged.tracker = authority.peer();
        assert_eq!(
            authority.check(&forged, &peer, NOW),
            Err(CertificateError::WrongSignature)
        );
    }
}
