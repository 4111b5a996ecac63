//! Every form in which a stock layer comes: wrappings, compressions, records and headers of all ages, from an encoder
//! that shares no line with our writer.
//!
//! What stands on the device is painted sector by sector; whatever the form, reading must give that.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod encoder;

use std::sync::Arc;

use tranship_format::{Disk, Layer, LayerAnnotations, OpenLayerError, ReadAt};

use encoder::{Envelope, Lsmt, Record, Zfile};

const SECTOR: usize = 512;

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()[7]
    };
    core::iter::repeat_with(next).take(len).collect()
}

fn text(len: usize) -> Vec<u8> {
    (0_u32..)
        .flat_map(|number| format!("{number} bottles of ink\n").into_bytes())
        .take(len)
        .collect()
}

fn stored(sector: u64, count: u64, stored: u64) -> Record {
    Record {
        sector,
        count,
        stored,
        zeroed: false,
        tag: 0,
    }
}

fn zeroed(sector: u64, count: u64, at: u64) -> Record {
    Record {
        zeroed: true,
        ..stored(sector, count, at)
    }
}

fn disk(blobs: &[Vec<u8>]) -> Result<Disk, OpenLayerError> {
    let blobs = blobs.iter().cloned();
    Disk::open(
        blobs
            .map(|blob| Arc::new(blob) as Arc<dyn ReadAt>)
            .collect(),
        1 << 20,
    )
}

fn read(disk: &Disk, sector: u64, count: usize) -> Vec<u8> {
    let mut buf = vec![0xee; count * SECTOR];
    disk.read_at(sector * SECTOR as u64, &mut buf).unwrap();
    buf
}

/// The device as the records of a layer paint it, over what is there.
fn paint(device: &mut [u8], layer: &Lsmt) {
    let of = |sector: u64| usize::try_from(sector).unwrap() * SECTOR;
    for record in layer.records.iter().filter(|record| record.count > 0) {
        let target = &mut device[of(record.sector)..of(record.sector + record.count)];
        if record.zeroed {
            target.fill(0);
        } else {
            let from = of(record.stored) - 4096;
            target.copy_from_slice(&layer.data[from..from + target.len()]);
        }
    }
}

/// A layer with text, noise, a hole, zeros and two records of the same data; 400 KiB, so that 64 KiB blocks are several.
fn sample() -> Lsmt {
    let data = [text(200 << 10), noise(200 << 10, 9)].concat();
    let records = vec![
        stored(0, 300, 8),
        zeroed(300, 20, 8),
        stored(400, 500, 308),
        stored(900, 7, 8),
        Record::PADDING,
    ];
    Lsmt::committed(records, data, 512 << 10)
}

fn expected() -> Vec<u8> {
    let mut device = vec![0; 512 << 10];
    paint(&mut device, &sample());
    device
}

fn zfiles() -> Vec<Zfile> {
    let mut forms = Vec::new();
    for bits in 0..16 {
        let is = |bit: u32| bits >> bit & 1 == 1;
        for block_len in [4096, 8192, 16384, 32768, 65536] {
            forms.push(Zfile {
                zstd: is(0),
                block_crc: is(1),
                completed: is(2),
                digests: is(3),
                block_len,
                garbage: false,
                dictionary_len: 0,
            });
        }
    }
    forms
}

#[test]
fn every_wrapping_and_compression_holds_the_same_device() {
    let (plain, expected) = (sample().encode(), expected());
    let mut payloads = vec![("not compressed".to_owned(), plain.clone())];
    for zfile in zfiles() {
        payloads.push((format!("{zfile:?}"), zfile.encode(&plain)));
    }
    for (form, payload) in &payloads {
        for envelope in Envelope::ALL {
            let disk = disk(&[envelope.wrap(payload)])
                .unwrap_or_else(|error| panic!("{envelope:?} {form}: {error:?}"));
            assert_eq!(disk.len(), 512 << 10);
            assert!(read(&disk, 0, 1024) == expected, "{envelope:?} {form}");
        }
    }
}

#[test]
fn incompressible_blocks_of_64_kib_are_read_although_they_are_stored_longer() {
    let data = noise(256 << 10, 3);
    let layer = Lsmt::committed(vec![stored(0, 512, 8)], data.clone(), 256 << 10);
    for zstd in [false, true] {
        let zfile = Zfile {
            zstd,
            block_len: 64 << 10,
            ..Zfile::MERGED
        };
        let blob = zfile.encode(&layer.encode());
        let opened = Layer::open(blob.clone()).unwrap();
        let table = opened.blocks().unwrap();
        assert!(table.stored(1..2).len() > 64 << 10, "it does not compress");
        assert!(read(&disk(&[blob]).unwrap(), 0, 512) == data);
    }
}

#[test]
fn padding_records_are_skipped_wherever_they_stand() {
    let mut layer = sample();
    let records = layer.records.clone();
    layer.records.clear();
    for record in records {
        layer.records.extend([Record::PADDING, record]);
    }
    // As overlaybd fills up an index: a page of records.
    layer.records.resize(256, Record::PADDING);
    let disk = disk(&[layer.encode()]).unwrap();
    assert_eq!(disk.index().mappings().len(), 4);
    assert!(read(&disk, 0, 1024) == expected());
}

#[test]
fn tags_say_nothing() {
    let mut layer = sample();
    for (number, record) in layer.records.iter_mut().enumerate() {
        record.tag = [0, 1, 254, 255, 7][number % 5];
    }
    // As overlaybd's merge leaves them: tags of the stack that was merged, and no completed header.
    let merged = Zfile::MERGED.encode(&layer.encode());
    assert!(read(&disk(std::slice::from_ref(&merged)).unwrap(), 0, 1024) == expected());
    let upper = Lsmt::committed(vec![stored(10, 1, 8)], vec![7; SECTOR], 0);
    let stack = disk(&[merged, upper.encode()]).unwrap();
    assert_eq!(read(&stack, 10, 1), vec![7; SECTOR]);
    assert!(read(&stack, 11, 1000) == expected()[11 * SECTOR..1011 * SECTOR]);
}

#[test]
fn a_sealed_append_only_layer_is_read_with_its_garbage() {
    // Sectors in the order of writing, some written twice; the index at the end is sorted and knows the last ones.
    let data = [
        noise(64 * SECTOR, 1),
        text(64 * SECTOR),
        noise(64 * SECTOR, 2),
    ]
    .concat();
    let end = 8 + data.len() as u64 / SECTOR as u64;
    let layer = Lsmt {
        records: vec![
            stored(5, 20, 8 + 128),
            // A discard names the end of the file at its time.
            zeroed(25, 10, end),
            zeroed(35, 1, 8 + 64),
            stored(40, 33, 8 + 64),
            stored(1000, 1, end - 1),
        ],
        header_flags: 3,
        header_lies: true,
        ..Lsmt::committed(Vec::new(), data, 1 << 20)
    };
    let mut expected = vec![0; 1 << 20];
    paint(&mut expected, &layer);
    for flags in [3, 0x13, 0x0b] {
        let plain = Lsmt {
            header_flags: flags,
            ..layer.clone()
        };
        let plain = plain.encode();
        let sealed = disk(std::slice::from_ref(&plain)).unwrap();
        assert!(read(&sealed, 0, 2048) == expected, "{flags:#x}");
        let compressed = disk(&[Zfile::MERGED.encode(&plain)]).unwrap();
        assert!(read(&compressed, 0, 2048) == expected, "{flags:#x}");
    }
}

#[test]
fn what_is_not_sealed_is_refused() {
    let mut open = sample().encode();
    open.truncate(open.len() - 4096);
    assert!(disk(&[open]).is_err());
    // The index file of a writable layer.
    let index = Lsmt {
        header_flags: 1,
        ..sample()
    };
    assert!(disk(&[index.encode()]).is_err());
}

#[test]
fn old_headers_with_garbage_in_what_they_do_not_use_are_read() {
    let plain = sample().encode();
    for completed in [false, true] {
        let zfile = Zfile {
            completed,
            digests: false,
            garbage: true,
            ..Zfile::MERGED
        };
        for envelope in Envelope::ALL {
            let blob = envelope.wrap(&zfile.encode(&plain));
            assert!(read(&disk(&[blob]).unwrap(), 0, 1024) == expected());
        }
    }
}

#[test]
fn nothing_but_its_flags_is_taken_from_a_header_that_was_never_completed() {
    let zfile = Zfile {
        digests: false,
        ..Zfile::MERGED
    };
    let mut blob = zfile.encode(&sample().encode());
    // Index, sizes, block length, algorithm, dictionary, CRC: all of it the trailer's to say.
    blob[40..92].fill(0xff);
    blob[78] = 1;
    assert!(read(&disk(&[blob]).unwrap(), 0, 1024) == expected());
}

#[test]
fn digests_are_checked_where_the_flag_says_so_and_nowhere_else() {
    let plain = sample().encode();
    for completed in [false, true] {
        for digests in [false, true] {
            let zfile = Zfile {
                completed,
                digests,
                ..Zfile::MERGED
            };
            let good = zfile.encode(&plain);
            let trailer = good.len() - 512;
            let holder = if completed { 0 } else { trailer };
            // The digest of the one that holds, the table's CRC in it, and a reserved byte that the digest covers.
            for at in [holder + 28, holder + 64, holder + 300] {
                let mut wrong = good.clone();
                wrong[at] ^= 1;
                assert_eq!(disk(&[wrong]).is_err(), digests, "{zfile:?} {at}");
            }
            let mut wrong = good.clone();
            wrong[trailer - 8] ^= 1;
            assert!(
                disk(&[wrong]).is_err(),
                "the blocks no longer end where the table begins"
            );
        }
    }
}

#[test]
fn blocks_without_a_crc_are_not_held_to_one() {
    for block_crc in [false, true] {
        let zfile = Zfile {
            block_crc,
            ..Zfile::MERGED
        };
        let mut blob = zfile.encode(&sample().encode());
        let layer = Layer::open(blob.clone()).unwrap();
        let block = layer.blocks().unwrap().stored(60..61);
        // The last byte of a block: of its CRC, or of its own bytes, which are noise.
        blob[usize::try_from(block.end).unwrap() - 1] ^= 1;
        let disk = disk(&[blob]).unwrap();
        let mut buf = vec![0; 512 << 10];
        assert_eq!(disk.read_at(0, &mut buf).is_err(), block_crc);
    }
}

#[test]
fn a_dictionary_that_nobody_uses_is_stepped_over() {
    let zfile = Zfile {
        dictionary_len: 1000,
        ..Zfile::MERGED
    };
    let blob = Envelope::Pax.wrap(&zfile.encode(&sample().encode()));
    assert!(read(&disk(&[blob]).unwrap(), 0, 1024) == expected());
}

#[test]
fn the_size_of_the_device_is_inherited_from_below() {
    let layer = |size| Lsmt::committed(vec![stored(0, 1, 8)], vec![1; SECTOR], size).encode();
    let len = |sizes: &[u64]| {
        let blobs: Vec<_> = sizes
            .iter()
            .map(|size| Envelope::Pax.wrap(&Zfile::MERGED.encode(&layer(*size))))
            .collect();
        disk(&blobs).map(|disk| disk.len())
    };
    assert_eq!(len(&[64 << 30, 0, 0]).unwrap(), 64 << 30);
    assert_eq!(len(&[64 << 30, 80 << 30, 0]).unwrap(), 80 << 30);
    assert_eq!(len(&[64 << 30, 1 << 30]).unwrap(), 1 << 30);
    assert!(len(&[0, 0]).is_err());
}

#[test]
fn devices_of_more_than_2_tib_are_read_beyond() {
    let far = (1_u64 << 32) + 500;
    let top = (1 << 50) - 2;
    let lower = Lsmt::committed(
        vec![
            stored(0, 1, 8),
            stored(1000, 4, 9),
            stored(far, 2, 13),
            stored(top, 1, 15),
        ],
        (1..=8).flat_map(|byte| [byte; SECTOR]).collect(),
        u64::MAX - 511,
    );
    let upper = Lsmt::committed(
        vec![zeroed(1002, 1, 8), stored(far + 1, 1, 8)],
        vec![99; SECTOR],
        0,
    );
    for zstd in [false, true] {
        let zfile = Zfile {
            zstd,
            ..Zfile::MERGED
        };
        let blobs =
            [&lower, &upper].map(|layer| Envelope::Pax.wrap(&zfile.encode(&layer.encode())));
        let disk = disk(&blobs).unwrap();
        for (sector, byte) in [
            (0, 1),
            (1000, 2),
            (1001, 3),
            (1002, 0),
            (1003, 5),
            (far - 1, 0),
            (far, 6),
            (far + 1, 99),
            (far - (1 << 32), 0),
            (top, 8),
        ] {
            assert_eq!(read(&disk, sector, 1), [byte; SECTOR], "{sector}");
        }
    }
}

#[test]
fn zeroed_sectors_hide_lower_layers_in_every_form() {
    let upper = Lsmt::committed(vec![zeroed(0, 1000, 8)], Vec::new(), 0);
    for envelope in Envelope::ALL {
        let upper = envelope.wrap(&Zfile::MERGED.encode(&upper.encode()));
        let disk = disk(&[sample().encode(), upper]).unwrap();
        assert!(read(&disk, 0, 1000) == vec![0; 1000 * SECTOR]);
    }
}

#[test]
fn layers_of_turbo_oci_are_refused_by_name() {
    let map = |version: Option<&str>, extra: Option<&str>| {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let mut map: std::collections::BTreeMap<String, String> = [
            (
                "containerd.io/snapshot/overlaybd/blob-digest",
                digest.as_str(),
            ),
            ("containerd.io/snapshot/overlaybd/blob-size", "1000"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        map.extend(version.map(|value| {
            (
                "containerd.io/snapshot/overlaybd/version".to_owned(),
                value.to_owned(),
            )
        }));
        map.extend(extra.map(|key| (format!("containerd.io/snapshot/overlaybd/{key}"), digest)));
        LayerAnnotations::from_map(&map)
    };
    assert!(map(None, None).is_ok());
    for (version, extra) in [
        (Some("0.1.0-turbo.ociv1"), None),
        (Some("0.1.0-fastoci"), None),
        (None, Some("turbo-oci/target-digest")),
        (Some("0.1.0"), Some("fastoci/target-digest")),
    ] {
        let error = map(version, extra).unwrap_err().to_string();
        assert!(error.contains("TurboOCI"), "{error}");
    }
    // What such a layer's blob is, should nothing have said so before.
    let gzip = [&[0x1f, 0x8b, 8, 0][..], &noise(10_000, 1)].concat();
    let mut error: &dyn std::error::Error = &disk(&[gzip]).unwrap_err();
    let mut said = error.to_string();
    while let Some(source) = error.source() {
        said.push_str(&source.to_string());
        error = source;
    }
    assert!(said.contains("gzip"), "{said}");
}
