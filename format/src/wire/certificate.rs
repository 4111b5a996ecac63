//! The membership certificate: the tracker's word that a peer belongs.
//!
//! Any peer checks it offline with the tracker's public key, so a swarm lives on while the tracker
//! is away. This module only says which bytes are signed; keys and signatures belong to the
//! transport, which already has them.

use super::fields::{Fields, put_bytes, put_u64};
use super::{MAX_SIGNATURE_LEN, Member, PeerId, WireError};

/// Stands before the signed fields, so that a signature over anything else is never one over this.
const DOMAIN: &[u8] = b"tranship membership certificate 1\0";

/// A member, for how long, and the tracker's signature over both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The member.
    pub member: Member,
    /// Not valid before, seconds since the Unix epoch.
    pub issued_at: u64,
    /// Not valid from here on, seconds since the Unix epoch.
    pub expires_at: u64,
    /// Identity of the tracker whose key signed.
    pub tracker: PeerId,
    /// Signature over [`Certificate::signed_bytes`], at most 512 bytes.
    pub signature: Vec<u8>,
}

impl Certificate {
    /// The bytes that the tracker signs: a domain string and every field before the signature.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut out = DOMAIN.to_vec();
        self.put_signed(&mut out);
        out
    }

    /// Whether `now` (seconds since the Unix epoch) is within its time. Says nothing of the signature.
    pub const fn covers(&self, now: u64) -> bool {
        self.issued_at <= now && now < self.expires_at
    }

    /// Appends the certificate as it travels in HELLO, which is also how it is kept on disk.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.put_signed(out);
        put_bytes(out, &self.signature, MAX_SIGNATURE_LEN);
    }

    /// Reads what [`Certificate::encode`] wrote. The signature is *not* checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut fields = Fields::new(bytes);
        let certificate = Self::read(&mut fields)?;
        fields.end("certificate")?;
        Ok(certificate)
    }

    fn put_signed(&self, out: &mut Vec<u8>) {
        self.member.put(out);
        put_u64(out, self.issued_at);
        put_u64(out, self.expires_at);
        self.tracker.put(out);
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Result<Self, WireError> {
        Ok(Self {
            member: Member::read(fields)?,
            issued_at: fields.u64("issued at")?,
            expires_at: fields.u64("expires at")?,
            tracker: PeerId::read(fields)?,
            signature: fields.bytes(0, MAX_SIGNATURE_LEN, "signature")?.to_vec(),
        })
    }
}
