//! The list of images in `index.json`: which entry a name means, and how one is added.

use tranship_format::Digest;

use super::LayoutFailure;
use crate::manifest::{Descriptor, ImageIndex, Manifest};

/// The annotation that holds an image's name: a tag, or a whole reference.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Where containerd and docker write the whole reference.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

pub(super) fn parse(bytes: &[u8]) -> Result<ImageIndex, LayoutFailure> {
    serde_json::from_slice(bytes).map_err(LayoutFailure::Index)
}

/// The entry of `name`.
pub(super) fn by_name<'a>(
    index: &'a ImageIndex,
    name: &str,
) -> Result<&'a Descriptor, LayoutFailure> {
    let named = |key: &str| {
        let entries = index.manifests.iter();
        entries
            .filter(|entry| {
                entry
                    .annotations
                    .get(key)
                    .is_some_and(|found| found == name)
            })
            .collect::<Vec<_>>()
    };
    let mut found = named(REF_NAME);
    if found.is_empty() {
        found = named(CONTAINERD_NAME);
    }
    match found.as_slice() {
        [] => Err(LayoutFailure::NoSuchImage {
            wanted: name.to_owned(),
            offered: offered(index),
        }),
        [first, rest @ ..] if rest.iter().all(|entry| entry.digest == first.digest) => Ok(first),
        [..] => Err(LayoutFailure::SeveralImages {
            offered: offered(index),
        }),
    }
}

/// The entry of `digest`; for one that is not listed here, a descriptor that says nothing of its kind.
pub(super) fn by_digest(index: &ImageIndex, digest: &Digest) -> Descriptor {
    let listed = index.manifests.iter().find(|entry| entry.digest == *digest);
    listed
        .cloned()
        .unwrap_or_else(|| Descriptor::new("", *digest, 0))
}

/// The only entry. What refers to other entries stands beside them and is not counted.
pub(super) fn only(index: &ImageIndex) -> Result<&Descriptor, LayoutFailure> {
    let own = |entry: &&Descriptor| entry.artifact_type.is_none();
    let mut entries: Vec<&Descriptor> = index.manifests.iter().filter(own).collect();
    if entries.is_empty() {
        entries = index.manifests.iter().collect();
    }
    match entries.as_slice() {
        [] => Err(LayoutFailure::NoSuchImage {
            wanted: String::new(),
            offered: offered(index),
        }),
        [first, rest @ ..] if rest.iter().all(|entry| entry.digest == first.digest) => Ok(first),
        [..] => Err(LayoutFailure::SeveralImages {
            offered: offered(index),
        }),
    }
}

/// The entry that lists `manifest`.
pub(super) fn entry(manifest: &Manifest, name: Option<&str>) -> Descriptor {
    let mut entry = manifest.descriptor();
    if let Some(name) = name {
        entry
            .annotations
            .insert(REF_NAME.to_owned(), name.to_owned());
    }
    entry
}

/// The entry that lists a manifest which refers to another.
pub(super) fn referrer_entry(manifest: &Manifest, name: Option<&str>) -> Descriptor {
    let mut listed = entry(manifest, name);
    listed.artifact_type = manifest.referrer_descriptor().artifact_type;
    listed
}

/// Adds `entry` in place of the one that has its name, or, without a name, of the one that is the same.
pub(super) fn put(index: &mut ImageIndex, entry: Descriptor) {
    let name = entry.annotations.get(REF_NAME);
    index
        .manifests
        .retain(|old| match (old.annotations.get(REF_NAME), name) {
            (None, None) => old.digest != entry.digest,
            (old, new) => old != new,
        });
    index.manifests.push(entry);
}

fn offered(index: &ImageIndex) -> String {
    if index.manifests.is_empty() {
        return "none".to_owned();
    }
    let names: Vec<String> = index
        .manifests
        .iter()
        .map(|entry| match entry.annotations.get(REF_NAME) {
            Some(name) => name.clone(),
            None => format!("@{}", entry.digest),
        })
        .collect();
    names.join(", ")
}
