//! Pushing proofs of layers that came without a chunk table, once every byte of the image was found right.
//!
//! A proof lets nodes read such layers chunk by chunk instead of whole. It refers to the image, whose digest does not cover
//! it: nodes use it only where they are told to trust whoever may push here.

use tranship_format::{ChunkTable, Digest};
use tranship_source::proof::{EMPTY_CONFIG, manifest_of_proofs};

use crate::failure::{Explain, Outcome};
use crate::image::Image;
use crate::place;

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
