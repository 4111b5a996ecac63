//! `tranship convert`: an image of tar layers in, the same image of lazily readable layers out; or a disk in, an image of
//! it out.
//!
//! Layers pass through a pipeline (download, inflate, convert, push) with bounded buffers between the stages, so that
//! the slowest of network, processor and disk decides, and an image of any size converts in the same memory. Nothing
//! of the clock or the machine gets into the result: the same input gives the same digests anywhere.

mod channel;
mod disk;
mod inflate;
mod layer;
mod pipeline;
mod source;
mod threads;

use serde::Serialize;
use tranship_format::LayerOptions;
use tranship_format::convert::ConvertOptions;
use tranship_source::ImageReference;
use tranship_source::manifest::media_type::{OCI_CONFIG, OCI_LAYER};
use tranship_source::manifest::{Descriptor, ImageConfig, ImageManifest, Manifest};

use self::pipeline::{Finished, Pipeline};
use crate::cli::{Common, ConvertArgs};
use crate::failure::{Exit, Explain, Failure, Outcome};
use crate::image::{Image, parse_reference};
use crate::output::{self, Format};
use crate::place;
use crate::progress::Progress;

/// The manifest annotation that names the manifest from which an image was converted.
pub(crate) const SOURCE_DIGEST: &str = "containerd.io/snapshot/tranship/source-digest";
/// The filesystem that the converter writes.
const FS_TYPE: &str = "erofs";
/// Block lengths that stock readers take.
const BLOCK_LENS: std::ops::RangeInclusive<u64> = (4 << 10)..=(32 << 10);
/// Chunk lengths between which fetching and hashing are both cheap.
const CHUNK_LENS: std::ops::RangeInclusive<u64> = (4 << 10)..=(2 << 20);

/// What a conversion made.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Converted {
    /// The new image, with its digest.
    pub(crate) reference: String,
    /// The new manifest's digest.
    pub(crate) manifest: String,
    /// The manifest that was converted.
    pub(crate) source: String,
    /// Stored bytes of the layers before.
    pub(crate) source_size: u64,
    /// Stored bytes of the layers now.
    pub(crate) size: u64,
    /// Digests of the layers, bottom first.
    pub(crate) layers: Vec<String>,
}

pub(crate) async fn run(common: &Common, progress: &Progress, args: &ConvertArgs) -> Outcome {
    let converted = convert(progress, args).await?;
    match common.output {
        Format::Json => output::print_json(&converted),
        Format::Table => output::print(&format!("{}\n", converted.reference)),
    }
}

/// Converts and pushes an image.
pub(crate) async fn convert(progress: &Progress, args: &ConvertArgs) -> Outcome<Converted> {
    if disk::is_disk(&args.source) {
        return disk::convert(progress, args).await;
    }
    if args.base.is_some() {
        return Err(Failure::new(Exit::Usage, "--base is for disks")
            .why(format!("{} is no file of a disk", args.source)));
    }
    let options = options(args)?;
    let destination = parse_reference(&args.destination)?;
    refuse_digest(&destination, &args.destination)?;
    let image = Image::open(&args.source, args.platform.as_ref(), &args.registry).await?;
    source::tell_siblings(&image, progress);
    source::refuse_what_is_no_image(&image)?;
    let config = image.config().await?;
    let jobs = source::jobs(&image, &config)?;
    let store = place::create(&destination, &args.registry).await?;

    let pipeline = Pipeline {
        source: image.store.clone(),
        destination: store.clone(),
        workers: threads::workers(args.threads.map(usize::from))
            .explain(|| "cannot start threads to compress on".into())?,
        tmp_dir: args.tmp_dir.clone().unwrap_or_else(std::env::temp_dir),
        progress: progress.clone(),
        named: args.source.clone(),
    };
    let finished = pipeline.run(jobs, options).await?;

    let (manifest, config) = documents(&image, config, &finished)?;
    let pushing = || format!("cannot push to {}", args.destination);
    place::push_bytes(&store, config)
        .await
        .map_err(|error| place::failure(pushing(), &error))?;
    store
        .push_root(&manifest)
        .await
        .map_err(|error| place::failure(pushing(), &error))?;
    store
        .finish()
        .await
        .map_err(|error| place::failure(pushing(), &error))?;
    Ok(Converted {
        reference: format!("{destination}@{}", manifest.digest()),
        manifest: manifest.digest().to_string(),
        source: image.manifest.digest().to_string(),
        source_size: image.document.layers.iter().map(|layer| layer.size).sum(),
        size: finished
            .iter()
            .map(|layer| layer.annotations.blob_size)
            .sum(),
        layers: finished
            .iter()
            .map(|layer| layer.annotations.blob_digest.to_string())
            .collect(),
    })
}

/// The config with the new layers' digests, and the manifest that names it. History stays: the layers are as many.
fn documents(
    image: &Image,
    mut config: ImageConfig,
    layers: &[Finished],
) -> Outcome<(Manifest, bytes::Bytes)> {
    let what = || "cannot write the new image's documents".to_owned();
    config.rootfs.diff_ids = layers
        .iter()
        .map(|layer| layer.annotations.blob_digest)
        .collect();
    let bytes = config.encode().explain(what)?;
    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let config = Descriptor::new(OCI_CONFIG, tranship_format::Digest::of(&bytes), len);
    let layers = layers.iter().map(|layer| {
        let mut descriptor = Descriptor::new(
            OCI_LAYER,
            layer.annotations.blob_digest,
            layer.annotations.blob_size,
        );
        descriptor.annotations = layer.annotations.to_map();
        descriptor
    });
    let mut document = ImageManifest::new(config, layers.collect());
    document.annotations = image.document.annotations.clone();
    document.annotations.insert(
        SOURCE_DIGEST.to_owned(),
        image.manifest.digest().to_string(),
    );
    Ok((Manifest::from_image(&document).explain(what)?, bytes))
}

fn options(args: &ConvertArgs) -> Outcome<ConvertOptions> {
    let block_len = bounded("--block-size", args.block_size.as_u64(), &BLOCK_LENS)?;
    if !block_len.is_power_of_two() {
        return Err(Failure::new(Exit::Usage, "--block-size is no power of two")
            .next("use 4KiB, 8KiB, 16KiB or 32KiB"));
    }
    let chunk_len = bounded("--chunk-size", args.chunk_size.as_u64(), &CHUNK_LENS)?;
    Ok(ConvertOptions {
        layer: LayerOptions {
            block_len,
            chunk_len,
            level: args.level,
            ..LayerOptions::default()
        },
    })
}

fn bounded(name: &str, value: u64, bounds: &std::ops::RangeInclusive<u64>) -> Outcome<u32> {
    let refused = || {
        let (least, most) = (output::size(*bounds.start()), output::size(*bounds.end()));
        Failure::new(Exit::Usage, format!("{name} is {}", output::size(value)))
            .why(format!("it must be from {least} to {most}"))
    };
    u32::try_from(value)
        .ok()
        .filter(|_| bounds.contains(&value))
        .ok_or_else(refused)
}

fn refuse_digest(destination: &ImageReference, named: &str) -> Outcome {
    let digest = match destination {
        ImageReference::Registry(registry) => registry.digest,
        ImageReference::OciDir(layout) | ImageReference::OciArchive(layout) => layout.digest,
    };
    if digest.is_none() {
        return Ok(());
    }
    Err(Failure::new(Exit::Usage, format!("cannot push to {named}"))
        .why("its digest is not known before it is converted")
        .next("give a tag instead"))
}
