//! `tranship pull`: has containerd pull an image through our snapshotter, with the labels by which a lazy layer is known.
//!
//! `ctr images pull` of containerd 1.6 and 1.7 tells the snapshotter nothing of the image, so that every layer is unpacked. This does what
//! containerd's own client does, in containerd's own stores: manifests and configuration into its content, each layer asked of the snapshotter and
//! unpacked only where that says no, and the image's name last. A lease keeps the garbage collector away meanwhile.

mod node;
mod unpack;

use std::collections::HashMap;

use serde::Serialize;
use tranship_containerd::types::Descriptor;
use tranship_format::Digest;
use tranship_source::image_store::FoundImage;
use tranship_source::manifest::{Document, ImageConfig, Manifest, media_type};
use tranship_source::{ImageReference, ImageStore, Platform};

use crate::cli::{Common, PullArgs};
use crate::failure::{Exit, Explain, Failure, Outcome};
use crate::output::{self, Format};
use crate::place;
use crate::progress::Progress;

use node::Node;
use unpack::Unpacking;

/// The result, as JSON.
#[derive(Debug, Serialize)]
struct Pulled {
    /// The name under which containerd has the image.
    name: String,
    /// The digest of what that names.
    digest: String,
    /// The digest of the image's manifest.
    manifest: String,
    /// Layers that nobody unpacked.
    lazy: usize,
    /// Layers that were there already.
    present: usize,
    /// Layers that were unpacked.
    unpacked: usize,
}

pub(crate) async fn run(common: &Common, progress: &Progress, args: &PullArgs) -> Outcome {
    let reference: ImageReference = args
        .reference
        .parse()
        .explain_as(Exit::Usage, || format!("cannot pull {}", args.reference))?;
    let ImageReference::Registry(named) = &reference else {
        return Err(
            Failure::new(Exit::Usage, format!("cannot pull {reference}"))
                .why("containerd pulls from registries")
                .next("push it to one: tranship convert, or skopeo copy"),
        );
    };
    let name = match (&named.tag, named.digest) {
        (_, Some(digest)) => format!("{}@{digest}", named.repo),
        (Some(tag), None) => format!("{}:{tag}", named.repo),
        (None, None) => format!("{}:latest", named.repo),
    };
    let store = place::open(&reference, &args.registry).await?;
    let platform = args
        .platform
        .clone()
        .unwrap_or_else(Platform::of_this_machine);
    let found = store
        .image(&platform)
        .await
        .map_err(|error| place::failure(format!("cannot pull {reference}"), &error))?;
    let mut node = Node::connect(&args.containerd, &args.namespace).await?;
    let pulling = pull(&mut node, progress, args, &store, &found, &name);
    let outcome = Box::pin(pulling).await;
    // Without its lease, what a pull that failed left behind is collected.
    let ended = node.end().await;
    let pulled = outcome?;
    ended?;
    match common.output {
        Format::Json => output::print_json(&pulled),
        Format::Table => output::print(&format!("{}\t{}\n", pulled.name, pulled.digest)),
    }
}

async fn pull(
    node: &mut Node,
    progress: &Progress,
    args: &PullArgs,
    store: &ImageStore,
    found: &FoundImage,
    name: &str,
) -> Outcome<Pulled> {
    let failed = |error: &(dyn std::error::Error + 'static)| {
        place::failure(format!("cannot read the configuration of {name}"), error)
    };
    let config = store
        .config(&found.image)
        .await
        .map_err(|error| failed(&error))?;
    let diff_ids = ImageConfig::parse(&config)
        .map_err(|error| failed(&error))?
        .rootfs
        .diff_ids;
    if diff_ids.len() != found.image.layers.len() {
        return Err(
            Failure::new(Exit::Unsupported, format!("cannot pull {name}")).why(format!(
                "its configuration speaks of {} layers, and its manifest of {}",
                diff_ids.len(),
                found.image.layers.len()
            )),
        );
    }
    let listed = parent_of(&found.root, &found.manifest);
    if let Some(position) = listed {
        let label = (
            format!("containerd.io/gc.ref.content.m.{position}"),
            found.manifest.digest().to_string(),
        );
        node.put(&found.root, [label].into()).await?;
    }
    node.put(&found.manifest, children(found)).await?;
    let unpacking = Unpacking {
        snapshotter: &args.snapshotter,
        image: name,
        manifest: found.manifest.digest(),
        layers: &found.image.layers,
        diff_ids: &diff_ids,
        store,
    };
    let done = unpacking.run(node, progress).await?;
    // The configuration last: it is what keeps the snapshots.
    let top = done.top.clone();
    let label = format!("containerd.io/gc.ref.snapshot.{}", args.snapshotter);
    node.put_bytes(
        found.image.config.digest,
        config,
        top.into_iter().map(|top| (label.clone(), top)).collect(),
    )
    .await?;
    let target = if listed.is_some() {
        &found.root
    } else {
        &found.manifest
    };
    node.name(name, descriptor(target)).await?;
    Ok(Pulled {
        name: name.to_owned(),
        digest: target.digest().to_string(),
        manifest: found.manifest.digest().to_string(),
        lazy: done.lazy,
        present: done.present,
        unpacked: done.unpacked,
    })
}

/// Where an index lists a manifest.
fn parent_of(root: &Manifest, manifest: &Manifest) -> Option<usize> {
    match root.parse() {
        Ok(Document::Index(index)) => index
            .manifests
            .iter()
            .position(|entry| entry.digest == manifest.digest()),
        _ => None,
    }
}

/// What the garbage collector must keep as long as the manifest, whether it is here or not.
fn children(found: &FoundImage) -> HashMap<String, String> {
    let config = (
        "containerd.io/gc.ref.content.config".to_owned(),
        found.image.config.digest.to_string(),
    );
    let layers = found
        .image
        .layers
        .iter()
        .enumerate()
        .map(|(number, layer)| {
            (
                format!("containerd.io/gc.ref.content.l.{number}"),
                layer.digest.to_string(),
            )
        });
    layers.chain([config]).collect()
}

fn descriptor(manifest: &Manifest) -> Descriptor {
    let media_type = if manifest.media_type().is_empty() {
        media_type::OCI_MANIFEST
    } else {
        manifest.media_type()
    };
    Descriptor {
        media_type: media_type.to_owned(),
        digest: manifest.digest().to_string(),
        size: i64::try_from(manifest.bytes().len()).unwrap_or(i64::MAX),
        annotations: HashMap::new(),
    }
}

/// What a chain of layers is called: the digest of the uppermost alone, or of the names of what is below and of it.
fn chain_id(below: Option<&str>, diff_id: &Digest) -> String {
    match below {
        None => diff_id.to_string(),
        Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_called_as_the_specification_of_images_says() {
        let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
        let first = chain_id(None, &one);
        assert_eq!(first, one.to_string());
        let text = format!("{one} {two}");
        assert_eq!(
            chain_id(Some(&first), &two),
            Digest::of(text.as_bytes()).to_string()
        );
    }
}
