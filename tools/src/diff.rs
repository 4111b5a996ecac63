//! `tranship diff`: what a node that has one image need not fetch of another.
//!
//! Layers are what registries share, chunks are what tranship shares, and files are what could be shared at best; the
//! three stand side by side. Layers and chunks need the manifests and chunk tables alone; files are read and compared
//! by content, so they are looked at only when asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};

use comfy_table::Cell;
use serde::Serialize;
use tranship_format::erofs::{ErofsError, FileKind};
use tranship_format::{ChunkTable, Digest, DigestWriter};

use crate::blob::open_table;
use crate::cli::{Common, DiffArgs};
use crate::failure::Outcome;
use crate::image::{Image, ImageFilesystem, blocking};
use crate::output::{self, Format, number, size};

/// File content that is read at once.
const BUFFER_LEN: usize = 1 << 20;

/// Contents by their hash, with the bytes of each.
type Contents = BTreeMap<Vec<u8>, u64>;

/// What is said of two images.
#[derive(Debug, Serialize)]
struct Report {
    a: Side,
    b: Side,
    /// In stored bytes.
    layers: Overlap,
    /// In bytes of the files.
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<Overlap>,
    /// In stored bytes.
    chunks: Overlap,
}

#[derive(Debug, Serialize)]
struct Side {
    reference: String,
    manifest: String,
    stored_size: u64,
}

/// Of what is in B, each content counted once, what A has too.
#[derive(Debug, Serialize)]
struct Overlap {
    count: usize,
    size: u64,
    shared_count: usize,
    shared_size: u64,
    /// What B takes when A is here.
    rest_size: u64,
    share: f64,
}

impl Overlap {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a share of bytes needs no more than a double's digits"
    )]
    fn of(a: &Contents, b: &Contents) -> Self {
        let both = || b.iter().filter(|(hash, _)| a.contains_key(*hash));
        let total: u64 = b.values().sum();
        let shared: u64 = both().map(|(_, len)| len).sum();
        Self {
            count: b.len(),
            size: total,
            shared_count: both().count(),
            shared_size: shared,
            rest_size: total.saturating_sub(shared),
            share: if total == 0 {
                0.0
            } else {
                shared as f64 / total as f64
            },
        }
    }
}

pub(crate) async fn run(common: &Common, args: &DiffArgs) -> Outcome {
    let open = |reference| Image::open(reference, args.platform.as_ref(), &args.registry);
    let (a, b) = (open(&args.a).await?, open(&args.b).await?);
    let files = if args.files {
        Some(Overlap::of(&files(&a).await?, &files(&b).await?))
    } else {
        None
    };
    let report = Report {
        layers: Overlap::of(&layers(&a)?, &layers(&b)?),
        files,
        chunks: Overlap::of(&chunks(&a).await?, &chunks(&b).await?),
        a: side(&a),
        b: side(&b),
    };
    match common.output {
        Format::Json => output::print_json(&report),
        Format::Table => output::print(&text(&report)),
    }
}

fn side(image: &Image) -> Side {
    Side {
        reference: image.named.clone(),
        manifest: image.manifest.digest().to_string(),
        stored_size: image.document.layers.iter().map(|layer| layer.size).sum(),
    }
}

fn layers(image: &Image) -> Outcome<Contents> {
    let layers = image.layers()?.into_iter();
    Ok(layers
        .map(|layer| (layer.digest.bytes().to_vec(), layer.len))
        .collect())
}

/// The chunks of all layers; a layer without a table is one chunk, since it can be had only as a whole.
async fn chunks(image: &Image) -> Outcome<Contents> {
    let mut found = Contents::new();
    for layer in image.layers()? {
        let Some(reference) = &layer.annotations.chunks else {
            found.insert(layer.digest.bytes().to_vec(), layer.len);
            continue;
        };
        let what = format!("the chunk table of layer {}", layer.digest);
        let bytes = image
            .store
            .blob_range(&layer.digest, reference.range())
            .await
            .map_err(|error| image.read_failure(&what, &error))?;
        let table = open_table(&bytes, reference.digest)
            .map_err(|error| image.read_failure(&what, &error))?;
        found.extend(entries(&table));
    }
    Ok(found)
}

/// A chunk's hash under its algorithm, and its length.
fn entries(table: &ChunkTable) -> impl Iterator<Item = (Vec<u8>, u64)> {
    table.all().map(|index| {
        let mut key = vec![table.algorithm().number()];
        key.extend_from_slice(table.hash(index).bytes());
        (key, table.range(index).len())
    })
}

/// The contents of all regular files.
async fn files(image: &Image) -> Outcome<Contents> {
    let filesystem = image.filesystem().await?;
    let read = blocking(move || contents(&filesystem)).await?;
    read.map_err(|error| image.read_failure("the files", &error))
}

fn contents(filesystem: &ImageFilesystem) -> Result<Contents, ErofsError> {
    let mut found = Contents::new();
    let mut met = BTreeSet::new();
    let mut buffer = vec![0; BUFFER_LEN];
    for entry in filesystem.walk() {
        let inode = entry?.inode;
        if inode.kind != FileKind::Regular || inode.size == 0 || !met.insert(inode.nid) {
            continue;
        }
        let mut hash = DigestWriter::new(io::sink());
        let mut offset = 0;
        while offset < inode.size {
            let len = filesystem.read(&inode, offset, &mut buffer)?;
            // Hashing into a sink cannot fail.
            let _infallible = hash.write_all(buffer.get(..len).unwrap_or_default());
            if len == 0 {
                break;
            }
            offset = offset.saturating_add(len as u64);
        }
        let (_, digest, _): (_, Digest, _) = hash.finish();
        found.insert(digest.bytes().to_vec(), inode.size);
    }
    Ok(found)
}

fn text(report: &Report) -> String {
    let mut table = output::table(["EQUAL", "IN B", "SIZE", "IN A TOO", "SIZE", "SHARE", "LEFT"]);
    let rows = [
        ("layers", Some(&report.layers)),
        ("files", report.files.as_ref()),
        ("chunks", Some(&report.chunks)),
    ];
    for (name, shared) in rows {
        let Some(shared) = shared else { continue };
        table.add_row([
            Cell::new(name),
            number(shared.count.to_string()),
            number(size(shared.size)),
            number(shared.shared_count.to_string()),
            number(size(shared.shared_size)),
            number(format!("{:.1} %", shared.share * 100.0)),
            number(size(shared.rest_size)),
        ]);
    }
    format!(
        "A  {}  {}\nB  {}  {}\n\n{}",
        report.a.reference,
        size(report.a.stored_size),
        report.b.reference,
        size(report.b.stored_size),
        output::text_of(&table)
    )
}
