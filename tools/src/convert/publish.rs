//! Giving converted images their names: alone, in an index beside their originals, or as what refers to these.
//!
//! Originals are copied byte by byte wherever they are carried along: whoever signed them finds them as they were.

use std::collections::BTreeMap;

use tranship_format::Digest;
use tranship_source::image_store::ImageStoreError;
use tranship_source::manifest::{
    Descriptor, Document, ImageIndex, Manifest, ManifestError, media_type,
};
use tranship_source::{ImageReference, ImageStore};

use super::one::Finished;
use super::select::Selection;
use crate::cli::Mode;
use crate::failure::{Explain, Outcome};
use crate::image::converted::{ARTIFACT_TYPE, OS_FEATURE, SOURCE_DIGEST, is_conversion};
use crate::place;

/// Where the images go.
#[derive(Debug)]
pub(super) struct Destination<'d> {
    pub(super) store: &'d ImageStore,
    pub(super) reference: &'d ImageReference,
    /// Whether it is the source's own reference.
    pub(super) is_source: bool,
}

/// What was published.
#[derive(Debug)]
pub(super) struct Published {
    /// What the destination names now, with its digest.
    pub(super) reference: String,
    /// The manifest or index that was named.
    pub(super) root: Manifest,
    /// The converted images' manifests.
    pub(super) manifests: Vec<Manifest>,
}

/// Publishes converted images.
pub(super) async fn publish(
    to: &Destination<'_>,
    selection: &Selection,
    images: &[Finished],
    mode: Mode,
) -> Outcome<Published> {
    let what = || format!("cannot push to {}", to.reference);
    let failed = |error: ImageStoreError| place::failure(what(), &error);
    let mut manifests = Vec::new();
    for image in images {
        let mut document = image.document.clone();
        if mode == Mode::Attach {
            document.artifact_type = Some(ARTIFACT_TYPE.to_owned());
            document.subject = Some(image.original.descriptor());
        }
        manifests.push(Manifest::from_image(&document).explain(what)?);
    }
    let index = match (mode, selection.root.parse().explain(what)?) {
        (Mode::Attach, _) => return attach(to, selection, manifests).await.map_err(failed),
        (Mode::Index, Document::Index(index)) => Some(*index),
        (Mode::Index, Document::Image(_)) => Some(index_of(&selection.root, images)),
        (Mode::Tag, Document::Index(index)) if selection.is_all => Some(*index),
        (Mode::Tag, _) => None,
    };
    let root = match index {
        None => manifests
            .first()
            .cloned()
            .unwrap_or_else(|| selection.root.clone()),
        Some(index) => {
            for manifest in &manifests {
                to.store.push_manifest(manifest).await.map_err(failed)?;
            }
            let index = if mode == Mode::Index {
                to.store
                    .copy_manifest(&selection.store, &selection.root)
                    .await
                    .map_err(failed)?;
                beside(index, images, &manifests)
            } else {
                let pairs: Vec<_> = images.iter().zip(&manifests).collect();
                let mut inner = Vec::new();
                let index = instead(index, &selection.nested, &pairs, &mut inner).explain(what)?;
                pass_through(to.store, selection, &index, (&manifests, &inner))
                    .await
                    .map_err(failed)?;
                index
            };
            Manifest::from_index(&index).explain(what)?
        }
    };
    to.store.push_root(&root).await.map_err(failed)?;
    Ok(Published {
        reference: format!("{}@{}", to.reference, root.digest()),
        root,
        manifests,
    })
}

/// An index of a source that has none.
fn index_of(root: &Manifest, images: &[Finished]) -> ImageIndex {
    let mut entry = root.descriptor();
    entry.platform = images.first().map(|image| image.platform.clone());
    ImageIndex::new(vec![entry])
}

/// The entry of a converted image whose original has the entry `original`.
fn entry_of(manifest: &Manifest, image: &Finished, original: Option<&Descriptor>) -> Descriptor {
    let mut entry = manifest.descriptor();
    let platform = original.and_then(|original| original.platform.clone());
    entry.platform = Some(platform.unwrap_or_else(|| image.platform.clone()));
    if let Some(original) = original {
        entry.annotations.clone_from(&original.annotations);
    }
    let digest = image.original.digest().to_string();
    entry.annotations.insert(SOURCE_DIGEST.to_owned(), digest);
    entry
}

/// Whether an entry was converted earlier from `image`.
fn is_of(entry: &Descriptor, image: &Finished) -> bool {
    let source = entry.annotations.get(SOURCE_DIGEST);
    is_conversion(entry) && source == Some(&image.original.digest().to_string())
}

/// The index with the converted images behind all that it lists, in place of what was converted before. Hosts that do
/// not know features of systems take the first entry that fits, and so the original.
fn beside(mut index: ImageIndex, images: &[Finished], manifests: &[Manifest]) -> ImageIndex {
    let is_replaced = |entry: &Descriptor| images.iter().any(|image| is_of(entry, image));
    index.manifests.retain(|entry| !is_replaced(entry));
    let mut added = Vec::new();
    for (image, manifest) in images.iter().zip(manifests) {
        let digest = image.original.digest();
        let original = index.manifests.iter().find(|entry| entry.digest == digest);
        let mut entry = entry_of(manifest, image, original);
        if let Some(platform) = &mut entry.platform {
            platform.os_features.push(OS_FEATURE.to_owned());
        }
        added.push(entry);
    }
    index.manifests.extend(added);
    in_oci_form(index)
}

/// The index with the converted images in their originals' places. The indexes in it that changed with them come in `inner`,
/// those that others list first.
fn instead(
    mut index: ImageIndex,
    nested: &BTreeMap<Digest, ImageIndex>,
    pairs: &[(&Finished, &Manifest)],
    inner: &mut Vec<Manifest>,
) -> Result<ImageIndex, ManifestError> {
    let is_replaced = |entry: &Descriptor| pairs.iter().any(|(image, _)| is_of(entry, image));
    index.manifests.retain(|entry| !is_replaced(entry));
    for entry in &mut index.manifests {
        let mut pairs_left = pairs.iter();
        if let Some((image, manifest)) =
            pairs_left.find(|(image, _)| image.original.digest() == entry.digest)
        {
            *entry = entry_of(manifest, image, Some(entry));
        } else if let Some(below) = nested.get(&entry.digest) {
            // As deep as the selection went.
            let changed = instead(below.clone(), nested, pairs, inner)?;
            if changed.manifests != below.manifests {
                let manifest = Manifest::from_index(&changed)?;
                let said = manifest.descriptor();
                (entry.digest, entry.size) = (said.digest, said.size);
                entry.media_type = said.media_type;
                inner.push(manifest);
            }
        }
    }
    Ok(in_oci_form(index))
}

/// Docker's lists know no OCI manifests, which converted images are.
fn in_oci_form(mut index: ImageIndex) -> ImageIndex {
    index.media_type = Some(media_type::OCI_INDEX.to_owned());
    index
}

/// Copies what an index lists beside the converted images, and puts the indexes in it that changed.
async fn pass_through(
    store: &ImageStore,
    selection: &Selection,
    index: &ImageIndex,
    (made, inner): (&[Manifest], &[Manifest]),
) -> Result<(), ImageStoreError> {
    let new = |digest: Digest| made.iter().chain(inner).any(|new| new.digest() == digest);
    let mut lists = Vec::new();
    for manifest in inner {
        if let Document::Index(index) = manifest.parse()? {
            lists.push(index.manifests);
        }
    }
    lists.push(index.manifests.clone());
    for entry in lists.iter().flatten().filter(|entry| !new(entry.digest)) {
        let listed = selection.store.manifest(&entry.digest).await?;
        let kind = Some(entry.media_type.as_str()).filter(|kind| !kind.is_empty());
        let listed = Manifest::new(listed.bytes().clone(), kind);
        store.copy_manifest(&selection.store, &listed).await?;
    }
    for manifest in inner {
        store.push_manifest(manifest).await?;
    }
    Ok(())
}

/// Attaches converted images to their originals.
async fn attach(
    to: &Destination<'_>,
    selection: &Selection,
    manifests: Vec<Manifest>,
) -> Result<Published, ImageStoreError> {
    to.store
        .copy_manifest(&selection.store, &selection.root)
        .await?;
    if !to.is_source {
        to.store.list_manifest(&selection.root).await?;
    }
    // Several cannot have one name.
    let is_named = !to.is_source && manifests.len() == 1;
    for manifest in &manifests {
        to.store.push_referrer(manifest, is_named).await?;
    }
    let first = manifests.first().unwrap_or(&selection.root);
    let digest = first.digest();
    Ok(Published {
        reference: if is_named {
            format!("{}@{digest}", to.reference)
        } else {
            format!("{}@{digest}", without_name(to.reference))
        },
        root: first.clone(),
        manifests,
    })
}

/// The place alone.
fn without_name(reference: &ImageReference) -> ImageReference {
    let mut reference = reference.clone();
    match &mut reference {
        ImageReference::Registry(registry) => registry.tag = None,
        ImageReference::OciDir(layout) | ImageReference::OciArchive(layout) => layout.tag = None,
    }
    reference
}
