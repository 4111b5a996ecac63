//! Readers, writers and evictions of the same few chunks at once: a read is right or it is not given.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use bytes::Bytes;
use tranship_format::{ChunkTableBuilder, Digest, HashAlgorithm, Verified};
use tranship_store::{BlobReader, ChunkStore, StoreOptions};

const CHUNK_LEN: usize = 40_000;
const CHUNK_COUNT: usize = 12;
const ROUNDS: usize = 10_000;
const MOST_ROUNDS: usize = 20_000_000;

struct Leaving<'a>(&'a AtomicU64);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[test]
fn read_that_races_with_eviction_is_right_or_not_given() {
    let dir = tempfile::tempdir().unwrap();
    // No byte is zero, so that a hole shows.
    let content: Vec<u8> = (0..CHUNK_LEN * CHUNK_COUNT)
        .map(|at| u8::try_from(at % 251 + 1).unwrap())
        .collect();
    let mut builder = ChunkTableBuilder::new(HashAlgorithm::Blake3);
    for chunk in content.chunks(CHUNK_LEN) {
        builder.update(chunk);
        builder.cut();
    }
    let store =
        ChunkStore::open(dir.path(), StoreOptions::with_quota(4 * CHUNK_LEN as u64)).unwrap();
    let blob = store
        .blob(Digest::of(&content), content.len() as u64, builder.finish())
        .unwrap();
    let chunks: Vec<Verified> = blob
        .table()
        .all()
        .zip(content.chunks(CHUNK_LEN))
        .map(|(index, bytes)| {
            blob.table()
                .verify(index, Bytes::copy_from_slice(bytes))
                .unwrap()
        })
        .collect();
    let first = blob.table().index(0).unwrap();
    blob.put(first, &chunks[0]).unwrap();
    // What another process has of the store: its files.
    let from_files = BlobReader::open(dir.path(), &blob.digest())
        .unwrap()
        .unwrap();
    let (given, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let given_from_files = AtomicU64::new(0);
    let (start, reading) = (Barrier::new(6), AtomicU64::new(4));
    // However threads are scheduled, the race is only over when both sides of it were seen often.
    let seen_enough = || {
        given.load(Ordering::Relaxed) > 1000
            && refused.load(Ordering::Relaxed) > 1000
            && given_from_files.load(Ordering::Relaxed) > 1000
            && store.counters().evicted_count > 1000
    };
    thread::scope(|scope| {
        for writer in 0..2 {
            let (blob, chunks, start, reading) = (&blob, &chunks, &start, &reading);
            scope.spawn(move || {
                start.wait();
                let mut round = 0_usize;
                while reading.load(Ordering::Relaxed) > 0 {
                    let number = (round * (writer + 1) * 5) % CHUNK_COUNT;
                    let index = blob.table().index(u32::try_from(number).unwrap()).unwrap();
                    match blob.put(index, &chunks[number]) {
                        Ok(()) => {}
                        Err(error) => assert!(error.is_full(), "{error}"),
                    }
                    round += 1;
                }
            });
        }
        scope.spawn(|| {
            let _leaving = Leaving(&reading);
            start.wait();
            read_from_files(&from_files, &content, &given_from_files, &seen_enough);
        });
        for reader in 0..3_usize {
            let (blob, content, start, seen_enough) = (&blob, &content, &start, &seen_enough);
            let (given, refused, reading) = (&given, &refused, &reading);
            scope.spawn(move || {
                let mut buf = vec![0; 9_000];
                // Writers end with the readers, also with one that found a wrong byte.
                let _leaving = Leaving(reading);
                start.wait();
                for round in 0..MOST_ROUNDS {
                    if round % 64 == 0 {
                        if round >= ROUNDS && seen_enough() {
                            break;
                        }
                        let number = round / 64 % CHUNK_COUNT;
                        let index = blob.table().index(u32::try_from(number).unwrap()).unwrap();
                        if let Some(chunk) = blob.get(index).unwrap() {
                            assert!(
                                chunk.bytes()[..] == content[number * CHUNK_LEN..][..CHUNK_LEN]
                            );
                        }
                    }
                    let at = (round * 7_919 + reader * 104_729) % (content.len() - buf.len());
                    if blob.read_at(at as u64, &mut buf).unwrap() {
                        assert!(buf == content[at..at + buf.len()], "wrong bytes at {at}");
                        given.fetch_add(1, Ordering::Relaxed);
                    } else {
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert!(
        seen_enough(),
        "{given:?} {refused:?} {:?}",
        store.counters()
    );
    let counters = store.counters();
    assert_eq!(counters.corrupt_count, 0, "a race is not corruption");
    assert_eq!(store.used_len(), blob.present_len());
    assert!(store.used_len() <= 4 * CHUNK_LEN as u64);
}

/// Reads parts of chunks until enough was seen.
#[expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop, with the place named"
)]
fn read_from_files(
    blob: &BlobReader,
    content: &[u8],
    given: &AtomicU64,
    seen_enough: &dyn Fn() -> bool,
) {
    let mut buf = vec![0; 9_000];
    for round in 0..MOST_ROUNDS {
        if round >= ROUNDS && round % 64 == 0 && seen_enough() {
            return;
        }
        let number = round % CHUNK_COUNT;
        let at = number * CHUNK_LEN + round * 7_919 % (CHUNK_LEN - buf.len());
        let index = blob.table().index(u32::try_from(number).unwrap()).unwrap();
        if blob.read_in(index, at as u64, &mut buf).unwrap() {
            assert!(buf == content[at..at + buf.len()], "wrong bytes at {at}");
            given.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn many_writers_of_one_chunk_write_it_once() {
    let dir = tempfile::tempdir().unwrap();
    let content = vec![7; CHUNK_LEN];
    let mut builder = ChunkTableBuilder::new(HashAlgorithm::Blake3);
    builder.update(&content);
    let store = ChunkStore::open(dir.path(), StoreOptions::with_quota(1 << 30)).unwrap();
    let blob = store
        .blob(Digest::of(&content), content.len() as u64, builder.finish())
        .unwrap();
    let index = blob.table().index(0).unwrap();
    let chunk = blob.table().verify(index, Bytes::from(content)).unwrap();
    let start = Barrier::new(8);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                start.wait();
                blob.put(index, &chunk).unwrap();
            });
        }
    });
    assert_eq!(
        (blob.present_count(), store.used_len()),
        (1, CHUNK_LEN as u64)
    );
}
