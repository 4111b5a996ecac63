//! The grant: the tracker's word that a peer may have an image's blobs.
//!
//! Membership admits to the swarm, not to what is in it. A peer shows a grant to whomever it asks for
//! chunks, and any peer checks it offline with the tracker's public key. It names the registry because
//! a blob's digest alone proves nothing: anybody can write a manifest that names blobs of others and
//! push it to a registry of his own.

use super::fields::{Fields, put_bytes, put_digest, put_list, put_text, put_u64};
use super::{MAX_BLOBS, MAX_NAME_LEN, MAX_SIGNATURE_LEN, PeerId, WireError};
use crate::Digest;

/// Stands before the signed fields, so that a signature over anything else is never one over this.
const DOMAIN: &[u8] = b"tranship pull grant 1\0";

/// Who may have which blobs, for how long, and the tracker's signature over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Who may have them.
    pub peer: PeerId,
    /// Registry that said so, with its port if not the default; at most 255 bytes.
    pub registry: String,
    /// Digest of the image's manifest.
    pub manifest: Digest,
    /// The blobs, at most 256.
    pub blobs: Vec<Digest>,
    /// Not valid before, seconds since the Unix epoch.
    pub issued_at: u64,
    /// Not valid from here on, seconds since the Unix epoch.
    pub expires_at: u64,
    /// Identity of the tracker whose key signed.
    pub tracker: PeerId,
    /// Signature over [`Grant::signed_bytes`], at most 512 bytes.
    pub signature: Vec<u8>,
}

impl Grant {
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

    /// Appends the grant as it travels.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.put_signed(out);
        put_bytes(out, &self.signature, MAX_SIGNATURE_LEN);
    }

    /// Reads what [`Grant::encode`] wrote. The signature is *not* checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut fields = Fields::new(bytes);
        let grant = Self::read(&mut fields)?;
        fields.end("grant")?;
        Ok(grant)
    }

    fn put_signed(&self, out: &mut Vec<u8>) {
        self.peer.put(out);
        put_text(out, &self.registry, MAX_NAME_LEN);
        put_digest(out, &self.manifest);
        put_list(out, &self.blobs, MAX_BLOBS, put_digest);
        put_u64(out, self.issued_at);
        put_u64(out, self.expires_at);
        self.tracker.put(out);
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Result<Self, WireError> {
        Ok(Self {
            peer: PeerId::read(fields)?,
            registry: fields.text(MAX_NAME_LEN, "registry")?,
            manifest: fields.digest("manifest")?,
            blobs: fields.list(MAX_BLOBS, "blobs", |fields| fields.digest("blob"))?,
            issued_at: fields.u64("issued at")?,
            expires_at: fields.u64("expires at")?,
            tracker: PeerId::read(fields)?,
            signature: fields.bytes(0, MAX_SIGNATURE_LEN, "signature")?.to_vec(),
        })
    }
}
