//! Layers written and read again: truth of the device, equal chunks for equal data, limits.

use std::io::Cursor;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::address::ByteRange;
use crate::block::Codec;
use crate::chunk::ChunkTable;
use crate::disk::Disk;
use crate::layer::Layer;
use crate::read_at::ReadAt;

const SMALL: LayerOptions = LayerOptions {
    block_len: 4096,
    codec: Codec::Zstd,
    level: 3,
    chunk_len: 8192,
    hash: crate::HashAlgorithm::Blake3,
    uuid: super::super::Uuid::NIL,
    parent: None,
};

type Writer = LayerWriter<Cursor<Vec<u8>>>;

fn blob(
    options: LayerOptions,
    size: u64,
    write: impl FnOnce(&mut Writer),
) -> (Vec<u8>, LayerSummary) {
    let mut writer = LayerWriter::new(Cursor::new(Vec::new()), options).unwrap();
    write(&mut writer);
    let (out, summary) = writer.finish(size).unwrap();
    assert_eq!(out.position(), summary.len);
    assert_eq!(out.get_ref().len() as u64, summary.len);
    (out.into_inner(), summary)
}

fn device(blobs: Vec<Vec<u8>>) -> Vec<u8> {
    let blobs = blobs
        .into_iter()
        .map(|blob| Arc::new(blob) as Arc<dyn ReadAt>)
        .collect();
    let disk = Disk::open(blobs, 1 << 20).unwrap();
    let mut bytes = vec![0xaa; usize::try_from(disk.len()).unwrap()];
    disk.read_at(0, &mut bytes).unwrap();
    bytes
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()[7] | 1
    };
    core::iter::repeat_with(next).take(len).collect()
}

fn table_of(blob: &[u8], summary: &LayerSummary) -> ChunkTable {
    let range = summary.chunks.range();
    let bytes = &blob[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
    assert_eq!(Digest::of(bytes), summary.chunks.digest);
    ChunkTable::decode(bytes).unwrap()
}

#[test]
fn every_chunk_of_a_blob_verifies() {
    for hash in [crate::HashAlgorithm::Blake3, crate::HashAlgorithm::Sha256] {
        let (blob, summary) = blob(LayerOptions { hash, ..SMALL }, 1 << 20, |writer| {
            writer.write(Sector(0), &noise(1, 100 * 512)).unwrap();
        });
        let table = table_of(&blob, &summary);
        assert_eq!(
            (table.count(), table.covered_len()),
            (summary.chunk_count, summary.chunks.offset)
        );
        assert!(table.count() > 5);
        for index in table.all() {
            let range = table.range(index);
            let bytes =
                &blob[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
            table.verify(index, Bytes::copy_from_slice(bytes)).unwrap();
        }
        let after = usize::try_from(summary.chunks.range().end).unwrap();
        assert!(blob.len().is_multiple_of(512) && blob[after..].iter().all(|byte| *byte == 0));
        assert!(blob.len() - after >= envelope::END_LEN);
    }
}

#[test]
fn equal_data_between_cuts_is_equal_chunks() {
    let file = noise(7, 40 * 1024);
    let hashes = |at: u64, before: usize| {
        let (blob, summary) = blob(SMALL, 1 << 20, |writer| {
            writer
                .write(Sector(0), &noise(before as u64, before * 512))
                .unwrap();
            writer.cut().unwrap();
            writer.write(Sector(at), &file).unwrap();
            writer.cut().unwrap();
            writer.write(Sector(900), &noise(9, 512)).unwrap();
        });
        let table = table_of(&blob, &summary);
        let layer = Layer::open(blob).unwrap();
        let sectors = layer
            .index()
            .over(Sector(at), Sector(at + 80))
            .next()
            .unwrap();
        let Place::Stored(plain) = sectors.place else {
            panic!("{sectors:?}")
        };
        let stored = layer.stored(ByteRange::at(plain.0 * 512, file.len() as u64).unwrap());
        let found: Vec<_> = table.over(stored).map(|index| table.hash(index)).collect();
        let first = table.over(stored).next().unwrap();
        assert_eq!(table.range(first).start, stored.start);
        found
    };
    let one = hashes(200, 3);
    assert!(one.len() > 2);
    assert_eq!(one, hashes(333, 17));
}

#[test]
fn the_blob_does_not_depend_on_how_writes_are_sliced() {
    let mut data = noise(3, 64 * 512);
    data[5 * 512..20 * 512].fill(0);
    data[30 * 512..33 * 512].fill(0);
    data[60 * 512..].fill(0);
    let sliced = |sectors: usize| {
        blob(SMALL, 1 << 20, |writer| {
            for (piece, number) in data.chunks(sectors * 512).zip(0..) {
                writer
                    .write(Sector(100 + number * sectors as u64), piece)
                    .unwrap();
            }
        })
    };
    let whole = sliced(64);
    for sectors in [1, 2, 7, 16, 63] {
        assert!(sliced(sectors) == whole, "{sectors}");
    }
}

#[test]
fn a_page_lies_in_one_block_whatever_zeros_stand_before_it() {
    // Runs of zeros that begin and end within pages, some just a block long.
    let mut data = noise(5, 400 * 512);
    for (start, end) in [(3, 20), (45, 53), (90, 99), (129, 200), (301, 310)] {
        data[start * 512..end * 512].fill(0);
    }
    let (blob, _) = blob(SMALL, 400 * 512, |writer| {
        writer.write(Sector(0), &data).unwrap();
    });
    let layer = Layer::open(blob.clone()).unwrap();
    let mappings = layer.index().mappings();
    let zeroed = mappings.iter().filter(|at| at.place == Place::Zeroed);
    let zeroed: Vec<_> = zeroed
        .map(|at| (at.segment.start.0, at.segment.end().0))
        .collect();
    assert_eq!(zeroed, [(8, 16), (136, 200)]);
    for mapping in mappings {
        if let Place::Stored(at) = mapping.place {
            assert_eq!(at.0 % 8, mapping.segment.start.0 % 8, "{mapping:?}");
        }
    }
    assert!(device(vec![blob]) == data);
}

/// Several batches of blocks, with cuts in, between and at the edges of them.
fn write_much(writer: &mut Writer) {
    for (number, sectors) in [512, 1, 0, 700, 511, 90, 1024, 3].into_iter().enumerate() {
        let at = Sector(number as u64 * 1024);
        writer
            .write(at, &noise(number as u64, sectors * 512))
            .unwrap();
        writer
            .write(Sector(at.0 + 1030), &b"tranship".repeat(sectors * 3 * 64))
            .unwrap();
        if number % 3 != 1 {
            writer.cut().unwrap();
        }
    }
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a caller starts threads, and here the test is the caller"
)]
fn the_blob_is_the_same_on_any_number_of_threads_in_whatever_order_they_are_done() {
    let alone = blob(SMALL, 8 << 20, write_much);
    for count in [1, 2, 5, 1000] {
        // The one thread that there is always does what came last first.
        let (sender, receiver) = std::sync::mpsc::channel::<block::Work>();
        let working = std::thread::spawn(move || {
            while let Ok(first) = receiver.recv() {
                let waiting: Vec<_> = std::iter::once(first).chain(receiver.try_iter()).collect();
                waiting.into_iter().rev().for_each(|work| work());
            }
        });
        let workers = Workers::new(count, move |work| sender.send(work).unwrap());
        let out = Cursor::new(Vec::new());
        let mut writer = LayerWriter::with_workers(out, SMALL, workers).unwrap();
        write_much(&mut writer);
        let (out, summary) = writer.finish(8 << 20).unwrap();
        assert!((out.into_inner(), summary) == alone, "{count}");
        working.join().unwrap();
    }
}

#[test]
fn work_that_is_given_up_fails_the_writer() {
    let workers = Workers::new(2, drop);
    let out = Cursor::new(Vec::new());
    let error = LayerWriter::with_workers(out, SMALL, workers).unwrap_err();
    assert!(matches!(error, WriteLayerError::Write(_)), "{error:?}");
}

#[test]
fn a_higher_level_stores_less() {
    let len = |level| {
        let options = LayerOptions { level, ..SMALL };
        let text: Vec<u8> = (0..90_000_u32)
            .flat_map(|number| (number.wrapping_mul(number) % 60_000).to_le_bytes())
            .collect();
        let whole = text.len() / 512 * 512;
        let write = |writer: &mut Writer| writer.write(Sector(0), &text[..whole]).unwrap();
        blob(options, 1 << 20, write).1.len
    };
    assert!(len(12) < len(1));
}

#[test]
fn long_runs_of_zeros_are_mapped_and_short_ones_stored() {
    let mut data = noise(3, 40 * 512);
    data[8 * 512..16 * 512].fill(0);
    data[24 * 512..31 * 512].fill(0);
    let (blob, summary) = blob(SMALL, 1 << 20, |writer| {
        writer.write(Sector(8), &data).unwrap();
    });
    let layer = Layer::open(blob).unwrap();
    let shape: Vec<_> = layer
        .index()
        .mappings()
        .iter()
        .map(|m| (m.segment.start.0, m.segment.count, m.place == Place::Zeroed))
        .collect();
    assert_eq!(shape, [(8, 8, false), (16, 8, true), (24, 24, false)]);
    assert_eq!(summary.mapped_len, 40 * 512);
}

#[test]
fn zeros_that_were_written_hide_the_layer_below() {
    let lower = blob(SMALL, 64 * 512, |writer| {
        writer.write(Sector(0), &noise(1, 64 * 512)).unwrap();
    })
    .0;
    let upper = blob(SMALL, 0, |writer| {
        writer.write(Sector(1), &[0; 512]).unwrap();
        writer.write(Sector(4), &[0; 32 * 512]).unwrap();
        writer.zero(Sector(50), 3).unwrap();
    })
    .0;
    let mut expected = noise(1, 64 * 512);
    for range in [512..1024, 4 * 512..36 * 512, 50 * 512..53 * 512] {
        expected[range].fill(0);
    }
    assert!(device(vec![lower, upper]) == expected);
}

#[test]
fn an_empty_layer_opens_and_inherits_its_size() {
    let lower = blob(SMALL, 8192, |_| {}).0;
    let upper = blob(SMALL, 0, |_| {}).0;
    assert_eq!(device(vec![lower, upper.clone()]), [0; 8192]);
    let alone: Vec<Arc<dyn ReadAt>> = vec![Arc::new(upper)];
    assert!(matches!(
        Disk::open(alone, 0),
        Err(crate::OpenLayerError::NoVirtualSize)
    ));
}

#[test]
fn a_blob_may_begin_anywhere_in_its_output() {
    let mut out = Cursor::new(vec![0xcc; 1000]);
    out.set_position(1000);
    let mut writer = LayerWriter::new(out, SMALL).unwrap();
    writer.write(Sector(0), &noise(1, 4096)).unwrap();
    let (out, summary) = writer.finish(4096).unwrap();
    let (alone, same) = blob(SMALL, 4096, |writer| {
        writer.write(Sector(0), &noise(1, 4096)).unwrap();
    });
    assert_eq!(
        (&out.get_ref()[1000..], &summary),
        (alone.as_slice(), &same)
    );
    assert_eq!(out.get_ref()[..1000], [0xcc; 1000]);
}

#[test]
fn what_stock_readers_cannot_read_is_refused() {
    let new = |options| LayerWriter::new(Cursor::new(Vec::new()), options).map(|_| ());
    for block_len in [0, 2048, 5000, 65536] {
        assert!(matches!(
            new(LayerOptions { block_len, ..SMALL }),
            Err(WriteLayerError::Option {
                name: "block_len",
                ..
            })
        ));
    }
    for level in [-1, 0, 20] {
        assert!(matches!(
            new(LayerOptions { level, ..SMALL }),
            Err(WriteLayerError::Option { name: "level", .. })
        ));
    }
    for chunk_len in [0, 4095, 4 << 20] {
        assert!(matches!(
            new(LayerOptions { chunk_len, ..SMALL }),
            Err(WriteLayerError::Option {
                name: "chunk_len",
                ..
            })
        ));
    }
    let mut writer = LayerWriter::new(Cursor::new(Vec::new()), SMALL).unwrap();
    assert!(matches!(
        writer.write(Sector(0), &[0; 513]),
        Err(WriteLayerError::NotWholeSectors { len: 513 })
    ));
    assert!(matches!(
        writer.write(Sector((1 << 32) - 1), &[0; 1024]),
        Err(WriteLayerError::BeyondDevice { .. })
    ));
    assert!(matches!(
        writer.zero(Sector(u64::MAX), 2),
        Err(WriteLayerError::BeyondDevice { .. })
    ));
    writer.write(Sector((1 << 32) - 1), &[1; 512]).unwrap();
    assert!(matches!(
        writer.finish((1 << 41) + 1),
        Err(WriteLayerError::BeyondDevice { .. })
    ));
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Zero(u64, u64),
    Cut,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u64..90, prop::collection::vec(prop_oneof![3 => Just(0_u8), 1 => 1_u8..4], 1..30))
            .prop_map(|(at, sectors)| Step::Write(at, sectors.into_iter().flat_map(|byte| [byte; 512]).collect())),
        1 => (0_u64..90, 0_u64..30).prop_map(|(at, count)| Step::Zero(at, count)),
        1 => Just(Step::Cut),
    ]
}

proptest! {
    #[test]
    fn a_device_reads_what_was_written(layers in prop::collection::vec(prop::collection::vec(step(), 0..8), 1..4)) {
        let mut painted = vec![0; 120 * 512];
        let mut blobs = Vec::new();
        for steps in layers {
            blobs.push(blob(SMALL, 120 * 512, |writer| {
                for step in steps {
                    match step {
                        Step::Write(at, data) => {
                            writer.write(Sector(at), &data).unwrap();
                            let start = usize::try_from(at * 512).unwrap();
                            painted[start..start + data.len()].copy_from_slice(&data);
                        }
                        Step::Zero(at, count) => {
                            writer.zero(Sector(at), count).unwrap();
                            painted[usize::try_from(at * 512).unwrap()..usize::try_from((at + count) * 512).unwrap()].fill(0);
                        }
                        Step::Cut => writer.cut().unwrap(),
                    }
                }
            }).0);
        }
        prop_assert!(device(blobs) == painted);
    }
}
