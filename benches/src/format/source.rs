//! What is converted: a tree as one tar, in an OCI layout of one layer that is not compressed, so that inflating it takes
//! no part in the figures.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use tranship_format::Digest;

use super::{shown, tranship};

/// This machine's own files: programs, libraries, scripts and texts, as an image has them.
const OWN: &str = "/usr";

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What is measured.
pub(crate) struct Source {
    /// The image, as `tranship` takes it.
    pub(crate) reference: String,
    /// Its layer's tar.
    pub(crate) tar: PathBuf,
    /// Length of the tar.
    pub(crate) plain_len: u64,
    /// A directory of files for the reading figures.
    pub(super) files: PathBuf,
    /// For people.
    pub(crate) description: String,
}

impl Source {
    /// Makes the layout in `scratch`; without `input` of the first `own_len` bytes of files of this machine.
    pub(crate) fn make(input: Option<&OsStr>, own_len: u64, scratch: &Path) -> Result<Self> {
        let tar = scratch.join("layer.tar");
        let own = Path::new(OWN).to_owned();
        let (files, description) = match input {
            None => {
                pack(&own, own_len, &tar)?;
                let description = format!("the first {own_len} bytes of files in {OWN}");
                (own, description)
            }
            Some(input) if Path::new(input).is_dir() => {
                let dir = PathBuf::from(input);
                pack(&dir, u64::MAX, &tar)?;
                let description = dir.display().to_string();
                (dir, description)
            }
            Some(input) => {
                let reference = shown(input.into())?;
                export(&reference, scratch, &tar)?;
                (own, reference)
            }
        };
        let layout = scratch.join("source");
        let plain_len = write_layout(&layout, &tar)?;
        Ok(Self {
            reference: format!("oci:{}:latest", shown(layout)?),
            tar,
            plain_len,
            files,
            description,
        })
    }
}

/// Writes the files of an image, converted already or not, as one tar.
fn export(reference: &str, scratch: &Path, tar: &Path) -> Result<()> {
    let tar = shown(tar.to_owned())?;
    if tranship(&["export", reference, "--tar", &tar]).is_ok() {
        return Ok(());
    }
    let first = format!("oci:{}:latest", shown(scratch.join("first"))?);
    tranship(&["convert", reference, &first])
        .context("converting the image to get at its files")?;
    tranship(&["export", &first, "--tar", &tar]).context("writing the image's files as a tar")?;
    Ok(())
}

/// Writes the tree below `dir` as a tar, in the order of names, until it has `limit` bytes of files.
fn pack(dir: &Path, limit: u64, tar: &Path) -> Result<()> {
    let file = File::create(tar).with_context(|| format!("making {}", tar.display()))?;
    let mut tar = tar::Builder::new(BufWriter::with_capacity(1 << 20, file));
    tar.follow_symlinks(false);
    let mut left = limit;
    let mut pending = vec![dir.to_owned()];
    while let Some(path) = pending.pop() {
        let what = || format!("packing {}", path.display());
        let metadata = fs::symlink_metadata(&path).with_context(what)?;
        let name = path.strip_prefix(dir).with_context(what)?;
        if metadata.is_dir() {
            let mut below: Vec<PathBuf> = fs::read_dir(&path)
                .with_context(what)?
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<Result<_, _>>()
                .with_context(what)?;
            below.sort_unstable();
            pending.extend(below.into_iter().rev());
            if !name.as_os_str().is_empty() {
                tar.append_dir(name, &path).with_context(what)?;
            }
        } else if metadata.is_file() {
            let Some(rest) = left.checked_sub(metadata.len()) else {
                break;
            };
            left = rest;
            tar.append_path_with_name(&path, name).with_context(what)?;
        } else if metadata.is_symlink() {
            tar.append_path_with_name(&path, name).with_context(what)?;
        }
    }
    let mut file = tar.into_inner().context("ending the tar")?;
    file.flush().context("writing the tar")
}

/// Writes a layout whose one image has the tar as its layer; returns the tar's length.
fn write_layout(layout: &Path, tar: &Path) -> Result<u64> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).context("making a layout")?;
    let (digest, len) = File::open(tar)
        .and_then(Digest::from_reader)
        .with_context(|| format!("reading {}", tar.display()))?;
    fs::hard_link(tar, blobs.join(digest.hex())).context("linking the layer")?;
    let put = |kind: &str, document: &Value| -> Result<Value> {
        let bytes = serde_json::to_vec(document).context("writing a document")?;
        let digest = Digest::of(&bytes);
        fs::write(blobs.join(digest.hex()), &bytes).context("writing a document")?;
        Ok(json!({ "mediaType": kind, "digest": digest, "size": bytes.len() }))
    };
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture, "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [digest] },
    });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": put(CONFIG, &config)?,
        "layers": [{ "mediaType": LAYER, "digest": digest, "size": len }],
    });
    let mut entry = put(MANIFEST, &manifest)?;
    if let Some(entry) = entry.as_object_mut() {
        let name = json!({ "org.opencontainers.image.ref.name": "latest" });
        entry.insert("annotations".to_owned(), name);
    }
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });
    fs::write(layout.join("index.json"), index.to_string()).context("writing the index")?;
    let mark = json!({ "imageLayoutVersion": "1.0.0" });
    fs::write(layout.join("oci-layout"), mark.to_string()).context("writing the layout's mark")?;
    Ok(len)
}
