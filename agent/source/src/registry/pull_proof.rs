//! Proofs that we may pull, for the tracker, which does not know our credentials.
//!
//! What is shown is what the registry itself would be shown: best a token that is good for pulling this
//! repository alone and soon expires. Credentials themselves leave this node for a tracker only where the
//! operator says so.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tranship_format::Digest;
use tranship_format::wire::{MAX_PROOF_LEN, PullProof};

use super::RegistryClient;
use super::auth::{Access, Kind, Pass, Scope};
use crate::places;
use crate::reference::{ManifestSelector, RepoRef};

impl RegistryClient {
    /// A proof that we may pull from `repo`, if one is at hand that can be shown. There is none for what
    /// anybody may pull.
    pub fn pull_proof_at_hand(&self, repo: &RepoRef) -> PullProof {
        let pass = self
            .inner
            .auth
            .pass_at_hand(&Scope::new(repo, Access::Pull));
        let may_show_secret = places::cover(&self.inner.options.prove_by_secret, repo);
        pass.and_then(|pass| proof(&pass, may_show_secret))
            .unwrap_or_default()
    }

    /// The same, after the registry was asked if none is at hand. Without one if it does not answer or does not let us in.
    pub async fn pull_proof(&self, repo: &RepoRef, manifest: Digest) -> PullProof {
        let at_hand = self.pull_proof_at_hand(repo);
        if at_hand != PullProof::None {
            return at_hand;
        }
        let which = ManifestSelector::Digest(manifest);
        if let Err(error) = self.find_manifest(repo, &which).await {
            tracing::debug!(
                repository = %repo,
                error = &error as &dyn std::error::Error,
                "a proof of pull cannot be had"
            );
        }
        self.pull_proof_at_hand(repo)
    }
}

fn proof(pass: &Pass, may_show_secret: bool) -> Option<PullProof> {
    match pass.kind() {
        Kind::Anonymous => return None,
        Kind::Secret if !may_show_secret => return None,
        Kind::Scoped | Kind::Secret => {}
    }
    let header = pass.header().to_str().ok()?;
    let proof = match header.split_once(' ')? {
        ("Bearer", token) => PullProof::Token(token.as_bytes().to_vec()),
        ("Basic", password) => PullProof::Password(STANDARD.decode(password).ok()?),
        _ => return None,
    };
    let (PullProof::Token(secret) | PullProof::Password(secret)) = &proof else {
        return None;
    };
    (secret.len() <= MAX_PROOF_LEN).then_some(proof)
}
