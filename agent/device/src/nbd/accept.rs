//! Who is connected: taking connections in, up to a number, and closing them all.

use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::crew::{Crew, locked};
use crate::errno::{Refusal, refusal};

use super::buffers::Buffers;
use super::protocol::PAYLOAD_LEN_MAX;
use super::transmission::Transmission;
use super::{Export, NbdOptions, handshake};

/// How long a client may take over each step of choosing an export. Programs take milliseconds; people do not type NBD.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// How long to leave new connections alone when there is no descriptor left for them.
const NO_DESCRIPTOR_PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// What a server's threads share.
#[derive(Debug)]
pub(super) struct Shared {
    exports: Vec<Export>,
    options: NbdOptions,
    buffers: Buffers,
    bell: OwnedFd,
    connections: Mutex<Connections>,
    pub(super) crew: Crew,
}

#[derive(Debug, Default)]
struct Connections {
    stopping: bool,
    next_number: u64,
    streams: BTreeMap<u64, Arc<UnixStream>>,
}

impl Shared {
    pub(super) fn new(exports: Vec<Export>, options: NbdOptions) -> io::Result<Self> {
        Ok(Self {
            exports,
            options,
            buffers: Buffers::new(options.buffer_len, PAYLOAD_LEN_MAX as usize),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            connections: Mutex::default(),
            crew: Crew::default(),
        })
    }

    /// Closes everything and waits for the threads; how many do not end in time.
    pub(super) fn stop(&self) -> usize {
        {
            let mut connections = locked(&self.connections);
            connections.stopping = true;
            for stream in connections.streams.values() {
                // Already closed by its client, or closed by this.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        if let Err(error) = rustix::io::write(&self.bell, &u64::from(true).to_le_bytes()) {
            let error = io::Error::from(error);
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot call the NBD listener away"
            );
        }
        self.crew.dismiss(self.options.stop_grace)
    }

    /// Takes a connection in, if there is room and the server is not about to stop.
    fn enter(&self, stream: &Arc<UnixStream>) -> Option<u64> {
        let mut connections = locked(&self.connections);
        if connections.stopping || connections.streams.len() >= self.options.connection_count {
            return None;
        }
        let number = connections.next_number;
        connections.next_number += 1;
        connections.streams.insert(number, Arc::clone(stream));
        Some(number)
    }

    fn leave(&self, number: u64) {
        locked(&self.connections).streams.remove(&number);
    }

    fn serve(&self, stream: &UnixStream) {
        let chosen = stream
            .set_read_timeout(Some(HANDSHAKE_PATIENCE))
            .and_then(|()| stream.set_write_timeout(Some(HANDSHAKE_PATIENCE)))
            .map_err(handshake::HandshakeError::from)
            .and_then(|()| handshake::negotiate(&mut &*stream, &self.exports));
        let agreed = match chosen {
            Ok(Some(agreed)) => agreed,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "no NBD handshake");
                return;
            }
        };
        let patient = stream
            .set_read_timeout(None)
            .and_then(|()| stream.set_write_timeout(None));
        if patient.is_ok() {
            let worker_count = self.options.requests_per_connection.max(1);
            Transmission::new(agreed, stream, &self.buffers, worker_count).run();
        }
    }
}

/// Takes connections in until the bell rings.
pub(super) fn run(shared: &Arc<Shared>, listener: &UnixListener) {
    while wait(&shared.bell, Some(listener), None) {
        match listener.accept() {
            Ok((stream, _)) => take_in(shared, stream),
            Err(error) => match refusal(&error) {
                Refusal::WouldBlock | Refusal::Interrupted | Refusal::Ended => {}
                _ => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "cannot accept an NBD connection"
                    );
                    wait(&shared.bell, None, Some(&NO_DESCRIPTOR_PAUSE));
                }
            },
        }
    }
}

fn take_in(shared: &Arc<Shared>, stream: UnixStream) {
    let stream = Arc::new(stream);
    let Some(number) = shared.enter(&stream) else {
        tracing::debug!("no room for a further NBD connection");
        return;
    };
    let in_thread = Arc::clone(shared);
    let started = shared.crew.spawn(format!("nbd-{number}"), move || {
        in_thread.serve(&stream);
        in_thread.leave(number);
    });
    if let Err(error) = started {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "cannot start an NBD thread"
        );
        shared.leave(number);
    }
}

/// Waits for a connection, for the bell, or for time to pass; false when the bell rings.
fn wait(bell: &OwnedFd, listener: Option<&UnixListener>, patience: Option<&Timespec>) -> bool {
    let mut waited_for = vec![PollFd::new(bell, PollFlags::IN)];
    waited_for.extend(listener.map(|listener| PollFd::new(listener, PollFlags::IN)));
    match poll(&mut waited_for, patience).map_err(io::Error::from) {
        Ok(_) => {}
        Err(error) if refusal(&error) == Refusal::Interrupted => return true,
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot wait for NBD connections"
            );
            return false;
        }
    }
    waited_for
        .first()
        .is_some_and(|bell| bell.revents().is_empty())
}
