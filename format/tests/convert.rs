//! Conversion seen from outside: what erofs-utils and the kernel make of it, how much an upper layer stores, that it is
//! repeatable, and what it refuses.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test may stop, and runs other programs on files"
)]
#![expect(dead_code, reason = "each test uses a part of the harness")]

#[path = "harness/images.rs"]
mod images;
#[path = "harness/kernel.rs"]
mod kernel;
#[path = "harness/tars.rs"]
mod tars;

use std::collections::BTreeSet;
use std::error::Error;
use std::io::{Cursor, Read};

use tranship_format::convert::{ConvertError, ConvertOptions, Converter, EntryError};
use tranship_format::erofs::{Filesystem, MAX_DEPTH};
use tranship_format::{ChunkTable, Digest};

use images::{Image, fsck};
use tars::{Item, Kind, tar};

/// Bytes that do not compress, the same for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let words = std::iter::repeat_with(&mut next).flatten();
    words.take(len).collect()
}

/// Three layers with one of everything.
fn three_layers() -> Vec<Vec<u8>> {
    let acl = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\xe8\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x04\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let many = |range: std::ops::Range<u32>| {
        range.map(|number| {
            Item::file(
                format!("many/{number:04}-{}", "n".repeat(number as usize % 30)),
                number.to_string(),
            )
        })
    };
    let mut base = vec![
        Item::directory("./")
            .mtime(-5, 250_000_000)
            .xattr("user.root", "of all"),
        Item::directory("./etc/")
            .owner(5, 70_000)
            .permissions(0o1777),
        Item::file("etc/hosts", "127.0.0.1")
            .xattr("user.comment", "a\0b")
            .xattr("trusted.overlay.redirect", "/x"),
        Item::file("etc/empty", "")
            .owner(3_000_000, 4_294_967_294)
            .mtime(1, 999_999_999),
        Item::file("bin/tool", noise(1, 700_000))
            .permissions(0o6755)
            .xattr("security.capability", capability),
        Item::new("bin/again", Kind::Link(b"/bin/tool".to_vec())),
        Item::file("etc/acl", "x").xattr("system.posix_acl_access", acl),
        Item::new("dev/null", Kind::CharDevice(1, 3)),
        Item::new("dev/disk", Kind::BlockDevice(259, 70_000)),
        Item::new("dev/fifo", Kind::Fifo),
        Item::new("short", Kind::Symlink(b"etc/hosts".to_vec())),
        Item::new("long", Kind::Symlink(vec![b'l'; 4_000])),
        Item::file([b'n'; 255], "name"),
        Item::file(b"\xff\xfe\nname", "bytes"),
        Item::directory("gone").xattr("user.a", "b"),
        Item::file("gone/file", "x"),
        Item::directory("opaque"),
        Item::file("opaque/lower", "x"),
        Item::directory("turns"),
        Item::file("turns/file", "x"),
    ];
    base.extend(many(0..900));
    let mut upper = vec![
        Item::file("etc/hosts", "changed"),
        Item::file("etc/.wh.empty", ""),
        Item::file(".wh.gone", ""),
        Item::file("opaque/upper", "y"),
        Item::file("opaque/.wh..wh..opq", ""),
        Item::file("turns", "now a file"),
        Item::new("hard", Kind::Link(b"bin/tool".to_vec())),
        Item::directory("etc").xattr("user.large", [b'x'; 3_000]),
    ];
    upper.extend(many(900..960));
    let deep = "deep/".repeat(400);
    let top = [
        Item::file(format!("{deep}file"), "at the bottom"),
        Item::directory("many").xattr("user.a", "b"),
        Item::directory("turns"),
        Item::file("bin/tool", noise(2, 300_000)),
        Item::file("many/.wh.0100-nnnnnnnnnn", ""),
        Item::directory("etc").xattr("user.small", "x"),
    ];
    vec![tar(&base), tar(&upper), tar(&top)]
}

/// Compares what we read of a device with what the kernel reads, where it can be asked.
fn compare_with_kernel(image: &Image, count: usize) {
    let Some(kernels) = kernel::listing(&image.device(count)) else {
        return;
    };
    let mut ours = image.listing(count);
    ours.retain(|path, _| path.len() < kernel::MAX_PATH_LEN);
    assert_eq!(ours.len(), kernels.len());
    for ((path, ours), (kernels_path, kernels)) in ours.iter().zip(&kernels) {
        assert_eq!(path, kernels_path);
        assert_eq!(ours, kernels, "{}", path.escape_ascii());
    }
}

#[test]
fn fsck_and_the_kernel_accept_every_stack_of_layers() {
    let tars = three_layers();
    let image = Image::convert(&tars);
    for count in 1..=tars.len() {
        fsck(&image.device(count));
        compare_with_kernel(&image, count);
    }
}

/// fsck.erofs 1.5 overflows its stack on such a tree, so it is not asked.
#[test]
fn paths_longer_than_a_system_call_takes_are_kept() {
    let path = format!("{}file", "deep/".repeat(1_100));
    let image = Image::convert(&[tar(&[Item::file(&path, "at the bottom")])]);
    assert_eq!(image.listing(1)[path.as_bytes()].content, b"at the bottom");
    compare_with_kernel(&image, 1);
}

#[test]
fn a_small_upper_layer_on_ten_thousand_files_stays_small() {
    let flat = |number: usize| format!("srv/file-{number:05}");
    let nested = |number: usize| {
        format!(
            "srv/{:02}/{:02}/file-{number:05}",
            number / 1000,
            number / 100 % 10
        )
    };
    let shapes: [&dyn Fn(usize) -> String; 2] = [&flat, &nested];
    for shape in shapes {
        let base: Vec<Item> = (0..10_000)
            .map(|number| Item::file(shape(number), number.to_string()))
            .collect();
        let replaced =
            (0..5).map(|number| Item::file(shape(number * 1999), noise(number as u64, 1_000)));
        let added = (0..5).map(|number| {
            Item::file(
                format!("{}-new", shape(number * 1500)),
                noise(number as u64 + 9, 1_000),
            )
        });
        let upper: Vec<Item> = replaced.chain(added).collect();
        let upper = tar(&upper);
        assert!(upper.len() > 10_000);
        let image = Image::convert(&[tar(&base), upper]);
        let stored = image.blobs[1].len();
        assert!(stored <= 64 << 10, "{} stores {stored} bytes", shape(0));
        fsck(&image.device(2));
        assert_eq!(image.listing(2).len(), image.listing(1).len() + 5);
    }
}

#[test]
fn an_empty_layer_changes_nothing() {
    let image = Image::convert(&[tar(&[Item::file("a", "b")]), tar(&[]), Vec::new()]);
    assert!(image.device(1) == image.device(3));
    let empty = Image::convert(&[Vec::new()]);
    fsck(&empty.device(1));
    assert_eq!(empty.listing(1).len(), 1);
}

#[test]
fn the_same_tars_give_the_same_bytes() {
    let (one, other) = (
        Image::convert(&three_layers()),
        Image::convert(&three_layers()),
    );
    assert!(one.blobs == other.blobs);
    assert_eq!(one.summaries, other.summaries);
}

/// The digests change only when the format does, and then every image would be converted and stored anew: on purpose,
/// or not at all.
#[test]
fn a_small_tar_has_the_digest_it_always_had() {
    let lower = [
        Item::directory("etc").owner(1, 2),
        Item::file("etc/hosts", "127.0.0.1 localhost\n").mtime(1_700_000_000, 123_456_789),
        Item::new("etc/link", Kind::Symlink(b"hosts".to_vec())),
        Item::file("bin/tool", vec![7; 10_000])
            .permissions(0o755)
            .xattr("user.a", "b"),
    ];
    let upper = [Item::file("etc/.wh.link", ""), Item::file("etc/new", "new")];
    let image = Image::convert(&[tar(&lower), tar(&upper)]);
    let digests = [image.device(1), image.device(2)].map(|device| Digest::of(&device).to_string());
    assert_eq!(
        digests,
        [
            "sha256:17da9539423b217f1e0405bd7b6a5293e73eeacbb249c67b1d3fbae9682bd3a4",
            "sha256:73583669aa757af2caaa1ef867f00841b02f9340091149fe626ee5f9ce8886af",
        ]
    );
    let digests: Vec<String> = image
        .blobs
        .iter()
        .map(|blob| Digest::of(blob).to_string())
        .collect();
    assert_eq!(
        digests,
        [
            "sha256:b494bd5192b25bfe06424a195fcfd00f564daa686ae0b6af460c8f5b09816456",
            "sha256:66d9e6de61ed19a2cab225e988e27c13fba0cf58ee46b3e6dd2169f5c8268c99",
        ]
    );
}

#[test]
fn a_large_file_is_the_same_chunks_in_every_image() {
    let large = noise(7, 3 << 20);
    let hashes = |tars: &[Vec<u8>]| {
        let image = Image::convert(tars);
        let (blob, summary) = (image.blobs.last().unwrap(), image.summaries.last().unwrap());
        let start = usize::try_from(summary.chunks.offset).unwrap();
        let end = start + usize::try_from(summary.chunks.len).unwrap();
        let table = ChunkTable::decode(&blob[start..end]).unwrap();
        table
            .all()
            .map(|index| (*table.hash(index).bytes(), table.range(index).len()))
            .collect::<BTreeSet<_>>()
    };
    let one = hashes(&[tar(&[
        Item::file("a", noise(1, 9_999)),
        Item::file("large", &large),
        Item::file("b", "b"),
    ])]);
    let other = hashes(&[
        tar(&[Item::file("x", "x")]),
        tar(&[Item::file("y/elsewhere", &large)]),
    ]);
    let shared: u64 = one.intersection(&other).map(|(_, len)| len).sum();
    assert!(shared >= 3 << 20, "only {shared} bytes are shared");
}

/// A tar of one large file whose bytes come from nowhere.
struct LongTar {
    head: Cursor<Vec<u8>>,
    left: u64,
}

impl Read for LongTar {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let len = self.head.read(buf)?;
        if len > 0 {
            return Ok(len);
        }
        let len = usize::try_from(self.left).unwrap().min(buf.len());
        buf[..len].fill(0);
        self.left -= len as u64;
        Ok(len)
    }
}

#[test]
fn zeros_and_holes_are_not_stored() {
    let octal = |len: u64| format!("{len:011o}\0").into_bytes();
    let mut head = tar(&[Item::file("zeros", "")]);
    head.truncate(512);
    head[124..136].copy_from_slice(&octal(1 << 30));
    head[148..156].fill(b' ');
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let long = LongTar {
        head: Cursor::new(head),
        left: 1 << 30,
    };
    let mut converter = Converter::new(ConvertOptions::default());
    let (blob, summary) = converter.layer(long, Cursor::new(Vec::new())).unwrap();
    assert!(blob.into_inner().len() < 16 << 10);
    assert!(summary.virtual_size > 1 << 30);
    assert!(summary.mapped_len < 16 << 10);
}

/// A file of a tebibyte with a byte at either end, in PAX format 1.0 as GNU tar writes it.
#[test]
fn a_sparse_file_of_a_tebibyte_reads_at_both_ends() {
    let mut map = b"2\n4095\n1\n1099511627775\n1\n".to_vec();
    map.resize(512, 0);
    map.extend(b"<>");
    let item = Item::file("GNUSparseFile.0/disk", map)
        .record("GNU.sparse.major", "1")
        .record("GNU.sparse.minor", "0")
        .record("GNU.sparse.name", "disk")
        .record("GNU.sparse.realsize", "1099511627776");
    let image = Image::convert(&[tar(&[item, Item::file("after", "!")])]);
    assert!(image.blobs[0].len() < 16 << 10);
    let filesystem = Filesystem::open(image.disk(1)).unwrap();
    let inode = filesystem.lookup(b"disk").unwrap();
    assert_eq!(inode.size, 1 << 40);
    let mut byte = [0; 3];
    assert_eq!(filesystem.read(&inode, 4094, &mut byte).unwrap(), 3);
    assert_eq!(&byte, b"\0<\0");
    assert_eq!(
        filesystem.read(&inode, (1 << 40) - 2, &mut byte).unwrap(),
        2
    );
    assert_eq!(&byte[..2], b"\0>");
}

#[test]
fn what_no_layer_may_hold_is_refused_and_named() {
    let long = "n".repeat(256);
    let deep = "d/".repeat(MAX_DEPTH + 1);
    let cases = [
        (
            Item::file("a/../b", ""),
            "entry `a/../b` cannot be converted: its path contains `..`",
        ),
        (
            Item::file(&long, ""),
            "its path has a name of 256 bytes: at most 255 are possible",
        ),
        (
            Item::directory(&deep),
            "its path is nested more than 4096 directories deep",
        ),
        (
            Item::new("l", Kind::Link(b"no/where".to_vec())),
            "entry `l` cannot be converted: it is a hard link to `no/where`, which no entry before it and no lower layer has",
        ),
        (
            Item::new("s", Kind::Symlink(Vec::new())),
            "it is a symlink with a target of 0 bytes: 1 to 4095 are possible",
        ),
        (
            Item::new("s", Kind::Symlink(vec![b't'; 4096])),
            "it is a symlink with a target of 4096 bytes",
        ),
        (
            Item::new("c", Kind::CharDevice(4096, 0)),
            "it is a device with the numbers 4096:0",
        ),
        (
            Item::file("x", "").xattr("user.a", vec![0; 65_536]),
            "its extended attributes do not fit the filesystem: xattr value of 65536 bytes",
        ),
        (
            Item::file("x", "").xattr(&long, ""),
            "xattr name of 256 bytes",
        ),
        (
            Item::directory("").xattr("user.a", vec![0; 3_000]),
            "the root has 3020 bytes of extended attributes: at most 2880 are possible",
        ),
    ];
    for (item, why) in cases {
        let mut converter = Converter::new(ConvertOptions::default());
        let error = converter
            .layer(&tar(&[item])[..], Cursor::new(Vec::new()))
            .unwrap_err();
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        assert!(message.contains(why), "`{message}` does not say `{why}`");
    }
}

#[test]
fn a_converter_that_failed_goes_on_failing() {
    let mut converter = Converter::new(ConvertOptions::default());
    let bad = tar(&[Item::file("..", "")]);
    let error = converter
        .layer(&bad[..], Cursor::new(Vec::new()))
        .unwrap_err();
    let is_expected = matches!(
        error,
        ConvertError::Entry {
            source: EntryError::ParentComponent,
            ..
        }
    );
    assert!(is_expected);
    let good = tar(&[]);
    let error = converter
        .layer(&good[..], Cursor::new(Vec::new()))
        .unwrap_err();
    assert!(matches!(error, ConvertError::Failed));
}

#[test]
fn the_tar_is_read_to_the_end_of_the_stream() {
    let mut input = tar(&[Item::file("a", "b")]);
    input.extend(vec![0; 50_000]);
    let mut rest = &input[..];
    Converter::new(ConvertOptions::default())
        .layer(&mut rest, Cursor::new(Vec::new()))
        .unwrap();
    assert!(rest.is_empty());
}
