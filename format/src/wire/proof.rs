//! A proof that a tracker lends: the chunk table of a blob that came without one, and the tracker's word that it is right.
//!
//! The tracker made it from the whole blob, whose digest it checked. Whoever takes the tracker's word checks it offline with
//! the tracker's public key, as with a certificate. This module only says which bytes are signed.

use bytes::Bytes;

use super::fields::{Fields, put_bytes, put_digest, put_long_bytes};
use super::{MAX_SIGNATURE_LEN, PeerId, WireError};
use crate::Digest;
use crate::chunk::PROOF_CHUNK_LEN;

/// Stands before the signed fields, so that a signature over anything else is never one over this.
const DOMAIN: &[u8] = b"tranship proof 1\0";

/// Most bytes in the table of a proof that is lent, so that it fits a frame.
pub const MAX_LENT_LEN: usize = 1_000_000;

/// Most bytes of a blob whose table that is: 6.7 GiB, in chunks as proofs have them.
pub const MAX_LENT_BLOB_LEN: u64 = 27_440 * PROOF_CHUNK_LEN as u64;

/// A chunk table, the blob that it is said to prove, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedProof {
    /// The blob.
    pub blob: Digest,
    /// The encoded chunk table, at most [`MAX_LENT_LEN`] bytes; not looked at here.
    pub table: Bytes,
    /// Identity of the tracker whose key signed.
    pub tracker: PeerId,
    /// Signature over [`SignedProof::signed_bytes`], at most 512 bytes.
    pub signature: Vec<u8>,
}

impl SignedProof {
    /// The bytes that the tracker signs: a domain string, the blob's digest, and the digest of the table.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut out = DOMAIN.to_vec();
        put_digest(&mut out, &self.blob);
        put_digest(&mut out, &Digest::of(&self.table));
        out
    }

    /// Appends the proof as it travels in PROOF, which is also how it is kept on disk.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_digest(out, &self.blob);
        self.tracker.put(out);
        put_bytes(out, &self.signature, MAX_SIGNATURE_LEN);
        put_long_bytes(out, &self.table, MAX_LENT_LEN);
    }

    /// Reads what [`SignedProof::encode`] wrote. Neither the signature nor the table is checked.
    ///
    /// # Errors
    /// If `bytes` are not that.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut fields = Fields::new(bytes);
        let proof = Self::read(&mut fields)?;
        fields.end("proof")?;
        Ok(proof)
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Result<Self, WireError> {
        Ok(Self {
            blob: fields.digest("blob")?,
            tracker: PeerId::read(fields)?,
            signature: fields.bytes(0, MAX_SIGNATURE_LEN, "signature")?.to_vec(),
            table: Bytes::copy_from_slice(fields.long_bytes(MAX_LENT_LEN, "table")?),
        })
    }
}
