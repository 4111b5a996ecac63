//! Devices come and go by the dozen and leave nothing behind: no mount, no loop device, no thread, no descriptor.
//!
//! A program of its own, so that its threads and descriptors can be counted. Needs root.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tranship_device::front_end::probe;
use tranship_device::{
    BlockRead, Export, FrontEnd, FuseFile, FuseOptions, LoopDevice, Memory, NbdOptions, NbdServer,
    mount,
};

const DEVICE_COUNT: usize = 50;
const PATIENCE: Duration = Duration::from_secs(30);

/// The names of this process's threads that serve devices.
fn serving_threads() -> Vec<String> {
    fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .filter(|name| name.starts_with("fuse-") || name.starts_with("nbd-"))
        .collect()
}

fn descriptor_count() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// A device that begins with its number.
fn content(number: usize) -> Arc<dyn BlockRead> {
    let mut bytes = vec![0; 64 << 10];
    bytes
        .iter_mut()
        .zip(number.to_le_bytes())
        .for_each(|(byte, digit)| *byte = digit);
    Arc::new(Memory::new(bytes))
}

fn options() -> FuseOptions {
    FuseOptions {
        worker_count: 4,
        ..FuseOptions::default()
    }
}

fn attach_and_detach(dir: &Path, number: usize) {
    let file = FuseFile::mount(dir, "device", content(number), options()).unwrap();
    let device = LoopDevice::attach_read_only(file.path()).unwrap();
    let bytes = fs::read(device.path()).unwrap();
    assert!(bytes.starts_with(&number.to_le_bytes()));
    if number.is_multiple_of(2) {
        device.detach().unwrap();
        file.stop().unwrap();
    } else {
        // Dropping must do as well.
        drop(device);
        drop(file);
    }
}

fn serve_and_stop(dir: &Path, number: usize) {
    let export = Export {
        name: number.to_string(),
        description: String::new(),
        content: content(number),
    };
    let path = dir.join("socket");
    let server = NbdServer::bind(&path, vec![export], NbdOptions::default()).unwrap();
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    nbd::client::handshake(&mut stream, number.to_string().as_bytes()).unwrap();
    server.stop().unwrap();
}

#[test]
fn fifty_devices_at_once_come_and_go_and_nothing_is_left() {
    let scratch = tempfile::tempdir().unwrap();
    let available: Vec<FrontEnd> = probe(scratch.path())
        .into_iter()
        .filter_map(|probed| match probed.obstacle {
            None => Some(probed.front_end),
            Some(obstacle) => {
                eprintln!("left out: {}: {obstacle}", probed.front_end);
                None
            }
        })
        .collect();
    let descriptors_before = descriptor_count();
    for _round in 0..3 {
        thread::scope(|scope| {
            for number in 0..DEVICE_COUNT {
                let dir = scratch.path().join(number.to_string());
                fs::create_dir_all(&dir).unwrap();
                let with_loop = available.contains(&FrontEnd::FuseLoop);
                scope.spawn(move || {
                    serve_and_stop(&dir, number);
                    if with_loop {
                        attach_and_detach(&dir, number);
                    }
                });
            }
        });
    }

    for entry in mount::entries().unwrap() {
        assert!(!entry.target.starts_with(scratch.path()), "{entry:?}");
    }
    for number in 0..DEVICE_COUNT {
        let backing = scratch.path().join(number.to_string()).join("device");
        if available.contains(&FrontEnd::FuseLoop) {
            assert!(LoopDevice::find(&backing).unwrap().is_empty());
        }
    }
    assert_eq!(descriptor_count(), descriptors_before);
    // A joined thread may still be listed for a moment.
    let began = Instant::now();
    while !serving_threads().is_empty() {
        assert!(began.elapsed() < PATIENCE, "{:?}", serving_threads());
        thread::yield_now();
    }
}
