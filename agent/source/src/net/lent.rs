//! Proofs that the tracker lends: chunk tables of blobs that came without one.
//!
//! The tracker reads such a blob once for all who ask, and signs the table that it made. What it signs is believed here
//! because the tracker is in the configuration; nothing that the manifest's digest covers vouches for it. So nobody asks
//! but where an operator has said that the tracker is to be trusted with this.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tranship_format::wire::{ErrorCode, ImageSource, ProofState, Prove, PullProof, SignedProof};
use tranship_format::{ChunkTable, DecodeError, Digest};

use super::SwarmNet;
use super::certificate::{Authority, CertificateError, wire_peer};
use super::event::Event;
use super::identity::Identity;
use crate::fetch::BlobOrigin;

/// A tracker that makes a proof and reads nothing for so long is not waited for, and neither is a registry.
const PATIENCE: Duration = Duration::from_secs(10);
/// A tracker that this node has not joined is waited for so long.
const JOINING: Duration = Duration::from_secs(2);
/// Bounds of the pause before the tracker is asked again, whatever it says.
const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(2)];

/// Why the tracker lends no proof.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LentError {
    /// There is nobody to ask.
    #[error("the tracker is away")]
    Away,
    /// It has none and makes none.
    #[error("the tracker has no proof: {text} ({code:?})")]
    Refused {
        /// Why.
        code: ErrorCode,
        /// For people.
        text: String,
    },
    /// It is making one and does not get on.
    #[error("the tracker has read {done_len} bytes for a proof, and nothing more for {PATIENCE:?}")]
    Stuck {
        /// Bytes that it has read.
        done_len: u64,
    },
    /// What it gave is about another blob.
    #[error("the tracker gave the proof of another blob, {blob}")]
    OtherBlob {
        /// That blob.
        blob: Digest,
    },
    /// Its signature does not hold.
    #[error("the proof's signature cannot be believed")]
    Signature(#[from] CertificateError),
    /// It is no proof of such a blob.
    #[error("the proof cannot be used")]
    Decode(#[from] DecodeError),
}

/// What the tracker says to PROVE; `Err` is its refusal.
pub(crate) type Proved = Result<ProofState, (ErrorCode, String)>;

/// The tracker's word that `table` is the proof of `blob`. It must have read the whole blob and found its digest.
/// `None` if the key refuses to sign, which Ed25519 never does.
pub fn sign(tracker: &Identity, blob: Digest, table: &ChunkTable) -> Option<SignedProof> {
    let mut proof = SignedProof {
        blob,
        table: table.encode().into(),
        tracker: wire_peer(tracker.libp2p_peer())?,
        signature: Vec::new(),
    };
    proof.signature = tracker.keypair().sign(&proof.signed_bytes()).ok()?;
    Some(proof)
}

/// The table in a proof of a blob of `len` bytes, if `authority` signed it.
///
/// # Errors
/// [`LentError`] says what is wrong with it.
pub fn open(
    authority: &Authority,
    proof: &SignedProof,
    blob: &Digest,
    len: u64,
) -> Result<ChunkTable, LentError> {
    if proof.blob != *blob {
        return Err(LentError::OtherBlob { blob: proof.blob });
    }
    authority.check_signature(&proof.tracker, &proof.signed_bytes(), &proof.signature)?;
    Ok(ChunkTable::decode_proof(&proof.table, len)?)
}

impl SwarmNet {
    /// Asks the tracker for the proof of a layer that has no chunk table, and waits while the tracker makes it and gets on.
    /// `origin` gives the proof that we may pull the image: the one at hand, and only if that does not do, one that is got.
    ///
    /// # Errors
    /// [`LentError`]: the blob must then be read whole.
    pub async fn lent_proof(
        &self,
        image: &ImageSource,
        origin: &dyn BlobOrigin,
        blob: Digest,
        len: u64,
    ) -> Result<ChunkTable, LentError> {
        let authority = self.authority.as_ref().ok_or(LentError::Away)?;
        // A node that has just started is about to join.
        let mut standing = self.watch();
        let joined = tokio::time::timeout(JOINING, standing.wait_for(|now| now.joined)).await;
        if !joined.is_ok_and(|joined| joined.is_ok()) {
            return Err(LentError::Away);
        }
        let mut shown = origin.pull_proof_at_hand();
        let mut read_len = 0;
        let mut moved_at = Instant::now();
        loop {
            let prove = Prove {
                image: image.clone(),
                grant: None,
                proof: shown.clone(),
                blob,
                len,
            };
            match self.prove(prove).await? {
                Err((code, text)) => {
                    if shown == PullProof::None && code == ErrorCode::UnknownBlob {
                        let getting = origin.pull_proof(image.manifest);
                        let got = tokio::time::timeout(PATIENCE, getting).await;
                        shown = got.unwrap_or_default();
                        if shown != PullProof::None {
                            continue;
                        }
                    }
                    return Err(LentError::Refused { code, text });
                }
                Ok(ProofState::Ready(proof)) => return open(authority, &proof, &blob, len),
                Ok(ProofState::Making { done_len, retry_ms }) => {
                    if done_len > read_len {
                        (read_len, moved_at) = (done_len, Instant::now());
                    } else if moved_at.elapsed() > PATIENCE {
                        return Err(LentError::Stuck { done_len });
                    }
                    let [least, most] = PAUSES;
                    let pause = Duration::from_millis(retry_ms.into()).clamp(least, most);
                    tokio::time::sleep(pause).await;
                    // A token may end meanwhile.
                    shown = origin.pull_proof_at_hand();
                }
            }
        }
    }

    async fn prove(&self, prove: Prove) -> Result<Proved, LentError> {
        let (reply, proved) = oneshot::channel();
        let prove = Box::new(prove);
        let asking = self.events.send(Event::Prove { prove, reply });
        asking.await.map_err(|_| LentError::Away)?;
        // Nobody answers once the stream has ended.
        match tokio::time::timeout(PATIENCE, proved).await {
            Ok(Ok(proved)) => Ok(proved),
            Ok(Err(_)) | Err(_) => Err(LentError::Away),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lent_proof_is_believed_of_its_tracker_alone_and_only_as_it_was_signed() {
        let (tracker, other) = (Identity::generate(), Identity::generate());
        let authority = Authority::of(tracker.libp2p_peer()).unwrap();
        let bytes = vec![7; 600_000];
        let (blob, len) = (Digest::of(&bytes), bytes.len() as u64);
        let table = ChunkTable::proof(bytes.as_slice()).unwrap();
        let good = sign(&tracker, blob, &table).unwrap();
        assert_eq!(open(&authority, &good, &blob, len).unwrap(), table);

        let another = Digest::of(b"another");
        assert!(matches!(
            open(&authority, &good, &another, len),
            Err(LentError::OtherBlob { .. })
        ));
        assert!(matches!(
            open(&authority, &good, &blob, len + 1),
            Err(LentError::Decode(_))
        ));
        let forged = sign(&other, blob, &table).unwrap();
        assert!(matches!(
            open(&authority, &forged, &blob, len),
            Err(LentError::Signature(CertificateError::OtherTracker))
        ));
        let mut changed = good.clone();
        let wrong = ChunkTable::proof(vec![8; 600_000].as_slice()).unwrap();
        changed.table = wrong.encode().into();
        assert!(matches!(
            open(&authority, &changed, &blob, len),
            Err(LentError::Signature(CertificateError::WrongSignature))
        ));
        let mut moved = good;
        moved.blob = another;
        assert!(matches!(
            open(&authority, &moved, &another, len),
            Err(LentError::Signature(CertificateError::WrongSignature))
        ));
    }
}
