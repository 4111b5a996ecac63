//! Filesystems that others wrote: mkfs.erofs with layouts that we never write, and bytes that want to do harm.

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

use std::collections::BTreeMap;
use std::process::Command;

use proptest::prelude::*;
use tranship_format::erofs::{ErofsError, Filesystem, MAX_DEPTH};
use tranship_format::{ReadAt, SECTOR_LEN};

use images::{Image, listing};
use tars::{Item, Kind, tar};

/// Where the superblock stands.
const SUPERBLOCK: usize = 1024;
/// Where the root inode of our filesystems stands.
const ROOT: usize = 1152;

/// A small filesystem with every layout of ours.
fn small() -> Vec<u8> {
    let many = (0..600).map(|number| Item::file(format!("many/{number:04}"), ""));
    let mut items = vec![
        Item::file("dir/sub/file", [7; 9_000]).xattr("user.a", "value"),
        Item::new("link", Kind::Symlink(b"dir/sub/file".to_vec())),
        Item::new("long", Kind::Symlink(vec![b'x'; 3_000])),
        Item::new("dev", Kind::CharDevice(1, 2)),
    ];
    items.extend(many);
    Image::convert(&[tar(&items)]).device(1)
}

/// Takes the checksum away, so that what was changed is looked at.
fn without_checksum(mut device: Vec<u8>) -> Vec<u8> {
    device[SUPERBLOCK + 8] &= !1;
    device
}

/// Does all that can be done with a filesystem; only that it ends counts.
fn use_up<R: ReadAt>(device: R) -> Result<(), ErofsError> {
    let filesystem = Filesystem::open(device)?;
    let mut content = vec![0; 20_000];
    for step in filesystem.walk() {
        let step = step?;
        let _ = filesystem.read(&step.inode, 0, &mut content);
        let _ = filesystem.read(&step.inode, step.inode.size.saturating_sub(1), &mut content);
        let _ = filesystem.read(&step.inode, u64::MAX, &mut content);
        let _ = filesystem.read_link(&step.inode);
        let _ = filesystem.xattrs(&step.inode);
        let _ = filesystem.resolve(&step.path);
        let _ = filesystem.lookup(&step.path);
    }
    Ok(())
}

/// Inodes and directories of [`small`] begin behind its file data.
fn metadata_start() -> usize {
    4 * 4096
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20), near_root in any::<bool>()) {
        let mut device = without_checksum(small());
        let (start, len) = if near_root { (SUPERBLOCK, 512) } else { (metadata_start(), device.len() - metadata_start()) };
        for (at, value) in flips {
            device[start + at.index(len)] = value;
        }
        let _ = use_up(device);
    }

    #[test]
    fn a_cut_device_never_panics(len in 0..40_000_usize) {
        let mut device = small();
        device.truncate(len);
        let _ = use_up(device);
    }
}

#[test]
fn a_flipped_bit_beside_the_superblock_is_noticed() {
    assert!(use_up(small()).is_ok());
    for at in [
        SUPERBLOCK + 4,
        SUPERBLOCK + 16,
        SUPERBLOCK + 60,
        ROOT,
        ROOT + 24,
        4095,
    ] {
        let mut device = small();
        device[at] ^= 4;
        let error = use_up(device).unwrap_err().to_string();
        assert!(error.contains("checksum"), "{at}: {error}");
    }
}

#[test]
fn a_directory_whose_names_are_not_in_order_is_refused() {
    for other in [*b"000400050003", *b"000400050005", *b"000600050004"] {
        let mut device = small();
        let names = b"000400050006";
        let at = device.windows(12).position(|run| run == names).unwrap();
        device[at..at + 12].copy_from_slice(&other);
        let error = use_up(device).unwrap_err();
        assert!(matches!(error, ErofsError::Corrupt { .. }), "{error}");
    }
}

#[test]
fn other_superblocks_are_refused_by_name() {
    let refused = |at: usize, value: u8| {
        let mut device = without_checksum(small());
        device[at] = value;
        Filesystem::open(device).unwrap_err()
    };
    assert!(matches!(refused(SUPERBLOCK, 0), ErofsError::Corrupt { .. }));
    for (at, value) in [(12, 8), (12, 40), (80, 0x80), (81, 1), (90, 1)] {
        let error = refused(SUPERBLOCK + at, value);
        assert!(
            matches!(error, ErofsError::Unsupported { .. }),
            "{at}: {error}"
        );
    }
    assert!(matches!(
        Filesystem::open(Vec::new()),
        Err(ErofsError::Corrupt { .. })
    ));
}

/// A directory that holds itself would be walked for ever.
#[test]
fn a_directory_within_itself_ends_the_walk() {
    let mut device = without_checksum(small());
    let name = device[ROOT..4096]
        .windows(3)
        .position(|window| window == b"dev")
        .unwrap();
    assert!(name > 64);
    // The root's entries stand behind it; the one of `dev` is the third, behind `.` and `..`.
    let entry = ROOT + 64 + 2 * 12;
    device[entry..entry + 8].copy_from_slice(&36_u64.to_le_bytes());
    let error = use_up(device).unwrap_err();
    assert!(error.to_string().contains("two places"), "{error}");
}

#[test]
fn a_claimed_size_allocates_nothing() {
    let mut device = without_checksum(small());
    device[ROOT + 8..ROOT + 16].copy_from_slice(&(1_u64 << 60).to_le_bytes());
    let error = use_up(device).unwrap_err();
    assert!(
        error.to_string().contains("longer than any directory"),
        "{error}"
    );
}

/// A device of which nearly all is zeros, however long it claims to be.
struct Endless(Vec<u8>);

impl ReadAt for Endless {
    fn len(&self) -> u64 {
        1 << 50
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        for (at, byte) in (offset..).zip(buf) {
            *byte = usize::try_from(at)
                .ok()
                .and_then(|at| self.0.get(at))
                .copied()
                .unwrap_or(0);
        }
        Ok(())
    }
}

#[test]
fn a_device_of_zeros_ends_soon() {
    let mut device = without_checksum(small());
    // The root becomes a directory of 255 MiB of zeros.
    device[ROOT] = 1;
    device[ROOT + 8..ROOT + 16].copy_from_slice(&(255_u64 << 20).to_le_bytes());
    device[ROOT + 16..ROOT + 20].copy_from_slice(&1_000_000_u32.to_le_bytes());
    assert!(use_up(Endless(device)).is_err());
    assert!(use_up(Endless(Vec::new())).is_err());
}

#[test]
fn the_deepest_path_that_is_written_is_walked() {
    let path = "d/".repeat(MAX_DEPTH - 1);
    let device = Image::convert(&[tar(&[Item::directory(&path)])]).device(1);
    let steps: Result<Vec<_>, _> = Filesystem::open(device).unwrap().walk().collect();
    assert_eq!(steps.unwrap().len(), MAX_DEPTH);
}

#[test]
fn symlinks_are_resolved_within_the_root() {
    let link =
        |path: &str, target: &str| Item::new(path, Kind::Symlink(target.as_bytes().to_vec()));
    let items = [
        Item::file("usr/lib/x", "found"),
        link("lib", "usr/lib"),
        link("usr/abs", "/lib/../../lib/./x"),
        link("out", "../../../etc"),
        link("loop", "loop"),
        link("usr/up", "../usr/abs"),
    ];
    let device = Image::convert(&[tar(&items)]).device(1);
    let filesystem = Filesystem::open(device).unwrap();
    let found = filesystem.lookup(b"usr/lib/x").unwrap();
    for path in ["lib/x", "/usr/abs", "usr/up", "./lib/..//lib/x"] {
        assert_eq!(
            filesystem.resolve(path.as_bytes()).unwrap().nid,
            found.nid,
            "{path}"
        );
    }
    assert!(matches!(
        filesystem.lookup(b"lib/x"),
        Err(ErofsError::NotFound { .. })
    ));
    assert!(matches!(
        filesystem.resolve(b"out"),
        Err(ErofsError::NotFound { .. })
    ));
    assert!(matches!(
        filesystem.resolve(b"usr/lib/x/y"),
        Err(ErofsError::NotFound { .. })
    ));
    assert!(
        filesystem
            .resolve(b"loop")
            .unwrap_err()
            .to_string()
            .contains("too many symlinks")
    );
}

/// Makes a filesystem of a small tree with mkfs.erofs; `None` if it is not installed.
fn foreign(options: &[&str]) -> Option<Vec<u8>> {
    let scratch = tempfile::tempdir().unwrap();
    let tree = scratch.path().join("tree");
    std::fs::create_dir_all(tree.join("a/b")).unwrap();
    for number in 0..700 {
        let path = tree.join(format!("a/{number}"));
        std::fs::write(&path, vec![b'c'; number * 13]).unwrap();
        // Enough equal ones to be shared. Scratch filesystems without xattrs are left without.
        let _ = rustix::fs::setxattr(
            &path,
            "user.shared",
            &[b's'; 60],
            rustix::fs::XattrFlags::empty(),
        );
    }
    std::fs::write(tree.join("a/b/large"), vec![b'l'; 500_000]).unwrap();
    std::os::unix::fs::symlink("a/b/large", tree.join("link")).unwrap();
    let device = scratch.path().join("device");
    let made = Command::new("mkfs.erofs")
        .args(options)
        .arg(&device)
        .arg(&tree)
        .output();
    match made {
        Err(error) => {
            eprintln!("mkfs.erofs is not here ({error}): its layouts are not read");
            None
        }
        Ok(made) => {
            assert!(made.status.success(), "{made:?}");
            Some(std::fs::read(&device).unwrap())
        }
    }
}

#[test]
fn uncompressed_layouts_of_other_writers_are_read() {
    for options in [
        &["-Eforce-inode-compact"][..],
        &["-Eforce-inode-extended"],
        &["-x1"],
        &["-Enoinline_data"],
    ] {
        let Some(device) = foreign(options) else {
            return;
        };
        let listing = listing(&Filesystem::open(device).unwrap());
        assert_eq!(listing.len(), 705, "{options:?}");
        assert_eq!(listing[&b"a/b/large"[..]].content.len(), 500_000);
        assert_eq!(listing[&b"link"[..]].content, b"a/b/large");
        let mut xattrs = BTreeMap::new();
        for number in 0..700 {
            let seen = &listing[format!("a/{number}").as_bytes()];
            assert!(
                seen.content == vec![b'c'; number * 13],
                "{options:?}: {number}"
            );
            *xattrs.entry(seen.xattrs.clone()).or_insert(0) += 1;
        }
        assert_eq!(xattrs.len(), 1, "{options:?}");
    }
}

#[test]
fn compressed_and_chunked_layouts_are_listed_but_not_read() {
    for options in [&["-zlz4hc"][..], &["--chunksize=4096"]] {
        let Some(device) = foreign(options) else {
            return;
        };
        let filesystem = Filesystem::open(device).unwrap();
        assert_eq!(filesystem.walk().map(Result::unwrap).count(), 705);
        let large = filesystem.lookup(b"a/b/large").unwrap();
        let mut sector = vec![0; usize::try_from(SECTOR_LEN).unwrap()];
        let error = filesystem.read(&large, 0, &mut sector).unwrap_err();
        assert!(
            matches!(error, ErofsError::Unsupported { .. }),
            "{options:?}: {error}"
        );
    }
}
