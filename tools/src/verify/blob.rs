//! Checks one blob while it streams by: its digest as a whole, and each chunk on the way.

use bytes::BytesMut;
use futures::StreamExt;
use tokio_util::io::ReaderStream;
use tranship_format::chunk::ProofBuilder;
use tranship_format::{ChunkIndex, ChunkTable, Digest, DigestWriter};

use super::Problem;
use crate::blob::open_table;
use crate::failure::Outcome;
use crate::image::{Image, LayerBlob};
use crate::place;
use crate::progress::Progress;

/// What is read at once.
const PIECE_LEN: usize = 256 << 10;

/// What was found in one blob.
pub(super) struct Checked {
    pub(super) bytes: u64,
    pub(super) chunks: u32,
    pub(super) problems: Vec<Problem>,
    /// What proves the blob, if it came without a chunk table and is right.
    pub(super) proof: Option<ChunkTable>,
}

/// Reads the whole blob once.
pub(super) async fn check_blob(
    image: &Image,
    layer: &LayerBlob,
    progress: &Progress,
) -> Outcome<Checked> {
    let mut problems = Vec::new();
    let table = table_of(image, layer, &mut problems).await?;
    let mut check = StreamCheck::new(layer.digest, table);
    if layer.annotations.chunks.is_none() {
        check.proof = Some(ProofBuilder::new());
    }
    let task = progress.task(&layer.digest.to_string(), layer.len);
    let what = format!("layer {}", layer.digest);
    let blob = image
        .store
        .blob(&layer.digest)
        .await
        .map_err(|error| image.read_failure(&what, &error))?;
    let mut blob = ReaderStream::with_capacity(blob, PIECE_LEN);
    while let Some(piece) = blob.next().await {
        match piece {
            Ok(piece) => {
                task.advance(piece.len() as u64);
                check.update(&piece);
            }
            // It says so after the last byte; the check says it too, and where.
            Err(error) if place::is_wrong_digest(&error) => break,
            Err(error) => return Err(image.read_failure(&what, &error)),
        }
    }
    let mut checked = check.finish(layer);
    problems.append(&mut checked.problems);
    checked.problems = problems;
    Ok(checked)
}

/// The chunk table, if there is one and it is the one that the manifest names.
async fn table_of(
    image: &Image,
    layer: &LayerBlob,
    problems: &mut Vec<Problem>,
) -> Outcome<Option<ChunkTable>> {
    let Some(reference) = &layer.annotations.chunks else {
        return Ok(None);
    };
    let range = reference.range();
    let wrong = |what: String| Problem {
        start: Some(range.start),
        end: Some(range.end),
        ..Problem::of_blob(layer.digest, what)
    };
    if range.end > layer.len {
        problems.push(wrong("the chunk table lies outside the blob".into()));
        return Ok(None);
    }
    let bytes = match image.store.blob_range(&layer.digest, range).await {
        Ok(bytes) => bytes,
        Err(error) => {
            let failure = image.read_failure(
                &format!("the chunk table of layer {}", layer.digest),
                &error,
            );
            if failure.exit != crate::failure::Exit::Verification {
                return Err(failure);
            }
            problems.push(wrong(failure.reason()));
            return Ok(None);
        }
    };
    match open_table(&bytes, reference.digest) {
        Ok(table) if table.covered_len() == reference.offset => Ok(Some(table)),
        Ok(table) => {
            let covered = table.covered_len();
            problems.push(wrong(format!(
                "the chunks cover {covered} bytes and the table begins elsewhere"
            )));
            Ok(Some(table))
        }
        Err(error) => {
            problems.push(wrong(error.to_string()));
            Ok(None)
        }
    }
}

/// Cuts a stream into chunks and checks each.
struct StreamCheck {
    blob: Digest,
    table: Option<ChunkTable>,
    next: Option<ChunkIndex>,
    open: BytesMut,
    whole: DigestWriter<std::io::Sink>,
    proof: Option<ProofBuilder>,
    problems: Vec<Problem>,
}

impl StreamCheck {
    fn new(blob: Digest, table: Option<ChunkTable>) -> Self {
        let next = table.as_ref().and_then(|table| table.index(0));
        let whole = DigestWriter::new(std::io::sink());
        Self {
            blob,
            table,
            next,
            open: BytesMut::new(),
            whole,
            proof: None,
            problems: Vec::new(),
        }
    }

    fn update(&mut self, piece: &[u8]) {
        // Hashing into a sink cannot fail.
        let _infallible = std::io::Write::write_all(&mut self.whole, piece);
        if let Some(proof) = &mut self.proof {
            proof.update(piece);
        }
        let Some(table) = self.table.clone() else {
            return;
        };
        if self.next.is_none() {
            return;
        }
        self.open.extend_from_slice(piece);
        while let Some(chunk) = self.next {
            let range = table.range(chunk);
            let len = usize::try_from(range.len()).unwrap_or(usize::MAX);
            if self.open.len() < len {
                return;
            }
            if let Err(wrong) = table.verify(chunk, self.open.split_to(len).freeze()) {
                self.problems.push(Problem {
                    chunk: Some(chunk.get()),
                    start: Some(range.start),
                    end: Some(range.end),
                    ..Problem::of_blob(self.blob, wrong.to_string())
                });
            }
            self.next = table.index(chunk.get() + 1);
        }
        self.open.clear();
    }

    fn finish(mut self, layer: &LayerBlob) -> Checked {
        let (_, found, len) = self.whole.finish();
        if len != layer.len {
            let what = format!("has {len} bytes and not {}", layer.len);
            self.problems.push(Problem::of_blob(self.blob, what));
        } else if found != self.blob {
            // With every chunk right, the byte is outside of them: the table, the tar's headers behind it, its padding.
            let outside = self
                .problems
                .is_empty()
                .then(|| self.table.as_ref().map(ChunkTable::covered_len))
                .flatten();
            self.problems.push(Problem {
                start: outside,
                end: outside.map(|_| len),
                ..Problem::of_blob(self.blob, format!("has digest {found}"))
            });
        }
        let chunks = self.table.as_ref().map_or(0, ChunkTable::count);
        let is_right = len == layer.len && found == self.blob;
        Checked {
            bytes: len,
            chunks,
            proof: self.proof.filter(|_| is_right).map(ProofBuilder::finish),
            problems: self.problems,
        }
    }
}
