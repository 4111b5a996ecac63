//! `tranship convert DISK DST`: the disk of a virtual machine as an image of one layer; with `--base`, as one more layer on
//! an image's device, of which only the sectors that differ are stored.
//!
//! Whatever the file's format keeps beside the sectors, holes and history, is not looked at: equal disks become
//! equal layers.

mod open;
mod write;

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, json};
use tranship_format::{
    Digest, Disk, Layer, LayerAnnotations, LayerOptions, LayerWriter, Uuid, Workers,
};
use tranship_source::manifest::media_type::{OCI_CONFIG, OCI_LAYER};
use tranship_source::manifest::{
    Descriptor, ImageConfig, ImageManifest, Manifest, Platform, RootFs,
};
use tranship_source::{BlobBody, ImageStore};

use self::open::OpenDisk;
use super::layer::Spooled;
use super::{Converted, options, threads};
use crate::blob::LazyBlob;
use crate::cli::ConvertArgs;
use crate::failure::{Exit, Explain, Failure, Outcome};
use crate::image::{Image, blocking, parse_reference};
use crate::place;
use crate::progress::{Progress, Task};
use crate::spool;

/// Bytes that are written to the spool at once.
const BUFFER_LEN: usize = 256 << 10;

/// What a layer is put on.
struct Base {
    image: Image,
    config: ImageConfig,
    disk: Arc<Disk>,
    /// The uppermost layer's name.
    uuid: Uuid,
}

/// How the names of disks end.
const ENDINGS: [&str; 4] = ["raw", "img", "qcow2", "dd"];

/// Whether a source is a disk: a file that is named as no image is, by a path or by its ending. A reference must mean the
/// same whatever files lie around.
pub(super) fn is_disk(source: &str) -> bool {
    let path = Path::new(source);
    let ending = path.extension().and_then(|ending| ending.to_str());
    let is_named_so = source.starts_with(['/', '.'])
        || (!source.contains(':') && ending.is_some_and(|ending| ENDINGS.contains(&ending)));
    is_named_so && path.metadata().is_ok_and(|metadata| !metadata.is_dir())
}

/// Converts and pushes a disk.
pub(super) async fn convert(progress: &Progress, args: &ConvertArgs) -> Outcome<Converted> {
    let destination = parse_reference(&args.destination)?;
    super::refuse_digest(&destination, &args.destination)?;
    let base = match &args.base {
        Some(named) => Some(Base::open(named, args).await?),
        None => None,
    };
    let options = LayerOptions {
        uuid: name(base.as_ref()),
        parent: base.as_ref().map(|base| base.uuid),
        ..options(args)?.layer
    };
    let workers = threads::workers(args.threads.map(usize::from))
        .explain(|| "cannot start threads to compress on".into())?;
    let tmp_dir = args.tmp_dir.clone().unwrap_or_else(std::env::temp_dir);

    let (named, below) = (
        args.source.clone(),
        base.as_ref().map(|base| Arc::clone(&base.disk)),
    );
    let task = progress.task("disk", 0);
    let (layer, digest, fs_type) = blocking(move || {
        let disk = open::open(Path::new(&named), &tmp_dir)?;
        let layer = spool_layer(&disk, below.as_deref(), (options, workers), &tmp_dir, &task)?;
        finish(layer, &disk)
    })
    .await??;

    let store = place::create(&destination, &args.registry).await?;
    let pushing = || format!("cannot push to {}", args.destination);
    let chunks = layer.summary.chunks;
    let annotations = LayerAnnotations::new(digest, layer.summary.len, fs_type, chunks);
    place::push_file(&store, &layer.file, digest, layer.summary.len)
        .await
        .map_err(|error| place::failure(pushing(), &error))?;
    if let Some(base) = &base {
        for descriptor in &base.image.document.layers {
            let copied = store.copy_blob(&base.image.store, descriptor).await;
            copied.map_err(|error| place::failure(pushing(), &error))?;
        }
    }
    let manifest = push_documents(&store, args, base.as_ref(), &annotations).await?;
    store
        .finish()
        .await
        .map_err(|error| place::failure(pushing(), &error))?;
    let below = base.iter().flat_map(|base| &base.image.document.layers);
    Ok(Converted {
        reference: format!("{destination}@{manifest}"),
        manifest: manifest.to_string(),
        source: args.source.clone(),
        source_size: layer.summary.virtual_size,
        size: annotations.blob_size,
        layers: below
            .map(|layer| layer.digest)
            .chain([digest])
            .map(|digest| digest.to_string())
            .collect(),
        images: Vec::new(),
    })
}

impl Base {
    async fn open(named: &str, args: &ConvertArgs) -> Outcome<Self> {
        let image = Image::open(named, args.platform.as_ref(), &args.registry).await?;
        let config = image.config().await?;
        let disk = image.disk().await?;
        let layers = image.layers()?;
        let failed = |error: &(dyn std::error::Error + 'static)| {
            image.read_failure("the uppermost layer", error)
        };
        let top = layers
            .last()
            .ok_or_else(|| Failure::new(Exit::Unsupported, format!("{named} has no layers")))?;
        let blob = LazyBlob::open(&image.store, top)
            .await
            .map_err(|error| failed(&error))?;
        let opened = blocking(move || Layer::open(blob)).await?;
        let uuid = opened.map_err(|error| failed(&error))?.uuid();
        Ok(Self {
            image,
            config,
            disk,
            uuid,
        })
    }
}

/// The layer's name, which is written before its content is known: it follows from what is below.
fn name(base: Option<&Base>) -> Uuid {
    let mut seed = b"tranship disk".to_vec();
    if let Some(layer) = base.and_then(|base| base.image.document.layers.last()) {
        seed.extend(layer.digest.bytes());
    }
    Uuid::from_digest(&Digest::of(&seed))
}

fn spool_layer(
    disk: &OpenDisk,
    below: Option<&Disk>,
    (options, workers): (LayerOptions, Workers),
    tmp_dir: &Path,
    task: &Task,
) -> Outcome<(BufWriter<File>, tranship_format::LayerSummary)> {
    let what = || format!("cannot convert {}", disk.named);
    let spooling = || format!("cannot spool a layer to {}", tmp_dir.display());
    let file = spool::file(tmp_dir).explain(spooling)?;
    let out = BufWriter::with_capacity(BUFFER_LEN, file);
    let mut writer = LayerWriter::with_workers(out, options, workers).explain(what)?;
    write::write(disk, below, &mut writer, task).map_err(|error| place::failure(what(), &error))?;
    writer.finish(disk.len).explain_as(Exit::Unsupported, what)
}

/// The layer with its digest, and what is on the disk.
fn finish(
    (out, summary): (BufWriter<File>, tranship_format::LayerSummary),
    disk: &OpenDisk,
) -> Outcome<(Spooled, Digest, &'static str)> {
    let what = || format!("cannot spool the layer of {}", disk.named);
    let file = out
        .into_inner()
        .map_err(std::io::IntoInnerError::into_error)
        .explain(what)?;
    let mut layer = Spooled { file, summary };
    let digest = layer.digest().explain(what)?;
    Ok((layer, digest, disk.filesystem()))
}

/// Writes config and manifest: the base's with one more layer, or ones that know of a disk alone.
async fn push_documents(
    store: &ImageStore,
    args: &ConvertArgs,
    base: Option<&Base>,
    layer: &LayerAnnotations,
) -> Outcome<Digest> {
    let what = || "cannot write the image's documents".to_owned();
    let pushing = || format!("cannot push to {}", args.destination);
    let mut config = base.map_or_else(|| empty_config(args), |base| base.config.clone());
    config.rootfs.diff_ids.push(layer.blob_digest);
    if let Some(history) = config
        .other
        .get_mut("history")
        .and_then(|it| it.as_array_mut())
    {
        history.push(json!({ "created_by": "tranship convert" }));
    }
    let bytes = config.encode().explain(what)?;
    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let described = Descriptor::new(OCI_CONFIG, Digest::of(&bytes), len);
    store
        .push_blob(&described.digest, len, BlobBody::bytes(bytes))
        .await
        .map_err(|error| place::failure(pushing(), &error))?;
    let mut descriptor = Descriptor::new(OCI_LAYER, layer.blob_digest, layer.blob_size);
    descriptor.annotations = layer.to_map();
    let below = base.map(|base| base.image.document.layers.clone());
    let mut layers = below.unwrap_or_default();
    layers.push(descriptor);
    let document = ImageManifest::new(described, layers);
    let manifest = Manifest::from_image(&document).explain(what)?;
    store
        .push_root(&manifest)
        .await
        .map_err(|error| place::failure(pushing(), &error))?;
    Ok(manifest.digest())
}

fn empty_config(args: &ConvertArgs) -> ImageConfig {
    let platform = args.platform.clone();
    let platform = platform.unwrap_or_else(Platform::of_this_machine);
    ImageConfig {
        architecture: platform.architecture,
        os: platform.os,
        rootfs: RootFs {
            kind: "layers".to_owned(),
            diff_ids: Vec::new(),
        },
        other: Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_told_from_an_image_by_its_name() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name).display().to_string();
        for name in ["disk.raw", "disk", "image:latest"] {
            std::fs::write(at(name), b"x").unwrap();
            assert!(is_disk(&at(name)), "{name}");
        }
        assert!(!is_disk(&at("absent.raw")));
        assert!(!is_disk(&scratch.path().display().to_string()));
        // The manifest of this crate lies in the directory in which its tests run.
        assert!(is_disk("./Cargo.toml"));
        assert!(!is_disk("Cargo.toml"));
        assert!(!is_disk("oci:/nowhere/disk.raw"));
    }
}
