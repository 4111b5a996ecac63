//! What is killed comes back, and what is present stays present.

use std::fs;
use std::os::unix::fs::FileExt;

use tranship_agent::control::{DeviceState, FrontEndChoice};

use crate::daemon::Daemon;
use crate::image::Image;
use crate::registry::Registry;

#[test]
fn killed_daemon_brings_its_mounts_back_without_the_registry() {
    for front_end in [FrontEndChoice::FuseLoop, FrontEndChoice::ErofsFile] {
        let (mut registry, image) = (Registry::start(), Image::new());
        let reference = image.push(&registry);
        let mut daemon = Daemon::start("");
        let device = daemon.attach(&reference, front_end);
        let target = daemon.mount(&device, "mounted", false);
        image.assert_at(&target);
        let held = fs::File::open(target.join("bin/first")).unwrap();
        let sent = registry.sent_len();
        registry.close();
        for _ in 0..2 {
            daemon.restart();
            assert_whole(&held, &image.files["bin/first"]);
            let devices = daemon.must(daemon.client().devices());
            assert_eq!(devices.len(), 1);
            assert_eq!(devices[0].state, DeviceState::Attached, "{}", daemon.log());
            assert_eq!((&devices[0].id, devices[0].use_count), (&device.id, 1));
            assert_eq!(devices[0].mounts[0].target, target.canonicalize().unwrap());
            image.assert_at(&target);
        }
        assert_eq!(registry.sent_len(), sent, "nothing was fetched again");
        drop(held);
        daemon.unmount(&target);
        daemon.must(daemon.client().detach(&device.id));
        daemon.stop();
        assert_eq!(daemon.mounts(), Vec::<std::path::PathBuf>::new());
    }
}

/// Reads a file that has been open all along, past the page cache.
pub(crate) fn assert_whole(file: &fs::File, content: &[u8]) {
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let mut found = vec![0; content.len()];
    file.read_exact_at(&mut found, 0).unwrap();
    assert!(found == content);
}

#[test]
fn reads_wait_for_the_next_daemon_and_are_answered_by_it() {
    for front_end in [FrontEndChoice::FuseLoop, FrontEndChoice::ErofsFile] {
        let (registry, image) = (Registry::start(), Image::new());
        let reference = image.push(&registry);
        let mut daemon = Daemon::start("");
        let device = daemon.attach(&reference, front_end);
        let target = daemon.mount(&device, "mounted", false);
        let held = fs::File::open(target.join("bin/first")).unwrap();
        daemon.kill();
        let (begun, waiting) = std::sync::mpsc::channel();
        let content = image.files["bin/first"].clone();
        let reading = std::thread::spawn(move || {
            begun.send(()).unwrap();
            assert_whole(&held, &content);
        });
        waiting.recv().unwrap();
        daemon.restart();
        reading.join().unwrap();
        daemon.unmount(&target);
    }
}

#[test]
fn daemon_that_dies_with_its_keeper_clears_away_what_is_stale_and_begins_anew() {
    for front_end in [FrontEndChoice::FuseLoop, FrontEndChoice::ErofsFile] {
        let (registry, image) = (Registry::start(), Image::new());
        let reference = image.push(&registry);
        let mut daemon = Daemon::start("[device]\nprocesses = false");
        let device = daemon.attach(&reference, front_end);
        let target = daemon.mount(&device, "mounted", false);
        daemon.kill();
        daemon.kill_keeper();
        daemon.restart();
        image.assert_at(&target);
        assert_eq!(daemon.mounts().len(), 2, "{:?}", daemon.mounts());
    }
}

#[test]
fn device_with_a_process_outlives_its_daemon_and_the_keeper() {
    for front_end in [FrontEndChoice::FuseLoop, FrontEndChoice::ErofsFile] {
        let (registry, image) = (Registry::start(), Image::new());
        let reference = image.push(&registry);
        let mut daemon = Daemon::start("");
        let device = daemon.attach(&reference, front_end);
        let target = daemon.mount(&device, "mounted", false);
        let held = fs::File::open(target.join("bin/first")).unwrap();
        image.assert_at(&target);
        daemon.kill();
        daemon.kill_keeper();
        // The process has another one started, which is given what the device consists of.
        assert!(daemon.keeper_comes());
        assert_whole(&held, &image.files["bin/first"]);
        daemon.restart();
        assert_whole(&held, &image.files["bin/first"]);
        drop(held);
        daemon.unmount(&target);
        daemon.must(daemon.client().detach(&device.id));
        daemon.stop();
        assert!(!daemon.log().contains("made anew"), "{}", daemon.log());
        assert!(!daemon.has_keeper(), "a keeper with nothing to hold goes");
    }
}

#[test]
fn device_that_could_not_come_back_can_be_taken_away_with_its_mounts() {
    let (mut registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    let mut daemon =
        Daemon::start("[registry]\ndeadline = \"1s\"\n[device]\nread_deadline = \"1s\"");
    daemon.attach(&reference, FrontEndChoice::FuseLoop);
    daemon.kill();
    registry.close();
    // Neither what the image is nor its chunks are here any more.
    fs::remove_dir_all(daemon.path("state/store")).unwrap();
    fs::remove_dir_all(daemon.path("state/images")).unwrap();
    daemon.restart();
    let device = &daemon.must(daemon.client().devices())[0];
    assert_eq!(device.state, DeviceState::Recovering);
    assert!(!daemon.mounts().is_empty(), "it is kept");
    assert_eq!(daemon.must(daemon.client().detach(&device.id)).use_count, 0);
    assert_eq!(daemon.mounts(), Vec::<std::path::PathBuf>::new());
    daemon.stop();
    assert!(!daemon.has_keeper(), "a keeper with nothing to hold goes");
}

#[test]
fn device_that_nobody_has_any_more_does_not_come_back() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    let mut daemon = Daemon::start("");
    let device = daemon.attach(&reference, FrontEndChoice::FuseLoop);
    daemon.kill();
    // As a crash left it that came between the last detach and the end of the device.
    let path = daemon.path(&format!("state/devices/{}.json", device.id));
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record["use_count"] = 0.into();
    fs::write(&path, record.to_string()).unwrap();
    daemon.restart();
    assert_eq!(daemon.must(daemon.client().devices()), []);
    assert_eq!(daemon.must(daemon.client().orphans()), []);
    assert!(!path.exists());
    daemon.attach(&reference, FrontEndChoice::FuseLoop);
}

#[test]
fn nothing_present_is_fetched_again_after_a_kill() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    let mut daemon = Daemon::start("");
    let device = daemon.attach(&reference, FrontEndChoice::Auto);
    let target = daemon.mount(&device, "mounted", false);
    image.assert_at(&target);
    daemon.unmount(&target);
    daemon.must(daemon.client().detach(&device.id));
    daemon.kill();
    let sent = registry.sent_len();
    daemon.restart();
    let device = daemon.attach(&reference, FrontEndChoice::Auto);
    let target = daemon.mount(&device, "mounted", false);
    image.assert_at(&target);
    let again = registry.sent_len() - sent;
    assert!(again < 8 << 10, "{again} bytes, more than a manifest");
}

#[test]
fn what_was_written_outlives_a_kill() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    let mut daemon = Daemon::start("");
    let device = daemon.attach(&reference, FrontEndChoice::Auto);
    let target = daemon.mount(&device, "mounted", true);
    fs::write(target.join("etc/new"), "written").unwrap();
    fs::remove_file(target.join("etc/kept")).unwrap();
    daemon.restart();
    assert_eq!(
        fs::read(target.join("etc/new")).unwrap(),
        b"written",
        "{}",
        daemon.log()
    );
    assert!(!target.join("etc/kept").exists());
    assert!(fs::read(target.join("bin/first")).unwrap() == image.files["bin/first"]);
    daemon.unmount(&target);
}

#[test]
fn daemon_that_is_asked_to_stop_leaves_nothing_mounted_and_comes_back() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    let mut daemon = Daemon::start("");
    let device = daemon.attach(&reference, FrontEndChoice::Auto);
    let target = daemon.mount(&device, "mounted", false);
    let held = fs::File::open(target.join("bin/first")).unwrap();
    daemon.stop();
    assert_eq!(
        daemon.mounts(),
        Vec::<std::path::PathBuf>::new(),
        "{}",
        daemon.log()
    );
    drop(held);
    daemon.restart();
    image.assert_at(&target);
}

#[test]
fn devices_that_are_left_standing_are_gone_on_with_by_the_next_start() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    let mut daemon = Daemon::start("[device]\ndetach_on_stop = false");
    let device = daemon.attach(&reference, FrontEndChoice::FuseLoop);
    let target = daemon.mount(&device, "mounted", false);
    let held = fs::File::open(target.join("bin/first")).unwrap();
    daemon.stop();
    assert!(!daemon.mounts().is_empty());
    daemon.restart();
    assert_whole(&held, &image.files["bin/first"]);
    image.assert_at(&target);
    assert_eq!(
        daemon.mounts().len(),
        2,
        "the FUSE mount and the target: {:?}",
        daemon.mounts()
    );
}

#[test]
fn device_whose_record_is_broken_keeps_nobody_from_starting() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    let mut daemon = Daemon::start("");
    let device = daemon.attach(&reference, FrontEndChoice::FuseLoop);
    let other = daemon.attach(&reference, FrontEndChoice::ErofsFile);
    daemon.mount(&device, "mounted", true);
    daemon.kill();
    fs::write(
        daemon
            .path("state/devices")
            .join(format!("{}.json", device.id)),
        "{",
    )
    .unwrap();
    daemon.restart();
    let devices = daemon.must(daemon.client().devices());
    assert_eq!(
        devices.iter().map(|device| &device.id).collect::<Vec<_>>(),
        [&other.id]
    );
    let mounts = daemon.mounts();
    assert_eq!(
        mounts.len(),
        1,
        "what nobody knows of is cleared away: {mounts:?}"
    );
}

#[test]
fn read_that_waits_for_a_registry_does_not_hold_up_a_stop() {
    let (mut registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    let mut daemon = Daemon::start("[registry]\ndeadline = \"1s\"");
    let device = daemon.attach(&reference, FrontEndChoice::ErofsFile);
    let target = daemon.mount(&device, "mounted", false);
    let mut file = fs::File::open(target.join("bin/first")).unwrap();
    registry.close();
    let reading = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut file, &mut bytes)
    });
    let waiting = (0..100_000).any(|_| {
        daemon.must(daemon.client().status());
        daemon.log().contains("a read waits")
    });
    assert!(waiting, "{}", daemon.log());
    daemon.stop();
    assert!(reading.join().unwrap().is_err(), "it was told");
    let log = daemon.log();
    assert!(!log.contains("late") && !log.contains("badly"), "{log}");
}
