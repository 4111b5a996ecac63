//! Which images of a source are converted: the one for a platform, or every Linux image of an index.
//!
//! All else that an index lists (attestations, signatures, images of other systems, what was converted before) is nobody's
//! to convert, and is named to the user.

use tranship_source::manifest::{Descriptor, Document};
use tranship_source::{ImageStore, Manifest};

use super::source;
use crate::cli::ConvertArgs;
use crate::failure::{Exit, Explain, Failure, Outcome};
use crate::image::converted::{is_conversion, is_converted};
use crate::image::{Image, parse_reference};
use crate::place;
use crate::progress::Progress;

/// What is to be converted.
#[derive(Debug)]
pub(super) struct Selection {
    /// Where the originals are.
    pub(super) store: ImageStore,
    /// What the source's reference names.
    pub(super) root: Manifest,
    /// The images, in the order of the index.
    pub(super) images: Vec<Image>,
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
            is_all: false,
        });
    }
    let store = place::open(&parse_reference(&args.source)?, &args.registry).await?;
    let reading = || format!("cannot read the manifest of {}", args.source);
    let root = store.root().await;
    let root = root.map_err(|error| place::failure(reading(), &error))?;
    let mut images: Vec<Image> = Vec::new();
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
            let mut known = std::collections::BTreeSet::new();
            for entry in &index.manifests {
                if let Some(why) = passes_through(entry) {
                    progress.note(&format!("left as it is: {} ({why})", entry.digest));
                } else if known.insert(entry.digest) {
                    let manifest = store.manifest(&entry.digest).await;
                    add(manifest.map_err(|error| place::failure(reading(), &error))?)?;
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
        is_all: true,
    })
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
    if !tranship_source::manifest::media_type::is_manifest(&entry.media_type) {
        return Some(format!("of type {}", entry.media_type));
    }
    let platform = entry.platform.as_ref()?;
    (platform.os != "linux").then(|| platform.to_string())
}
