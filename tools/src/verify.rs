//! `tranship verify`: reads every byte of an image once and checks it against everything that vouches for it.
//!
//! The manifest vouches for the config, for each blob as a whole and for each chunk table; the table vouches for each
//! chunk. A chunk hash says where a wrong byte is; the blob's digest covers what lies outside the chunks too, so that no
//! byte is left out. At the end the layers are opened and the filesystem is walked, since right bytes may still be
//! badly built.

mod blob;
mod proof;

use serde::Serialize;
use tranship_format::Digest;
use tranship_source::manifest::media_type::OCI_LAYER;

use self::blob::check_blob;
use crate::cli::{Common, VerifyArgs};
use crate::failure::{Exit, Failure, Outcome};
use crate::image::{Image, LayerBlob, blocking};
use crate::output::{self, Format, number, size};
use crate::progress::Progress;

/// What was checked, and what is wrong.
#[derive(Debug, Serialize)]
struct Report {
    reference: String,
    manifest: String,
    ok: bool,
    layers: Vec<LayerReport>,
    files: Option<u64>,
    /// Proofs beside the image that were compared with the layers.
    proofs_checked: usize,
    /// Digest of the manifest of proofs that was pushed.
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<String>,
    problems: Vec<Problem>,
}

#[derive(Debug, Serialize)]
struct LayerReport {
    digest: String,
    bytes: u64,
    chunks: u32,
    problems: usize,
}

/// Something wrong, and where.
#[derive(Clone, Debug, Serialize)]
struct Problem {
    /// Digest of the blob that is concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    blob: Option<String>,
    /// The chunk's number in that blob.
    #[serde(skip_serializing_if = "Option::is_none")]
    chunk: Option<u32>,
    /// Bytes of the blob, `end` not included.
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<u64>,
    /// What is wrong.
    what: String,
}

impl Problem {
    fn of_image(what: impl Into<String>) -> Self {
        Self {
            blob: None,
            chunk: None,
            start: None,
            end: None,
            what: what.into(),
        }
    }

    fn of_blob(blob: Digest, what: impl Into<String>) -> Self {
        Self {
            blob: Some(blob.to_string()),
            ..Self::of_image(what)
        }
    }

    fn line(&self) -> String {
        let blob = self.blob.as_ref().map(|blob| format!("layer {blob}"));
        let chunk = self.chunk.map(|chunk| format!("chunk {chunk}"));
        let bytes = self
            .start
            .zip(self.end)
            .map(|(start, end)| format!("bytes {start}..{end}"));
        let parts = [blob, chunk, bytes, Some(self.what.clone())];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

pub(crate) async fn run(common: &Common, progress: &Progress, args: &VerifyArgs) -> Outcome {
    let named = &args.image;
    let image = Image::open(&named.reference, named.platform.as_ref(), &named.registry).await?;
    let mut problems = Vec::new();
    match image.config().await {
        Ok(config) => problems.extend(diff_ids(&image, &config.rootfs.diff_ids)),
        Err(failure) if failure.exit == Exit::Verification => {
            problems.push(Problem::of_image(format!(
                "config {}: {}",
                image.document.config.digest,
                failure.reason()
            )));
        }
        Err(failure) => return Err(failure),
    }
    let layers = image.layers()?;
    let mut reports = Vec::new();
    let mut proofs = Vec::new();
    for layer in &layers {
        let checked = check_blob(&image, layer, progress).await?;
        reports.push(LayerReport {
            digest: layer.digest.to_string(),
            bytes: checked.bytes,
            chunks: checked.chunks,
            problems: checked.problems.len(),
        });
        problems.extend(checked.problems);
        proofs.extend(checked.proof.map(|proof| (layer.digest, proof)));
    }
    let mut proof_count = 0;
    if !proofs.is_empty() {
        proof_count = proof::check(&image, &proofs, &mut problems).await?;
    }
    let mut files = None;
    if problems.is_empty() {
        match open_all(&image, &layers).await {
            Ok(count) => files = count,
            Err(failure) if matches!(failure.exit, Exit::Unavailable | Exit::Denied) => {
                return Err(failure);
            }
            Err(failure) => problems.push(Problem::of_image(format!(
                "{}: {}",
                failure.what(),
                failure.reason()
            ))),
        }
    }
    let mut written = None;
    if args.write_proof && problems.is_empty() && !proofs.is_empty() {
        written = Some(proof::push(&image, &proofs).await?.to_string());
    }
    let report = Report {
        reference: image.named.clone(),
        manifest: image.manifest.digest().to_string(),
        ok: problems.is_empty(),
        layers: reports,
        files,
        proofs_checked: proof_count,
        proof: written,
        problems,
    };
    tell(common, &report)?;
    if report.ok {
        return Ok(());
    }
    let lines: Vec<String> = report.problems.iter().map(Problem::line).collect();
    Err(Failure::new(Exit::Verification, format!("{} is not what its manifest says", image.named))
        .why(lines.join("; "))
        .next("do not use this copy; push the image again from a good source, or delete the blobs named here"))
}

/// Our layers are plain tars: their digests are their diff ids.
fn diff_ids(image: &Image, diff_ids: &[Digest]) -> Option<Problem> {
    let layers = &image.document.layers;
    let right = layers.len() == diff_ids.len()
        && layers
            .iter()
            .zip(diff_ids)
            .all(|(layer, id)| layer.media_type != OCI_LAYER || layer.digest == *id);
    (!right)
        .then(|| Problem::of_image("the config's diff ids are not those of the manifest's layers"))
}

/// Opens the layers as a device and, where it is ours to read, walks the filesystem; the number of files comes back.
async fn open_all(image: &Image, layers: &[LayerBlob]) -> Outcome<Option<u64>> {
    if layers
        .iter()
        .any(|layer| layer.annotations.fs_name() != "erofs")
    {
        image.disk().await?;
        return Ok(None);
    }
    let filesystem = image.filesystem().await?;
    let walked = blocking(move || {
        filesystem
            .walk()
            .try_fold(0_u64, |count, entry| entry.map(|_| count + 1))
    });
    walked
        .await?
        .map(Some)
        .map_err(|error| image.read_failure("the filesystem", &error))
}

fn tell(common: &Common, report: &Report) -> Outcome {
    if common.output == Format::Json {
        return output::print_json(report);
    }
    let mut table = output::table(["LAYER", "BYTES", "CHUNKS", "RESULT"]);
    for layer in &report.layers {
        table.add_row([
            comfy_table::Cell::new(&layer.digest),
            number(size(layer.bytes)),
            number(layer.chunks.to_string()),
            comfy_table::Cell::new(if layer.problems == 0 { "ok" } else { "WRONG" }),
        ]);
    }
    let mut text = output::text_of(&table);
    if let Some(files) = report.files {
        text =
            format!("{text}\nevery byte is right, and {files} files and directories can be read\n");
    }
    if report.proofs_checked > 0 && report.ok {
        let count = report.proofs_checked;
        text = format!("{text}proofs beside the image that say the same: {count}\n");
    }
    if let Some(proof) = &report.proof {
        text = format!("{text}the proof of the layers without a chunk table is {proof}\n");
    }
    output::print(&text)
}
