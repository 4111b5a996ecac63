//! One layer on its way from stored bytes to a spooled blob: inflated on one thread, converted on another.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use tokio::sync::mpsc;
use tranship_format::convert::{ConvertError, Converter};
use tranship_format::{Digest, DigestWriter, LayerSummary};

use super::channel::{PieceReader, pump};
use super::inflate::Inflate;
use super::source::Job;
use crate::spool;

/// Tar bytes between the two threads: enough pieces that neither waits for the other's hiccups.
const PIECE_LEN: usize = 256 << 10;
const PIECES: usize = 8;

/// A converted layer in a file that has no name and goes with its handle.
#[derive(Debug)]
pub(super) struct Spooled {
    pub(super) file: File,
    pub(super) digest: Digest,
    pub(super) len: u64,
    pub(super) summary: LayerSummary,
}

/// Why a layer was not converted.
#[derive(Debug, thiserror::Error)]
pub(super) enum LayerError {
    /// The stored bytes could not be had or are no gzip, zstd or tar.
    #[error("its bytes cannot be read")]
    Read(#[source] io::Error),
    /// The tar is not the one that the config names.
    #[error("its tar has digest {found}, and the config says {expected}")]
    WrongTar { expected: Digest, found: Digest },
    /// The tar cannot be turned into a layer.
    #[error("it cannot be converted")]
    Convert(#[source] ConvertError),
    /// The spool file failed.
    #[error("it cannot be spooled to {dir}")]
    Spool {
        dir: String,
        #[source]
        source: io::Error,
    },
}

/// Converts one layer from its stored bytes.
pub(super) fn convert_layer(
    converter: &mut Converter,
    job: &Job,
    stored: mpsc::Receiver<io::Result<Bytes>>,
    tmp_dir: &Path,
) -> Result<Spooled, LayerError> {
    let spooling = |source| LayerError::Spool {
        dir: tmp_dir.display().to_string(),
        source,
    };
    let (sender, receiver) = sync_channel(PIECES);
    let (inflated, written) = std::thread::scope(|scope| {
        let inflating = scope.spawn(move || {
            let mut tar = Hashing {
                inner: Inflate::new(PieceReader::new(stored))?,
                hash: DigestWriter::new(io::sink()),
            };
            pump(&mut tar, &sender, PIECE_LEN)?;
            // Read to the end of the stored bytes too: only there their digest is known to be right.
            tar.inner.drain()?;
            Ok::<_, io::Error>(tar.hash.finish().1)
        });
        let written = spool::file(tmp_dir).map_err(spooling).and_then(|file| {
            let mut tar = PieceReader::new(receiver);
            let done = converter.layer(&mut tar, BufWriter::with_capacity(PIECE_LEN, file));
            let (file, summary) = done.map_err(LayerError::Convert)?;
            // What stands behind a tar's end is part of its digest.
            io::copy(&mut tar, &mut io::sink()).map_err(LayerError::Read)?;
            Ok((file, summary))
        });
        // A thread that panicked has failed to read; its message is on stderr already.
        let inflated = inflating
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the inflating thread died")));
        (inflated, written)
    });
    // Both may have failed, the one because of the other: a stage that lost its neighbour is never the cause.
    let found = match (inflated, &written) {
        (Err(error), _) => return Err(LayerError::Read(error)),
        (Ok(_), Err(_)) => None,
        (Ok(found), Ok(_)) => Some(found),
    };
    let (file, summary) = written?;
    if let Some(found) = found.filter(|found| *found != job.diff_id) {
        return Err(LayerError::WrongTar {
            expected: job.diff_id,
            found,
        });
    }
    let mut file = file
        .into_inner()
        .map_err(|error| spooling(error.into_error()))?;
    file.seek(SeekFrom::Start(0)).map_err(spooling)?;
    let (digest, len) = Digest::from_reader(&file).map_err(spooling)?;
    Ok(Spooled {
        file,
        digest,
        len,
        summary,
    })
}

/// Hashes what is read.
struct Hashing<R> {
    inner: R,
    hash: DigestWriter<io::Sink>,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buf)?;
        self.hash.write_all(buf.get(..len).unwrap_or_default())?;
        Ok(len)
    }
}
