//! A process that serves a device is killed in the middle of reads, and a successor answers them.
//!
//! This program starts itself again as the process to be killed: the test `a_server_that_is_about_to_be_killed` serves when
//! it is told so by its environment. The connection's descriptor reaches it as its standard input, and stays open here, as
//! in a keeper.

use std::env;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;

use tranship_device::{
    BackingIo, BlockRead, BlockReadError, FuseError, FuseFile, FuseOptions, LoopDevice, Memory,
    mount,
};

use crate::ground::{Ground, opened_direct, page, pattern};

/// Names the folder of the mount to serve.
const SERVE: &str = "TRANSHIP_TEST_SERVE";
const LEN: usize = 1 << 20;
/// Behind the first page, which is there at once, nothing ever comes of the process that is to be killed.
const SERVED_LEN: u64 = 4096;

/// Tells of each read that it will never answer.
struct NeverAnswers;

impl BlockRead for NeverAnswers {
    fn len(&self) -> u64 {
        LEN as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockReadError> {
        if offset + buf.len() as u64 <= SERVED_LEN {
            return Memory::new(pattern(LEN)).read_at(offset, buf);
        }
        eprintln!("reading {offset}");
        loop {
            thread::park();
        }
    }
}

#[test]
fn a_server_that_is_about_to_be_killed() {
    let Some(dir) = env::var_os(SERVE) else {
        return;
    };
    let fd = io::stdin().as_fd().try_clone_to_owned().unwrap();
    let content = Arc::new(NeverAnswers);
    let options = FuseOptions::default();
    let served = FuseFile::take_over(Path::new(&dir), fd, "device", content, options).unwrap();
    eprintln!("serving {}", served.path().display());
    loop {
        thread::park();
    }
}

/// A process that serves the mount, and what it says.
struct Server {
    process: Child,
    said: io::Lines<BufReader<std::process::ChildStderr>>,
}

impl Server {
    fn start(dir: &Path, fd: &OwnedFd) -> Self {
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["--exact", "crash::a_server_that_is_about_to_be_killed"])
            .args(["--nocapture", "--test-threads=1"])
            .env(SERVE, dir)
            .stdin(Stdio::from(fd.try_clone().unwrap()))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut server = Self { process, said };
        server.wait_for("serving");
        server
    }

    fn wait_for(&mut self, word: &str) {
        let said = self
            .said
            .find(|line| line.as_ref().unwrap().starts_with(word));
        assert!(said.is_some(), "the server ended without {word:?}");
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn reader(file: File, offset: usize) -> thread::JoinHandle<io::Result<bool>> {
    thread::spawn(move || {
        let mut buf = page();
        file.read_exact_at(&mut buf, offset as u64)?;
        Ok(buf[..] == pattern(LEN)[offset..offset + 4096])
    })
}

/// Reads through `path` while its server is killed, again and again; gives the one that serves in the end.
fn survive(ground_dir: &Path, mut fd: OwnedFd, path: &Path) -> FuseFile {
    for round in 0..3 {
        let mut server = Server::start(ground_dir, &fd);
        let readers: Vec<_> = (1..4)
            .map(|place| reader(opened_direct(path), (round * 3 + place) * 65536))
            .collect();
        for _ in &readers {
            server.wait_for("reading");
        }
        server.kill();
        let content = Arc::new(Memory::new(pattern(LEN)));
        let options = FuseOptions::default();
        let successor = FuseFile::take_over(ground_dir, fd, "device", content, options).unwrap();
        for reader in readers {
            assert!(reader.join().unwrap().unwrap(), "wrong bytes");
        }
        fd = successor.leave().unwrap();
    }
    let content = Arc::new(Memory::new(pattern(LEN)));
    let options = FuseOptions::default();
    FuseFile::take_over(ground_dir, fd, "device", content, options).unwrap()
}

/// A mount whose server is to be killed, and its connection; nothing where the kernel does not resend.
fn mounted(ground: &Ground) -> Option<OwnedFd> {
    let content = Arc::new(Memory::new(pattern(LEN)));
    let options = FuseOptions::default();
    let file = FuseFile::mount(ground.dir(), "device", content.clone(), options).unwrap();
    assert!(fs::metadata(file.path()).unwrap().is_file());
    let fd = file.leave().unwrap();
    match FuseFile::take_over(ground.dir(), fd, "device", content, options) {
        Ok(file) => Some(file.leave().unwrap()),
        Err(FuseError::Resend { .. }) => {
            eprintln!("left out: this kernel does not resend requests");
            mount::unmount_by_force(ground.dir()).unwrap();
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn readers_of_a_file_survive_the_death_of_its_server() {
    let Some(ground) = Ground::find("fuse") else {
        return;
    };
    let Some(fd) = mounted(&ground) else { return };
    let path = ground.dir().join("device");
    survive(ground.dir(), fd, &path).stop().unwrap();
}

#[test]
fn readers_of_a_loop_device_survive_the_death_of_its_server() {
    let Some(ground) = Ground::find("fuse and loop") else {
        return;
    };
    let Some(fd) = mounted(&ground) else { return };
    let content = Arc::new(Memory::new(pattern(LEN)));
    let options = FuseOptions::default();
    let file = FuseFile::take_over(ground.dir(), fd, "device", content, options).unwrap();
    let device = LoopDevice::attach_read_only(file.path()).unwrap();
    assert_eq!(device.backing_io(), BackingIo::Direct);
    let fd = file.leave().unwrap();
    let file = survive(ground.dir(), fd, device.path());
    device.detach().unwrap();
    file.stop().unwrap();
}
