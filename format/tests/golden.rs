//! Bytes that must stay what they are: `testdata/v1/*.hex`, annotated, and what they mean in `*.txt` beside them.
//!
//! Both ways: the bytes decode to the text, and what the text describes is written as the bytes. A blob of today is then
//! read for ever, and converting the same input gives the same digest. When a test fails, it shows what it found; put that
//! in the file only if the change is meant, and never in the folder of a version that was released.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Cursor;
use std::sync::Arc;

use tranship_format::segment::Place;
use tranship_format::{
    ByteRange, ChunkTable, ChunkTableBuilder, ChunkTableRef, Codec, Digest, Disk, HashAlgorithm,
    Layer, LayerAnnotations, LayerOptions, LayerSummary, LayerWriter, Sector, Uuid,
};

/// The bytes of an annotated hex file: `#` begins a comment, `@` states the offset, `00*9` is nine times a byte.
fn parse_hex(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in text
        .lines()
        .flat_map(|line| line.split('#').next().unwrap().split_whitespace())
    {
        if let Some(offset) = word.strip_prefix('@') {
            assert_eq!(
                usize::from_str_radix(offset, 16).unwrap(),
                bytes.len(),
                "{word}"
            );
            continue;
        }
        let (byte, count) = word.split_once('*').unwrap_or((word, "1"));
        let count: usize = count.parse().unwrap();
        bytes.resize(bytes.len() + count, u8::from_str_radix(byte, 16).unwrap());
    }
    bytes
}

/// Hex with a heading for each part; parts are given by name and end.
fn print_hex(bytes: &[u8], parts: &[(String, u64)]) -> String {
    let mut text = String::new();
    let mut start = 0;
    for (name, end) in parts {
        let end = usize::try_from(*end).unwrap();
        writeln!(text, "# {name}").unwrap();
        let mut at = start;
        for run in bytes[start..end].chunk_by(|one, next| one == next) {
            if run.len() > 8 {
                text = text.trim_end().to_owned();
                write!(text, "\n@{at:06x} {:02x}*{}\n", run[0], run.len()).unwrap();
            } else {
                for byte in run {
                    if text.ends_with('\n') {
                        write!(text, "@{at:06x}").unwrap();
                    }
                    write!(text, " {byte:02x}").unwrap();
                    if text.lines().last().is_some_and(|line| line.len() > 100) {
                        text.push('\n');
                    }
                    at += 1;
                }
                continue;
            }
            at += run.len();
        }
        text = text.trim_end().to_owned();
        text.push('\n');
        start = end;
    }
    assert_eq!(start, bytes.len());
    text
}

/// The parts of a blob that we wrote.
fn parts(blob: &[u8], chunks: ByteRange) -> Vec<(String, u64)> {
    let layer = Layer::open(blob).unwrap();
    let payload = layer.payload().range();
    let blocks = layer.blocks().unwrap();
    let mut parts = vec![
        ("tar envelope: PAX header".to_owned(), 512),
        ("PAX record".to_owned(), 1024),
        ("tar header of overlaybd.commit".to_owned(), payload.start),
        ("ZFile header".to_owned(), payload.start + 512),
    ];
    for block in 0..blocks.count() {
        let end = payload.start + blocks.stored(block..block + 1).end;
        parts.push((
            format!("block {block} and its CRC: plain {}", blocks.plain(block)),
            end,
        ));
    }
    let table_end = payload.end - 512;
    parts.extend([
        ("block table".to_owned(), table_end),
        ("ZFile trailer".to_owned(), payload.end),
        (
            "padding to a whole tar block".to_owned(),
            chunks.start - 512,
        ),
        ("tar header of tranship.chunks".to_owned(), chunks.start),
        ("chunk table: header".to_owned(), chunks.start + 32),
        ("chunk table: lengths and hashes".to_owned(), chunks.end),
        (
            "padding and the end of the archive".to_owned(),
            blob.len() as u64,
        ),
    ]);
    parts.dedup_by(|next, before| next.1 == before.1);
    parts
}

fn dump_table(table: &ChunkTable) -> String {
    let mut text = format!(
        "{} chunks by {:?} cover {} bytes\n",
        table.count(),
        table.algorithm(),
        table.covered_len()
    );
    for index in table.all() {
        writeln!(
            text,
            "{index}: {}, {}",
            table.range(index),
            table.hash(index)
        )
        .unwrap();
    }
    text
}

fn dump_layer(blob: &[u8]) -> String {
    let layer = Layer::open(blob).unwrap();
    let mut text = String::new();
    writeln!(text, "payload: {}", layer.payload().range()).unwrap();
    if let Some(blocks) = layer.blocks() {
        writeln!(
            text,
            "blocks: {} of {} bytes by {:?}",
            blocks.count(),
            blocks.block_len(),
            blocks.codec()
        )
        .unwrap();
        for block in 0..blocks.count() {
            writeln!(
                text,
                "block {block}: plain {}, stored {}",
                blocks.plain(block),
                blocks.stored(block..block + 1)
            )
            .unwrap();
        }
    }
    writeln!(text, "layer file: {} bytes", layer.plain_len()).unwrap();
    writeln!(
        text,
        "uuid: {}\nparent: {:?}\nvirtual size: {}",
        layer.uuid(),
        layer.parent(),
        layer.virtual_size()
    )
    .unwrap();
    for mapping in layer.index().mappings() {
        let end = mapping.segment.end().0 - 1;
        match mapping.place {
            Place::Stored(at) => writeln!(
                text,
                "sectors {}..={end}: stored from {at} on",
                mapping.segment.start.0
            ),
            Place::Zeroed => writeln!(text, "sectors {}..={end}: zeroed", mapping.segment.start.0),
        }
        .unwrap();
    }
    let disk = Disk::open(vec![Arc::new(blob.to_vec())], 0).unwrap();
    let mut device = vec![0; usize::try_from(disk.len()).unwrap()];
    disk.read_at(0, &mut device).unwrap();
    writeln!(text, "device: {}", Digest::of(&device)).unwrap();
    text
}

fn check(name: &str, found: &str, golden: &str) {
    assert!(
        found == golden,
        "{name} has changed, and is now:\n-----\n{found}-----"
    );
}

/// A layer with all there is: data, a cut, zeros of both kinds, an overwrite, and names.
fn write_layer(codec: Codec) -> (Vec<u8>, LayerSummary) {
    let options = LayerOptions {
        block_len: 4096,
        codec,
        chunk_len: 4096,
        hash: HashAlgorithm::Blake3,
        uuid: Uuid::from_bytes([0x22; 16]),
        parent: Some(Uuid::from_bytes([0x11; 16])),
        ..LayerOptions::default()
    };
    let words = |count: u32| -> Vec<u8> {
        (0..count)
            .flat_map(|number| (number.wrapping_mul(0x9e37_79b9)).to_le_bytes())
            .collect()
    };
    let mut writer = LayerWriter::new(Cursor::new(Vec::new()), options).unwrap();
    writer.write(Sector(0), &b"tranship".repeat(128)).unwrap();
    writer.cut().unwrap();
    writer
        .write(
            Sector(16),
            &[words(128).repeat(8), vec![0; 4096], words(64).repeat(2)].concat(),
        )
        .unwrap();
    writer.zero(Sector(64), 20_000).unwrap();
    writer.write(Sector(1), &[7; 512]).unwrap();
    let (out, summary) = writer.finish(16 << 20).unwrap();
    (out.into_inner(), summary)
}

fn check_layer(name: &str, codec: Codec, hex: &str, text: &str) {
    let (blob, summary) = write_layer(codec);
    let chunks = summary.chunks.range();
    check(name, &print_hex(&blob, &parts(&blob, chunks)), hex);
    let golden = parse_hex(hex);
    assert!(golden == blob);
    let table =
        &golden[usize::try_from(chunks.start).unwrap()..usize::try_from(chunks.end).unwrap()];
    let annotations = LayerAnnotations::new(
        Digest::of(&golden),
        golden.len() as u64,
        "erofs",
        summary.chunks,
    )
    .to_map();
    let mut keys = String::new();
    for (key, value) in annotations {
        writeln!(keys, "{key}: {value}").unwrap();
    }
    check(
        name,
        &[
            dump_layer(&golden),
            dump_table(&ChunkTable::decode(table).unwrap()),
            keys,
        ]
        .concat(),
        text,
    );
}

#[test]
fn a_zstd_layer_stays_what_it_is() {
    let (hex, text) = (
        include_str!("../testdata/v1/layer-zstd.hex"),
        include_str!("../testdata/v1/layer-zstd.txt"),
    );
    check_layer("layer-zstd", Codec::Zstd, hex, text);
}

#[test]
fn an_lz4_layer_stays_what_it_is() {
    let (hex, text) = (
        include_str!("../testdata/v1/layer-lz4.hex"),
        include_str!("../testdata/v1/layer-lz4.txt"),
    );
    check_layer("layer-lz4", Codec::Lz4, hex, text);
}

#[test]
fn a_chunk_table_stays_what_it_is() {
    let (hex, text) = (
        include_str!("../testdata/v1/chunk-table.hex"),
        include_str!("../testdata/v1/chunk-table.txt"),
    );
    let mut builder = ChunkTableBuilder::new(HashAlgorithm::Sha256);
    for chunk in [&b"abc"[..], b"", &[0; 1000], b"the last"] {
        builder.update(chunk);
        builder.cut();
    }
    let table = builder.finish();
    let bytes = table.encode();
    let parts = [
        ("magic", 8),
        ("version, hash algorithm, reserved", 12),
        ("count", 16),
        ("covered length", 24),
        ("reserved", 32),
        ("lengths", 44),
        ("hash 0", 76),
        ("hash 1", 108),
        ("hash 2", 140),
    ];
    check(
        "chunk-table",
        &print_hex(&bytes, &parts.map(|(name, end)| (name.to_owned(), end))),
        hex,
    );
    check(
        "chunk-table",
        &dump_table(&ChunkTable::decode(&parse_hex(hex)).unwrap()),
        text,
    );
}

/// Written by hand after overlaybd's specification: what its tools make and ours do not.
#[test]
fn an_odd_layer_stays_readable() {
    let (hex, text) = (
        include_str!("../testdata/v1/layer-odd.hex"),
        include_str!("../testdata/v1/layer-odd.txt"),
    );
    check("layer-odd", &dump_layer(&parse_hex(hex)), text);
}

#[test]
fn annotations_stay_what_they_are() {
    let json = include_str!("../testdata/v1/annotations.json");
    let chunks = ChunkTableRef {
        digest: Digest::of(b"table"),
        offset: 4_718_592,
        len: 716,
    };
    let annotations = LayerAnnotations::new(Digest::of(b"blob"), 4_720_640, "erofs", chunks);
    let found = serde_json::to_string_pretty(&annotations.to_map()).unwrap();
    check("annotations", &format!("{found}\n"), json);
    let map: BTreeMap<String, String> = serde_json::from_str(json).unwrap();
    assert_eq!(LayerAnnotations::from_map(&map), Ok(Some(annotations)));
}

/// Tools that know tar alone see two files in a layer.
#[test]
fn a_layer_is_a_tar_archive_of_two_files() {
    let (blob, summary) = write_layer(Codec::Zstd);
    let payload = Layer::open(blob.as_slice()).unwrap().payload().range();
    let mut archive = tar::Archive::new(blob.as_slice());
    let listed: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (
                entry.path().unwrap().display().to_string(),
                entry.raw_file_position(),
                entry.size(),
            )
        })
        .collect();
    assert_eq!(
        listed,
        [
            ("overlaybd.commit".to_owned(), payload.start, payload.len()),
            (
                "tranship.chunks".to_owned(),
                summary.chunks.offset,
                summary.chunks.len
            )
        ]
    );
}
