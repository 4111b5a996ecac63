//! Writing an archive: the same content gives the same bytes, wherever and whenever it is written.
//!
//! Members come in one order, belong to nobody and were made at no time.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use super::LayoutFailure;
use super::dir::{BLOBS, Dir, INDEX, MARK, keep, scratch_file};

/// Writes go out in pieces of this many bytes.
const BUFFER_LEN: usize = 256 << 10;

/// A directory beside `file`, on the same disk, that vanishes with its owner.
pub(super) fn scratch_beside(file: &Path) -> Result<tempfile::TempDir, LayoutFailure> {
    tempfile::Builder::new()
        .prefix(".tranship-")
        .tempdir_in(folder_of(file))
        .map_err(LayoutFailure::Io)
}

/// Writes the layout in `dir` as the archive `file`, which appears when it is whole.
pub(super) fn pack(dir: &Dir, file: &Path) -> Result<(), LayoutFailure> {
    let scratch = scratch_file(folder_of(file))?;
    {
        let buffered = BufWriter::with_capacity(BUFFER_LEN, scratch.as_file());
        let written = write_members(dir, tar::Builder::new(buffered));
        written.map_err(LayoutFailure::Io)?;
    }
    scratch.as_file().sync_all().map_err(LayoutFailure::Io)?;
    keep(scratch, file)
}

fn write_members<W: Write>(dir: &Dir, mut tar: tar::Builder<W>) -> std::io::Result<()> {
    for name in [MARK, INDEX] {
        append_file(&mut tar, name, &dir.path().join(name))?;
    }
    let mut folder = String::new();
    for part in BLOBS.split('/') {
        folder.push_str(part);
        folder.push('/');
        let mut header = plain_header(tar::EntryType::Directory, 0o755, 0);
        tar.append_data(&mut header, &folder, std::io::empty())?;
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(dir.path().join(BLOBS))? {
        names.extend(entry?.file_name().into_string());
    }
    names.sort_unstable();
    for name in names.iter().filter(|name| !name.starts_with('.')) {
        let path = dir.path().join(BLOBS).join(name);
        append_file(&mut tar, &format!("{BLOBS}/{name}"), &path)?;
    }
    tar.into_inner()?.flush()
}

fn append_file<W: Write>(
    tar: &mut tar::Builder<W>,
    name: &str,
    path: &Path,
) -> std::io::Result<()> {
    let file = File::open(path)?;
    let mut header = plain_header(tar::EntryType::Regular, 0o644, file.metadata()?.len());
    tar.append_data(&mut header, name, file)
}

fn plain_header(kind: tar::EntryType, mode: u32, len: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(len);
    header
}

fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    }
}
