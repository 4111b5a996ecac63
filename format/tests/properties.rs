//! The fast ways against slow ones, and every decoder against anything.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::Arc;

use proptest::prelude::*;
use tranship_format::index::Index;
use tranship_format::segment::{Mapping, Place, Segment};
use tranship_format::{
    ByteRange, ChunkTable, ChunkTableBuilder, Codec, Disk, HashAlgorithm, Layer, LayerAnnotations,
    LayerOptions, LayerWriter, ReadAt, Sector, Uuid, annotation, stack,
};

/// Sectors of the devices in these tests.
const SECTORS: u64 = 200;
/// The same, as a length.
const CANVAS_LEN: usize = 200;

/// An index of mappings with holes between them, each stored at a place of its own.
fn index() -> impl Strategy<Value = Index> {
    prop::collection::vec((0_u64..12, 1_u32..25, any::<bool>()), 0..12).prop_map(|runs| {
        let (mut at, mut stored, mut mappings) = (0, 8, Vec::new());
        for (hole, count, zeroed) in runs {
            let start = at + hole;
            let place = if zeroed {
                Place::Zeroed
            } else {
                Place::Stored(Sector(stored))
            };
            mappings.push(Mapping {
                segment: Segment {
                    start: Sector(start),
                    count,
                },
                layer: 0,
                place,
            });
            at = start + u64::from(count);
            stored += u64::from(count) + 3;
        }
        Index::new(mappings).unwrap()
    })
}

/// Where a sector is: its layer, and its sector there or nothing for zeros.
type Paint = Option<(u8, Option<u64>)>;

fn paint(index: &Index, layer: Option<u8>, canvas: &mut [Paint]) {
    for mapping in index.mappings() {
        for step in 0..u64::from(mapping.segment.count) {
            let place = match mapping.place {
                Place::Stored(at) => Some(at.0 + step),
                Place::Zeroed => None,
            };
            if let Some(spot) =
                canvas.get_mut(usize::try_from(mapping.segment.start.0 + step).unwrap())
            {
                *spot = Some((layer.unwrap_or(mapping.layer), place));
            }
        }
    }
}

proptest! {
    #[test]
    fn a_merged_stack_is_what_painting_gives(layers in prop::collection::vec(index(), 0..8)) {
        let mut painted = [None; CANVAS_LEN];
        for (layer, number) in layers.iter().zip(0..) {
            paint(layer, Some(number), &mut painted);
        }
        let mut merged = [None; CANVAS_LEN];
        let stack = stack::merge(&layers);
        paint(&stack, None, &mut merged);
        prop_assert_eq!(merged, painted);
        prop_assert!(Index::new(stack.mappings().to_vec()).is_some(), "sorted and apart");
    }

    #[test]
    fn a_look_up_is_what_a_scan_gives(index in index(), from in 0..SECTORS, len in 0..SECTORS) {
        let mut whole = [None; CANVAS_LEN];
        paint(&index, None, &mut whole);
        let to = (from + len).min(SECTORS);
        for (sector, spot) in whole.iter_mut().enumerate() {
            if !(from..to).contains(&(sector as u64)) {
                *spot = None;
            }
        }
        let found = Index::new(index.over(Sector(from), Sector(to)).collect()).unwrap();
        let mut looked_up = [None; CANVAS_LEN];
        paint(&found, None, &mut looked_up);
        prop_assert_eq!(looked_up, whole);
    }

    #[test]
    fn chunks_cover_a_blob_exactly(lens in prop::collection::vec(1_u64..500, 0..40), start in 0_u64..12_000, len in 0_u64..3000) {
        let mut builder = ChunkTableBuilder::new(HashAlgorithm::Blake3);
        for len in &lens {
            builder.update(&vec![0; usize::try_from(*len).unwrap()]);
            builder.cut();
        }
        let table = builder.finish();
        let mut end = 0;
        for index in table.all() {
            let range = table.range(index);
            prop_assert_eq!(range.start, end);
            prop_assert_eq!(range.len(), lens[index.get() as usize]);
            prop_assert_eq!(table.at(range.start), Some(index));
            prop_assert_eq!(table.at(range.end - 1), Some(index));
            end = range.end;
        }
        prop_assert_eq!(table.covered_len(), end);
        let range = ByteRange::at(start, len).unwrap();
        let over: Vec<_> = table.over(range).collect();
        let slowly: Vec<_> = table.all().filter(|index| table.range(*index).overlaps(range)).collect();
        prop_assert_eq!(over, slowly);
        prop_assert_eq!(ChunkTable::decode(&table.encode()).unwrap(), table);
    }

    #[test]
    fn any_bytes_are_a_chunk_table_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200), like_one in any::<bool>()) {
        let mut bytes = bytes;
        if like_one {
            let model = ChunkTable::uniform([0; 100].as_slice(), HashAlgorithm::Sha256, 50).unwrap().encode();
            let keep = bytes.len().min(32);
            bytes[..keep].copy_from_slice(&model[..keep]);
        }
        if let Ok(table) = ChunkTable::decode(&bytes) {
            prop_assert_eq!(table.encode(), bytes);
        }
    }

    #[test]
    fn any_values_are_annotations_or_an_error(values in prop::collection::vec(prop_oneof!["[0-9]{1,20}", "sha256:[0-9a-f]{64}", ".{0,8}", Just("1".to_owned())], 8)) {
        let keys = [
            annotation::BLOB_DIGEST, annotation::BLOB_SIZE, annotation::BLOB_FS_TYPE, annotation::OVERLAYBD_VERSION,
            annotation::VERSION, annotation::CHUNKS_DIGEST, annotation::CHUNKS_OFFSET, annotation::CHUNKS_SIZE,
        ];
        let map: BTreeMap<String, String> = keys.iter().map(|key| (*key).to_owned()).zip(values).collect();
        if let Ok(Some(read)) = LayerAnnotations::from_map(&map) {
            prop_assert_eq!(LayerAnnotations::from_map(&read.to_map()), Ok(Some(read)));
        }
    }

    #[test]
    fn uuids_come_back_as_they_were(bytes in any::<[u8; 16]>(), text in ".{0,40}") {
        let uuid = Uuid::from_bytes(bytes);
        prop_assert_eq!(uuid.to_string().parse(), Ok(uuid));
        if let Ok(uuid) = text.parse::<Uuid>() {
            prop_assert_eq!(uuid.to_string(), text.to_uppercase());
        }
    }
}

/// Bytes that overwrite a part of a blob, near one of the places that decoders look at.
#[derive(Clone, Debug)]
struct Damage {
    /// Distance from the beginning, or from the end.
    at: usize,
    from_end: bool,
    bytes: Vec<u8>,
}

fn damage() -> impl Strategy<Value = Damage> {
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..9),
        Just(vec![0; 8]),
        Just(vec![0xff; 8]),
        any::<u64>().prop_map(|number| number.to_le_bytes().to_vec()),
        (0_u64..20_000).prop_map(|number| number.to_le_bytes().to_vec()),
    ];
    (0_usize..9000, any::<bool>(), bytes).prop_map(|(at, from_end, bytes)| Damage {
        at,
        from_end,
        bytes,
    })
}

/// A blob of a few blocks. Without digests, so that damage reaches the decoders behind them.
fn blob(codec: Codec) -> Vec<u8> {
    let options = LayerOptions {
        block_len: 4096,
        codec,
        ..LayerOptions::default()
    };
    let mut writer = LayerWriter::new(Cursor::new(Vec::new()), options).unwrap();
    for number in 0..40_u64 {
        let data: Vec<u8> = (0..600_u64)
            .flat_map(|word| (word * number).to_le_bytes())
            .take(4096 + 512)
            .collect();
        writer.write(Sector(number * 11), &data).unwrap();
    }
    let mut blob = writer.finish(1 << 20).unwrap().0.into_inner();
    assert_eq!(blob[1536 + 32], 0x1b);
    blob[1536 + 32] = 0x0b;
    blob
}

/// The layer file in a blob, without compression and envelope.
fn bare(blob: &[u8]) -> Vec<u8> {
    let layer = Layer::open(blob).unwrap();
    let disk = Disk::open(vec![Arc::new(blob.to_vec())], 0).unwrap();
    let mut data = Vec::new();
    for mapping in layer.index().mappings() {
        let mut buf = vec![0; mapping.segment.count as usize * 512];
        disk.read_at(mapping.segment.start.byte().unwrap(), &mut buf)
            .unwrap();
        data.extend_from_slice(&buf);
    }
    data
}

fn read_all(blob: Vec<u8>) {
    let blob: Arc<dyn ReadAt> = Arc::new(blob);
    let Ok(disk) = Disk::open(vec![blob], 8192) else {
        return;
    };
    for mapping in disk.index().mappings() {
        let start = mapping.segment.start.byte().unwrap_or(u64::MAX);
        let mut buf = vec![0; mapping.segment.count as usize * 512];
        let _ = disk.read_at(start, &mut buf);
        let _ = disk.stored_ranges(ByteRange::new(start, start.saturating_add(9000)));
    }
}

proptest! {
    #[test]
    fn any_damage_to_a_layer_is_an_error_or_other_bytes_but_no_panic(
        damages in prop::collection::vec(damage(), 1..6),
        cut in prop_oneof![4 => Just(0_usize), 1 => 0_usize..9000],
        zstd in any::<bool>(),
        without_envelope in any::<bool>(),
    ) {
        let mut blob = blob(if zstd { Codec::Zstd } else { Codec::Lz4 });
        if without_envelope {
            let payload = Layer::open(&blob).unwrap().payload().range();
            blob = blob[usize::try_from(payload.start).unwrap()..usize::try_from(payload.end).unwrap()].to_vec();
        }
        for Damage { at, from_end, bytes } in damages {
            let start = if from_end { blob.len().saturating_sub(at) } else { at };
            for (to, from) in blob.iter_mut().skip(start).zip(bytes) {
                *to = from;
            }
        }
        blob.truncate(blob.len().saturating_sub(cut));
        read_all(blob);
    }

    #[test]
    fn any_bytes_are_a_layer_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        read_all(bytes);
    }
}

#[test]
fn both_codecs_hold_the_same_device() {
    assert!(bare(&blob(Codec::Lz4)) == bare(&blob(Codec::Zstd)));
}
