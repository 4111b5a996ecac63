//! What may be converted: an image of tar layers, for one platform. All else is refused by name.

use tranship_format::Digest;
use tranship_source::manifest::media_type::{
    DOCKER_LAYER, DOCKER_LAYER_GZIP, OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD,
};
use tranship_source::manifest::{Descriptor, ImageConfig};

use crate::failure::{Exit, Failure, Outcome};
use crate::image::Image;
use crate::progress::Progress;

const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
const LAYERS: [&str; 6] = [
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_ZSTD,
];

/// A layer to convert.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// Its place, 0 at the bottom.
    pub(super) number: usize,
    /// The stored layer.
    pub(super) descriptor: Descriptor,
    /// Digest of the tar inside.
    pub(super) diff_id: Digest,
}

/// Says what of an index is not converted.
pub(super) fn tell_siblings(image: &Image, progress: &Progress) {
    for sibling in &image.siblings {
        let what = if sibling.is_attestation() {
            "an attestation".to_owned()
        } else {
            sibling
                .platform
                .as_ref()
                .map_or_else(|| "of no platform".to_owned(), ToString::to_string)
        };
        progress.note(&format!("left as it is: {} ({what})", sibling.digest));
    }
}

/// Refuses artifacts that have a manifest's form but are no container images.
pub(super) fn refuse_what_is_no_image(image: &Image) -> Outcome {
    let refused = |why: String| {
        Err(Failure::new(
            Exit::Unsupported,
            format!("{} is no container image", image.named),
        )
        .why(why)
        .next("give the reference of an image"))
    };
    let config = &image.document.config.media_type;
    if config != OCI_CONFIG && config != DOCKER_CONFIG {
        return refused(format!("its config is of type {config}"));
    }
    if let Some(kind) = &image.document.artifact_type {
        return refused(format!("it is an artifact of type {kind}"));
    }
    Ok(())
}

/// The layers to convert, bottom first.
pub(super) fn jobs(image: &Image, config: &ImageConfig) -> Outcome<Vec<Job>> {
    if image.layers().is_ok() {
        return Err(Failure::new(
            Exit::Unsupported,
            format!("{} is converted already", image.named),
        )
        .why("its layers are overlaybd layers")
        .next("use it as it is"));
    }
    let layers = &image.document.layers;
    let diff_ids = &config.rootfs.diff_ids;
    if layers.len() != diff_ids.len() {
        return Err(Failure::new(
            Exit::Verification,
            format!("{} contradicts itself", image.named),
        )
        .why(format!(
            "its manifest has {} layers and its config {}",
            layers.len(),
            diff_ids.len()
        )));
    }
    if layers.is_empty() {
        return Err(Failure::new(
            Exit::Unsupported,
            format!("{} has no layers", image.named),
        ));
    }
    let jobs = layers
        .iter()
        .zip(diff_ids)
        .enumerate()
        .map(|(number, (descriptor, diff_id))| {
            refuse_layer(number, descriptor)?;
            Ok(Job {
                number,
                descriptor: descriptor.clone(),
                diff_id: *diff_id,
            })
        });
    jobs.collect()
}

fn refuse_layer(number: usize, descriptor: &Descriptor) -> Outcome {
    let kind = descriptor.media_type.as_str();
    if LAYERS.contains(&kind) {
        return Ok(());
    }
    let refused = Failure::new(
        Exit::Unsupported,
        format!("layer {number} ({}) cannot be converted", descriptor.digest),
    );
    Err(if kind.ends_with("+encrypted") {
        refused
            .why(format!("it is encrypted ({kind})"))
            .next("decrypt the image first, then convert it")
    } else if kind.contains("nondistributable") || kind.contains(".foreign.") {
        refused
            .why(format!(
                "it must not be distributed from here ({kind}), and a converted copy would be"
            ))
            .next("build the image from a base without such layers")
    } else {
        refused
            .why(format!(
                "it is of type {kind}, which is no filesystem layer"
            ))
            .next("give the reference of a container image")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_that_are_no_tars_for_all_are_refused_by_name() {
        for (kind, why) in [
            (
                "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
                "encrypted",
            ),
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
                "distributed",
            ),
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                "distributed",
            ),
            ("application/vnd.in-toto+json", "no filesystem layer"),
        ] {
            let failure = refuse_layer(0, &Descriptor::new(kind, Digest::of(b""), 0)).unwrap_err();
            assert_eq!(failure.exit, Exit::Unsupported);
            assert!(failure.reason().contains(why), "{failure}");
        }
        for kind in LAYERS {
            refuse_layer(0, &Descriptor::new(kind, Digest::of(b""), 0)).unwrap();
        }
    }
}
