//! An agent among processes of other releases.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use tranship_agent::control::FrontEndChoice;
use tranship_device::Speaks;
use tranship_device::keeper::{self, KeeperClient};

use crate::daemon::Daemon;
use crate::image::Image;
use crate::registry::Registry;

/// Versions that no agent of this release speaks.
const LATER: Speaks = Speaks {
    oldest: 200,
    newest: 201,
};

#[test]
fn a_keeper_with_which_there_is_no_common_version_is_replaced_under_readers() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    let mut daemon = Daemon::start("");
    let device = daemon.attach(&reference, FrontEndChoice::ErofsFile);
    let target = daemon.mount(&device, "mounted", false);
    let held = std::fs::File::open(target.join("bin/first")).unwrap();

    // A keeper of a later release takes over.
    let socket = daemon.path("state/run/keeper.sock");
    let first = KeeperClient::connect(&socket).unwrap();
    let listener = keeper::listen(&socket).unwrap();
    let patience = Duration::from_mins(1);
    let later = thread::spawn(move || keeper::keep_speaking(listener, patience, LATER));
    let giver = KeeperClient::connect_speaking(&socket, LATER).unwrap();
    for name in first.names().unwrap() {
        let fd = first.give(&name).unwrap().unwrap();
        giver.keep(&name, fd.as_fd()).unwrap();
    }
    let names = giver.names().unwrap();
    assert!(
        names.iter().any(|name| name.starts_with(&device.id)),
        "{names:?}"
    );
    drop(giver);
    first.end().unwrap();

    daemon.restart();
    later.join().unwrap().unwrap();
    let log = daemon.log();
    assert!(
        log.contains("the keeper was of another release; there is a new one"),
        "{log}"
    );
    let next = KeeperClient::connect(&socket).unwrap();
    assert!(next.version().is_ok());
    assert_eq!(next.names().unwrap(), names);
    drop(next);
    crate::restart::assert_whole(&held, &image.files["bin/first"]);
    drop(held);
    daemon.unmount(&target);
    daemon.must(daemon.client().detach(&device.id));
    daemon.stop();
    assert!(!daemon.has_keeper(), "it has nothing to hold");
}

/// A device process's first words: the hello with the oldest version, then the versions that it speaks unless it is one without ranges.
fn hello(device: &str, oldest: u8, versions: Option<[u8; 2]>) -> Vec<u8> {
    let frame = |fields: &[&[u8]]| {
        let fields = fields.concat();
        let len = u32::try_from(fields.len()).unwrap();
        [&len.to_le_bytes()[..], &fields].concat()
    };
    let mut said = frame(&[b"H", &[oldest], device.as_bytes()]);
    match versions {
        Some(versions) => said.extend(frame(&[b"V", &versions])),
        // No reads, which every process says now and then.
        None => said.extend(frame(&[b"R", &0u32.to_le_bytes()])),
    }
    said
}

/// The kinds of the first words that the agent has for it.
fn heard(daemon: &Daemon, said: &[u8], count: usize) -> Vec<(char, Vec<u8>)> {
    let mut stream = UnixStream::connect(daemon.path("state/run/chunks.sock")).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    stream.write_all(said).unwrap();
    let words = (0..count).map(|_| {
        let mut head = [0; 4];
        stream.read_exact(&mut head).unwrap();
        let mut frame = vec![0; usize::try_from(u32::from_le_bytes(head)).unwrap()];
        stream.read_exact(&mut frame).unwrap();
        (char::from(frame[0]), frame[1..].to_vec())
    });
    words.collect()
}

#[test]
fn device_processes_of_other_releases_are_spoken_with_or_make_room() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    let daemon = Daemon::start("");
    let device = daemon.attach(&reference, FrontEndChoice::ErofsFile);
    let id = &device.id;
    let kinds = |words: Vec<(char, Vec<u8>)>| words.into_iter().map(|(kind, _)| kind);

    // One without ranges is told no version, only how long its reads wait.
    let words = heard(&daemon, &hello(id, 1, None), 1);
    assert_eq!(kinds(words).collect::<String>(), "P");
    // A later one speaks what this agent does.
    let words = heard(&daemon, &hello(id, 1, Some([1, 200])), 2);
    assert_eq!(words[0], ('A', vec![1]));
    assert_eq!(kinds(words).collect::<String>(), "AP");
    // One that speaks nothing of that makes room, and the log says why.
    let words = heard(&daemon, &hello(id, 200, Some([200, 201])), 1);
    assert_eq!(kinds(words).collect::<String>(), "L");
    let log = daemon.log();
    for part in ["no version in common", "versions 200 to 201", "version 1"] {
        assert!(log.contains(part), "{log}");
    }
    // The device's own process goes on.
    let target = daemon.mount(&device, "mounted", false);
    image.assert_at(&target);
    daemon.unmount(&target);
}

/// The program of device processes of another release.
fn other_program(daemon: &Daemon) -> PathBuf {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/daemon/other_release.rs");
    let program = daemon.path("other-release");
    let compiled = Command::new("rustc")
        .args(["--edition", "2024", "-o"])
        .arg(&program)
        .arg(source)
        .status();
    assert!(compiled.unwrap().success());
    program
}

#[test]
fn a_device_is_refused_where_programs_of_two_releases_are_installed() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    let mut daemon = Daemon::start("[device]\nstop_grace = \"100ms\"");
    daemon.have_programs(&other_program(&daemon));
    daemon.restart();
    let refused = daemon.attach_fails(&reference, FrontEndChoice::FuseLoop);
    let said = refused.to_string();
    for part in [
        "speaks versions 200 to 201 and this agent version 1",
        "install all programs of one release",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(daemon.must(daemon.client().devices()), []);
    assert_eq!(daemon.mounts(), Vec::<PathBuf>::new());

    // As soon as they are installed.
    let right = env!("CARGO_BIN_EXE_tranship-device");
    let place = daemon.path("bin/tranship-device");
    std::fs::remove_file(&place).unwrap();
    std::fs::copy(right, place).unwrap();
    let device = daemon.attach(&reference, FrontEndChoice::FuseLoop);
    let target = daemon.mount(&device, "mounted", false);
    image.assert_at(&target);
    daemon.unmount(&target);
}

#[test]
fn devices_do_without_a_keeper_where_another_process_has_its_socket() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    let mut daemon = Daemon::start("");
    daemon.stop();
    assert!(!daemon.has_keeper(), "it has nothing to hold");
    let socket = daemon.path("state/run/keeper.sock");
    let listener = UnixListener::from(keeper::listen(&socket).unwrap());
    // It answers for as long as the tests run.
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            while client.read(&mut [0; 512]).is_ok_and(|len| len > 0) {
                client.write_all(b"who is there?").unwrap();
            }
        }
    });

    daemon.restart();
    let log = daemon.log();
    for part in [
        "there is no keeper; devices do not survive a crash of the agent",
        "does not understand the request",
        socket.to_str().unwrap(),
    ] {
        assert!(log.contains(part), "{log}");
    }
    let device = daemon.attach(&reference, FrontEndChoice::FuseLoop);
    assert_eq!(device.process, None);
    let target = daemon.mount(&device, "mounted", false);
    image.assert_at(&target);
    daemon.unmount(&target);
}
