//! Layers that were converted before, found in the place that the new image goes to.
//!
//! A converted layer depends on the tars of all layers up to it and on how they were converted, and on nothing else. So each
//! one carries both in its annotations, as the chain id of its tars and as a name of the settings, and a layer with
//! the same two is the same bytes. Whoever may push to the place may say so of other bytes, which is why it has
//! to be asked for.

use std::sync::Arc;

use tranship_format::convert::{ConvertOptions, Converter, EDITION, LowerLayer};
use tranship_format::{Digest, LayerAnnotations};
use tranship_source::ImageStore;
use tranship_source::manifest::{Document, ImageManifest};

use super::source::Job;
use crate::blob::LazyBlob;
use crate::failure::Outcome;
use crate::image::converted::attached;
use crate::image::{Image, LayerBlob, blocking};
use crate::progress::Progress;

/// The annotation of a converted layer that holds the chain id of the tars it was made from, as OCI defines it.
pub(super) const SOURCE_CHAIN: &str = "containerd.io/snapshot/tranship/source-chain";
/// The annotation that names how it was made.
pub(super) const SETTINGS: &str = "containerd.io/snapshot/tranship/settings";

/// Names that are looked at in the destination, and images behind them.
const MAX_ROOTS: usize = 100;
const MAX_IMAGES: usize = 300;

/// What a converted layer is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) chain: Digest,
    pub(super) settings: String,
}

/// For each layer what it is made from, bottom first.
pub(super) fn made(jobs: &[Job], options: &ConvertOptions) -> Vec<Made> {
    // The name of all that decides about bytes, now and when more does.
    let settings = format!("{EDITION} {:?}", options.layer);
    let name = Digest::of(settings.as_bytes()).hex();
    let settings = format!("{EDITION}-{}", name.get(..16).unwrap_or(&name));
    let mut chain: Option<Digest> = None;
    let mut of_layer = |job: &Job| {
        let next = chain.map_or(job.diff_id, |below| {
            Digest::of(format!("{below} {}", job.diff_id).as_bytes())
        });
        chain = Some(next);
        Made {
            chain: next,
            settings: settings.clone(),
        }
    };
    jobs.iter().map(&mut of_layer).collect()
}

/// Layers that need not be converted, bottom first, and the converter that goes on above them.
#[derive(Debug)]
pub(super) struct Reused {
    pub(super) layers: Vec<LayerAnnotations>,
    pub(super) converter: Converter,
}

/// Finds as many lower layers as possible in the destination; gives `fresh` back if there are none to go on from.
pub(super) async fn find(
    store: &ImageStore,
    original: &Image,
    made: &[Made],
    fresh: impl Fn() -> Converter + Clone + Send + 'static,
    progress: &Progress,
) -> Outcome<Reused> {
    let layers = longest(store, &original.manifest.digest(), made).await;
    if layers.is_empty() {
        progress.note("no converted base layers are in the destination");
        return Ok(none(fresh()));
    }
    let mut lower = Vec::new();
    for layer in &layers {
        let (Ok(blob), Some(chunks)) =
            (LazyBlob::open(store, layer).await, layer.annotations.chunks)
        else {
            progress.note(&format!(
                "cannot be reused: {} cannot be read",
                layer.digest
            ));
            return Ok(none(fresh()));
        };
        lower.push(LowerLayer {
            blob: Arc::new(blob),
            chunks: chunks.digest,
        });
    }
    let again = fresh.clone();
    Ok(match blocking(move || fresh().resume(&lower)).await? {
        Ok(converter) => {
            progress.note(&format!("reused: the lowest {} layers", layers.len()));
            Reused {
                layers: layers.into_iter().map(|layer| layer.annotations).collect(),
                converter,
            }
        }
        Err(error) => {
            let top = layers.last().map(|layer| layer.digest.to_string());
            let top = top.unwrap_or_default();
            progress.note(&format!("cannot be reused: up to {top}: {error}"));
            none(again())
        }
    })
}

pub(super) fn none(converter: Converter) -> Reused {
    Reused {
        layers: Vec::new(),
        converter,
    }
}

/// The image of the destination that has the most lower layers in common: these layers.
async fn longest(store: &ImageStore, original: &Digest, made: &[Made]) -> Vec<LayerBlob> {
    let mut best = Vec::new();
    let mut pending: Vec<Digest> = attached(store, original).await;
    let mut roots = store.roots(MAX_ROOTS).await.unwrap_or_default();
    roots.reverse();
    let mut count = 0;
    while count < MAX_IMAGES && best.len() < made.len() {
        let manifest = match pending.pop() {
            Some(digest) => store.manifest(&digest).await.ok(),
            None if roots.is_empty() => break,
            None => roots.pop(),
        };
        let Some(manifest) = manifest else { continue };
        count += 1;
        match manifest.parse() {
            Ok(Document::Image(image)) => {
                let common = common(store, &image, made).await;
                if common.len() > best.len() {
                    best = common;
                }
            }
            Ok(Document::Index(index)) => {
                let images = index.manifests.iter().filter(|it| !it.is_attestation());
                pending.extend(images.map(|entry| entry.digest));
            }
            Err(_) => {}
        }
    }
    best
}

/// The lowest layers of `image` that are made from the same as ours, and are there.
async fn common(store: &ImageStore, image: &ImageManifest, made: &[Made]) -> Vec<LayerBlob> {
    let mut layers = Vec::new();
    for (descriptor, made) in image.layers.iter().zip(made) {
        let says = |key, value: &str| {
            let said: Option<&String> = descriptor.annotations.get(key);
            said.is_some_and(|said| said == value)
        };
        let is_same = says(SOURCE_CHAIN, &made.chain.to_string()) && says(SETTINGS, &made.settings);
        let Ok(Some(annotations)) = LayerAnnotations::from_map(&descriptor.annotations) else {
            break;
        };
        let is_whole = annotations.blob_digest == descriptor.digest
            && annotations.blob_size == descriptor.size
            && annotations.chunks.is_some();
        let len = store.blob_exists(&descriptor.digest).await;
        if !is_same || !is_whole || !matches!(len, Ok(Some(len)) if len == descriptor.size) {
            break;
        }
        layers.push(LayerBlob {
            digest: descriptor.digest,
            len: descriptor.size,
            descriptor: descriptor.clone(),
            annotations,
        });
    }
    layers
}
