//! EROFS and overlays on devices, read as a filesystem.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tranship_device::mount::{self, MountError, Overlay};
use tranship_device::{BackingIo, FuseFile, FuseOptions, LoopDevice, Memory};

use crate::ground::{Ground, Lies, pattern, random};

/// The large file of the image: beyond read-ahead, and not a multiple of a page.
const LARGE_LEN: usize = (6 << 20) + 1234;

/// An EROFS image made by the filesystem's own tool; nothing, and a word on standard error, where it is not installed.
fn image(ground: &Ground) -> Option<Vec<u8>> {
    let tree = ground.folder("tree");
    fs::create_dir(tree.join("folder")).unwrap();
    fs::write(tree.join("folder/small"), "small\n").unwrap();
    fs::write(tree.join("large"), pattern(LARGE_LEN)).unwrap();
    let made = ground.dir().join("image");
    match Command::new("mkfs.erofs").arg(&made).arg(&tree).output() {
        Ok(output) if output.status.success() => Some(fs::read(made).unwrap()),
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            eprintln!("left out: mkfs.erofs: {error}");
            None
        }
    }
}

fn check_tree(root: &Path) {
    assert_eq!(
        fs::read_to_string(root.join("folder/small")).unwrap(),
        "small\n"
    );
    let bytes = pattern(LARGE_LEN);
    let large = fs::File::open(root.join("large")).unwrap();
    let mut next = random(11);
    let mut buf = vec![0; 10_000];
    for _ in 0..100 {
        let offset = next(LARGE_LEN - buf.len());
        large.read_exact_at(&mut buf, offset as u64).unwrap();
        assert!(buf[..] == bytes[offset..offset + buf.len()]);
    }
    assert!(fs::read(root.join("large")).unwrap() == bytes);
}

struct Mounted {
    file: FuseFile,
    target: PathBuf,
}

fn served(ground: &Ground, image: Vec<u8>) -> Mounted {
    let dir = ground.folder("served");
    let content = Arc::new(Memory::new(image));
    Mounted {
        file: FuseFile::mount(&dir, "device", content, FuseOptions::default()).unwrap(),
        target: ground.folder("target"),
    }
}

/// Mounts, or says why this kernel cannot.
fn erofs_file(file: &Path, target: &Path) -> Option<BackingIo> {
    match mount::erofs_file(file, target) {
        Ok(backing_io) => Some(backing_io),
        Err(error) => {
            eprintln!("left out: {error}: {:?}", std::error::Error::source(&error));
            None
        }
    }
}

#[test]
fn erofs_is_mounted_from_a_loop_device() {
    let Some(ground) = Ground::find("fuse and loop") else {
        return;
    };
    let Some(image) = image(&ground) else { return };
    let Mounted { file, target } = served(&ground, image);
    let device = LoopDevice::attach_read_only(file.path()).unwrap();
    mount::erofs_device(device.path(), &target).unwrap();
    check_tree(&target);
    assert!(fs::write(target.join("new"), "").is_err());
    mount::unmount(&target).unwrap();
    device.detach().unwrap();
    file.stop().unwrap();
}

#[test]
fn erofs_is_mounted_from_a_file_without_a_loop_device() {
    let Some(ground) = Ground::find("fuse") else {
        return;
    };
    let Some(image) = image(&ground) else { return };
    let Mounted { file, target } = served(&ground, image);
    let Some(backing_io) = erofs_file(file.path(), &target) else {
        return;
    };
    eprintln!("file-backed EROFS with {backing_io:?} I/O");
    check_tree(&target);
    let entry = mount::entry_at(&target).unwrap().unwrap();
    assert_eq!(entry.kind, "erofs");
    assert_eq!(entry.source, file.path());
    assert!(LoopDevice::find(file.path()).unwrap().is_empty());
    mount::unmount(&target).unwrap();
    file.stop().unwrap();
}

#[test]
fn others_than_root_read_the_mount_but_not_the_file_below() {
    let Some(ground) = Ground::find("fuse") else {
        return;
    };
    let Some(image) = image(&ground) else { return };
    ground.let_all_in();
    let Mounted { file, target } = served(&ground, image);
    if erofs_file(file.path(), &target).is_none() {
        return;
    }
    let as_nobody = |path: &Path| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "cat"]);
        command.arg(path).output()
    };
    match (as_nobody(&target.join("large")), as_nobody(file.path())) {
        (Ok(through_mount), Ok(directly)) => {
            assert!(through_mount.stdout == pattern(LARGE_LEN));
            assert!(!directly.status.success());
        }
        (Err(error), _) | (_, Err(error)) => eprintln!("left out: setpriv: {error}"),
    }
    mount::unmount(&target).unwrap();
    file.stop().unwrap();
}

#[test]
fn a_block_that_cannot_be_read_is_an_error_in_that_file_alone() {
    let Some(ground) = Ground::find("fuse and loop") else {
        return;
    };
    let Some(image) = image(&ground) else { return };
    let bytes = pattern(LARGE_LEN);
    let inside = (4 << 20) + 100;
    let at = image
        .windows(64)
        .position(|window| window == &bytes[inside..inside + 64])
        .unwrap();
    let dir = ground.folder("served");
    let content = Arc::new(Lies::fails_at(image, at as u64));
    let file = FuseFile::mount(&dir, "device", content, FuseOptions::default()).unwrap();
    let target = ground.folder("target");
    let device = LoopDevice::attach_read_only(file.path()).unwrap();
    mount::erofs_device(device.path(), &target).unwrap();
    let check = || {
        let error = fs::read(target.join("large")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        assert_eq!(
            fs::read_to_string(target.join("folder/small")).unwrap(),
            "small\n"
        );
    };
    check();
    mount::unmount(&target).unwrap();
    device.detach().unwrap();
    if erofs_file(file.path(), &target).is_some() {
        check();
        mount::unmount(&target).unwrap();
    }
    file.stop().unwrap();
}

#[test]
fn an_overlay_takes_changes_and_leaves_the_image_alone() {
    let Some(ground) = Ground::find("fuse and loop") else {
        return;
    };
    let Some(image) = image(&ground) else { return };
    let Mounted { file, target } = served(&ground, image);
    let device = LoopDevice::attach_read_only(file.path()).unwrap();
    mount::erofs_device(device.path(), &target).unwrap();
    let folders = Overlay {
        lower: target.clone(),
        upper: ground.folder("upper, with: odd\\name"),
        work: ground.folder("work, with: odd\\name"),
    };
    let merged = ground.folder("merged folder");
    mount::overlay(&folders, &merged).unwrap();
    check_tree(&merged);
    fs::write(merged.join("new"), "new").unwrap();
    fs::remove_file(merged.join("large")).unwrap();
    assert_eq!(
        fs::read_to_string(folders.upper.join("new")).unwrap(),
        "new"
    );
    assert!(mount::is_mounted(&merged).unwrap());
    mount::unmount(&merged).unwrap();
    check_tree(&target);
    mount::unmount(&target).unwrap();
    device.detach().unwrap();
    file.stop().unwrap();
}

#[test]
fn a_mount_in_use_is_busy_and_goes_lazily() {
    let Some(ground) = Ground::find("fuse and loop") else {
        return;
    };
    let Some(image) = image(&ground) else { return };
    let Mounted { file, target } = served(&ground, image);
    let device = LoopDevice::attach_read_only(file.path()).unwrap();
    mount::erofs_device(device.path(), &target).unwrap();
    let user = fs::File::open(target.join("large")).unwrap();
    assert!(matches!(
        mount::unmount(&target),
        Err(MountError::Busy { .. })
    ));
    mount::unmount_lazily(&target).unwrap();
    assert!(!mount::is_mounted(&target).unwrap());
    let mut buf = [0; 100];
    user.read_exact_at(&mut buf, 5 << 20).unwrap();
    assert!(matches!(
        mount::unmount(&target),
        Err(MountError::NotMounted { .. })
    ));
    drop(user);
    device.detach().unwrap();
    file.stop().unwrap();
}

#[test]
fn what_is_not_a_filesystem_is_refused() {
    let Some(ground) = Ground::find("fuse and loop") else {
        return;
    };
    let Mounted { file, target } = served(&ground, pattern(1 << 20));
    assert!(mount::erofs_file(file.path(), &target).is_err());
    let device = LoopDevice::attach_read_only(file.path()).unwrap();
    assert!(mount::erofs_device(device.path(), &target).is_err());
    assert!(!mount::is_mounted(&target).unwrap());
    device.detach().unwrap();
    file.stop().unwrap();
}
