//! Block devices of the kernel's ublk driver, which only some machines have: a guest of the system tests does.

use std::env;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tranship_device::{Memory, Ublk, UblkError, UblkOptions, ublk};

use crate::doomed::{Doomed, LEN, NeverAnswers, content, reader, serve_until_killed};
use crate::ground::{Gate, Gated, opened_direct, page, pattern};

/// Names the number of the device that a process is to make.
const MAKE: &str = "TRANSHIP_TEST_UBLK";
/// Times a device goes from one process to the next: of fifty, one or two went wrong.
const HANDOVERS: usize = 50;

/// Whether there is a driver here; a word on standard error where there is none.
fn has_driver() -> bool {
    let there = Path::new("/dev/ublk-control").exists();
    if !there {
        eprintln!("left out: there is no ublk driver here");
    }
    there
}

fn options() -> UblkOptions {
    UblkOptions {
        stop_grace: Duration::from_secs(1),
        ..UblkOptions::default()
    }
}

#[test]
fn a_ublk_device_has_its_bytes_and_is_read_only() {
    if !has_driver() {
        return;
    }
    // Not whole sectors: the rest is cut off.
    let bytes = pattern(LEN + 100);
    let device = Ublk::attach(1, Arc::new(Memory::new(bytes.clone())), options()).unwrap();
    assert!(fs::read(device.path()).unwrap() == bytes[..LEN]);
    let read_only = fs::read_to_string("/sys/block/ublkb1/ro").unwrap();
    assert_eq!(read_only, "1\n");
    let taken = Ublk::attach(1, content(), options());
    assert!(
        matches!(taken, Err(UblkError::Taken { number: 1 })),
        "{taken:?}"
    );
    device.detach().unwrap();
    assert!(!ublk::is_there(1));
    ublk::delete(1).unwrap();
}

#[test]
fn the_ublk_device_of_a_process_that_left_is_gone_on_with() {
    if !has_driver() {
        return;
    }
    let device = Ublk::attach(2, content(), options()).unwrap();
    let path = device.path().to_owned();
    assert!(reader(&path, 0).join().unwrap().unwrap());
    device.leave().unwrap();
    let reading = reader(&path, 8192);
    let device = Ublk::take_over(2, content(), options()).unwrap();
    assert!(reading.join().unwrap().unwrap());
    device.detach().unwrap();
}

/// A request that the driver had in hand while the one process let go of the device was given to nobody, now and then: its reader hung,
/// and the driver waited for it with the device locked, so that no successor came in, and nobody could take the device away.
#[test]
fn a_ublk_device_that_is_read_all_the_time_is_handed_over_often() {
    if !has_driver() {
        return;
    }
    let mut device = Ublk::attach(6, content(), options()).unwrap();
    let path = device.path().to_owned();
    let is_over = Arc::new(AtomicBool::new(false));
    let reading: Vec<_> = (0..4)
        .map(|place| {
            let offset = place << 20;
            let (file, is_over) = (opened_direct(&path), Arc::clone(&is_over));
            let wanted = pattern(LEN)[offset..offset + 4096].to_vec();
            thread::spawn(move || {
                let mut buf = page();
                while !is_over.load(Ordering::Relaxed) {
                    file.read_exact_at(&mut buf, offset as u64).unwrap();
                    assert!(buf[..] == wanted, "wrong bytes");
                }
            })
        })
        .collect();
    for _ in 0..HANDOVERS {
        device.leave().unwrap();
        device = Ublk::take_over(6, content(), options()).unwrap();
    }
    is_over.store(true, Ordering::Relaxed);
    for one in reading {
        one.join().unwrap();
    }
    device.detach().unwrap();
}

#[test]
fn a_ublk_device_goes_although_a_read_hangs() {
    if !has_driver() {
        return;
    }
    let gate = Gate::shut();
    let content = Arc::new(Gated::from(65536, pattern(LEN), Arc::clone(&gate)));
    let device = Ublk::attach(3, content, options()).unwrap();
    let reading = reader(device.path(), 1 << 20);
    gate.wait_for_readers(1);
    let gone = device.detach();
    assert!(
        matches!(gone, Err(UblkError::StillReading { .. })),
        "{gone:?}"
    );
    assert!(reading.join().unwrap().is_err());
    gate.open();
}

#[test]
fn a_process_that_makes_a_ublk_device_and_is_about_to_be_killed() {
    let Ok(number) = env::var(MAKE) else {
        return;
    };
    let device = Ublk::attach(number.parse().unwrap(), Arc::new(NeverAnswers), options()).unwrap();
    serve_until_killed(device.path());
}

#[test]
fn readers_of_a_ublk_device_survive_the_death_of_its_process() {
    if !has_driver() {
        return;
    }
    let name = "ublk::a_process_that_makes_a_ublk_device_and_is_about_to_be_killed";
    let making = [(MAKE, "4".to_owned())];
    let (mut process, _) = Doomed::start(name, &making, Stdio::null());
    let path = ublk::path_of(4);
    assert!(ublk::is_anothers(4), "its process lives");
    assert!(reader(&path, 4096).join().unwrap().unwrap());
    let readers: Vec<_> = (2..4).map(|place| reader(&path, place << 20)).collect();
    for _ in &readers {
        process.wait_for("reading ");
    }
    process.kill();
    let killed_at = Instant::now();
    let device = Ublk::take_over(4, content(), options()).unwrap();
    assert!(!ublk::is_anothers(4), "it is this process's now");
    for reader in readers {
        assert!(reader.join().unwrap().unwrap(), "wrong bytes");
    }
    eprintln!(
        "readers of ublk waited {:?} for a successor",
        killed_at.elapsed()
    );
    device.detach().unwrap();
}
