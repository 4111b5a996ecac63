//! `tranship inspect`: what an image is made of.

use comfy_table::Cell;
use serde::Serialize;
use tranship_format::Layer;

use crate::blob::{LazyBlob, open_table};
use crate::cli::{Common, InspectArgs};
use crate::failure::Outcome;
use crate::image::converted::SOURCE_DIGEST;
use crate::image::{Image, LayerBlob, blocking};
use crate::output::{self, Format, number, size};

/// What is said of an image.
#[derive(Debug, Serialize)]
struct Report {
    reference: String,
    manifest: String,
    media_type: String,
    config: String,
    platform: String,
    source: Option<String>,
    filesystem: Option<String>,
    device_size: Option<u64>,
    stored_size: u64,
    layers: Vec<LayerReport>,
}

#[derive(Debug, Serialize)]
struct LayerReport {
    digest: String,
    size: u64,
    media_type: String,
    converted: bool,
    filesystem: Option<String>,
    device_size: Option<u64>,
    chunks: Option<u32>,
    chunk_hash: Option<String>,
    chunk_table_digest: Option<String>,
    chunk_table_offset: Option<u64>,
    chunk_table_size: Option<u64>,
}

pub(crate) async fn run(common: &Common, args: &InspectArgs) -> Outcome {
    let image = Image::open(
        &args.image.reference,
        args.image.platform.as_ref(),
        &args.image.registry,
    )
    .await?;
    let report = report(&image).await?;
    match common.output {
        Format::Json => output::print_json(&report),
        Format::Table => output::print(&text(&report)),
    }
}

async fn report(image: &Image) -> Outcome<Report> {
    let config = image.config().await?;
    // An image that is not converted is worth showing too: that it is not is the answer then.
    let converted = image.layers().ok();
    let mut layers = Vec::new();
    for (number, descriptor) in image.document.layers.iter().enumerate() {
        let mut layer = LayerReport {
            digest: descriptor.digest.to_string(),
            size: descriptor.size,
            media_type: descriptor.media_type.clone(),
            converted: false,
            filesystem: None,
            device_size: None,
            chunks: None,
            chunk_hash: None,
            chunk_table_digest: None,
            chunk_table_offset: None,
            chunk_table_size: None,
        };
        if let Some(blob) = converted.as_ref().and_then(|layers| layers.get(number)) {
            describe(image, blob, &mut layer).await?;
        }
        layers.push(layer);
    }
    let top = layers.last();
    Ok(Report {
        reference: image.named.clone(),
        manifest: image.manifest.digest().to_string(),
        media_type: image.manifest.media_type().to_owned(),
        config: image.document.config.digest.to_string(),
        platform: format!("{}/{}", config.os, config.architecture),
        source: image.document.annotations.get(SOURCE_DIGEST).cloned(),
        filesystem: top.and_then(|layer| layer.filesystem.clone()),
        device_size: top.and_then(|layer| layer.device_size),
        stored_size: layers.iter().map(|layer| layer.size).sum(),
        layers,
    })
}

async fn describe(image: &Image, blob: &LayerBlob, layer: &mut LayerReport) -> Outcome {
    layer.converted = true;
    layer.filesystem = Some(blob.annotations.fs_name().to_owned());
    let Some(reference) = &blob.annotations.chunks else {
        return Ok(());
    };
    let what = format!("layer {}", blob.digest);
    let bytes = image
        .store
        .blob_range(&blob.digest, reference.range())
        .await
        .map_err(|error| image.read_failure(&what, &error))?;
    let table =
        open_table(&bytes, reference.digest).map_err(|error| image.read_failure(&what, &error))?;
    layer.chunks = Some(table.count());
    layer.chunk_hash = Some(format!("{:?}", table.algorithm()).to_lowercase());
    layer.chunk_table_digest = Some(reference.digest.to_string());
    layer.chunk_table_offset = Some(reference.offset);
    layer.chunk_table_size = Some(reference.len);
    let lazy = LazyBlob::open(&image.store, blob)
        .await
        .map_err(|error| image.read_failure(&what, &error))?;
    let opened = blocking(move || Layer::open(lazy))
        .await?
        .map_err(|error| image.read_failure(&what, &error))?;
    layer.device_size = Some(opened.virtual_size());
    Ok(())
}

fn text(report: &Report) -> String {
    let mut facts = output::table(["IMAGE", &report.reference]);
    let unknown = || "-".to_owned();
    for (name, value) in [
        ("manifest", report.manifest.clone()),
        ("config", report.config.clone()),
        ("platform", report.platform.clone()),
        (
            "converted from",
            report.source.clone().unwrap_or_else(unknown),
        ),
        (
            "filesystem",
            report.filesystem.clone().unwrap_or_else(unknown),
        ),
        ("device", report.device_size.map_or_else(unknown, size)),
        ("stored", size(report.stored_size)),
    ] {
        facts.add_row([Cell::new(name), Cell::new(value)]);
    }
    let mut layers = output::table(["LAYER", "DIGEST", "STORED", "CHUNKS", "HASH", "CONVERTED"]);
    for (place, layer) in report.layers.iter().enumerate() {
        layers.add_row([
            number(place.to_string()),
            Cell::new(&layer.digest),
            number(size(layer.size)),
            number(layer.chunks.map_or_else(unknown, |count| count.to_string())),
            Cell::new(layer.chunk_hash.as_deref().unwrap_or("-")),
            Cell::new(if layer.converted { "yes" } else { "no" }),
        ]);
    }
    format!("{}\n{}", output::text_of(&facts), output::text_of(&layers))
}
