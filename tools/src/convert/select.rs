//! Which images of a source are converted: the one for a platform, or every Linux image of an index and of the indexes in it.
//!
//! All else that an index lists (attestations, signatures, images of other systems, what was converted before) is nobody's
//! to convert, and is named to the user.

use std::collections::{BTreeMap, BTreeSet};

use tranship_format::Digest;
use tranship_source::manifest::{Descriptor, Document, ImageIndex, media_type};
use tranship_source::{ImageStore, Manifest};

use super::source;
use crate::cli::ConvertArgs;
use crate::failure::{Exit, Explain, Failure, Outcome};
use crate::image::converted::{is_conversion, is_converted};
use crate::image::{Image, parse_reference};
use crate::place;
use crate::progress::Progress;

/// How deep an index may lie in the index that was named: as deep as it can be copied.
const MAX_DEPTH: u32 = 2;

/// What is to be converted.
#[derive(Debug)]
pub(super) struct Selection {
    /// Where the originals are.
    pub(super) store: ImageStore,
    /// What the source's reference names.
    pub(super) root: Manifest,
    /// The images, in the order of the index.
    pub(super) images: Vec<Image>,
    /// The indexes in the index, by digest.
    pub(super) nested: BTreeMap<Digest, ImageIndex>,
    /// Whether all images were asked for, and so the result is an index if the source is.
    pub(super) is_all: bool,
}

/// Finds the images.
pub(super) async fn select(args: &ConvertArgs, progress: &Progress) -> Outcome<Selection> {
    if !args.all_platforms {
        let image =
            Image::open_original(&args.source, args.platform.as_ref(), &args.registry).await?;
        source::tell_siblings(&image, progress);
        source::refuse_what_is_no_image(&image)?;
        return Ok(Selection {
            store: image.store.clone(),
            root: image.root.clone(),
            images: vec![image],
            nested: BTreeMap::new(),
            is_all: false,
        });
    }
    let store = place::open(&parse_reference(&args.source)?, &args.registry).await?;
    let reading = || format!("cannot read the manifest of {}", args.source);
    let root = store.root().await;
    let root = root.map_err(|error| place::failure(reading(), &error))?;
    let mut images: Vec<Image> = Vec::new();
    let mut nested = BTreeMap::new();
    let mut add = |manifest: Manifest| {
        let document = manifest.image().explain_as(Exit::Unsupported, reading)?;
        if !is_converted(&document) {
            images.push(Image {
                named: args.source.clone(),
                store: store.clone(),
                root: root.clone(),
                manifest,
                document,
                siblings: Vec::new(),
            });
        }
        Ok::<_, Failure>(())
    };
    match root.parse().explain_as(Exit::Unsupported, reading)? {
        Document::Image(_) => add(root.clone())?,
        Document::Index(index) => {
            let mut known = BTreeSet::new();
            // A stack and not recursion, the next entry on top.
            let below = |index: &ImageIndex, depth: u32| {
                let entries = index.manifests.iter().rev();
                entries
                    .map(|entry| (entry.clone(), depth))
                    .collect::<Vec<_>>()
            };
            let mut pending = below(&index, 0);
            while let Some((entry, depth)) = pending.pop() {
                if let Some(why) = passes_through(&entry) {
                    progress.note(&format!("left as it is: {} ({why})", entry.digest));
                    continue;
                }
                if !known.insert(entry.digest) {
                    continue;
                }
                let manifest = store.manifest(&entry.digest).await;
                let manifest = manifest.map_err(|error| place::failure(reading(), &error))?;
                match manifest.parse().explain_as(Exit::Unsupported, reading)? {
                    Document::Image(_) => add(manifest)?,
                    Document::Index(_) if depth >= MAX_DEPTH => return Err(too_deep(args, &entry)),
                    Document::Index(index) => {
                        pending.extend(below(&index, depth + 1));
                        nested.insert(entry.digest, *index);
                    }
                }
            }
        }
    }
    for image in &images {
        source::refuse_what_is_no_image(image)?;
    }
    if images.is_empty() {
        let what = format!("{} has no image to convert", args.source);
        return Err(Failure::new(Exit::Unsupported, what)
            .why("it lists no Linux image that is not converted already")
            .next("use it as it is"));
    }
    Ok(Selection {
        store,
        root,
        images,
        nested,
        is_all: true,
    })
}

fn too_deep(args: &ConvertArgs, entry: &Descriptor) -> Failure {
    let what = format!("{} has indexes in indexes", args.source);
    Failure::new(Exit::Unsupported, what)
        .why(format!(
            "{} lies more than {MAX_DEPTH} levels down",
            entry.digest
        ))
        .next("convert that index by its digest")
}

/// Why an entry of an index is not converted, if it is not.
fn passes_through(entry: &Descriptor) -> Option<String> {
    if entry.is_attestation() {
        return Some("an attestation".to_owned());
    }
    if is_conversion(entry) {
        return Some("a converted image".to_owned());
    }
    if let Some(kind) = &entry.artifact_type {
        return Some(format!("an artifact of type {kind}"));
    }
    if media_type::is_index(&entry.media_type) {
        return None;
    }
    if !media_type::is_manifest(&entry.media_type) {
        return Some(format!("of type {}", entry.media_type));
    }
    let platform = entry.platform.as_ref()?;
    (platform.os != "linux").then(|| platform.to_string())
}
