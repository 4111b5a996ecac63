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
mod one;
mod pipeline;
mod publish;
mod reuse;
mod select;
mod source;
mod threads;

use serde::Serialize;
use tranship_format::convert::ConvertOptions;
use tranship_format::{LayerAnnotations, LayerOptions};
use tranship_source::{ImageReference, Manifest};

use self::one::Finished;
use self::pipeline::Pipeline;
use self::publish::{Destination, Published};
use self::select::Selection;
use crate::cli::{Common, ConvertArgs, Mode};
use crate::failure::{Exit, Explain, Failure, Outcome};
use crate::image::parse_reference;
use crate::output::{self, Format};
use crate::place;
use crate::progress::Progress;

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
    /// Digests of the layers, bottom first, of one image after the other.
    pub(crate) layers: Vec<String>,
    /// The images that were converted.
    pub(crate) images: Vec<ConvertedImage>,
}

/// One of the images that a conversion made.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ConvertedImage {
    /// What it runs on.
    pub(crate) platform: String,
    /// Its manifest's digest.
    pub(crate) manifest: String,
    /// The manifest that was converted.
    pub(crate) source: String,
    /// Digests of its layers, bottom first.
    pub(crate) layers: Vec<String>,
    /// How many of these, from the bottom on, the destination had already.
    pub(crate) reused: usize,
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
        if args.all_platforms || args.reuse || args.mode != Mode::Tag {
            let what = "--all-platforms, --mode and --reuse are for images";
            return Err(Failure::new(Exit::Usage, what)
                .why(format!("{} is the file of a disk", args.source)));
        }
        return disk::convert(progress, args).await;
    }
    if args.base.is_some() {
        return Err(Failure::new(Exit::Usage, "--base is for disks")
            .why(format!("{} is no file of a disk", args.source)));
    }
    let options = options(args)?;
    let destination = parse_reference(&args.destination)?;
    refuse_digest(&destination, &args.destination)?;
    let selection = select::select(args, progress).await?;
    let store = place::create(&destination, &args.registry).await?;
    let workers = threads::workers(args.threads.map(usize::from))
        .explain(|| "cannot start threads to compress on".into())?;
    let mut images = Vec::new();
    for image in &selection.images {
        let pipeline = Pipeline {
            source: image.store.clone(),
            destination: store.clone(),
            workers: workers.clone(),
            tmp_dir: args.tmp_dir.clone().unwrap_or_else(std::env::temp_dir),
            progress: progress.clone(),
            named: args.source.clone(),
        };
        images.push(one::convert(image, &store, pipeline, &options, args).await?);
    }
    let to = Destination {
        store: &store,
        reference: &destination,
        is_source: parse_reference(&args.source).is_ok_and(|source| source == destination),
    };
    let published = publish::publish(&to, &selection, &images, args.mode).await?;
    store
        .finish()
        .await
        .map_err(|error| place::failure(format!("cannot push to {}", args.destination), &error))?;
    Ok(Converted::new(&selection, &images, &published))
}

impl Converted {
    fn new(selection: &Selection, images: &[Finished], published: &Published) -> Self {
        let layers = || images.iter().flat_map(|image| &image.layers);
        let one = |(image, manifest): (&Finished, &Manifest)| ConvertedImage {
            platform: image.platform.to_string(),
            manifest: manifest.digest().to_string(),
            source: image.original.digest().to_string(),
            layers: digests(image.layers.iter()),
            reused: image.reused,
        };
        let source = match images {
            [only] => only.original.digest(),
            [..] => selection.root.digest(),
        };
        Self {
            reference: published.reference.clone(),
            manifest: published.root.digest().to_string(),
            source: source.to_string(),
            source_size: images.iter().map(|image| image.source_size).sum(),
            size: layers().map(|layer| layer.blob_size).sum(),
            layers: digests(layers()),
            images: images.iter().zip(&published.manifests).map(one).collect(),
        }
    }
}

fn digests<'l>(layers: impl Iterator<Item = &'l LayerAnnotations>) -> Vec<String> {
    layers.map(|layer| layer.blob_digest.to_string()).collect()
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
