//! Going on above converted layers: bit by bit what converting all of them from their tars gives, wherever one begins.

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
#[path = "harness/tars.rs"]
mod tars;

use std::sync::Arc;

use tranship_format::convert::{ConvertOptions, Converter, LowerLayer, ResumeError};

use images::Image;
use tars::{Item, Kind, tar};

fn many(directory: &str, range: std::ops::Range<u32>) -> Vec<Item> {
    let name = |number: u32| {
        format!(
            "{directory}/{:05}-{}",
            number * 7919 % 60_000,
            "n".repeat(20)
        )
    };
    range.map(|number| Item::file(name(number), "x")).collect()
}

/// Layers after which every kind of place has been given, outgrown, left, or shrunk.
fn layers() -> Vec<Vec<u8>> {
    let link = |path: &str, target: &str| Item::new(path, Kind::Link(target.as_bytes().to_vec()));
    let base = [
        vec![
            Item::directory("").xattr("user.root", "x"),
            Item::file("a/file", vec![7; 300_000]).xattr("user.a", "b"),
            Item::file("a/empty", ""),
            link("b", "a/file"),
            Item::new("long", Kind::Symlink(vec![b'l'; 4_000])),
            Item::new("short", Kind::Symlink(b"a/file".to_vec())),
            Item::new("dev/null", Kind::CharDevice(1, 3)),
            Item::new("dev/disk", Kind::BlockDevice(259, 70_000)),
            Item::new("dev/fifo", Kind::Fifo),
            Item::new("dev/socket", Kind::Socket),
            Item::directory("moves").xattr("user.small", "x"),
            Item::file("moves/inside/file", "x"),
            Item::directory("inline"),
        ],
        many("grows", 0..300),
        many("shrinks", 0..300),
        many("inline", 0..12),
    ]
    .concat();
    // More than was reserved; a directory that moves; one that loses most of its entries.
    let second = [
        many("grows", 300..400),
        many("moves", 0..100),
        vec![
            Item::directory("moves").xattr("user.large", vec![b'x'; 3_000]),
            Item::file("shrinks/.wh..wh..opq", ""),
            link("c", "b"),
            Item::file("inline/.wh.00000-nnnnnnnnnnnnnnnnnnnn", ""),
        ],
        many("shrinks", 0..150),
    ]
    .concat();
    let third = [
        many("inline", 20..60),
        many("moves", 100..110),
        vec![
            Item::file(".wh.a", ""),
            Item::directory("moves").xattr("user.tiny", "y"),
        ],
    ]
    .concat();
    let fourth = [
        many("shrinks", 150..260),
        many("", 0..150),
        many("grows", 400..401),
        vec![Item::file("c", "replaced"), Item::file("dev/.wh.null", "")],
    ]
    .concat();
    let fifth = [
        many("", 150..152),
        many("grows", 401..900),
        many("new", 0..500),
    ]
    .concat();
    let mut layers: Vec<Vec<u8>> = [base, second].iter().map(|items| tar(items)).collect();
    layers.push(Vec::new());
    layers.extend([third, fourth, fifth].iter().map(|items| tar(items)));
    layers.push(tar(&[Item::file("last", "x"), link("d", "b")]));
    layers
}

/// A directory that fills the blocks reserved for it step by step, one that shrinks and grows again behind its inode, and one
/// whose xattrs do.
fn steps() -> Vec<Vec<u8>> {
    let files = |directory: &str, range: std::ops::Range<u32>, kind: &str| -> Vec<Item> {
        let name = |number| Item::file(format!("{directory}/{kind}{number:026}"), "");
        range.map(name).collect()
    };
    let attributes = |len| vec![Item::directory("attributes").xattr("user.a", vec![b'x'; len])];
    let mut layers = vec![tar(&[
        files("blocks", 0..1_000, ""),
        files("inline", 0..20, ""),
        attributes(900),
    ]
    .concat())];
    for step in 0..8 {
        let start = 1_000 + 60 * step;
        let inline = match step {
            0 => files("inline", 5..17, ".wh."),
            1 => files("inline", 5..14, ""),
            2 => files("inline", 30..33, ""),
            _ => Vec::new(),
        };
        let items = [
            files("blocks", start..start + 60, ""),
            inline,
            attributes(if step % 2 == 0 { 20 } else { 800 }),
        ];
        layers.push(tar(&items.concat()));
    }
    layers
}

#[test]
fn wherever_one_goes_on_the_layers_are_the_same() {
    for tars in [layers(), steps()] {
        go_on_everywhere(&tars);
    }
}

fn go_on_everywhere(tars: &[Vec<u8>]) {
    let image = Image::convert(tars);
    for count in 1..=tars.len() {
        let resumed = image.resumed(count, &tars[count..]);
        for (number, (resumed, image)) in resumed.blobs.iter().zip(&image.blobs).enumerate() {
            assert!(resumed == image, "layer {number}, above {count}");
        }
    }
}

#[test]
fn only_layers_of_this_converter_are_gone_on_from() {
    let image = Image::convert(&layers());
    let converter = || Converter::new(ConvertOptions::default());
    let mut lower = image.lower(3);
    lower[1].chunks = lower[0].chunks;
    let error = converter().resume(&lower).unwrap_err();
    assert!(matches!(error, ResumeError::NotOurs { .. }), "{error:?}");
    let mut lower = image.lower(3);
    lower.swap(0, 1);
    assert!(converter().resume(&lower).is_err());
    let garbage = LowerLayer {
        blob: Arc::new(vec![7_u8; 10_000]),
        chunks: image.summaries[0].chunks.digest,
    };
    let error = converter().resume(&[garbage]).unwrap_err();
    assert!(matches!(error, ResumeError::Open(_)), "{error:?}");
    assert!(converter().resume(&[]).is_err());
}
