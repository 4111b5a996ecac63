//! Writes trees as gzipped tars with both of OCI's digests.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use tranship_format::{Digest, DigestWriter};

use super::tree::{Entry, Tree};
use crate::failure::{Exit, Explain, Failure, Outcome};

/// As `docker push` does: fast, not small.
const LEVEL: u32 = 4;
const BUFFER_LEN: usize = 256 << 10;

/// A layer as it is pushed.
#[derive(Debug)]
pub(crate) struct PackedLayer {
    /// The gzipped tar.
    pub(crate) path: PathBuf,
    /// Its digest.
    pub(crate) digest: Digest,
    /// Its length.
    pub(crate) len: u64,
    /// Digest of the tar inside.
    pub(crate) diff_id: Digest,
}

/// Writes each tree as a layer, one thread each.
pub(super) fn write(dir: &Path, trees: &[Tree]) -> Outcome<Vec<PackedLayer>> {
    std::thread::scope(|scope| {
        let writers: Vec<_> = trees
            .iter()
            .enumerate()
            .map(|(number, tree)| {
                let path = dir.join(format!("layer{number}.tar.gz"));
                scope.spawn(move || {
                    layer(&path, tree).explain(|| format!("cannot pack {}", path.display()))
                })
            })
            .collect();
        let died = |_| Failure::new(Exit::Failed, "packing a layer died");
        writers
            .into_iter()
            .map(|writer| writer.join().map_err(died)?)
            .collect()
    })
}

fn layer(path: &Path, tree: &Tree) -> io::Result<PackedLayer> {
    let file = BufWriter::with_capacity(BUFFER_LEN, File::create_new(path)?);
    let gzip = GzEncoder::new(DigestWriter::new(file), Compression::new(LEVEL));
    let mut tar = tar::Builder::new(DigestWriter::new(BufWriter::with_capacity(
        BUFFER_LEN, gzip,
    )));
    for (path, entry) in tree.entries() {
        append(&mut tar, path, entry)?;
    }
    let (gzip, diff_id, _) = tar.into_inner()?.finish();
    let gzip = gzip.into_inner().map_err(io::IntoInnerError::into_error)?;
    let (mut file, digest, len) = gzip.finish()?.finish();
    file.flush()?;
    Ok(PackedLayer {
        path: path.to_path_buf(),
        digest,
        len,
        diff_id,
    })
}

fn append<W: Write>(tar: &mut tar::Builder<W>, path: &Path, entry: &Entry) -> io::Result<()> {
    let name = path.strip_prefix("/").unwrap_or(path);
    if name.as_os_str().is_empty() {
        return Ok(());
    }
    let mut header = tar::Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    match entry {
        Entry::Text(text) => {
            header.set_mode(0o644);
            header.set_size(u64::try_from(text.len()).map_err(io::Error::other)?);
            tar.append_data(&mut header, name, text.as_bytes())
        }
        Entry::EmptyDir => {
            let mode = fs::symlink_metadata(path).map_or(0o755, |found| found.mode() & 0o7777);
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(mode);
            header.set_size(0);
            tar.append_data(&mut header, name, io::empty())
        }
        Entry::Here => append_found(tar, path, name, header),
    }
}

fn append_found<W: Write>(
    tar: &mut tar::Builder<W>,
    path: &Path,
    name: &Path,
    mut header: tar::Header,
) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    header.set_metadata(&found);
    if found.is_symlink() {
        header.set_size(0);
        return tar.append_link(&mut header, name, fs::read_link(path)?);
    }
    if found.is_dir() {
        header.set_size(0);
        return tar.append_data(&mut header, name, io::empty());
    }
    header.set_size(found.len());
    // A file that grows while it is read must not break the tar; one that shrinks is an error.
    tar.append_data(
        &mut header,
        name,
        io::Read::take(File::open(path)?, found.len()),
    )
}
