//! Keepers and clients of different releases: they speak the newest version that both know, and where there is none, what a keeper holds is
//! still handed over.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tempfile::TempDir;
use tranship_device::Speaks;
use tranship_device::keeper::{self, KeeperClient, KeeperError};

use crate::ground::PATIENCE;

const fn speaks(oldest: u8, newest: u8) -> Speaks {
    Speaks { oldest, newest }
}

/// A keeper and a client that speak those versions.
fn pair(
    theirs: Speaks,
    ours: Speaks,
) -> (TempDir, KeeperClient, thread::JoinHandle<io::Result<()>>) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("keeper.sock");
    let listener = keeper::listen(&socket).unwrap();
    let keeper = thread::spawn(move || keeper::keep_speaking(listener, PATIENCE, theirs));
    let client = KeeperClient::connect_speaking(&socket, ours).unwrap();
    (folder, client, keeper)
}

#[test]
fn both_speak_the_newest_version_that_both_know() {
    for (theirs, ours, common) in [
        (speaks(1, 1), speaks(1, 1), 1),
        (speaks(1, 1), speaks(1, 2), 1),
        (speaks(1, 2), speaks(1, 1), 1),
        (speaks(1, 2), speaks(1, 2), 2),
        (speaks(2, 4), speaks(1, 3), 3),
        (speaks(2, 3), speaks(3, 9), 3),
    ] {
        // Whatever is asked first, the version is found.
        for asks_version_first in [false, true] {
            let (_folder, client, keeper) = pair(theirs, ours);
            if asks_version_first {
                assert_eq!(client.version().unwrap(), common, "{theirs} {ours}");
            }
            let (mut here, there) = UnixStream::pair().unwrap();
            client.keep("one/fuse", there.as_fd()).unwrap();
            drop(there);
            assert!(client.give("one/fuse").unwrap().is_some());
            assert_eq!(client.names().unwrap(), ["one/fuse"]);
            assert!(client.let_go("one/fuse").unwrap(), "{theirs} {ours}");
            assert_eq!(here.read(&mut [0]).unwrap(), 0);
            assert_eq!(client.version().unwrap(), common, "{theirs} {ours}");
            drop(client);
            keeper.join().unwrap().unwrap();
        }
    }
}

#[test]
fn without_a_common_version_a_keeper_still_hands_over_what_it_holds() {
    for (theirs, ours) in [
        (speaks(1, 1), speaks(2, 2)),
        (speaks(2, 2), speaks(1, 1)),
        (speaks(2, 3), speaks(4, 5)),
        (speaks(4, 5), speaks(2, 3)),
    ] {
        let (_folder, client, keeper) = pair(theirs, ours);
        let (mut here, there) = UnixStream::pair().unwrap();
        client.keep("one/fuse", there.as_fd()).unwrap();
        drop(there);
        let refused = client.let_go("one/fuse").unwrap_err();
        assert!(
            matches!(refused, KeeperError::OtherVersion { ours: o, theirs: t } if o == ours && t == theirs),
            "{refused}"
        );
        let words = refused.to_string();
        for part in [&ours.to_string()[..], &theirs.to_string(), "install"] {
            assert!(words.contains(part), "{words}");
        }
        assert!(matches!(
            client.version(),
            Err(KeeperError::OtherVersion { .. })
        ));
        assert!(client.program().unwrap().is_some());
        assert_eq!(client.names().unwrap(), ["one/fuse"]);
        let taken = client.give("one/fuse").unwrap().unwrap();
        client.end().unwrap();
        keeper.join().unwrap().unwrap();
        drop(UnixStream::from(taken));
        assert_eq!(here.read(&mut [0]).unwrap(), 0, "nobody else has it");
    }
}

#[test]
fn a_keeper_that_answers_in_no_version_at_all_ends_the_question() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keeper.sock");
    let listener = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    let liar = thread::spawn(move || {
        let client = rustix::net::accept(&listener).unwrap();
        let mut heard = Vec::new();
        let mut packet = [0; 300];
        while let Ok(1..) = rustix::io::read(&client, &mut packet) {
            heard.push(packet[0]);
            rustix::io::write(&client, b"\x02v1").unwrap();
        }
        heard
    });
    let client = KeeperClient::connect_speaking(&path, speaks(1, 9)).unwrap();
    let refused = client.let_go("one/fuse");
    assert!(
        matches!(refused, Err(KeeperError::OtherVersion { .. })),
        "{refused:?}"
    );
    drop(client);
    assert_eq!(liar.join().unwrap(), [9, 2]);
}
