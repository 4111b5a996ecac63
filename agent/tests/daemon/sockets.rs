//! Sockets that clients find while no agent is there.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use tranship_agent::control::FrontEndChoice;
use tranship_format::erofs::Filesystem;

use crate::daemon::Daemon;
use crate::image::Image;
use crate::registry::Registry;

/// Somebody connects while there is no agent, and speaks with the next one.
fn connect_between(daemon: &mut Daemon, path: &Path, crash: bool) -> UnixStream {
    if crash {
        daemon.kill();
    } else {
        daemon.stop();
    }
    let stream = UnixStream::connect(path).unwrap();
    daemon.restart();
    stream
}

// Such clients were turned away: a virtual machine that was started in the second of an upgrade did not start.
#[test]
fn nbd_clients_that_come_while_no_agent_is_there_are_served_by_the_next() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    let mut daemon = Daemon::start("[device]\ndetach_on_stop = false");
    let device = daemon.attach(&reference, FrontEndChoice::Nbd);
    for crash in [true, false] {
        let mut stream = connect_between(&mut daemon, &device.path, crash);
        let export = nbd::client::handshake(&mut stream, b"").unwrap();
        let mut bytes = vec![0; usize::try_from(export.size).unwrap()];
        nbd::client::NbdClient::new(&mut stream, &export)
            .read_exact(&mut bytes)
            .unwrap();
        let filesystem = Filesystem::open(bytes).unwrap();
        assert!(filesystem.lookup(b"bin/first").is_ok());
    }
    daemon.must(daemon.client().detach(&device.id));
    assert!(UnixStream::connect(&device.path).is_err());
    daemon.stop();
    assert!(!daemon.has_keeper(), "nothing is held any more");
}

#[test]
fn virtual_machines_that_come_while_no_agent_is_there_are_served_by_the_next() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    let mut daemon = Daemon::start("[device]\ndetach_on_stop = false");
    let device = daemon.attach(&reference, FrontEndChoice::VhostUserBlk);
    for crash in [true, false] {
        let mut stream = connect_between(&mut daemon, &device.path, crash);
        // VHOST_USER_GET_FEATURES of version 1, without a payload; the reply has eight bytes of it.
        for word in [1_u32, 1, 0] {
            stream.write_all(&word.to_le_bytes()).unwrap();
        }
        let mut reply = [0; 12 + 8];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(reply[0], 1);
        assert_ne!(reply[12..], [0; 8]);
    }
    daemon.must(daemon.client().detach(&device.id));
    assert!(UnixStream::connect(&device.path).is_err());
    daemon.stop();
    assert!(!daemon.has_keeper(), "nothing is held any more");
}
