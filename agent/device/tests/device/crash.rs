//! A process that serves a device is killed in the middle of reads, and a successor answers them.
//!
//! The connection's descriptor reaches the process that is killed as its standard input, the memory for requests by its name in
//! this process, and both stay open here, as in a keeper. Before Linux 6.9 it is the notes in that memory which save the reads.

use std::env;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Stdio, id};
use std::sync::Arc;

use tranship_device::{BackingIo, FuseConnection, FuseFile, FuseOptions, LoopDevice};

use crate::doomed::{Doomed, NeverAnswers, content, reader, serve_until_killed};
use crate::ground::Ground;

/// Names the folder of the mount to serve, and the memory for requests.
const SERVE: &str = "TRANSHIP_TEST_SERVE";
const REQUESTS: &str = "TRANSHIP_TEST_REQUESTS";

#[test]
fn a_server_that_is_about_to_be_killed() {
    let Some(dir) = env::var_os(SERVE) else {
        return;
    };
    let fd = io::stdin().as_fd().try_clone_to_owned().unwrap();
    let mut open = File::options();
    let requests = open.read(true).write(true);
    let live = FuseConnection {
        fd,
        requests: Some(requests.open(env::var(REQUESTS).unwrap()).unwrap().into()),
    };
    let content = Arc::new(NeverAnswers);
    let options = FuseOptions::default();
    let served = FuseFile::take_over(Path::new(&dir), live, "device", content, options).unwrap();
    serve_until_killed(served.path());
}

/// A process that serves the mount.
fn start(dir: &Path, live: &FuseConnection) -> Doomed {
    let requests = live.requests.as_ref().unwrap().as_raw_fd();
    let variables = [
        (SERVE, dir.to_str().unwrap().to_owned()),
        (REQUESTS, format!("/proc/{}/fd/{requests}", id())),
    ];
    let input = Stdio::from(live.fd.try_clone().unwrap());
    Doomed::start(
        "crash::a_server_that_is_about_to_be_killed",
        &variables,
        input,
    )
    .0
}

/// Reads through `path` while its server is killed, again and again; gives the one that serves in the end.
fn survive(ground_dir: &Path, mut live: FuseConnection, path: &Path) -> FuseFile {
    for round in 0..3 {
        let mut server = start(ground_dir, &live);
        let readers: Vec<_> = (1..4)
            .map(|place| reader(path, (1 << 20) + (round * 3 + place) * 65536))
            .collect();
        for _ in &readers {
            server.wait_for("reading ");
        }
        server.kill();
        let content = content();
        let options = FuseOptions::default();
        let successor = FuseFile::take_over(ground_dir, live, "device", content, options).unwrap();
        for reader in readers {
            assert!(reader.join().unwrap().unwrap(), "wrong bytes");
        }
        live = successor.leave().unwrap();
    }
    let content = content();
    let options = FuseOptions::default();
    FuseFile::take_over(ground_dir, live, "device", content, options).unwrap()
}

/// A mount whose server is to be killed.
fn mounted(ground: &Ground) -> FuseConnection {
    let content = content();
    let options = FuseOptions::default();
    let file = FuseFile::mount(ground.dir(), "device", content, options).unwrap();
    assert!(fs::metadata(file.path()).unwrap().is_file());
    file.leave().unwrap()
}

#[test]
fn readers_of_a_file_survive_the_death_of_its_server() {
    let Some(ground) = Ground::find("fuse") else {
        return;
    };
    let live = mounted(&ground);
    let path = ground.dir().join("device");
    survive(ground.dir(), live, &path).stop().unwrap();
}

#[test]
fn readers_of_a_loop_device_survive_the_death_of_its_server() {
    let Some(ground) = Ground::find("fuse and loop") else {
        return;
    };
    let live = mounted(&ground);
    let content = content();
    let options = FuseOptions::default();
    let file = FuseFile::take_over(ground.dir(), live, "device", content, options).unwrap();
    let device = LoopDevice::attach_read_only(file.path()).unwrap();
    assert_eq!(device.backing_io(), BackingIo::Direct);
    let live = file.leave().unwrap();
    let file = survive(ground.dir(), live, device.path());
    device.detach().unwrap();
    file.stop().unwrap();
}
