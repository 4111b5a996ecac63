//! Loop devices on FUSE files and on plain ones.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use tranship_device::{
    BackingIo, BlockRead, FuseFile, FuseOptions, LoopDevice, LoopOptions, Memory,
};

use crate::ground::{Ground, Lies, opened_direct, page, pattern, random, until_gone};

fn served(dir: &Path, content: Arc<dyn BlockRead>) -> FuseFile {
    FuseFile::mount(dir, "device", content, FuseOptions::default()).unwrap()
}

/// Waits until nobody holds the device any longer: a program that another test starts at this moment holds copies of all
/// descriptors until it runs.
fn until_detached(backing: &Path) {
    until_gone(|| !LoopDevice::find(backing).unwrap().is_empty());
}

#[test]
fn a_loop_device_has_the_bytes_of_the_fuse_file() {
    let Some(ground) = Ground::find("fuse and loop") else {
        return;
    };
    let bytes = pattern(8 << 20);
    let file = served(ground.dir(), Arc::new(Memory::new(bytes.clone())));
    let device = LoopDevice::attach_read_only(file.path()).unwrap();
    assert_eq!(device.backing_io(), BackingIo::Direct);
    assert!(fs::read(device.path()).unwrap() == bytes);

    let opened = opened_direct(device.path());
    let mut next = random(3);
    let mut buf = page();
    for _ in 0..300 {
        let offset = next(bytes.len() / 4096) * 4096;
        opened.read_exact_at(&mut buf, offset as u64).unwrap();
        assert!(buf[..] == bytes[offset..offset + 4096]);
    }
    drop(opened);
    let writer = File::options().write(true).open(device.path());
    assert!(writer.and_then(|writer| writer.write_at(b"x", 0)).is_err());
    device.detach().unwrap();
    file.stop().unwrap();
}

#[test]
fn without_direct_io_the_bytes_are_the_same() {
    let Some(ground) = Ground::find("fuse and loop") else {
        return;
    };
    let bytes = pattern(1 << 20);
    let file = served(ground.dir(), Arc::new(Memory::new(bytes.clone())));
    let options = LoopOptions {
        direct_io: false,
        ..LoopOptions::default()
    };
    let device = LoopDevice::attach_with(file.path(), options).unwrap();
    assert_eq!(device.backing_io(), BackingIo::Buffered);
    assert!(fs::read(device.path()).unwrap() == bytes);
    device.detach().unwrap();
    file.stop().unwrap();
}

#[test]
fn a_read_that_fails_is_an_input_output_error() {
    let Some(ground) = Ground::find("fuse and loop") else {
        return;
    };
    let content = Arc::new(Lies::fails_at(pattern(1 << 20), 256 << 10));
    let file = served(ground.dir(), content);
    let device = LoopDevice::attach_read_only(file.path()).unwrap();
    let opened = opened_direct(device.path());
    let mut buf = page();
    let error = opened.read_exact_at(&mut buf, 256 << 10).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    opened.read_exact_at(&mut buf, 0).unwrap();
}

#[test]
fn a_device_that_was_left_behind_is_found_by_its_file() {
    let Some(ground) = Ground::find("fuse and loop") else {
        return;
    };
    let path = ground.dir().join("left behind");
    fs::write(&path, pattern(1 << 20)).unwrap();
    let options = LoopOptions {
        auto_clear: false,
        ..LoopOptions::default()
    };
    let name = {
        let device = LoopDevice::attach_with(&path, options).unwrap();
        device.path().to_owned()
    };
    let mut found = LoopDevice::find(&path).unwrap();
    assert_eq!(found.len(), 1);
    let device = found.remove(0);
    assert_eq!(device.path(), name);
    device.detach().unwrap();
    until_detached(&path);
}

#[test]
fn a_device_that_clears_itself_is_gone_when_it_is_dropped() {
    let Some(ground) = Ground::find("fuse and loop") else {
        return;
    };
    let path = ground.dir().join("file");
    fs::write(&path, pattern(1 << 20)).unwrap();
    drop(LoopDevice::attach_read_only(&path).unwrap());
    until_detached(&path);
}

#[test]
fn many_attach_at_once_and_each_gets_its_own_device() {
    let Some(ground) = Ground::find("fuse and loop") else {
        return;
    };
    thread::scope(|scope| {
        for number in 0..20_u8 {
            let path = ground.dir().join(number.to_string());
            scope.spawn(move || {
                fs::write(&path, vec![number; 4096]).unwrap();
                for _ in 0..5 {
                    let device = LoopDevice::attach_read_only(&path).unwrap();
                    assert!(fs::read(device.path()).unwrap() == vec![number; 4096]);
                    device.detach().unwrap();
                }
                until_detached(&path);
            });
        }
    });
}

#[test]
fn the_file_below_can_be_changed_under_a_user() {
    let Some(ground) = Ground::find("fuse and loop") else {
        return;
    };
    let bytes = pattern(1 << 20);
    let served_in = ground.folder("served");
    let file = served(&served_in, Arc::new(Memory::new(bytes.clone())));
    let device = LoopDevice::attach_read_only(file.path()).unwrap();
    let opened = opened_direct(device.path());
    let mut buf = page();
    opened.read_exact_at(&mut buf, 0).unwrap();

    let local = ground.dir().join("local");
    fs::write(&local, &bytes).unwrap();
    device.change_backing(&local).unwrap();
    file.stop().unwrap();
    opened.read_exact_at(&mut buf, 512 << 10).unwrap();
    assert!(buf[..] == bytes[512 << 10..][..4096]);
}
