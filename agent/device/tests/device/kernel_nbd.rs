//! Block devices of the kernel's NBD driver, which only some machines have: the guests of the system tests do.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tranship_device::{KernelNbd, KernelNbdError, KernelNbdOptions, Memory, kernel_nbd};

use crate::doomed::{Doomed, LEN, NeverAnswers, content, reader, serve_until_killed};
use crate::ground::{Gate, Gated, pattern, until_gone};

/// Names the identifier of the device that a process is to make.
const MAKE: &str = "TRANSHIP_TEST_KERNEL_NBD";

/// Whether there is a driver here; a word on standard error where there is none.
fn has_driver() -> bool {
    let there = Path::new("/sys/block/nbd0").exists() && rustix::process::geteuid().is_root();
    if !there {
        eprintln!("left out: there is no NBD driver here");
    }
    there
}

fn options() -> KernelNbdOptions {
    KernelNbdOptions {
        patience: Duration::from_mins(1),
        stop_grace: Duration::from_secs(1),
        ..KernelNbdOptions::default()
    }
}

#[test]
fn a_device_has_its_bytes_and_is_read_only_and_found_by_its_identifier() {
    if !has_driver() {
        return;
    }
    // Not whole sectors: the rest is cut off.
    let bytes = pattern(LEN + 100);
    let device =
        KernelNbd::attach("/one", Arc::new(Memory::new(bytes.clone())), options()).unwrap();
    assert!(fs::read(device.path()).unwrap() == bytes[..LEN]);
    let name = device.path().file_name().unwrap().to_str().unwrap();
    let read_only = fs::read_to_string(format!("/sys/block/{name}/ro")).unwrap();
    assert_eq!(read_only, "1\n");
    let number = name.strip_prefix("nbd").unwrap().parse().unwrap();
    assert_eq!(KernelNbd::find("/one").unwrap(), Some(number));
    assert_eq!(KernelNbd::find("/on").unwrap(), None);
    let other = KernelNbd::attach("/other", content(), options()).unwrap();
    assert_ne!(other.path(), device.path());
    let all = kernel_nbd::find_all(|_| true).unwrap();
    assert_eq!(all.len(), 2, "{all:?}");
    other.detach().unwrap();
    device.detach().unwrap();
    assert_eq!(KernelNbd::find("/one").unwrap(), None);
}

#[test]
fn the_device_of_a_process_that_left_is_gone_on_with() {
    if !has_driver() {
        return;
    }
    let device = KernelNbd::attach("/left", content(), options()).unwrap();
    let path = device.path().to_owned();
    // The kernel looks for partitions when a device is opened for the first time, and waits for that.
    assert!(reader(&path, 4096).join().unwrap().unwrap());
    device.leave().unwrap();
    let reading = reader(&path, 8192);
    let number = KernelNbd::find("/left").unwrap().unwrap();
    let device = KernelNbd::take_over(number, "/left", content(), options()).unwrap();
    assert!(reading.join().unwrap().unwrap());
    let wrong = KernelNbd::take_over(number, "/another", content(), options());
    assert!(matches!(wrong, Err(KernelNbdError::Refused { .. })));
    device.detach().unwrap();
}

#[test]
fn a_read_that_takes_longer_than_the_kernel_looks_is_waited_for() {
    if !has_driver() {
        return;
    }
    let gate = Gate::shut();
    let content = Arc::new(Gated::from(65536, pattern(LEN), Arc::clone(&gate)));
    let device = KernelNbd::attach("/slow", content, options()).unwrap();
    let reading = reader(device.path(), 1 << 20);
    gate.wait_for_readers(1);
    let name = device.path().file_name().unwrap().to_str().unwrap();
    let knob = format!("/sys/block/{name}/queue/io_timeout");
    assert_eq!(fs::read_to_string(knob).unwrap(), "2000\n");
    let begun = Instant::now();
    until_gone(|| begun.elapsed() < Duration::from_secs(5));
    gate.open();
    assert!(reading.join().unwrap().unwrap());
    device.detach().unwrap();
}

#[test]
fn a_device_goes_although_a_read_hangs() {
    if !has_driver() {
        return;
    }
    let gate = Gate::shut();
    let content = Arc::new(Gated::from(65536, pattern(LEN), Arc::clone(&gate)));
    let device = KernelNbd::attach("/hangs", content, options()).unwrap();
    let reading = reader(device.path(), 1 << 20);
    gate.wait_for_readers(1);
    let gone = device.detach();
    assert!(
        matches!(gone, Err(KernelNbdError::StillReading { .. })),
        "{gone:?}"
    );
    assert!(reading.join().unwrap().is_err());
    gate.open();
}

#[test]
fn a_process_that_makes_a_device_and_is_about_to_be_killed() {
    let Ok(identifier) = env::var(MAKE) else {
        return;
    };
    let device = KernelNbd::attach(&identifier, Arc::new(NeverAnswers), options()).unwrap();
    serve_until_killed(device.path());
}

#[test]
fn readers_survive_the_death_of_the_process_that_serves_them() {
    if !has_driver() {
        return;
    }
    let name = "kernel_nbd::a_process_that_makes_a_device_and_is_about_to_be_killed";
    let making = [(MAKE, "/dies".to_owned())];
    let (mut process, serving) = Doomed::start(name, &making, Stdio::null());
    let path = Path::new(&serving);
    assert!(reader(path, 4096).join().unwrap().unwrap());
    let readers: Vec<_> = (2..4).map(|place| reader(path, place << 20)).collect();
    for _ in &readers {
        process.wait_for("reading ");
    }
    process.kill();
    let killed_at = Instant::now();
    let number = KernelNbd::find("/dies").unwrap().unwrap();
    let device = KernelNbd::take_over(number, "/dies", content(), options()).unwrap();
    for reader in readers {
        assert!(reader.join().unwrap().unwrap(), "wrong bytes");
    }
    let pause = killed_at.elapsed();
    eprintln!("readers waited {pause:?} for a successor");
    assert!(pause < Duration::from_secs(20), "{pause:?}");
    device.detach().unwrap();
}
