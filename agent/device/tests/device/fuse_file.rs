//! A device as a file in a FUSE mount, read through the kernel.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tranship_device::{BlockRead, BlockReadError, FuseError, FuseFile, FuseOptions, Memory, mount};

use crate::ground::{
    Gate, Gated, Ground, Lies, aligned, opened_direct, page, pattern, random, until_gone,
};

fn options() -> FuseOptions {
    FuseOptions {
        worker_count: 4,
        ..FuseOptions::default()
    }
}

fn mounted(dir: &Path, content: Arc<dyn BlockRead>) -> FuseFile {
    FuseFile::mount(dir, "device", content, options()).unwrap()
}

#[test]
fn the_file_has_the_bytes_of_its_content() {
    let Some(ground) = Ground::find("fuse") else {
        return;
    };
    let bytes = pattern(5 * (1 << 20) + 12_345);
    let file = mounted(ground.dir(), Arc::new(Memory::new(bytes.clone())));

    let status = fs::metadata(file.path()).unwrap();
    assert_eq!(status.len(), bytes.len() as u64);
    assert_eq!(status.permissions().mode() & 0o7777, 0o400);
    let names: Vec<_> = fs::read_dir(ground.dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["device"]);
    assert_eq!(fs::read(file.path()).unwrap(), bytes);
    assert!(!ground.dir().join("other").exists());
    assert!(File::create(ground.dir().join("new")).is_err());
    file.stop().unwrap();
    assert!(!ground.is_mounted());
}

#[test]
fn reads_at_any_offset_and_length_are_right() {
    let Some(ground) = Ground::find("fuse") else {
        return;
    };
    let bytes = pattern(3 * (1 << 20) + 777);
    let file = mounted(ground.dir(), Arc::new(Memory::new(bytes.clone())));
    let opened = File::open(file.path()).unwrap();
    let mut next = random(7);
    for _ in 0..500 {
        let offset = next(bytes.len());
        let len = next(200_000).min(bytes.len() - offset);
        let mut buf = vec![0; len];
        opened.read_exact_at(&mut buf, offset as u64).unwrap();
        assert!(
            buf == bytes[offset..offset + len],
            "{len} bytes at {offset}"
        );
    }
}

#[test]
fn direct_reads_of_one_mebibyte_arrive_in_one_piece() {
    let Some(ground) = Ground::find("fuse") else {
        return;
    };
    let bytes = pattern(8 << 20);
    let content = Arc::new(Lies::none(bytes.clone()));
    let file = mounted(ground.dir(), content.clone());
    let opened = opened_direct(file.path());
    let len = 1 << 20;
    let mut buf = aligned(len);
    for part in 0..8 {
        opened.read_exact_at(&mut buf, (part * len) as u64).unwrap();
        assert!(buf[..] == bytes[part * len..(part + 1) * len]);
    }
    assert_eq!(content.longest_read(), len);
}

#[test]
fn many_readers_at_once_read_what_they_should() {
    let Some(ground) = Ground::find("fuse") else {
        return;
    };
    let bytes = Arc::new(pattern(4 << 20));
    let file = mounted(ground.dir(), Arc::new(Memory::new(bytes.to_vec())));
    thread::scope(|scope| {
        for seed in 1..9 {
            let (bytes, opened) = (Arc::clone(&bytes), opened_direct(file.path()));
            scope.spawn(move || {
                let mut next = random(seed);
                let mut buf = page();
                for _ in 0..500 {
                    let offset = next(bytes.len() / 4096 - 1) * 4096;
                    opened.read_exact_at(&mut buf, offset as u64).unwrap();
                    assert!(buf[..] == bytes[offset..offset + 4096]);
                }
            });
        }
    });
}

#[test]
fn a_read_that_fails_is_an_input_output_error_and_others_go_on() {
    let Some(ground) = Ground::find("fuse") else {
        return;
    };
    let bytes = pattern(1 << 20);
    let content = Arc::new(Lies::fails_at(bytes.clone(), 512 << 10));
    let file = mounted(ground.dir(), content);
    let opened = opened_direct(file.path());
    let mut buf = page();
    let error = opened.read_exact_at(&mut buf, 512 << 10).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    opened.read_exact_at(&mut buf, 4096).unwrap();
    assert!(buf[..] == bytes[4096..8192]);
}

#[test]
fn reads_that_wait_do_not_hold_up_one_whose_bytes_are_there() {
    let Some(ground) = Ground::find("fuse") else {
        return;
    };
    let bytes = pattern(1 << 20);
    let gate = Gate::shut();
    let content = Gated::from(64 << 10, bytes.clone(), Arc::clone(&gate));
    let file = FuseFile::mount(
        ground.dir(),
        "device",
        Arc::new(content),
        FuseOptions::default(),
    )
    .unwrap();
    thread::scope(|scope| {
        for place in 1..16 {
            let opened = opened_direct(file.path());
            scope.spawn(move || opened.read_exact_at(&mut page(), place << 16).unwrap());
        }
        gate.wait_for_readers(15);
        let mut buf = page();
        opened_direct(file.path())
            .read_exact_at(&mut buf, 0)
            .unwrap();
        assert!(buf[..] == bytes[..4096]);
        gate.open();
    });
    file.stop().unwrap();
}

#[test]
fn a_file_that_is_in_use_disappears_and_its_user_gets_errors_after_the_grace() {
    let Some(ground) = Ground::find("fuse") else {
        return;
    };
    let gate = Gate::shut();
    let content = Arc::new(Gated::new(pattern(1 << 20), Arc::clone(&gate)));
    let options = FuseOptions {
        stop_grace: Duration::from_millis(100),
        ..options()
    };
    let file = FuseFile::mount(ground.dir(), "device", content, options).unwrap();
    let path = file.path().to_owned();
    let reader = thread::spawn(move || {
        let mut buf = [0; 512];
        File::open(path).unwrap().read(&mut buf)
    });
    gate.wait_for_readers(1);

    let stopped = file.stop();
    assert!(
        matches!(stopped, Err(FuseError::StillReading { .. })),
        "{stopped:?}"
    );
    assert!(!ground.is_mounted());
    assert!(reader.join().unwrap().is_err());
    gate.open();
}

/// Content of a process that is about to leave: its reads wait, and fail in the end.
struct Leaving(Arc<Gate>);

impl BlockRead for Leaving {
    fn len(&self) -> u64 {
        1 << 20
    }

    fn read_at(&self, _: u64, _: &mut [u8]) -> Result<(), BlockReadError> {
        self.0.pass();
        Err(BlockReadError::Stopping)
    }
}

#[test]
fn what_fails_because_its_server_leaves_is_answered_by_the_successor() {
    let Some(ground) = Ground::find("fuse") else {
        return;
    };
    let gate = Gate::shut();
    let content = Arc::new(Leaving(Arc::clone(&gate)));
    let options = FuseOptions {
        stop_grace: Duration::from_millis(50),
        ..options()
    };
    let first = FuseFile::mount(ground.dir(), "device", content.clone(), options).unwrap();
    let opened = opened_direct(first.path());
    let reader = thread::spawn(move || {
        let mut buf = page();
        opened.read_exact_at(&mut buf, 8192).map(|()| buf.to_vec())
    });
    gate.wait_for_readers(1);
    let live = first.leave().unwrap();
    gate.open();
    until_gone(|| Arc::strong_count(&content) > 1);
    let bytes = pattern(1 << 20);
    let content = Arc::new(Memory::new(bytes.clone()));
    let second = FuseFile::take_over(ground.dir(), live, "device", content, options).unwrap();
    assert!(reader.join().unwrap().unwrap() == bytes[8192..8192 + 4096]);
    second.stop().unwrap();
}

#[test]
fn a_successor_answers_what_its_predecessor_left() {
    let Some(ground) = Ground::find("fuse") else {
        return;
    };
    let bytes = pattern(1 << 20);
    let gate = Gate::shut();
    let content = Arc::new(Gated::new(bytes.clone(), Arc::clone(&gate)));
    let options = FuseOptions {
        stop_grace: Duration::from_millis(50),
        ..options()
    };
    let first = FuseFile::mount(ground.dir(), "device", content, options).unwrap();
    let path = first.path().to_owned();
    let readers: Vec<_> = [0_usize, 300_000, 700_000]
        .into_iter()
        .map(|offset| {
            let opened = opened_direct(&path);
            thread::spawn(move || {
                let mut buf = page();
                let offset = offset / 4096 * 4096;
                opened
                    .read_exact_at(&mut buf, offset as u64)
                    .map(|()| (offset, buf.to_vec()))
            })
        })
        .collect();
    gate.wait_for_readers(3);

    // The reads stay where they are, as in a process that was killed.
    let live = first.leave().unwrap();
    assert!(ground.is_mounted());
    let content = Arc::new(Memory::new(bytes.clone()));
    let second = FuseFile::take_over(ground.dir(), live, "device", content, options).unwrap();
    for reader in readers {
        let (offset, read) = reader.join().unwrap().unwrap();
        assert!(read == bytes[offset..offset + 4096], "read at {offset}");
    }
    // The late answers of the first are not wanted any longer, and harm nobody.
    gate.open();
    assert_eq!(fs::read(second.path()).unwrap(), bytes);
    second.stop().unwrap();
}

#[test]
fn leaving_loses_nothing_under_load() {
    let Some(ground) = Ground::find("fuse") else {
        return;
    };
    let bytes = Arc::new(pattern(2 << 20));
    let content: Arc<dyn BlockRead> = Arc::new(Memory::new(bytes.to_vec()));
    let mut file = mounted(ground.dir(), Arc::clone(&content));
    let path = file.path().to_owned();
    let read_count = AtomicUsize::new(0);
    let file = thread::scope(|scope| {
        let readers: Vec<_> = (1..5)
            .map(|seed| {
                let read_count = &read_count;
                let (bytes, opened) = (Arc::clone(&bytes), opened_direct(&path));
                scope.spawn(move || {
                    let mut next = random(seed);
                    let mut buf = page();
                    for _ in 0..300 {
                        let offset = next(bytes.len() / 4096 - 1) * 4096;
                        opened.read_exact_at(&mut buf, offset as u64).unwrap();
                        assert!(buf[..] == bytes[offset..offset + 4096]);
                        read_count.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let are_done = || readers.iter().all(thread::ScopedJoinHandle::is_finished);
        while !are_done() {
            // Each session is to be left in the middle of its work, not before it has begun.
            let enough = read_count.load(Ordering::Relaxed) + 10;
            until_gone(|| !are_done() && read_count.load(Ordering::Relaxed) < enough);
            let live = file.leave().unwrap();
            let content = Arc::clone(&content);
            file = FuseFile::take_over(ground.dir(), live, "device", content, options()).unwrap();
        }
        file
    });
    file.stop().unwrap();
}

/// Content that notes when it may rest.
struct Resting(Memory, AtomicUsize);

impl BlockRead for Resting {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockReadError> {
        self.0.read_at(offset, buf)
    }

    fn rest(&self) {
        self.1.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn content_may_rest_when_nobody_reads_and_is_read_again() {
    let Some(ground) = Ground::find("fuse") else {
        return;
    };
    let bytes = pattern(1 << 20);
    let content = Arc::new(Resting(Memory::new(bytes.clone()), AtomicUsize::new(0)));
    let options = FuseOptions {
        idle_after: Duration::from_millis(20),
        ..options()
    };
    let file = FuseFile::mount(ground.dir(), "device", content.clone(), options).unwrap();
    for _ in 0..2 {
        let rested = content.1.load(Ordering::Relaxed);
        let mut buf = page();
        let opened = opened_direct(file.path());
        opened.read_exact_at(&mut buf, 4096).unwrap();
        assert!(buf[..] == bytes[4096..8192]);
        until_gone(|| content.1.load(Ordering::Relaxed) == rested);
    }
    file.stop().unwrap();
}

#[test]
fn a_mount_that_was_taken_away_by_others_ends_the_session() {
    let Some(ground) = Ground::find("fuse") else {
        return;
    };
    let file = mounted(ground.dir(), Arc::new(Memory::new(pattern(4096))));
    assert!(file.session().is_serving());
    mount::unmount(ground.dir()).unwrap();
    assert!(file.session().wait_for_end(Duration::from_secs(10)));
    assert!(!file.session().is_serving());
    file.stop().unwrap();
}

#[test]
fn names_that_are_no_names_are_refused() {
    let Some(ground) = Ground::find("fuse") else {
        return;
    };
    for name in ["", ".", "..", "a/b", "a\0b", &"n".repeat(256)] {
        let content = Arc::new(Memory::new(pattern(4096)));
        let refused = FuseFile::mount(ground.dir(), name, content, options());
        assert!(matches!(refused, Err(FuseError::FileName { .. })));
        assert!(!ground.is_mounted(), "{name:?}");
    }
}
