//! Ways in for the fuzz targets: what a client, a front end or a guest can say, without the sockets and the memory between.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::net::{SendFlags, send};

use crate::fuse;
use crate::memory::Memory;
use crate::nbd::{self, Export};
use crate::vhost_user;

/// Talks to an NBD server as a client that says `bytes`, from its flags on, and never more.
pub fn nbd_client(bytes: &[u8]) {
    let exports = vec![Export {
        name: "device".to_owned(),
        description: "bytes".to_owned(),
        content: Arc::new(Memory::new(vec![7; 8192])),
    }];
    let mut tape = Tape { input: bytes };
    if let Some(agreed) = nbd::negotiated(&mut tape, &exports) {
        let rest = tape.input;
        let Ok((client, server)) = UnixStream::pair() else {
            return;
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut rest = rest;
                // The server may have hung up, which here, without Rust's own beginning of a program, must not be a signal.
                while let Ok(len) = send(&client, rest, SendFlags::NOSIGNAL)
                    && let Some(more) = rest.get(len..).filter(|more| !more.is_empty())
                {
                    rest = more;
                }
                let _ = client.shutdown(std::net::Shutdown::Write);
            });
            scope.spawn(|| io::copy(&mut &client, &mut io::sink()));
            nbd::transmit(agreed, &server);
            let _ = server.shutdown(std::net::Shutdown::Both);
        });
    }
}

/// Answers requests of a kernel, one behind the other, as long as each says itself.
pub fn fuse_requests(bytes: &[u8]) {
    fuse::answer_all(bytes, Arc::new(Memory::new(vec![7; 8192])));
}

/// Takes messages of vhost-user apart, one after the other.
pub fn vhost_user_messages(bytes: &[u8]) {
    vhost_user::take_apart(bytes);
}

/// Serves a ring of a guest whose whole memory is `bytes`, from address 0 on.
pub fn vhost_user_ring(bytes: &[u8]) {
    vhost_user::serve_ring(&Guest(RefCell::new(bytes.to_vec())));
}

/// Input that is read once; output that nobody reads.
struct Tape<'a> {
    input: &'a [u8],
}

impl Read for Tape<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.input.read(buf)
    }
}

impl Write for Tape<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A guest's memory, in one piece.
struct Guest(RefCell<Vec<u8>>);

impl vhost_user::GuestBytes for Guest {
    fn read(&self, address: u64, buf: &mut [u8]) -> bool {
        let bytes = self.0.borrow();
        let start = usize::try_from(address).unwrap_or(usize::MAX);
        let found = bytes.get(start..start.saturating_add(buf.len()));
        found.map(|found| buf.copy_from_slice(found)).is_some()
    }

    fn write(&self, address: u64, new: &[u8]) -> bool {
        let mut bytes = self.0.borrow_mut();
        let start = usize::try_from(address).unwrap_or(usize::MAX);
        let place = bytes.get_mut(start..start.saturating_add(new.len()));
        place.map(|place| place.copy_from_slice(new)).is_some()
    }

    fn load(&self, address: u64) -> Option<u16> {
        let mut bytes = [0; 2];
        self.read(address, &mut bytes)
            .then_some(u16::from_le_bytes(bytes))
    }

    fn store(&self, address: u64, index: u16) -> bool {
        self.write(address, &index.to_le_bytes())
    }
}
