//! Everything that a layer's tar can say, said by hand or by GNU tar, and looked for in the filesystem: by our reader and, as
//! root, by the kernel.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types,
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

use std::fs::File;
use std::io::Cursor;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use tranship_format::convert::{ConvertOptions, Converter};
use tranship_format::erofs::{Filesystem, device_number};

use images::{Image, Listing, Seen, fsck};
use tars::{Item, Kind, tar};

/// What the layers show, after erofs-utils and the kernel have agreed.
fn shown(layers: &[Vec<u8>]) -> Listing {
    let image = Image::convert(layers);
    let ours = image.listing(layers.len());
    fsck(&image.device(layers.len()));
    if let Some(kernels) = kernel::listing(&image.device(layers.len())) {
        assert_eq!(ours.len(), kernels.len());
        for ((path, ours), (kernels_path, kernels)) in ours.iter().zip(&kernels) {
            assert_eq!(path, kernels_path);
            assert_eq!(ours, kernels, "{}", path.escape_ascii());
        }
    }
    ours
}

fn one(item: Item) -> Seen {
    let path = item.path.clone();
    shown(&[tar(&[item])]).remove(&path).unwrap()
}

/// Puts `bytes` into the header that begins at `header`, and makes its checksum right.
fn patch(tar: &mut [u8], header: usize, at: usize, bytes: &[u8]) {
    let block = &mut tar[header..header + 512];
    block[at..at + bytes.len()].copy_from_slice(bytes);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A header's field of eight bytes in GNU's binary form.
fn base_256(number: u32) -> [u8; 8] {
    let [a, b, c, d] = number.to_le_bytes();
    [0x80, 0, 0, 0, d, c, b, a]
}

/// The message of the refusal, with its causes.
fn refusal(tar: &[u8]) -> String {
    let mut converter = Converter::new(ConvertOptions::default());
    let error = converter.layer(tar, Cursor::new(Vec::new())).unwrap_err();
    let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| {
        error.source()
    });
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

/// A list that gives user 1000 what the group has.
const ACL_TEXT: &str = "user::rw-,user:lisa:r--:1000,group::r--,mask::r--,other::---";
const ACL: &[u8] = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\xe8\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x04\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";

#[test]
fn xattrs_of_every_namespace_are_kept_byte_by_byte() {
    // cap_net_raw=ep, and the same for a namespace whose root is user 100,000.
    let capability = [
        1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let namespaced = [&[1, 0, 0, 3][..], &capability[4..], &[0xa0, 0x86, 1, 0]].concat();
    let large = vec![0xa5; 60_000];
    let item = Item::file("f", "x")
        .xattr("security.capability", capability)
        .xattr("user.binary", b"a\0b\n=c")
        .xattr("user.empty", "")
        .xattr("user.large", &large)
        .xattr("trusted.overlay.opaque", "y")
        .xattr("trusted.overlay.redirect", "/elsewhere");
    let expected = item.xattrs.clone();
    assert_eq!(one(item).xattrs, expected);
    let item = Item::file("f", "x").xattr("security.capability", &namespaced);
    let image = Image::convert(&[tar(&[item])]);
    assert_eq!(
        image.listing(1)[&b"f"[..]].xattrs[&b"security.capability"[..]],
        namespaced
    );
    for kind in [
        Kind::Directory,
        Kind::Fifo,
        Kind::CharDevice(1, 3),
        Kind::Symlink(b"t".to_vec()),
    ] {
        let item = Item::new("k", kind).xattr("trusted.a", "b");
        let expected = item.xattrs.clone();
        assert_eq!(one(item).xattrs, expected);
    }
}

#[test]
fn other_ways_to_say_an_xattr_are_kept_too() {
    let item = Item::file("f", "x")
        .record("RHT.security.selinux", "system_u:object_r:bin_t:s0")
        .record("LIBARCHIVE.xattr.user.a%20b", "aGVsbG8");
    let xattrs = one(item).xattrs;
    assert_eq!(
        xattrs[&b"security.selinux"[..]],
        b"system_u:object_r:bin_t:s0\0"
    );
    assert_eq!(xattrs[&b"user.a b"[..]], b"hello");
}

#[test]
fn access_control_lists_are_kept_as_text_and_as_xattrs() {
    let text = Item::file("f", "x")
        .permissions(0o640)
        .record("SCHILY.acl.access", ACL_TEXT);
    let plain = Item::file("f", "x")
        .permissions(0o640)
        .xattr("system.posix_acl_access", ACL);
    for item in [text, plain] {
        let seen = one(item);
        assert_eq!(seen.xattrs[&b"system.posix_acl_access"[..]], ACL);
        assert_eq!(seen.xattrs.len(), 1);
        assert_eq!(seen.mode & 0o777, 0o640);
    }
    let directory = Item::directory("d")
        .record("SCHILY.acl.default", ACL_TEXT)
        .record("SCHILY.acl.access", "user::rwx,group::r-x,other::r-x");
    let seen = one(directory);
    assert_eq!(seen.xattrs[&b"system.posix_acl_default"[..]], ACL);
    assert_eq!(seen.xattrs.len(), 1, "the mode says the rest");
    let nameless = Item::file("f", "x").record(
        "SCHILY.acl.access",
        "user::rw-,user:lisa:r--,group::r--,other::---",
    );
    assert_eq!(
        refusal(&tar(&[nameless])),
        "cannot read the layer's tar: entry `f`: bad access control list: it names somebody without a number"
    );
}

#[test]
fn times_are_kept_to_the_nanosecond_and_before_1970() {
    for time in [
        (0, 0),
        (0, 1),
        (1_700_000_000, 123_456_789),
        (-1, 999_999_999),
        (-1, 0),
        (-86_400, 1),
        (7_999_999_999, 999_999_999),
    ] {
        assert_eq!(one(Item::file("f", "").mtime(time.0, time.1)).mtime, time);
    }
    // GNU's binary numbers, in two's complement.
    for seconds in [-123_456_789_i64, 1 << 36] {
        let mut tar = tar(&[Item::file("f", "").mtime(0, 0)]);
        let mut field = [if seconds < 0 { 0xff } else { 0 }; 12];
        field[4..].copy_from_slice(&seconds.to_le_bytes());
        field[4..].reverse();
        field[0] |= 0x80;
        patch(&mut tar, 0, 136, &field);
        assert_eq!(
            Image::convert(&[tar]).listing(1)[&b"f"[..]].mtime,
            (seconds, 0)
        );
    }
}

#[test]
fn device_numbers_are_kept_up_to_the_largest() {
    for (major, minor) in [(0, 0), (1, 3), (259, 70_000), (4095, 1_048_575)] {
        let expected = device_number(major, minor).unwrap();
        for kind in [
            Kind::CharDevice(major, minor),
            Kind::BlockDevice(major, minor),
        ] {
            assert_eq!(one(Item::new("d", kind)).rdev, expected);
        }
        let records = Item::new("d", Kind::CharDevice(0, 7))
            .record("SCHILY.devmajor", &major.to_string())
            .record("SCHILY.devminor", &minor.to_string());
        assert_eq!(one(records).rdev, expected);
        let mut binary = tar(&[Item::new("d", Kind::BlockDevice(0, 0))]);
        for (at, number) in [(329, major), (337, minor)] {
            let field = base_256(number);
            patch(&mut binary, 0, at, &field);
        }
        assert_eq!(shown(&[binary])[&b"d"[..]].rdev, expected);
    }
}

#[test]
fn sockets_are_kept() {
    let seen = one(Item::new("run/socket", Kind::Socket)
        .permissions(0o666)
        .owner(5, 6));
    assert_eq!((seen.mode, seen.uid, seen.gid), (0o140_666, 5, 6));
    let with_content = Item::file("s", "x").record("SCHILY.filetype", "socket");
    assert!(refusal(&tar(&[with_content])).ends_with("entry `s`: it is a socket, and has content"));
    let file = Item::file("f", "x").record("SCHILY.filetype", "regular");
    assert_eq!(one(file).content, b"x");
}

#[test]
fn hard_links_reach_across_layers_and_outlive_their_target() {
    let layers = [
        tar(&[
            Item::file("a/file", "content").xattr("user.a", "b"),
            Item::new("a/symlink", Kind::Symlink(b"file".to_vec())),
        ]),
        tar(&[
            Item::new("b", Kind::Link(b"a/file".to_vec())),
            Item::new("c", Kind::Link(b"./a/symlink".to_vec())),
        ]),
        tar(&[
            Item::new("d", Kind::Link(b"/b".to_vec())),
            Item::file("a/.wh.file", ""),
            Item::file("a/.wh.symlink", ""),
        ]),
        tar(&[
            Item::file("b", "another"),
            Item::new("e", Kind::Link(b"d".to_vec())),
        ]),
    ];
    let second = shown(&layers[..2]);
    assert_eq!(
        (
            second[&b"b"[..]].nlink,
            &second[&b"b"[..]].first_name[..],
            second[&b"c"[..]].nlink
        ),
        (2, &b"a/file"[..], 2)
    );
    let last = shown(&layers);
    assert!(!last.contains_key(&b"a/file"[..]));
    assert_eq!(
        (last[&b"b"[..]].nlink, &last[&b"b"[..]].content[..]),
        (1, &b"another"[..])
    );
    for name in [&b"d"[..], b"e"] {
        let seen = &last[name];
        assert_eq!((seen.nlink, &seen.first_name[..]), (2, &b"d"[..]));
        assert_eq!(seen.content, b"content");
        assert_eq!(seen.xattrs[&b"user.a"[..]], b"b");
    }
    assert_eq!(last[&b"c"[..]].nlink, 1);
}

/// A file with more isles than one header holds, and a hole at its end.
fn sparse_file(path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(64 << 20).unwrap();
    for isle in 0..60_u64 {
        file.write_all_at(
            &[b'a' + (isle % 26) as u8; 5000],
            isle * (1 << 20) + 4096 * (isle % 7),
        )
        .unwrap();
    }
}

#[test]
fn every_form_in_which_gnu_tar_says_sparse_is_the_same_file() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("sparse");
    sparse_file(&path);
    let content = std::fs::read(&path).unwrap();
    for form in [
        &["--format=gnu"][..],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ] {
        let tar = Command::new("tar")
            .args(["--create", "--sparse", "--file=-", "--directory"])
            .arg(scratch.path())
            .args(form)
            .arg("sparse")
            .output()
            .unwrap();
        assert!(tar.status.success(), "{tar:?}");
        assert!(tar.stdout.len() < 2 << 20, "GNU tar has not made it sparse");
        let image = Image::convert(&[tar.stdout]);
        let filesystem = Filesystem::open(image.disk(1)).unwrap();
        let inode = filesystem.lookup(b"sparse").unwrap();
        assert_eq!(inode.size, 64 << 20, "{form:?}");
        let mut read = vec![0xee; content.len()];
        assert_eq!(filesystem.read(&inode, 0, &mut read).unwrap(), read.len());
        assert!(read == content, "{form:?}");
        assert!(image.summaries[0].mapped_len < 2 << 20);
    }
}

#[test]
fn owners_beyond_16_bits_are_kept_however_they_are_written() {
    for owner in [
        65_535,
        65_536,
        2_097_151,
        2_097_152,
        0x8000_0000,
        u32::MAX - 1,
    ] {
        // The harness writes digits while they fit and PAX records then.
        let seen = one(Item::file("f", "").owner(owner, owner));
        assert_eq!((seen.uid, seen.gid), (owner, owner));
        let mut binary = tar(&[Item::file("f", "")]);
        let field = base_256(owner);
        patch(&mut binary, 0, 108, &field);
        patch(&mut binary, 0, 116, &field);
        let seen = &shown(&[binary])[&b"f"[..]];
        assert_eq!((seen.uid, seen.gid), (owner, owner));
    }
}

#[test]
fn layers_of_nothing_change_nothing() {
    let below = shown(&[tar(&[Item::file("a/b", "c")])]);
    let mut global = tar(&[Item::file("pax_global_header", "17 comment=hello\n")]);
    patch(&mut global, 0, 156, b"g");
    patch(&mut global, 0, 124, b"00000000021\0");
    for nothing in [
        Vec::new(),
        vec![0; 512],
        vec![0; 1024],
        vec![0; 10_240],
        global,
    ] {
        let layers = [tar(&[Item::file("a/b", "c")]), nothing];
        assert_eq!(shown(&layers), below);
    }
}

#[test]
fn of_two_entries_with_one_path_the_last_one_holds() {
    let kinds = [
        Kind::File(b"content".to_vec()),
        Kind::Directory,
        Kind::Symlink(b"target".to_vec()),
        Kind::CharDevice(1, 3),
        Kind::Fifo,
        Kind::Socket,
    ];
    for first in &kinds {
        for last in &kinds {
            let items = [
                Item::new("x", first.clone())
                    .owner(1, 1)
                    .xattr("trusted.first", "1"),
                Item::file("y", ""),
                Item::new("./x", last.clone()).owner(2, 2).mtime(7, 8),
            ];
            let image = Image::convert(&[tar(&items)]);
            let listing = image.listing(1);
            let (twice, once) = (
                &listing[&b"x"[..]],
                &Image::convert(&[tar(&items[2..])]).listing(1)[&b"x"[..]],
            );
            assert_eq!(twice, once, "{first:?}, then {last:?}");
            assert_eq!(listing.len(), 3);
        }
    }
}

#[test]
fn a_path_is_the_same_however_it_is_spelled() {
    let plain = shown(&[tar(&[Item::directory("a"), Item::file("a/b", "c")])]);
    for (directory, file) in [
        ("./a", "./a/b"),
        ("/a", "/a/b"),
        ("a/", "a//b"),
        ("a/.", "a/./b"),
        ("//./a///", ".//a/././b"),
    ] {
        assert_eq!(
            shown(&[tar(&[Item::directory(directory), Item::file(file, "c")])]),
            plain,
            "{directory}, {file}"
        );
    }
    let root = Item::directory("./").permissions(0o700).owner(3, 4);
    let seen = shown(&[tar(&[root])]).remove(&b""[..]).unwrap();
    assert_eq!((seen.mode, seen.uid, seen.gid), (0o040_700, 3, 4));
}

#[test]
fn names_of_255_bytes_and_long_paths_are_kept_in_every_form() {
    let names: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    let name = [names, b"x".to_vec()].concat();
    assert_eq!(name.len(), 255);
    let path = [&name[..], &name, &name].join(&b'/');
    assert_eq!(one(Item::file(&path, "x")).content, b"x");
    let scratch = tempfile::tempdir().unwrap();
    let deep = scratch.path().join("d".repeat(255)).join("e".repeat(255));
    std::fs::create_dir_all(&deep).unwrap();
    std::os::unix::fs::symlink("t".repeat(900), deep.join("f".repeat(255))).unwrap();
    let listing_of = |format: &str| {
        let tar = Command::new("tar")
            .args(["--create", "--file=-", "--numeric-owner", "--mtime=@5"])
            .args([format, "--directory"])
            .arg(scratch.path())
            .arg(".")
            .output()
            .unwrap();
        assert!(tar.status.success(), "{tar:?}");
        shown(&[tar.stdout])
    };
    let gnu = listing_of("--format=gnu");
    assert_eq!(gnu, listing_of("--format=pax"));
    assert_eq!(gnu.last_key_value().unwrap().1.content.len(), 900);
}

#[test]
fn whiteouts_of_what_is_not_there_do_nothing() {
    let below = tar(&[Item::directory("d"), Item::file("d/a", "x")]);
    let above = tar(&[
        Item::file(".wh.absent", ""),
        Item::file("d/.wh.absent", ""),
        Item::file("no/such/.wh.absent", ""),
        Item::file("no/.wh..wh..opq", ""),
        Item::file("d/a/.wh.below-a-file", ""),
    ]);
    assert_eq!(shown(&[below.clone(), above.clone()]), shown(&[below]));
    assert_eq!(shown(&[above]).len(), 1);
}

#[test]
fn joined_archives_and_what_hides_behind_the_end_are_refused() {
    let one = tar(&[Item::file("a", "x")]);
    let joined = [one.clone(), tar(&[Item::file("b", "y")])].concat();
    assert_eq!(
        refusal(&joined),
        "cannot read the layer's tar: the tar ends at byte 2048, and something stands behind it at byte 2048: only zeros may, since joined archives mean one thing to some readers and another to others"
    );
    // As `cat a.tar b.tar` gives, with GNU tar's records of twenty blocks.
    let mut padded = one.clone();
    padded.resize(10_240, 0);
    let padded = [padded, one.clone()].concat();
    assert!(
        refusal(&padded)
            .contains("ends at byte 2048, and something stands behind it at byte 10240")
    );
    let hidden = [one.clone(), vec![0; 100_000], vec![7]].concat();
    assert!(refusal(&hidden).contains("at byte 102048"));
    let zeros = [one, vec![0; 100_001]].concat();
    assert!(Image::convert(&[zeros]).listing(1).contains_key(&b"a"[..]));
}
