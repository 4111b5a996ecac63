//! The program of device processes of another release: it speaks versions of which this release knows none. The tests that need it compile it,
//! since the agent looks which file a process runs.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

fn main() {
    // `begin DESCRIPTION`; its input is the lock, held for as long as it lives, and signed, so that the agent can end it.
    let lock = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .expect("a lock");
    write!(File::from(lock), "{}", std::process::id()).expect("a signed lock");
    let description = std::env::args().nth(2).expect("a description");
    let description = std::fs::read_to_string(description).expect("a readable description");
    let field = |name: &str| {
        let (_, rest) = description
            .split_once(&format!("\"{name}\": \""))
            .expect("a field");
        rest.split('"').next().expect("its end").to_owned()
    };
    let mut agent = UnixStream::connect(field("supply")).expect("an agent");
    let device = field("device");
    let hello = [&[b'H', 200], device.as_bytes()].concat();
    for frame in [&hello[..], &[b'V', 200, 201], b"S"] {
        let len = u32::try_from(frame.len()).expect("a short frame");
        agent
            .write_all(&len.to_le_bytes())
            .expect("an agent that hears");
        agent.write_all(frame).expect("an agent that hears");
    }
    // Until the agent ends it.
    let _ = agent.read_to_end(&mut Vec::new());
}
