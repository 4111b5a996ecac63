//! What readers of a device have read, in the order of their first reads.
//!
//! A bit and a place in the list for each chunk of the image, so it has its bound in the image's own. It lives as long as
//! the device does in this agent: one that is started anew begins an empty one.

use std::sync::{Mutex, PoisonError};

use tranship_source::Trace;

use crate::image::{Image, opening_chunks};

/// See the module's words.
#[derive(Debug)]
pub(crate) struct FirstReads(Mutex<Noted>);

#[derive(Debug)]
struct Noted {
    /// For each layer from the bottom, a bit for each chunk.
    read: Vec<Vec<u64>>,
    order: Vec<(usize, u32)>,
}

impl FirstReads {
    /// Of an image with so many chunks in its layers, the bottom one first.
    pub(crate) fn of(chunk_counts: impl Iterator<Item = u32>) -> Self {
        let words = |count: u32| vec![0; usize::try_from(count.div_ceil(64)).unwrap_or_default()];
        Self(Mutex::new(Noted {
            read: chunk_counts.map(words).collect(),
            order: Vec::new(),
        }))
    }

    /// A chunk is read.
    pub(crate) fn note(&self, layer: usize, chunk: u32) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let word = usize::try_from(chunk / 64).unwrap_or(usize::MAX);
        let bit = 1 << (chunk % 64);
        let layer_read = noted.read.get_mut(layer);
        let Some(word) = layer_read.and_then(|words| words.get_mut(word)) else {
            return;
        };
        if *word & bit == 0 {
            *word |= bit;
            noted.order.push((layer, chunk));
        }
    }

    fn order(&self) -> Vec<(usize, u32)> {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.order.clone()
    }
}

/// The trace of an image: what opening its layers reads, then what readers read.
pub(crate) fn trace(image: &Image) -> Trace {
    let mut trace = Trace {
        manifest: image.manifest,
        read_len: 0,
        stored_len: image.fill().stored_len,
        runs: Vec::new(),
    };
    let counts = image.blobs().map(|blob| blob.table().count());
    let all = FirstReads::of(counts);
    for (layer, blob) in image.blobs().enumerate() {
        for chunk in opening_chunks(blob.table()) {
            all.note(layer, chunk.get());
        }
    }
    for (layer, chunk) in image.first_reads().order() {
        all.note(layer, chunk);
    }
    for (layer, chunk) in all.order() {
        let blob = image.layer(layer).map(|layer| layer.blob());
        let Some((blob, index)) = blob.and_then(|blob| Some((blob, blob.table().index(chunk)?)))
        else {
            continue;
        };
        trace.push(blob.digest(), chunk);
        let len = blob.table().range(index).len();
        trace.read_len = trace.read_len.saturating_add(len);
    }
    trace
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_chunk_is_noted_once_and_in_order() {
        let reads = FirstReads::of([65, 3].into_iter());
        for (layer, chunk) in [(0, 64), (1, 2), (0, 64), (0, 0), (1, 2)] {
            reads.note(layer, chunk);
        }
        assert_eq!(reads.order(), [(0, 64), (1, 2), (0, 0)]);
    }

    #[test]
    fn what_the_image_does_not_have_is_not_noted() {
        let reads = FirstReads::of([1].into_iter());
        reads.note(1, 0);
        reads.note(0, 64);
        reads.note(0, u32::MAX);
        assert_eq!(reads.order(), []);
    }
}
