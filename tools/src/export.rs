//! `tranship export`: the whole image as one file, for tools that know neither registries nor us.

mod tar;

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tranship_format::{ByteRange, Disk};

use crate::cli::ExportArgs;
use crate::failure::{Explain, Outcome};
use crate::image::{Image, ImageFilesystem, blocking};
use crate::output;
use crate::place;
use crate::progress::{Progress, Task};

/// What is read at once.
const PIECE_LEN: usize = 1 << 20;
/// Runs of zeros of this length become holes: the block of most filesystems.
const HOLE_LEN: usize = 4096;

pub(crate) async fn run(progress: &Progress, args: &ExportArgs) -> Outcome {
    let image = Image::open(
        &args.image.reference,
        args.image.platform.as_ref(),
        &args.image.registry,
    )
    .await?;
    match (&args.form.raw, &args.form.tar) {
        (Some(path), _) => raw(&image, path.clone(), progress).await,
        (None, Some(path)) => {
            let filesystem = image.filesystem().await?;
            let (path, task) = (path.clone(), progress.task("export", 0));
            blocking(move || write_tar(&image, &filesystem, &path, &task)).await?
        }
        (None, None) => Ok(()),
    }
}

async fn raw(image: &Image, path: PathBuf, progress: &Progress) -> Outcome {
    let disk = image.disk().await?;
    let task = progress.task("export", disk.len());
    let what = || format!("cannot write the device to {}", path.display());
    let into = path.clone();
    let written = blocking(move || write_raw(&disk, &into, &task)).await?;
    match written {
        Ok(()) => Ok(()),
        Err(RawError::Read(error)) => Err(image.read_failure("the device", &error)),
        Err(RawError::Write(error)) => Err(error).explain(what),
    }
}

/// Which side of an export went wrong.
pub(crate) enum RawError {
    Read(io::Error),
    Write(io::Error),
}

impl From<RawError> for io::Error {
    fn from(error: RawError) -> Self {
        match error {
            RawError::Read(error) | RawError::Write(error) => error,
        }
    }
}

/// Writes a device to a file with holes where the device holds zeros.
pub(crate) fn write_raw(disk: &Arc<Disk>, path: &Path, task: &Task) -> Result<(), RawError> {
    let mut file = File::create(path).map_err(RawError::Write)?;
    file.set_len(disk.len()).map_err(RawError::Write)?;
    let mut piece = vec![0; PIECE_LEN];
    let mut offset = 0;
    while offset < disk.len() {
        let len = (disk.len() - offset).min(PIECE_LEN as u64);
        task.advance(len);
        // No layer has anything there: a hole, without reading.
        if !disk
            .stored_ranges(ByteRange::new(offset, offset + len))
            .is_empty()
        {
            let bytes = piece
                .get_mut(..usize::try_from(len).unwrap_or(PIECE_LEN))
                .unwrap_or_default();
            disk.read_at(offset, bytes).map_err(RawError::Read)?;
            write_sparse(&mut file, offset, bytes).map_err(RawError::Write)?;
        }
        offset += len;
    }
    file.flush().map_err(RawError::Write)
}

fn write_sparse(file: &mut (impl Write + Seek), offset: u64, bytes: &[u8]) -> io::Result<()> {
    let mut at = offset;
    for block in bytes.chunks(HOLE_LEN) {
        if block.iter().any(|byte| *byte != 0) {
            file.seek(SeekFrom::Start(at))?;
            file.write_all(block)?;
        }
        at += block.len() as u64;
    }
    Ok(())
}

fn write_tar(image: &Image, filesystem: &ImageFilesystem, path: &Path, task: &Task) -> Outcome {
    let what = || format!("cannot write the tar to {}", path.display());
    let failed = |error: tar::TarError| match error {
        tar::TarError::Read(error) => image.read_failure("the files", &error),
        tar::TarError::Write(error) => place::failure(what(), &error),
    };
    let skipped = if path == Path::new("-") {
        tar::write(filesystem, io::stdout().lock(), task).map_err(failed)?
    } else {
        let file = File::create(path).explain(what)?;
        tar::write(filesystem, BufWriter::with_capacity(PIECE_LEN, file), task).map_err(failed)?
    };
    for path in skipped {
        output::say(&format!(
            "left out: {path} is a socket, which a tar cannot hold"
        ));
    }
    Ok(())
}
