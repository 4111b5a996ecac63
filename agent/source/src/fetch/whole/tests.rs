//! An origin that gives no ranges, read through the deeds that the driver has at hand.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use tranship_format::{ByteRange, ChunkTable, HashAlgorithm};
use tranship_store::{ChunkStore, StoreOptions};

use super::*;
use crate::counters::{Counters, Source};
use crate::fetch::OriginError;
use crate::net::event::Cause;

const CHUNK_LEN: u32 = 4096;
const CHUNKS: u32 = 40;

/// Gives the whole blob in pieces that respect no chunk's edge, and nothing else.
#[derive(Debug)]
struct NoRanges {
    content: Bytes,
    passes: AtomicU32,
}

impl BlobOrigin for NoRanges {
    fn source(&self) -> Source {
        Source::Registry
    }

    fn read(&self, _: Digest, _: ByteRange) -> crate::fetch::BlobPieces {
        let ignored = OriginError {
            retry_after: None,
            permanent: true,
            ranges_ignored: true,
            source: "all of it".into(),
        };
        Box::pin(futures::stream::iter([Err(ignored)]))
    }

    fn read_whole(&self, _: Digest) -> crate::fetch::BlobPieces {
        self.passes.fetch_add(1, Ordering::SeqCst);
        let pieces: Vec<_> = self
            .content
            .chunks(1000)
            .map(Bytes::copy_from_slice)
            .collect();
        Box::pin(futures::stream::iter(pieces.into_iter().map(Ok)))
    }
}

struct Bench {
    jobs: Jobs,
    events: mpsc::Receiver<Event>,
    blob: BlobStore,
    origin: Arc<NoRanges>,
    _folder: tempfile::TempDir,
}

impl Bench {
    /// A blob of which the origin has byte `flipped` wrong, and a store with room for `quota_len` bytes.
    fn new(flipped: Option<usize>, quota_len: u64) -> Self {
        let mut content: Vec<u8> = (0..CHUNKS * CHUNK_LEN)
            .map(|at| u8::try_from(at.wrapping_mul(2_654_435_761) >> 24).unwrap())
            .collect();
        let digest = Digest::of(&content);
        let table =
            ChunkTable::uniform(content.as_slice(), HashAlgorithm::Blake3, CHUNK_LEN).unwrap();
        if let Some(at) = flipped {
            content[at] ^= 1;
        }
        let folder = tempfile::tempdir().unwrap();
        let store = ChunkStore::open(folder.path(), StoreOptions::with_quota(quota_len)).unwrap();
        let blob = store.blob(digest, content.len() as u64, table).unwrap();
        let (events, receiver) = mpsc::channel(10_000);
        Self {
            jobs: Jobs {
                events,
                tasks: TaskTracker::new(),
                counters: Arc::new(Counters::default()),
                whole: Arc::default(),
            },
            events: receiver,
            blob,
            origin: Arc::new(NoRanges {
                content: content.into(),
                passes: AtomicU32::new(0),
            }),
            _folder: folder,
        }
    }

    fn read(&self, read: u64, chunks: Range<u32>) {
        let origin = Arc::clone(&self.origin) as Arc<dyn BlobOrigin>;
        self.jobs
            .read_origin(read, self.blob.clone(), chunks, origin);
    }

    /// All that was reported when the last deed is done.
    async fn reports(&mut self) -> Vec<Event> {
        self.jobs.tasks.close();
        self.jobs.tasks.wait().await;
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }
}

/// What was reported of one read: each chunk with how it turned out, and whether the read ended well.
fn of_read(reports: &[Event], wanted: u64) -> (Vec<(u32, Arrival)>, Option<bool>) {
    let mut chunks = Vec::new();
    let mut ended = None;
    for report in reports {
        match report {
            Event::Taken {
                cause: Cause::Origin { read },
                chunk,
                taken,
            } if *read == wanted => chunks.push((chunk.number, taken.arrival)),
            Event::OriginEnd { read, failure, .. } if *read == wanted => {
                ended = Some(failure.is_none());
            }
            _ => {}
        }
    }
    (chunks, ended)
}

#[tokio::test]
async fn one_pass_serves_all_readers_and_fills_the_store() {
    let mut bench = Bench::new(None, 1 << 30);
    bench.read(1, 30..33);
    bench.read(2, 0..1);
    bench.read(3, 39..40);
    let reports = bench.reports().await;
    for (read, chunks) in [(1, 30..33), (2, 0..1), (3, 39..40)] {
        let kept: Vec<_> = chunks.map(|number| (number, Arrival::Kept)).collect();
        assert_eq!(of_read(&reports, read), (kept, Some(true)));
    }
    assert_eq!(bench.origin.passes.load(Ordering::SeqCst), 1);
    assert!(bench.blob.table().all().all(|index| bench.blob.has(index)));
    let told =
        |event: &Event| matches!(event, Event::Refilled { blob } if *blob == bench.blob.digest());
    assert_eq!(reports.iter().filter(|event| told(event)).count(), 1);
}

#[tokio::test]
async fn a_chunk_that_the_pass_has_wrong_is_told_and_its_neighbours_are_right() {
    let mut bench = Bench::new(Some(5 * 4096 + 17), 1 << 30);
    bench.read(1, 4..7);
    let reports = bench.reports().await;
    let expected = vec![(4, Arrival::Kept), (5, Arrival::Wrong), (6, Arrival::Kept)];
    assert_eq!(of_read(&reports, 1), (expected, Some(true)));
}

#[tokio::test]
async fn what_the_store_has_no_room_for_reaches_its_reader_all_the_same() {
    let mut bench = Bench::new(None, u64::from(CHUNK_LEN) / 2);
    bench.read(1, 36..38);
    let reports = bench.reports().await;
    let (chunks, ended) = of_read(&reports, 1);
    assert_eq!(chunks, [(36, Arrival::Passed), (37, Arrival::Passed)]);
    assert_eq!(ended, Some(true));
    for report in &reports {
        if let Event::Taken { chunk, taken, .. } = report {
            let start = (chunk.number * CHUNK_LEN) as usize;
            let expected = &bench.origin.content[start..start + CHUNK_LEN as usize];
            assert_eq!(taken.bytes.as_deref(), Some(expected));
        }
    }
}
