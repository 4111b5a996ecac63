//! Proofs of layers that came without a chunk table: those beside the image are checked, and one is pushed if asked for.
//!
//! A proof lets nodes read such layers chunk by chunk instead of whole. It refers to the image, whose digest does not cover
//! it: nodes use it only where they are told to trust whoever may push here. Whoever has read the whole layer need not
//! trust: there is one right proof, and it was just made.

use tranship_format::chunk::{MAX_TABLE_LEN, PROOF_OF, PROOF_TYPE};
use tranship_format::{ChunkTable, Digest};
use tranship_source::manifest::Descriptor;
use tranship_source::proof::{EMPTY_CONFIG, manifest_of_proofs};

use super::Problem;
use crate::failure::{Exit, Explain, Outcome};
use crate::image::Image;
use crate::place;

/// Manifests of proofs that are looked at.
const MAX_MANIFESTS: usize = 64;

/// Compares the proofs beside the image with the right ones, and counts them. One that says otherwise is a problem: nodes
/// that trust it would take other bytes for the layer's.
pub(super) async fn check(
    image: &Image,
    right: &[(Digest, ChunkTable)],
    problems: &mut Vec<Problem>,
) -> Outcome<usize> {
    let mut count = 0;
    let subject = image.manifest.digest();
    let listed = image.store.referrers(&subject, Some(PROOF_TYPE)).await;
    let listed = listed.map_err(|error| image.read_failure("the list of proofs", &error))?;
    for entry in listed.iter().take(MAX_MANIFESTS) {
        let what = format!("the manifest of proofs {}", entry.digest);
        let manifest = match image.store.manifest(&entry.digest).await {
            Ok(manifest) => manifest,
            Err(error) => {
                let failure = image.read_failure(&what, &error);
                if failure.exit != Exit::Verification {
                    return Err(failure);
                }
                problems.push(Problem::of_image(format!("{what}: {}", failure.reason())));
                continue;
            }
        };
        let document = manifest
            .image()
            .ok()
            .filter(|found| found.subject.as_ref().map(|about| about.digest) == Some(subject));
        let Some(document) = document else {
            problems.push(Problem::of_image(format!("{what} is not about this image")));
            continue;
        };
        for layer in &document.layers {
            let Some((blob, table)) = about(layer, right) else {
                continue;
            };
            count += 1;
            let limit = layer.size.min(MAX_TABLE_LEN);
            let said = match image.store.blob_bytes(&layer.digest, limit).await {
                Ok(bytes) if bytes == table.encode() => continue,
                Ok(_) => "says otherwise than the layer's bytes; delete that manifest: nodes that trust it read wrong bytes".to_owned(),
                Err(error) => {
                    let failure = image.read_failure(&what, &error);
                    if failure.exit != Exit::Verification {
                        return Err(failure);
                    }
                    failure.reason()
                }
            };
            let proof = format!("the proof {} in {}: {said}", layer.digest, entry.digest);
            problems.push(Problem::of_blob(*blob, proof));
        }
    }
    Ok(count)
}

/// The right proof of the blob that a proof is about.
fn about<'a>(
    layer: &Descriptor,
    right: &'a [(Digest, ChunkTable)],
) -> Option<&'a (Digest, ChunkTable)> {
    let blob: Digest = layer.annotations.get(PROOF_OF)?.parse().ok()?;
    right.iter().find(|(found, _)| *found == blob)
}

/// Pushes the proofs; comes back with the digest of their manifest.
pub(super) async fn push(image: &Image, proofs: &[(Digest, ChunkTable)]) -> Outcome<Digest> {
    let what = || format!("cannot push the proof of {}", image.named);
    let (manifest, tables) = manifest_of_proofs(&image.manifest, proofs).explain(what)?;
    for bytes in tables.into_iter().chain([EMPTY_CONFIG.into()]) {
        let pushed = place::push_bytes(&image.store, bytes).await;
        pushed.map_err(|error| place::failure(what(), &error))?;
    }
    let pushed = image.store.push_referrer(&manifest, false).await;
    pushed.map_err(|error| place::failure(what(), &error))?;
    Ok(manifest.digest())
}
