//! A trace as a document: the order in which a start reads an image's chunks.
//!
//! An agent gives it of a device, and the tracker's seed takes it of an operator: with it the seed fetches the part of an
//! image that starts read, and no more. It names chunks by blob and number, so it fits one manifest only.

use serde::{Deserialize, Serialize};
use tranship_format::Digest;

/// The chunks that were read of an image, each once, in the order of the first reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// The image.
    pub manifest: Digest,
    /// Stored bytes of these chunks.
    pub read_len: u64,
    /// Stored bytes of the whole image.
    pub stored_len: u64,
    /// What was read, the first first.
    pub runs: Vec<TraceRun>,
}

/// Chunks of one blob that were read one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceRun {
    /// The blob.
    pub blob: Digest,
    /// Numbers of its chunks.
    pub chunks: Vec<u32>,
}

impl TraceRun {
    fn chunks(&self) -> impl Iterator<Item = (Digest, u32)> + '_ {
        self.chunks.iter().map(|chunk| (self.blob, *chunk))
    }
}

impl Trace {
    /// How many chunks it names.
    pub fn chunk_count(&self) -> usize {
        self.runs.iter().map(|run| run.chunks.len()).sum()
    }

    /// Puts a chunk at the end.
    pub fn push(&mut self, blob: Digest, chunk: u32) {
        match self.runs.last_mut() {
            Some(run) if run.blob == blob => run.chunks.push(chunk),
            _ => self.runs.push(TraceRun {
                blob,
                chunks: vec![chunk],
            }),
        }
    }

    /// Each chunk with its blob, in order.
    pub fn chunks(&self) -> impl Iterator<Item = (Digest, u32)> + '_ {
        self.runs.iter().flat_map(TraceRun::chunks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_come_back_in_order_and_those_of_one_blob_share_a_run() {
        let blobs = [Digest::of(b"lower"), Digest::of(b"upper")];
        let read = [(blobs[0], 7), (blobs[0], 2), (blobs[1], 0), (blobs[0], 3)];
        let mut trace = Trace {
            manifest: Digest::of(b"manifest"),
            read_len: 0,
            stored_len: 0,
            runs: Vec::new(),
        };
        for (blob, chunk) in read {
            trace.push(blob, chunk);
        }
        assert_eq!(trace.runs.len(), 3);
        assert_eq!(trace.chunk_count(), 4);
        assert_eq!(trace.chunks().collect::<Vec<_>>(), read);
        let text = serde_json::to_string(&trace).unwrap();
        assert_eq!(serde_json::from_str::<Trace>(&text).unwrap(), trace);
    }
}
