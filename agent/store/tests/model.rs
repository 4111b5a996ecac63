//! The store against a slow model, the numbers that bound it, and the directories that it must not touch.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where it is wrong"
)]

use std::collections::BTreeMap;
use std::fs;

use bytes::Bytes;
use proptest::prelude::*;
use tranship_format::{ChunkIndex, ChunkTable, ChunkTableBuilder, Digest, HashAlgorithm, Verified};
use tranship_store::{BlobStore, ChunkStore, StoreError, StoreOptions};

const ROOMY: u64 = 1 << 40;

/// A blob with chunks of the given lengths; `seed` makes it another blob.
struct Source {
    bytes: Vec<u8>,
    table: ChunkTable,
}

impl Source {
    fn new(seed: u64, lens: &[usize]) -> Self {
        let mut builder = ChunkTableBuilder::new(HashAlgorithm::Blake3);
        let mut bytes = Vec::new();
        let mut state = seed;
        for len in lens {
            let start = bytes.len();
            for _ in 0..*len {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                bytes.push(state.to_le_bytes()[7]);
            }
            builder.update(&bytes[start..]);
            builder.cut();
        }
        Self {
            bytes,
            table: builder.finish(),
        }
    }

    fn open(&self, store: &ChunkStore) -> BlobStore {
        store
            .blob(
                Digest::of(&self.bytes),
                self.bytes.len() as u64,
                self.table.clone(),
            )
            .unwrap()
    }

    fn index(&self, number: u32) -> ChunkIndex {
        self.table.index(number).unwrap()
    }

    fn slice(&self, index: ChunkIndex) -> &[u8] {
        let range = self.table.range(index);
        &self.bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
    }

    fn chunk(&self, index: ChunkIndex) -> Verified {
        self.table
            .verify(index, Bytes::copy_from_slice(self.slice(index)))
            .unwrap()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(usize, u32),
    Get(usize, u32),
    Read(usize, u64, usize),
    Pin(usize, bool),
    Remove(usize),
    Reopen,
}

const LENS: [usize; 6] = [4096, 1, 9000, 4095, 70_000, 12];

fn step() -> impl Strategy<Value = Step> {
    let blob = 0_usize..2;
    prop_oneof![
        6 => (blob.clone(), 0_u32..6).prop_map(|(blob, chunk)| Step::Put(blob, chunk)),
        3 => (blob.clone(), 0_u32..6).prop_map(|(blob, chunk)| Step::Get(blob, chunk)),
        4 => (blob.clone(), 0_u64..90_000, 0_usize..20_000).prop_map(|(blob, at, len)| Step::Read(blob, at, len)),
        1 => (blob.clone(), any::<bool>()).prop_map(|(blob, pinned)| Step::Pin(blob, pinned)),
        1 => blob.prop_map(Step::Remove),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn roomy_store_is_a_map(steps in prop::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let sources = [Source::new(1, &LENS), Source::new(2, &LENS)];
        let mut store = ChunkStore::open(dir.path(), StoreOptions::with_quota(ROOMY)).unwrap();
        let mut model: BTreeMap<(usize, u32), &[u8]> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Put(blob, number) => {
                    let index = sources[blob].index(number);
                    sources[blob].open(&store).put(index, &sources[blob].chunk(index)).unwrap();
                    model.insert((blob, number), sources[blob].slice(index));
                }
                Step::Get(blob, number) => {
                    let got = sources[blob].open(&store).get(sources[blob].index(number)).unwrap();
                    let want = model.get(&(blob, number)).copied();
                    prop_assert_eq!(got.as_ref().map(|chunk| &chunk.bytes()[..]), want);
                }
                Step::Read(blob, at, len) => {
                    let source = &sources[blob];
                    let mut buf = vec![0; len];
                    let given = source.open(&store).read_at(at, &mut buf).unwrap();
                    let end = at + len as u64;
                    let inside = end <= source.bytes.len() as u64;
                    let range = tranship_format::ByteRange::new(at, end);
                    let want = inside && source.table.over(range).all(|index| model.contains_key(&(blob, index.get())));
                    prop_assert_eq!(given, want);
                    if given {
                        prop_assert_eq!(&buf[..], &source.bytes[usize::try_from(at).unwrap()..][..len]);
                    }
                }
                Step::Pin(blob, pinned) => store.set_pinned(&Digest::of(&sources[blob].bytes), pinned),
                Step::Remove(blob) => {
                    store.remove(&Digest::of(&sources[blob].bytes)).unwrap();
                    model.retain(|(of, _), _| *of != blob);
                }
                Step::Reopen => {
                    drop(store);
                    store = ChunkStore::open(dir.path(), StoreOptions::with_quota(ROOMY)).unwrap();
                }
            }
            let used: usize = model.values().map(|bytes| bytes.len()).sum();
            prop_assert_eq!(store.used_len(), used as u64);
            for (blob, source) in sources.iter().enumerate() {
                let Some(known) = store.known(&Digest::of(&source.bytes)) else { continue };
                let bitmap = known.present();
                for number in 0..6_u32 {
                    let bit = bitmap[number as usize / 8] >> (number % 8) & 1 == 1;
                    prop_assert_eq!(bit, model.contains_key(&(blob, number)));
                }
            }
        }
    }

    #[test]
    fn small_store_stays_under_its_quota_and_never_lies(steps in prop::collection::vec(step(), 1..80), quota in 0_u64..180_000) {
        let dir = tempfile::tempdir().unwrap();
        let sources = [Source::new(1, &LENS), Source::new(2, &LENS)];
        let store = ChunkStore::open(dir.path(), StoreOptions::with_quota(quota)).unwrap();
        for step in steps {
            match step {
                Step::Put(blob, number) => {
                    let index = sources[blob].index(number);
                    let chunk = sources[blob].chunk(index);
                    match sources[blob].open(&store).put(index, &chunk) {
                        Ok(()) => prop_assert!(sources[blob].open(&store).has(index)),
                        Err(error) => prop_assert!(error.is_full() && chunk.bytes().len() as u64 > quota),
                    }
                }
                Step::Get(blob, number) => {
                    let index = sources[blob].index(number);
                    if let Some(chunk) = sources[blob].open(&store).get(index).unwrap() {
                        prop_assert_eq!(&chunk.bytes()[..], sources[blob].slice(index));
                    }
                }
                Step::Read(blob, at, len) => {
                    let mut buf = vec![0; len];
                    if sources[blob].open(&store).read_at(at, &mut buf).unwrap() {
                        prop_assert_eq!(&buf[..], &sources[blob].bytes[usize::try_from(at).unwrap()..][..len]);
                    }
                }
                Step::Pin(blob, pinned) => store.set_pinned(&Digest::of(&sources[blob].bytes), pinned),
                Step::Remove(_) | Step::Reopen => {}
            }
            prop_assert!(store.used_len() <= quota);
            let present: u64 = store.blobs().iter().filter_map(|digest| store.known(digest)).map(|blob| blob.present_len()).sum();
            prop_assert_eq!(store.used_len(), present);
        }
        prop_assert_eq!(store.counters().corrupt_count, 0);
    }
}

#[test]
fn equal_chunk_of_another_blob_is_copied_and_stays_verified() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (
        Source::new(1, &[1000, 5000, 10]),
        Source::new(1, &[1000, 5000]),
    );
    for reopen in [false, true] {
        let mut store = ChunkStore::open(dir.path(), StoreOptions::with_quota(ROOMY)).unwrap();
        if reopen {
            store.remove(&Digest::of(&other.bytes)).unwrap();
            drop(store);
            store = ChunkStore::open(dir.path(), StoreOptions::with_quota(ROOMY)).unwrap();
        } else {
            let blob = one.open(&store);
            assert!(!other.open(&store).has_equal(other.index(1)));
            blob.put(one.index(1), &one.chunk(one.index(1))).unwrap();
            assert!(!blob.has_equal(one.index(1)), "itself is no other place");
        }
        let blob = other.open(&store);
        assert!(blob.has_equal(other.index(1)) && !blob.has_equal(other.index(0)));
        let copied = blob.copy_equal(other.index(1)).unwrap().unwrap();
        assert_eq!(&copied.bytes()[..], other.slice(other.index(1)));
        assert!(blob.has(other.index(1)));
        assert!(blob.copy_equal(other.index(0)).unwrap().is_none());
        assert_eq!(
            (store.counters().copied_count, store.used_len()),
            (1, 10_000)
        );
    }
}

#[test]
fn place_of_an_evicted_chunk_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (Source::new(1, &[1000; 50]), Source::new(1, &[1000; 51]));
    let store = ChunkStore::open(dir.path(), StoreOptions::with_quota(20_000)).unwrap();
    let (blob, again) = (one.open(&store), other.open(&store));
    for index in one.table.all() {
        blob.put(index, &one.chunk(index)).unwrap();
    }
    let (mut known, mut copied) = (0, 0);
    for number in 0..50 {
        known += u32::from(again.has_equal(other.index(number)));
    }
    assert_eq!(known, blob.present_count());
    for number in 0..50 {
        copied += u32::from(again.copy_equal(other.index(number)).unwrap().is_some());
    }
    assert!(copied > 0 && store.used_len() <= 20_000);
}

#[test]
fn evicted_chunks_give_their_blocks_back() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let source = Source::new(1, &[65_536; 32]);
    let store = ChunkStore::open(dir.path(), StoreOptions::with_quota(8 * 65_536)).unwrap();
    let blob = source.open(&store);
    for index in source.table.all() {
        blob.put(index, &source.chunk(index)).unwrap();
    }
    assert!(store.counters().evicted_count >= 24);
    let data = dir
        .path()
        .join("blobs")
        .join(Digest::of(&source.bytes).hex())
        .join("data");
    let metadata = fs::metadata(data).unwrap();
    assert_eq!(metadata.len(), 32 * 65_536);
    assert!(
        metadata.blocks() * 512 <= 9 * 65_536,
        "{} blocks",
        metadata.blocks()
    );
}

#[test]
fn smaller_quota_is_kept_from_the_next_start_on() {
    let dir = tempfile::tempdir().unwrap();
    let source = Source::new(1, &[1000; 100]);
    let store = ChunkStore::open(dir.path(), StoreOptions::with_quota(ROOMY)).unwrap();
    let blob = source.open(&store);
    for index in source.table.all() {
        blob.put(index, &source.chunk(index)).unwrap();
    }
    drop((blob, store));
    let store = ChunkStore::open(dir.path(), StoreOptions::with_quota(50_000)).unwrap();
    assert_eq!(store.used_len(), 45_000);
}

#[test]
fn floor_of_free_space_is_kept_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = StoreOptions::with_quota(ROOMY);
    options.free_floor_len = u64::MAX / 2;
    let store = ChunkStore::open(dir.path(), options).unwrap();
    let source = Source::new(1, &[1000]);
    let blob = source.open(&store);
    let index = source.index(0);
    assert!(blob.put(index, &source.chunk(index)).unwrap_err().is_full());
    assert_eq!((store.used_len(), store.counters().refused_count), (0, 1));
}

#[test]
fn chunk_of_another_place_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = ChunkStore::open(dir.path(), StoreOptions::with_quota(ROOMY)).unwrap();
    let source = Source::new(1, &[1000, 1000]);
    let blob = source.open(&store);
    let error = blob
        .put(source.index(1), &source.chunk(source.index(0)))
        .unwrap_err();
    assert!(
        matches!(error, StoreError::OtherChunk { index: 1 }),
        "{error}"
    );
    assert!(!blob.has(source.index(1)));
}

#[test]
fn blob_begins_anew_under_another_table_unless_it_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let store = ChunkStore::open(dir.path(), StoreOptions::with_quota(ROOMY)).unwrap();
    let source = Source::new(1, &[1000, 1000]);
    let blob = source.open(&store);
    blob.put(source.index(0), &source.chunk(source.index(0)))
        .unwrap();
    let mut other = ChunkTableBuilder::new(HashAlgorithm::Sha256);
    other.update(&source.bytes);
    let other = other.finish();
    let (digest, len) = (blob.digest(), blob.len());
    let error = store.blob(digest, len, other.clone()).unwrap_err();
    assert!(matches!(error, StoreError::OtherTable { .. }), "{error}");
    drop(blob);
    let blob = store.blob(digest, len, other).unwrap();
    assert_eq!((blob.present_count(), store.used_len()), (0, 0));
}

#[test]
fn directory_of_somebody_else_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("precious"), "data").unwrap();
    let error = ChunkStore::open(dir.path(), StoreOptions::with_quota(ROOMY)).unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
    let names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["precious"]);
}

#[test]
fn other_layout_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let source = Source::new(1, &[1000]);
    let store = ChunkStore::open(dir.path(), StoreOptions::with_quota(ROOMY)).unwrap();
    let blob = source.open(&store);
    blob.put(source.index(0), &source.chunk(source.index(0)))
        .unwrap();
    drop((blob, store));
    fs::write(dir.path().join("layout"), "tranship store 2\n").unwrap();
    let error = ChunkStore::open(dir.path(), StoreOptions::with_quota(0)).unwrap_err();
    assert!(error.to_string().contains("tranship store 2"), "{error}");
    fs::write(dir.path().join("layout"), "tranship store 1\n").unwrap();
    let store = ChunkStore::open(dir.path(), StoreOptions::with_quota(ROOMY)).unwrap();
    assert_eq!(store.used_len(), 1000, "nothing was deleted");
}

#[test]
fn second_process_is_told_that_the_store_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let store = ChunkStore::open(dir.path(), StoreOptions::with_quota(ROOMY)).unwrap();
    let error = ChunkStore::open(dir.path(), StoreOptions::with_quota(ROOMY)).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    drop(store);
    ChunkStore::open(dir.path(), StoreOptions::with_quota(ROOMY)).unwrap();
}

#[test]
fn table_that_covers_more_than_the_blob_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = ChunkStore::open(dir.path(), StoreOptions::with_quota(ROOMY)).unwrap();
    let source = Source::new(1, &[1000]);
    let error = store
        .blob(Digest::of(b""), 999, source.table.clone())
        .unwrap_err();
    assert!(matches!(error, StoreError::WrongTable { .. }), "{error}");
}
