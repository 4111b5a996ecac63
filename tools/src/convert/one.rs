//! One image's conversion, from its layers to its documents; what names it is for [`super::publish`].

use tranship_format::convert::{ConvertOptions, Converter};
use tranship_format::{Digest, LayerAnnotations};
use tranship_source::ImageStore;
use tranship_source::manifest::media_type::{OCI_CONFIG, OCI_LAYER};
use tranship_source::manifest::{Descriptor, ImageConfig, ImageManifest, Manifest, Platform};

use super::pipeline::Pipeline;
use super::reuse::{self, Made, SETTINGS, SOURCE_CHAIN};
use super::source;
use crate::cli::ConvertArgs;
use crate::failure::{Explain, Outcome};
use crate::image::Image;
use crate::image::converted::SOURCE_DIGEST;
use crate::place;

/// A converted image whose layers and config are in the destination, and whose manifest is not yet.
#[derive(Clone, Debug)]
pub(super) struct Finished {
    /// The manifest that was converted.
    pub(super) original: Manifest,
    /// What the image runs on, as its config says.
    pub(super) platform: Platform,
    /// Stored bytes of the layers before.
    pub(super) source_size: u64,
    /// The new manifest's content.
    pub(super) document: ImageManifest,
    /// The layers, bottom first.
    pub(super) layers: Vec<LayerAnnotations>,
    /// How many of them, from the bottom on, were not converted again.
    pub(super) reused: usize,
}

/// Converts an image, pushes its layers and its config.
pub(super) async fn convert(
    image: &Image,
    store: &ImageStore,
    pipeline: Pipeline,
    options: &ConvertOptions,
    args: &ConvertArgs,
) -> Outcome<Finished> {
    let config = image.config().await?;
    let mut jobs = source::jobs(image, &config)?;
    let made = reuse::made(&jobs, options);
    let fresh = {
        let (options, workers) = (options.clone(), pipeline.workers.clone());
        move || Converter::with_workers(options.clone(), workers.clone())
    };
    let reused = if args.reuse {
        reuse::find(store, image, &made, fresh, &pipeline.progress).await?
    } else {
        reuse::none(fresh())
    };
    let mut layers = reused.layers;
    let reused_count = layers.len();
    let jobs = jobs.split_off(reused_count);
    let converted = pipeline.run(jobs, reused.converter).await?;
    layers.extend(converted.into_iter().map(|layer| layer.annotations));

    let platform = platform(&config);
    let (document, config) = documents(image, config, &layers, &made)?;
    place::push_bytes(store, config)
        .await
        .map_err(|error| place::failure(format!("cannot push to {}", args.destination), &error))?;
    Ok(Finished {
        original: image.manifest.clone(),
        platform,
        source_size: image.document.layers.iter().map(|layer| layer.size).sum(),
        document,
        layers,
        reused: reused_count,
    })
}

/// The config with the new layers' digests, and the manifest that names it. History stays: the layers are as many.
fn documents(
    image: &Image,
    mut config: ImageConfig,
    layers: &[LayerAnnotations],
    made: &[Made],
) -> Outcome<(ImageManifest, bytes::Bytes)> {
    let what = || "cannot write the new image's documents".to_owned();
    config.rootfs.diff_ids = layers.iter().map(|layer| layer.blob_digest).collect();
    let bytes = config.encode().explain(what)?;
    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let config = Descriptor::new(OCI_CONFIG, Digest::of(&bytes), len);
    let layers = layers.iter().zip(made).map(|(layer, made)| {
        let mut descriptor = Descriptor::new(OCI_LAYER, layer.blob_digest, layer.blob_size);
        descriptor.annotations = layer.to_map();
        let mut say = |key: &str, value: String| descriptor.annotations.insert(key.into(), value);
        say(SOURCE_CHAIN, made.chain.to_string());
        say(SETTINGS, made.settings.clone());
        descriptor
    });
    let mut document = ImageManifest::new(config, layers.collect());
    document.annotations = image.document.annotations.clone();
    document.annotations.insert(
        SOURCE_DIGEST.to_owned(),
        image.manifest.digest().to_string(),
    );
    Ok((document, bytes))
}

fn platform(config: &ImageConfig) -> Platform {
    let text = |key: &str| {
        let value = config.other.get(key)?.as_str()?;
        (!value.is_empty()).then(|| value.to_owned())
    };
    let mut platform = Platform::linux(&config.architecture);
    platform.os.clone_from(&config.os);
    platform.variant = text("variant");
    platform.os_version = text("os.version");
    platform
}
