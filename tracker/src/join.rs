//! Who is let in: the join token, and certificates that are still good.

use std::time::Duration;

use tranship_format::wire::tracker::Join;
use tranship_format::wire::{Certificate, ErrorCode, JoinProof, PeerId, Versions};
use tranship_source::net::certificate::{Authority, issue, unix_seconds};
use tranship_source::net::identity::Identity;

use crate::secret::Secret;

/// Judges those who want to join, and signs for those who may.
#[derive(Debug)]
pub(crate) struct Gate {
    identity: Identity,
    authority: Authority,
    token: Secret,
    membership: Duration,
}

/// Why somebody may not join: for the wire, and for people.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: ErrorCode,
    pub(crate) text: &'static str,
}

impl Gate {
    pub(crate) fn new(
        identity: Identity,
        authority: Authority,
        token: Secret,
        membership: Duration,
    ) -> Self {
        Self {
            identity,
            authority,
            token,
            membership,
        }
    }

    /// The version to speak and a certificate for whoever `peer` proved to be.
    pub(crate) fn admit(&self, join: &Join, peer: &PeerId) -> Result<(u16, Certificate), Refusal> {
        let refuse = |code, text| Err(Refusal { code, text });
        let Some(version) = Versions::OURS.common(join.versions) else {
            return refuse(
                ErrorCode::UnsupportedVersion,
                "no version of the protocol in common",
            );
        };
        if join.member.peer != *peer {
            return refuse(
                ErrorCode::NotAdmitted,
                "the member is not the peer that the connection proves",
            );
        }
        let now = unix_seconds();
        let admitted = match &join.proof {
            JoinProof::Token(token) => self.token.is(token),
            JoinProof::Certificate(certificate) => {
                let good = self.authority.check(certificate, peer, now).is_ok();
                // A member may move, but not become something else.
                good && certificate.member.role == join.member.role
            }
        };
        if !admitted {
            return refuse(
                ErrorCode::NotAdmitted,
                "the token or certificate does not admit",
            );
        }
        match issue(&self.identity, join.member.clone(), now, self.membership) {
            Some(certificate) => Ok((version, certificate)),
            None => refuse(ErrorCode::Overloaded, "the tracker cannot sign"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tranship_format::wire::{Member, Role};
    use tranship_source::net::JoinToken;
    use tranship_source::net::certificate::wire_peer;

    fn gate(identity: &Identity) -> Gate {
        let authority = Authority::of(identity.libp2p_peer()).unwrap();
        let token = Secret::new(&JoinToken::new("secret"));
        Gate::new(identity.clone(), authority, token, Duration::from_hours(1))
    }

    fn join(node: &Identity, proof: JoinProof) -> Join {
        Join {
            versions: Versions::OURS,
            proof,
            member: Member {
                peer: wire_peer(node.libp2p_peer()).unwrap(),
                addresses: Vec::new(),
                zone: String::new(),
                rack: String::new(),
                role: Role::Agent,
            },
            boot_id: [0; 16],
        }
    }

    #[test]
    fn a_token_admits_and_its_certificate_admits_again() {
        let (tracker, node) = (Identity::generate(), Identity::generate());
        let gate = gate(&tracker);
        let first = join(&node, JoinProof::Token(b"secret".to_vec()));
        let (_, certificate) = gate.admit(&first, &first.member.peer).unwrap();
        let proof = JoinProof::Certificate(Box::new(certificate.clone()));
        let mut again = join(&node, proof.clone());
        assert!(gate.admit(&again, &again.member.peer).is_ok());
        again.member.role = Role::Seed;
        assert!(gate.admit(&again, &again.member.peer).is_err());
        let other = join(&Identity::generate(), proof);
        assert!(gate.admit(&other, &other.member.peer).is_err());
    }

    #[test]
    fn a_wrong_token_or_a_borrowed_name_is_refused() {
        let (tracker, node) = (Identity::generate(), Identity::generate());
        let gate = gate(&tracker);
        for wrong in [&b"secreT"[..], b"", b"secret "] {
            let join = join(&node, JoinProof::Token(wrong.to_vec()));
            let refusal = gate.admit(&join, &join.member.peer).unwrap_err();
            assert_eq!(refusal.code, ErrorCode::NotAdmitted);
        }
        let borrowed = join(&node, JoinProof::Token(b"secret".to_vec()));
        let other = wire_peer(Identity::generate().libp2p_peer()).unwrap();
        assert!(gate.admit(&borrowed, &other).is_err());
    }
}
