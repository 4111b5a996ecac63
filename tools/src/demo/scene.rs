//! The image that the demo starts: the original and the converted one, both in the demo's registry.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::json;
use tranship_source::manifest::media_type::{OCI_CONFIG, OCI_LAYER_GZIP};
use tranship_source::manifest::{Descriptor, ImageManifest, Manifest};

use super::pack::{Packed, pack};
use super::stage::Stage;
use super::start::Rights;
use crate::cli::{ConvertArgs, DemoArgs, Mode, RegistryArgs};
use crate::convert::{Converted, convert};
use crate::failure::{Exit, Explain, Failure, Outcome};
use crate::image::{Image, blocking, parse_reference};
use crate::place;
use crate::progress::Progress;

const REPOSITORY: &str = "demo/app";

/// An image that is ready to be started.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    /// The original, through the registry's relay.
    pub(crate) original: String,
    /// The converted one, through the registry's relay.
    pub(crate) lazy: String,
    /// The command whose success means ready.
    pub(crate) command: Vec<String>,
    /// Files that the command is known to read; empty for an image of the user's.
    pub(crate) needed: Vec<PathBuf>,
    /// For people.
    pub(crate) description: String,
    /// What the conversion made.
    pub(crate) converted: Converted,
    /// How long the conversion took.
    pub(crate) convert_seconds: f64,
}

/// The image before it is converted.
struct Original {
    command: Vec<String>,
    needed: Vec<PathBuf>,
    description: String,
}

/// Puts the image into the demo's registry and converts it there.
pub(crate) async fn set(
    stage: &Stage,
    args: &DemoArgs,
    rights: Rights,
    progress: &Progress,
) -> Outcome<Scene> {
    let no_registry = || Failure::new(Exit::Failed, "the demo's registry does not run");
    let host = stage.registry.as_ref().ok_or_else(no_registry)?.address();
    let relayed = stage
        .registry_relay
        .as_ref()
        .ok_or_else(no_registry)?
        .address();
    let original = format!("docker://{host}/{REPOSITORY}:original");
    let original_image = if let Some(named) = &args.image {
        progress.note(&format!("copying {named} into the demo's registry"));
        copy(named, &original, &args.registry, progress).await?;
        Original {
            command: shell(),
            needed: Vec::new(),
            description: named.clone(),
        }
    } else {
        progress.note("packing an image from this machine's own files");
        packed(stage, &original).await?
    };
    let Original {
        mut command,
        needed,
        description,
    } = original_image;
    if !args.command.is_empty() {
        command.clone_from(&args.command);
    }
    let begin = std::time::Instant::now();
    let (converted, lazy) = if let Some(image) = block_layers(&original).await? {
        if rights == Rights::ReadOnly {
            return Err(Failure::new(Exit::Usage, format!("cannot start {description} here"))
                .why("its layers are block devices already, and to compare its files the kernel has to mount them")
                .next("run the demo as root"));
        }
        progress.note("its layers are block devices already: it is started as it is");
        (as_it_is(&image), "original")
    } else {
        progress.note("converting it");
        let args = convert_args(&original, &host.to_string(), stage.path());
        (convert(progress, &args).await?, "lazy")
    };
    Ok(Scene {
        original: format!("docker://{relayed}/{REPOSITORY}:original"),
        lazy: format!("docker://{relayed}/{REPOSITORY}:{lazy}"),
        command,
        needed,
        description,
        converted,
        convert_seconds: begin.elapsed().as_secs_f64(),
    })
}

/// The image, if it needs no conversion.
async fn block_layers(original: &str) -> Outcome<Option<Image>> {
    let image = Image::open_original(original, None, &RegistryArgs::default()).await?;
    Ok(image.layers().is_ok().then_some(image))
}

/// What a conversion would have made of an image that needs none.
fn as_it_is(image: &Image) -> Converted {
    let size = image.document.layers.iter().map(|layer| layer.size).sum();
    let digests = image.document.layers.iter().map(|layer| layer.digest);
    Converted {
        reference: image.named.clone(),
        manifest: image.manifest.digest().to_string(),
        source: image.manifest.digest().to_string(),
        source_size: size,
        size,
        layers: digests.map(|digest| digest.to_string()).collect(),
        images: Vec::new(),
    }
}

async fn packed(stage: &Stage, original: &str) -> Outcome<Original> {
    let dir = stage.make_dir("pack")?;
    let packing = dir.clone();
    let packed = blocking(move || pack(&packing)).await??;
    push_packed(&packed, original).await?;
    // The layers are in the registry now; the files would only fill the disk.
    tokio::fs::remove_dir_all(&dir)
        .await
        .explain(|| format!("cannot remove {}", dir.display()))?;
    Ok(Original {
        command: packed.command,
        needed: packed.needed,
        description: packed.description,
    })
}

fn shell() -> Vec<String> {
    ["/bin/sh", "-c", "echo ready"].map(str::to_owned).to_vec()
}

fn convert_args(original: &str, host: &str, tmp_dir: &Path) -> ConvertArgs {
    ConvertArgs {
        source: original.to_owned(),
        destination: format!("docker://{host}/{REPOSITORY}:lazy"),
        platform: None,
        all_platforms: false,
        mode: Mode::Tag,
        reuse: false,
        block_size: bytesize::ByteSize::kib(32),
        chunk_size: bytesize::ByteSize::kib(256),
        base: None,
        threads: None,
        level: 3,
        tmp_dir: Some(tmp_dir.to_path_buf()),
        registry: RegistryArgs::default(),
    }
}

/// Copies one image, as it is, into the demo's registry.
async fn copy(named: &str, to: &str, args: &RegistryArgs, progress: &Progress) -> Outcome {
    let image = Image::open_original(named, None, args).await?;
    let store = place::create(&parse_reference(to)?, &RegistryArgs::default()).await?;
    for descriptor in image.document.layers.iter().chain([&image.document.config]) {
        let task = progress.task(&descriptor.digest.to_string(), descriptor.size);
        store
            .copy_blob(&image.store, descriptor)
            .await
            .map_err(|error| {
                place::failure(format!("cannot copy {}", descriptor.digest), &error)
            })?;
        task.advance(descriptor.size);
    }
    let pushed = store.push_root(&image.manifest).await;
    pushed.map_err(|error| place::failure(format!("cannot copy {named}"), &error))
}

async fn push_packed(packed: &Packed, to: &str) -> Outcome {
    let what = || "cannot push the packed image".to_owned();
    let store = place::create(&parse_reference(to)?, &RegistryArgs::default()).await?;
    let mut layers = Vec::new();
    for layer in &packed.layers {
        let file = std::fs::File::open(&layer.path).explain(what)?;
        place::push_file(&store, &file, layer.digest, layer.len)
            .await
            .map_err(|error| place::failure(what(), &error))?;
        layers.push(Descriptor::new(OCI_LAYER_GZIP, layer.digest, layer.len));
    }
    let diff_ids: Vec<String> = packed
        .layers
        .iter()
        .map(|layer| layer.diff_id.to_string())
        .collect();
    let platform = tranship_source::manifest::Platform::of_this_machine();
    let config = json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {"Cmd": packed.command},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": packed.layers.iter().map(|_| json!({"created_by": "tranship demo"})).collect::<Vec<_>>(),
    });
    let config = Bytes::from(config.to_string());
    let len = u64::try_from(config.len()).unwrap_or(u64::MAX);
    let descriptor = Descriptor::new(OCI_CONFIG, tranship_format::Digest::of(&config), len);
    place::push_bytes(&store, config)
        .await
        .map_err(|error| place::failure(what(), &error))?;
    let manifest = Manifest::from_image(&ImageManifest::new(descriptor, layers)).explain(what)?;
    store
        .push_root(&manifest)
        .await
        .map_err(|error| place::failure(what(), &error))
}
