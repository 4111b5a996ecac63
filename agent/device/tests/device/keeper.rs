//! The keeper: holds what it is given for those who come for it, and goes when there is nothing to hold.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use tempfile::TempDir;
use tranship_device::keeper::{self, KeeperClient, KeeperError};
use tranship_device::{FuseFile, FuseOptions, Memory, mount};

use crate::ground::{Ground, PATIENCE, pattern};

/// A keeper on a thread of this process, which is as good as a process of its own to its clients.
struct Keeping {
    folder: TempDir,
    thread: thread::JoinHandle<io::Result<()>>,
}

impl Keeping {
    fn start(patience: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = keeper::listen(&socket(folder.path())).unwrap();
        let thread = thread::spawn(move || keeper::keep(listener, patience));
        Self { folder, thread }
    }

    fn client(&self) -> KeeperClient {
        KeeperClient::connect(&socket(self.folder.path())).unwrap()
    }

    fn wait_for_end(self) {
        self.thread.join().unwrap().unwrap();
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("keeper.sock")
}

#[test]
fn what_is_kept_outlives_its_giver_and_is_given_to_another() {
    let keeping = Keeping::start(PATIENCE);
    let (mut here, there) = UnixStream::pair().unwrap();
    let giver = keeping.client();
    giver.keep("one/fuse", there.as_fd()).unwrap();
    drop((giver, there));
    here.write_all(b"are you there?").unwrap();
    let taker = keeping.client();
    let fd = taker.give("one/fuse").unwrap().unwrap();
    let mut heard = [0; 14];
    UnixStream::from(fd).read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"are you there?");
    assert!(taker.let_go("one/fuse").unwrap());
    assert_eq!(here.read(&mut heard).unwrap(), 0, "nobody has it any more");
    drop(taker);
    keeping.wait_for_end();
}

#[test]
fn names_are_told_in_order_and_a_later_descriptor_takes_the_place_of_an_earlier() {
    let keeping = Keeping::start(PATIENCE);
    let client = keeping.client();
    let (mut first, fd) = UnixStream::pair().unwrap();
    client.keep("b/fuse", fd.as_fd()).unwrap();
    drop(fd);
    for name in ["b/loop", "a/fuse", "b/fuse"] {
        client
            .keep(name, File::open("/dev/null").unwrap().as_fd())
            .unwrap();
    }
    assert_eq!(client.names().unwrap(), ["a/fuse", "b/fuse", "b/loop"]);
    assert_eq!(first.read(&mut [0]).unwrap(), 0);
    assert!(!client.let_go("c/fuse").unwrap());
    assert!(client.give("c/fuse").unwrap().is_none());
    for name in client.names().unwrap() {
        assert!(client.let_go(&name).unwrap());
    }
    drop(client);
    keeping.wait_for_end();
}

#[test]
fn everything_is_let_go_of_when_nobody_comes_back() {
    let keeping = Keeping::start(Duration::ZERO);
    let (mut here, there) = UnixStream::pair().unwrap();
    let client = keeping.client();
    client.keep("one/fuse", there.as_fd()).unwrap();
    drop((client, there));
    assert_eq!(here.read(&mut [0]).unwrap(), 0);
    keeping.wait_for_end();
}

#[test]
fn a_device_that_the_kernel_has_ended_is_let_go_of_with_all_its_parts() {
    let Some(ground) = Ground::find("fuse") else {
        return;
    };
    let keeping = Keeping::start(PATIENCE);
    let (mut here, there) = UnixStream::pair().unwrap();
    let client = keeping.client();
    let content = Arc::new(Memory::new(pattern(4096)));
    let file = FuseFile::mount(ground.dir(), "device", content, FuseOptions::default()).unwrap();
    client.keep("one/fuse", file.session().fd()).unwrap();
    client.keep("one/loop", there.as_fd()).unwrap();
    drop((client, there, file.leave().unwrap()));
    here.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    assert!(
        here.read(&mut [0]).is_err(),
        "it is kept while it is mounted"
    );
    here.set_read_timeout(None).unwrap();
    mount::unmount_by_force(ground.dir()).unwrap();
    assert_eq!(here.read(&mut [0]).unwrap(), 0);
    keeping.wait_for_end();
}

fn raw_client(keeping: &Keeping) -> OwnedFd {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let path = keeping.folder.path().join("keeper.sock");
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

#[test]
fn nonsense_is_answered_and_changes_nothing() {
    let keeping = Keeping::start(PATIENCE);
    let client = keeping.client();
    let raw = raw_client(&keeping);
    let long = vec![b'x'; 5000];
    for (sent, said) in [
        (&b"\x01Kno descriptor"[..], "?"),
        (b"\x01", "?"),
        (b"\x01Xname", "?"),
        (b"\xffGname", "v1"),
        (&long, "?"),
        (b"\x01Gname", "n"),
    ] {
        rustix::net::send(&raw, sent, SendFlags::empty()).unwrap();
        let mut answer = [0; 300];
        let len = rustix::io::read(&raw, &mut answer).unwrap();
        assert_eq!(answer[0], 1, "{sent:?}");
        assert_eq!(&answer[1..len], said.as_bytes(), "{sent:?}");
    }
    let long_name = "n".repeat(201);
    let refused = client.keep(&long_name, raw.as_fd());
    assert!(
        matches!(refused, Err(KeeperError::NotUnderstood)),
        "{refused:?}"
    );
    assert_eq!(client.names().unwrap(), [""; 0]);
}

#[test]
fn the_end_of_a_keeper_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = socket(folder.path());
    let listener = keeper::listen(&path).unwrap();
    let watched = path.clone();
    let waiting = thread::spawn(move || keeper::wait_for_end(&watched));
    let accepted = rustix::net::accept(&listener).unwrap();
    drop((accepted, listener));
    waiting.join().unwrap().unwrap();
    assert!(matches!(
        keeper::wait_for_end(&path),
        Err(KeeperError::Connect { .. })
    ));
    let begun = Instant::now();
    assert!(KeeperClient::connect(&path).is_err());
    assert!(begun.elapsed() < PATIENCE);
}
