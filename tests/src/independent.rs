//! A second reader of overlaybd layers, written from the published description of the format and sharing no
//! line with our writer or reader.
//!
//! It is strict where stock readers are strict and checks what they check, field by field, so that "stock
//! readers open what we write" is more than our own reader agreeing with our own writer. It is slow and holds
//! whole layers in memory, which a test may.

use std::fs::File;
use std::os::unix::fs::FileExt;

const ZFILE_MAGIC: [u8; 24] = *b"ZFile\0\x01\0tuji.yyf@Alibaba";
const LSMT_MAGIC: [u8; 24] = [
    0x4c, 0x53, 0x4d, 0x54, 0x00, 0x01, 0x02, 0x00, 0x65, 0x7e, 0x63, 0xd2, 0x94, 0x44, 0x08, 0x4c,
    0xa2, 0xd2, 0xc8, 0xec, 0x4f, 0xcf, 0xae, 0x8a,
];

/// One mapping of a layer: `count` sectors at `sector`, their bytes at sector `stored` of the layer's plain
/// form, or zeros.
#[derive(Debug, Clone, Copy)]
struct Run {
    sector: u64,
    count: u64,
    stored: u64,
    zeroed: bool,
}

/// Raw CRC-32C as overlaybd computes it: no inversion before or after. One bit at a time, to be plainly right.
fn crc(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                (crc >> 1) ^ 0x82f6_3b78
            } else {
                crc >> 1
            }
        })
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// A number field of a ustar header: octal digits between spaces and NULs.
fn octal(field: &[u8]) -> u64 {
    let text: String = field
        .iter()
        .map(|byte| char::from(*byte))
        .filter(char::is_ascii_digit)
        .collect();
    if text.is_empty() {
        0
    } else {
        u64::from_str_radix(&text, 8).expect("octal digits")
    }
}

/// Checks one ustar header as overlaybd's reader does: the magic and the sum of its bytes.
fn check_tar_header(header: &[u8]) {
    assert_eq!(
        &header[257..265],
        b"ustar\x0000",
        "the tar header has ustar's magic"
    );
    let sum: u64 = header
        .iter()
        .enumerate()
        .map(|(at, byte)| {
            if (148..156).contains(&at) {
                32
            } else {
                u64::from(*byte)
            }
        })
        .sum();
    assert_eq!(
        octal(&header[148..156]),
        sum,
        "the tar header's checksum is right"
    );
}

/// The `ZFile` inside the tar envelope, and where it ends.
fn payload(blob: &[u8]) -> &[u8] {
    assert_eq!(
        &blob[..14],
        b"overlaybd.pax\0",
        "the first entry is overlaybd's PAX header"
    );
    check_tar_header(&blob[..512]);
    assert_eq!(blob[156], b'x', "it is a PAX header");
    let record_len = usize::try_from(octal(&blob[124..136])).expect("a small record");
    let record = std::str::from_utf8(&blob[512..512 + record_len]).expect("text");
    let (len, assignment) = record.split_once(' ').expect("a length and a record");
    assert_eq!(
        len.parse(),
        Ok(record_len),
        "the PAX record counts itself right"
    );
    let size: usize = assignment
        .trim_end()
        .strip_prefix("size=")
        .expect("the record is the size")
        .parse()
        .expect("decimal digits");
    assert!(
        blob[512 + record_len..1024].iter().all(|byte| *byte == 0),
        "zeros follow the record"
    );
    assert_eq!(
        &blob[1024..1024 + 17],
        b"overlaybd.commit\0",
        "the second header names the layer"
    );
    check_tar_header(&blob[1024..1536]);
    assert_eq!(blob[1024 + 156], b'0', "it is a regular file");
    assert_eq!(
        octal(&blob[1024 + 124..1024 + 136]),
        0,
        "its size stands in the PAX record alone"
    );
    assert_eq!(blob.len() % 512, 0, "a tar is made of 512-byte records");
    assert!(
        blob[blob.len() - 1024..].iter().all(|byte| *byte == 0),
        "it ends with two zero records"
    );
    &blob[1536..1536 + size]
}

/// The plain bytes of a `ZFile`, every checksum checked.
fn inflate(zfile: &[u8]) -> Vec<u8> {
    let (header, trailer) = (&zfile[..512], &zfile[zfile.len() - 512..]);
    for (name, part, flags) in [("header", header, 0x1b), ("trailer", trailer, 0x16)] {
        assert_eq!(&part[..24], ZFILE_MAGIC, "the {name} has ZFile's magic");
        assert_eq!(
            u32_at(part, 24),
            96,
            "the {name} says the size of its fields"
        );
        assert_eq!(
            u64_at(part, 32),
            flags,
            "the {name}'s flags are those of a finished file"
        );
        let mut zeroed = part.to_vec();
        zeroed[28..32].fill(0);
        assert_eq!(
            u32_at(part, 28),
            crc(0, &zeroed),
            "the {name}'s digest is right"
        );
        assert!(
            part[96..].iter().all(|byte| *byte == 0),
            "the {name} ends in zeros"
        );
        assert_eq!(u32_at(part, 84), 0, "no dictionary");
    }
    assert_eq!(
        header[40..84],
        trailer[40..84],
        "header and trailer agree on all that describes the file"
    );
    let index_at = usize::try_from(u64_at(trailer, 40)).expect("fits");
    let count = usize::try_from(u64_at(trailer, 48)).expect("fits");
    let plain_len = usize::try_from(u64_at(trailer, 56)).expect("fits");
    let block_len = u32_at(trailer, 72) as usize;
    assert!(
        block_len.is_power_of_two() && (4096..=32768).contains(&block_len),
        "stock readers take blocks of 4 to 32 KiB"
    );
    assert_eq!(trailer[76], 2, "blocks are zstd");
    assert_eq!(trailer[88], 1, "each block is followed by its checksum");
    assert_eq!(
        count,
        plain_len.div_ceil(block_len),
        "one index entry a block"
    );
    let index = &zfile[index_at..index_at + 4 * count];
    assert_eq!(
        index_at + 4 * count + 512,
        zfile.len(),
        "the trailer follows the index"
    );
    assert_eq!(
        u32_at(trailer, 64),
        crc(0, index),
        "the index checksum is right"
    );
    let mut plain = Vec::with_capacity(plain_len);
    let mut at = 512;
    for entry in index.chunks_exact(4) {
        let stored_len = u32_at(entry, 0) as usize;
        let (block, sum) = zfile[at..at + stored_len].split_at(stored_len - 4);
        // The bitwise checksum is too slow for every block of a real image: the first and each 97th are enough
        // to show the rule, and zstd has a word of its own about the rest.
        if (plain.len() / block_len).is_multiple_of(97) {
            assert_eq!(
                u32_at(sum, 0),
                crc(100_007, block),
                "the checksum after the block at {at} is right"
            );
        }
        let wanted = block_len.min(plain_len - plain.len());
        let bytes = zstd::bulk::decompress(block, wanted).expect("a zstd frame");
        assert_eq!(bytes.len(), wanted, "the block at {at} is full");
        plain.extend_from_slice(&bytes);
        at += stored_len;
    }
    assert_eq!(at, index_at, "the index begins where the blocks end");
    plain
}

/// The mappings and the virtual size that an LSMT file states.
fn mappings(plain: &[u8]) -> (Vec<Run>, u64) {
    let (header, trailer) = (&plain[..4096], &plain[plain.len() - 4096..]);
    for (name, part, flags) in [("header", header, 0x07), ("trailer", trailer, 0x06)] {
        assert_eq!(&part[..24], LSMT_MAGIC, "the {name} has LSMT's magic");
        assert_eq!(
            u32_at(part, 24),
            390,
            "the {name} says the size of its fields"
        );
        assert_eq!(
            u32_at(part, 28),
            flags,
            "the {name}'s flags are those of a committed layer"
        );
        assert_eq!(
            (part[132], part[133]),
            (1, 1),
            "the {name} is of version 1.1"
        );
        assert!(
            part[390..].iter().all(|byte| *byte == 0),
            "the {name} ends in zeros"
        );
        assert!(
            part[56..92]
                .iter()
                .all(|byte| byte.is_ascii_hexdigit() || *byte == b'-'),
            "the {name} has a UUID in text"
        );
    }
    let index_at = usize::try_from(u64_at(trailer, 32)).expect("fits");
    let count = usize::try_from(u64_at(trailer, 40)).expect("fits");
    assert!(count <= 1_000_000, "stock readers take a million entries");
    assert!(
        index_at + 16 * count <= plain.len() - 4096,
        "the index ends before the trailer"
    );
    let mut runs = Vec::new();
    let mut end = 0;
    for entry in plain[index_at..index_at + 16 * count].chunks_exact(16) {
        let (low, high) = (u64_at(entry, 0), u64_at(entry, 8));
        let run = Run {
            sector: low & ((1 << 50) - 1),
            count: low >> 50,
            stored: high & ((1 << 55) - 1),
            zeroed: high >> 55 & 1 == 1,
        };
        if run.sector == (1 << 50) - 1 {
            continue;
        }
        assert!(
            run.count > 0 && run.sector >= end,
            "mappings are sorted and do not overlap"
        );
        end = run.sector + run.count;
        assert!(
            end < 1 << 32,
            "stock readers cut sectors from 2^32 on short"
        );
        let stored_end = run.stored + if run.zeroed { 0 } else { run.count };
        assert!(
            run.stored >= 8 && stored_end * 512 <= index_at as u64,
            "stored sectors lie between header and index"
        );
        runs.push(run);
    }
    (runs, u64_at(trailer, 48))
}

/// Paints the layers, bottom first, onto `device` and returns the device's length in bytes.
pub fn paint(layers: &[Vec<u8>], device: &File) -> u64 {
    let mut len = 0;
    for blob in layers {
        let plain = inflate(payload(blob));
        let (runs, virtual_size) = mappings(&plain);
        if virtual_size != 0 {
            len = virtual_size;
        }
        device
            .set_len(len)
            .expect("a sparse file of the device's length");
        for run in runs {
            let bytes = usize::try_from(run.count * 512).expect("fits");
            let at = usize::try_from(run.stored * 512).expect("fits");
            if run.zeroed {
                device
                    .write_all_at(&vec![0; bytes], run.sector * 512)
                    .expect("zeros");
            } else {
                device
                    .write_all_at(&plain[at..at + bytes], run.sector * 512)
                    .expect("data");
            }
        }
    }
    device.set_len(len).expect("the device's length");
    len
}
