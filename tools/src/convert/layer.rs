//! One layer on its way from stored bytes to a spooled blob: inflated on one thread, hashed on another, laid out on a
//! third, compressed on all that there are.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use tokio::sync::mpsc;
use tranship_format::convert::{ConvertError, Converter};
use tranship_format::{Digest, LayerSummary, WriteLayerError};

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
    pub(super) summary: LayerSummary,
}

impl Spooled {
    /// The blob's digest. Its first bytes are written last, so it takes a pass of its own.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn digest(&mut self) -> io::Result<Digest> {
        self.file.seek(SeekFrom::Start(0))?;
        Ok(Digest::from_reader(&self.file)?.0)
    }
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

/// What the layer's stages read from.
type Stored = Inflate<PieceReader<mpsc::Receiver<io::Result<Bytes>>>>;

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
    let file = spool::file(tmp_dir).map_err(spooling)?;
    let out = BufWriter::with_capacity(PIECE_LEN, file);
    let stored = Inflate::new(PieceReader::new(stored)).map_err(LayerError::Read)?;
    let done = if stored.is_plain() {
        // Whoever brings the bytes checks them by the digest that they are stored under, and so the tar is checked.
        from_plain(converter, stored, out)
            .map(|(out, summary)| (out, summary, job.descriptor.digest))
    } else {
        from_compressed(converter, stored, out)
    };
    let (file, summary, found) = done.map_err(|error| match error {
        LayerError::Convert(ConvertError::Write(WriteLayerError::Write(source))) => {
            spooling(source)
        }
        other => other,
    })?;
    if found != job.diff_id {
        return Err(LayerError::WrongTar {
            expected: job.diff_id,
            found,
        });
    }
    let file = file
        .into_inner()
        .map_err(|error| spooling(error.into_error()))?;
    Ok(Spooled { file, summary })
}

type Out = BufWriter<File>;

/// Converts a tar as it comes.
fn from_plain(
    converter: &mut Converter,
    stored: Stored,
    out: Out,
) -> Result<(Out, LayerSummary), LayerError> {
    let mut tar = Remembering {
        inner: stored,
        failure: None,
    };
    let done = converter.layer(&mut tar, out);
    if let Some(failure) = tar.failure {
        return Err(LayerError::Read(failure));
    }
    let written = done.map_err(LayerError::Convert)?;
    tar.inner.drain().map_err(LayerError::Read)?;
    Ok(written)
}

/// Inflates on one thread, hashes the tar on another and converts it on this one. The tar's digest comes back with the blob.
fn from_compressed(
    converter: &mut Converter,
    mut stored: Stored,
    out: Out,
) -> Result<(Out, LayerSummary, Digest), LayerError> {
    let (to_convert, tar) = sync_channel(PIECES);
    let (to_hash, hashed) = sync_channel(PIECES);
    let (inflated, found, written) = std::thread::scope(|scope| {
        let inflating = scope.spawn(move || {
            pump(&mut stored, &[to_convert, to_hash], PIECE_LEN)?;
            // Read to the end of the stored bytes too: only there their digest is known to be right.
            stored.drain()
        });
        let hashing = scope.spawn(move || Digest::from_reader(PieceReader::new(hashed)));
        let mut tar = PieceReader::new(tar);
        let written = converter.layer(&mut tar, out).map_err(LayerError::Convert);
        // The others must not wait for a reader that has failed.
        drop(tar);
        // A thread that panicked has failed to read; its message is on stderr already.
        let died = || io::Error::other("a thread that read the layer died");
        let inflated = inflating.join().unwrap_or_else(|_| Err(died()));
        let found = hashing.join().unwrap_or_else(|_| Err(died()));
        (inflated, found, written)
    });
    // All may have failed, the one because of the other: a stage that lost its neighbour is never the cause.
    inflated.map_err(LayerError::Read)?;
    let (out, summary) = written?;
    let (digest, _) = found.map_err(LayerError::Read)?;
    Ok((out, summary, digest))
}

/// Keeps the error that reading met, which is not the fault of whoever reads a tar from it.
struct Remembering<R> {
    inner: R,
    failure: Option<io::Error>,
}

impl<R: Read> Read for Remembering<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf).map_err(|error| {
            let told = io::Error::new(error.kind(), error.to_string());
            // An interrupted read is tried again.
            if error.kind() != io::ErrorKind::Interrupted {
                self.failure = Some(error);
            }
            told
        })
    }
}
