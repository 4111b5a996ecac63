//! The merged device: reads of any kind, what they cost, and layers as no writer of ours makes them.

use std::io::Cursor;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::address::Sector;
use crate::block::Codec;
use crate::layer::{LayerOptions, LayerWriter};
use crate::segment::{Mapping, Place, Segment};

/// Counts what is asked of a blob.
struct Counting {
    blob: Vec<u8>,
    reads: AtomicU64,
    bytes: AtomicU64,
}

impl Counting {
    fn new(blob: Vec<u8>) -> Arc<Self> {
        Arc::new(Self {
            blob,
            reads: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        })
    }

    /// Reads and bytes since the last call.
    fn take(&self) -> (u64, u64) {
        (
            self.reads.swap(0, Ordering::Relaxed),
            self.bytes.swap(0, Ordering::Relaxed),
        )
    }
}

impl ReadAt for Counting {
    fn len(&self) -> u64 {
        ReadAt::len(&self.blob)
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.blob.read_exact_at(offset, buf)
    }
}

fn text(len: usize) -> Vec<u8> {
    (0_u32..)
        .flat_map(|number| format!("line {number} of many\n").into_bytes())
        .take(len)
        .collect()
}

fn blob(codec: Codec, data: &[(u64, Vec<u8>)], size: u64) -> Vec<u8> {
    let options = LayerOptions {
        block_len: 4096,
        codec,
        ..LayerOptions::default()
    };
    let mut writer = LayerWriter::new(Cursor::new(Vec::new()), options).unwrap();
    for (at, data) in data {
        writer.write(Sector(*at), data).unwrap();
    }
    writer.finish(size).unwrap().0.into_inner()
}

/// A layer file as stock tools may write it: not compressed, any mappings.
fn bare(mappings: &[Mapping], data: &[u8], size: u64) -> Vec<u8> {
    crate::layer::write_bare(mappings, data, size)
}

fn mapping(start: u64, count: u32, place: Place) -> Mapping {
    Mapping {
        segment: Segment {
            start: Sector(start),
            count,
        },
        layer: 0,
        place,
    }
}

fn read(disk: &Disk, start: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0xaa; len];
    disk.read_at(start, &mut buf).unwrap();
    buf
}

#[test]
fn a_sequential_read_asks_once() {
    let data = text(256 * 1024);
    let counting = Counting::new(blob(Codec::Zstd, &[(8, data.clone())], 1 << 20));
    let disk = Disk::open(vec![counting.clone()], 1 << 20).unwrap();
    counting.take();
    assert!(read(&disk, 8 * 512, data.len()) == data);
    let (reads, bytes) = counting.take();
    assert_eq!(reads, 1);
    let stored: u64 = disk
        .stored_ranges(ByteRange::new(4096, 4096 + data.len() as u64))
        .iter()
        .map(|(_, range)| range.len())
        .sum();
    assert_eq!(bytes, stored);
}

#[test]
fn a_block_read_in_part_is_kept_and_a_whole_one_is_not() {
    let data = text(64 * 1024);
    let counting = Counting::new(blob(Codec::Lz4, &[(0, data.clone())], 1 << 20));
    let disk = Disk::open(vec![counting.clone()], 1 << 20).unwrap();
    counting.take();
    assert_eq!(read(&disk, 100, 10), data[100..110]);
    assert_eq!(counting.take().0, 1);
    assert_eq!(read(&disk, 200, 300), data[200..500]);
    assert_eq!(counting.take().0, 0);
    assert_eq!(read(&disk, 0, 8192), data[..8192]);
    assert_eq!(counting.take().0, 1, "the second block only");
    read(&disk, 4096, 4096);
    assert_eq!(counting.take().0, 1);
}

#[test]
fn stored_ranges_are_what_a_read_touches() {
    let data = text(64 * 1024);
    let lower = blob(Codec::Zstd, &[(0, data.clone())], 64 * 1024);
    let upper = blob(Codec::Zstd, &[(16, data[..8192].to_vec())], 0);
    let disk = Disk::open(vec![Arc::new(lower.clone()), Arc::new(upper)], 0).unwrap();
    let ranges = disk.stored_ranges(ByteRange::new(0, u64::MAX));
    assert_eq!(
        ranges.iter().map(|(layer, _)| *layer).collect::<Vec<_>>(),
        [0, 1, 0]
    );
    // A blob that has only the stored bytes of a range, and what opening needs, can answer the range.
    let wanted = ByteRange::new(40_000, 50_000);
    let mut sparse = lower.clone();
    let [(0, needed)] = disk.stored_ranges(wanted)[..] else {
        panic!()
    };
    let data_range = disk.stored_ranges(ByteRange::new(0, 64 * 1024));
    let (first, last) = (data_range[0].1.start, data_range[2].1.end);
    for at in (first..last).filter(|at| !needed.contains(*at)) {
        sparse[usize::try_from(at).unwrap()] = 0;
    }
    let sparse = Disk::open(vec![Arc::new(sparse)], 0).unwrap();
    assert!(read(&sparse, 40_000, 10_000) == data[40_000..50_000]);
    assert!(sparse.read_at(0, &mut [0; 512]).is_err());
    assert!(
        disk.stored_ranges(ByteRange::new(64 * 1024, u64::MAX))
            .is_empty()
    );
}

#[test]
fn what_is_stored_nowhere_is_told_from_what_is() {
    let data = text(8192);
    let lower = blob(
        Codec::Zstd,
        &[(16, data.clone()), (48, data.clone())],
        1 << 20,
    );
    let upper = blob(Codec::Zstd, &[(32, data.clone())], 0);
    let disk = Disk::open(vec![Arc::new(lower), Arc::new(upper)], 0).unwrap();
    let all = ByteRange::new(0, u64::MAX);
    assert_eq!(disk.data_ranges(all, 9), [ByteRange::new(8192, 32768)]);
    let part = ByteRange::new(9000, 10_000);
    assert_eq!(disk.data_ranges(part, 9), [part]);
    assert!(disk.data_ranges(ByteRange::new(0, 8192), 9).is_empty());
    assert!(disk.data_ranges(all, 0).is_empty());
}

#[test]
fn what_is_kept_goes_when_the_disk_rests() {
    let counting = Counting::new(blob(Codec::Lz4, &[(0, text(8192))], 1 << 20));
    let disk = Disk::open(vec![counting.clone()], 1 << 20).unwrap();
    read(&disk, 100, 10);
    counting.take();
    read(&disk, 100, 10);
    assert_eq!(counting.take().0, 0);
    disk.rest();
    read(&disk, 100, 10);
    assert_eq!(counting.take().0, 1);
}

#[test]
fn reads_beyond_the_end_are_refused() {
    let disk = Disk::open(vec![Arc::new(blob(Codec::Zstd, &[], 1000))], 0).unwrap();
    assert_eq!(read(&disk, 0, 1000), [0; 1000]);
    disk.read_at(1000, &mut []).unwrap();
    for (offset, len) in [(0, 1001), (1000, 1), (u64::MAX, 1)] {
        assert_eq!(
            disk.read_at(offset, &mut vec![0; len]).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }
}

#[test]
fn sectors_beyond_2_tib_keep_their_bytes() {
    let far = (1 << 32) + 500;
    let lower = bare(
        &[
            mapping(0, 1, Place::Stored(Sector(8))),
            mapping(far, 1, Place::Stored(Sector(9))),
        ],
        &[[1; 512], [2; 512]].concat(),
        4 << 40,
    );
    let upper = bare(
        &[mapping(1000, 1, Place::Stored(Sector(8)))],
        &[3; 512],
        4 << 40,
    );
    let disk = Disk::open(vec![Arc::new(lower), Arc::new(upper)], 0).unwrap();
    for (sector, byte) in [(0, 1), (1000, 3), (far, 2), (500, 0), (far - 1, 0)] {
        assert_eq!(read(&disk, sector * 512, 512), [byte; 512], "{sector}");
    }
}

#[test]
fn one_place_may_be_mapped_twice() {
    let data = text(4096);
    let mappings = [
        mapping(0, 8, Place::Stored(Sector(8))),
        mapping(8, 4, Place::Zeroed),
        mapping(12, 4, Place::Stored(Sector(10))),
    ];
    let disk = Disk::open(vec![Arc::new(bare(&mappings, &data, 16 * 512))], 0).unwrap();
    assert!(read(&disk, 0, 16 * 512) == [&data[..], &[0; 2048], &data[1024..3072]].concat());
}

#[test]
fn the_topmost_size_that_is_not_zero_holds() {
    let layer = |size| Arc::new(bare(&[], &[], size)) as Arc<dyn ReadAt>;
    let len = |sizes: &[u64]| {
        Disk::open(sizes.iter().map(|size| layer(*size)).collect(), 0).map(|disk| disk.len())
    };
    assert_eq!(len(&[100, 200, 0]).unwrap(), 200);
    assert_eq!(len(&[100, 0, 50]).unwrap(), 50);
    assert!(matches!(len(&[0, 0]), Err(OpenLayerError::NoVirtualSize)));
    assert!(matches!(len(&[]), Err(OpenLayerError::Count { count: 0 })));
    assert!(matches!(
        len(&[1; 256]),
        Err(OpenLayerError::Count { count: 256 })
    ));
    assert_eq!(len(&[1; 255]).unwrap(), 1);
}

#[test]
fn a_layer_that_does_not_open_is_named() {
    let good = blob(Codec::Zstd, &[], 1000);
    let error = Disk::open(vec![Arc::new(good), Arc::new(vec![0; 9000])], 0).unwrap_err();
    assert!(matches!(
        error,
        OpenLayerError::Position { position: 1, .. }
    ));
}

#[test]
fn damaged_blocks_are_errors_and_their_neighbours_are_not() {
    let data = text(64 * 1024);
    let mut damaged = blob(Codec::Zstd, &[(0, data.clone())], 64 * 1024);
    let disk = Disk::open(vec![Arc::new(damaged.clone())], 0).unwrap();
    let (_, stored) = disk.stored_ranges(ByteRange::new(8192, 8193))[0];
    damaged[usize::try_from(stored.start).unwrap() + 10] ^= 1;
    let disk = Disk::open(vec![Arc::new(damaged)], 1 << 20).unwrap();
    assert_eq!(
        disk.read_at(8192, &mut [0; 512]).unwrap_err().kind(),
        io::ErrorKind::InvalidData
    );
    assert!(read(&disk, 12_288, 4096) == data[12_288..16_384]);
    assert!(disk.read_at(8192, &mut [0; 512]).is_err());
}

proptest! {
    #[test]
    fn any_read_gives_the_devices_bytes(
        reads in prop::collection::vec((0_usize..100_000, 0_usize..30_000), 1..20),
        cache_len in prop_oneof![Just(0_u64), Just(10_000), Just(1 << 20)],
        zstd in any::<bool>(),
    ) {
        let codec = if zstd { Codec::Zstd } else { Codec::Lz4 };
        let data = text(100 * 512);
        let lower = blob(codec, &[(0, data.clone()), (150, data[..5120].to_vec())], 100_000);
        let upper = bare(&[mapping(50, 3, Place::Stored(Sector(8))), mapping(60, 10, Place::Zeroed)], &data[..1536], 0);
        let mut device = vec![0; 100_000];
        device[..51_200].copy_from_slice(&data);
        device[76_800..81_920].copy_from_slice(&data[..5120]);
        device[25_600..27_136].copy_from_slice(&data[..1536]);
        device[30_720..35_840].fill(0);
        let disk = Disk::open(vec![Arc::new(lower), Arc::new(upper)], cache_len).unwrap();
        for (start, len) in reads {
            let len = len.min(device.len() - start);
            prop_assert!(read(&disk, start as u64, len) == device[start..start + len]);
        }
    }
}
