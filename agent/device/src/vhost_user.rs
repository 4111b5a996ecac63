//! A disk for virtual machines on a unix socket, without a copy between: vhost-user-blk.
//!
//! The virtual machine's monitor gives the server the guest's memory and the rings in it; requests are taken from there and bytes put
//! there, and the monitor sees none of it. Whoever may open the socket is trusted with this process: he hands it memory that he could take
//! away again. So the socket is its user's alone.
//!
//! When the server goes, the guest waits; a monitor that connects again hands the next one the notes of what was in progress, which is done
//! again.

mod block;
mod connection;
mod in_flight;
mod memory;
mod protocol;
mod ring;
mod run;
mod stream;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::block_read::BlockRead;
use crate::crew::{Crew, locked};
use crate::errno::{Refusal, refusal};
use crate::socket::DeviceSocket;

use connection::Connection;
use run::Disk;

pub(crate) use memory::Memory as GuestBytes;

/// How long to leave new connections alone when one could not be taken in.
const PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// Bounds of a server.
#[derive(Debug, Clone, Copy)]
pub struct VhostUserOptions {
    /// Most virtual machines at one time; further ones are turned away.
    pub connection_count: usize,
    /// Most requests of one ring in progress at one time; each holds up to 1 MiB.
    pub requests_per_ring: usize,
    /// How long stopping waits for reads in progress.
    pub stop_grace: Duration,
}

impl Default for VhostUserOptions {
    fn default() -> Self {
        Self {
            connection_count: 64,
            requests_per_ring: 16,
            stop_grace: Duration::from_secs(5),
        }
    }
}

/// Why a server could not be started or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VhostUserError {
    /// The socket could not be made.
    #[error("cannot listen on {path}")]
    Listen {
        /// The socket's path.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Threads still wait in [`BlockRead::read_at`], past the grace; they end when it returns.
    #[error("{count} threads are still reading")]
    StillReading {
        /// How many.
        count: usize,
    },
}

/// A listening vhost-user-blk server.
///
/// Dropping it does what [`VhostUserServer::stop`] does and logs what went wrong.
pub struct VhostUserServer {
    socket: Arc<DeviceSocket>,
    has_stopped: bool,
    shared: Arc<Shared>,
}

struct Shared {
    disk: Arc<Disk>,
    options: VhostUserOptions,
    bell: OwnedFd,
    connections: Mutex<Connections>,
    /// Threads that listen and talk; those of rings are the disk's.
    crew: Crew,
}

#[derive(Default)]
struct Connections {
    is_stopping: bool,
    next_number: u64,
    streams: BTreeMap<u64, Arc<UnixStream>>,
}

impl VhostUserServer {
    /// Listens on a unix socket at `path`, which only this process's user may connect to. The socket of a server that is gone is replaced.
    /// `name` is what guests see as the disk's serial number, up to 20 bytes of it.
    pub fn bind(
        path: &Path,
        name: &str,
        content: Arc<dyn BlockRead>,
        options: VhostUserOptions,
    ) -> Result<Self, VhostUserError> {
        let socket = DeviceSocket::bind(path).map_err(|source| VhostUserError::Listen {
            path: path.to_owned(),
            source,
        })?;
        Self::serve(socket, name, content, options)
    }

    /// The same on a socket that is listened on already.
    pub fn serve(
        socket: DeviceSocket,
        name: &str,
        content: Arc<dyn BlockRead>,
        options: VhostUserOptions,
    ) -> Result<Self, VhostUserError> {
        let socket = Arc::new(socket);
        let listen_error = |source| VhostUserError::Listen {
            path: socket.path().to_owned(),
            source,
        };
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| listen_error(error.into()))?;
        let server = Self {
            socket: Arc::clone(&socket),
            has_stopped: false,
            shared: Arc::new(Shared {
                disk: Arc::new(Disk {
                    content,
                    name: name.to_owned(),
                    worker_count_max: options.requests_per_ring.max(1),
                    crew: Crew::default(),
                }),
                options,
                bell,
                connections: Mutex::default(),
                crew: Crew::default(),
            }),
        };
        let (shared, listened) = (Arc::clone(&server.shared), Arc::clone(&socket));
        server
            .shared
            .crew
            .spawn("vhost-listen".to_owned(), move || {
                listen(&shared, listened.listener());
            })
            .map_err(listen_error)?;
        Ok(server)
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        self.socket.path()
    }

    /// Closes all connections and ends all threads, and leaves the socket to whoever [holds](Self::socket) it: front ends that come wait.
    pub fn leave(mut self) -> Result<(), VhostUserError> {
        self.has_stopped = true;
        self.dismiss()
    }

    /// What front ends connect to.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Closes all connections, ends all threads and removes the socket. Requests in progress are left to whoever serves the guests next.
    pub fn stop(mut self) -> Result<(), VhostUserError> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<(), VhostUserError> {
        if std::mem::replace(&mut self.has_stopped, true) {
            return Ok(());
        }
        self.socket.remove();
        self.dismiss()
    }

    fn dismiss(&self) -> Result<(), VhostUserError> {
        match self.shared.stop() {
            0 => Ok(()),
            count => Err(VhostUserError::StillReading { count }),
        }
    }
}

impl Drop for VhostUserServer {
    fn drop(&mut self) {
        if let Err(error) = self.take_down() {
            tracing::warn!(
                error = &error as &dyn Error,
                "a vhost-user server stops late"
            );
        }
    }
}

impl fmt::Debug for VhostUserServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VhostUserServer")
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Closes everything and waits for the threads; how many do not end in time.
    fn stop(&self) -> usize {
        {
            let mut connections = locked(&self.connections);
            connections.is_stopping = true;
            for stream in connections.streams.values() {
                // Already closed by its front end, or closed by this.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        if let Err(error) = rustix::io::write(&self.bell, &u64::from(true).to_le_bytes()) {
            tracing::warn!(%error, "cannot call the vhost-user listener away");
        }
        let talking = self.crew.dismiss(self.options.stop_grace);
        talking + self.disk.crew.dismiss(self.options.stop_grace)
    }

    /// Takes a connection in, if there is room and the server is not about to stop.
    fn enter(&self, stream: &Arc<UnixStream>) -> Option<u64> {
        let mut connections = locked(&self.connections);
        if connections.is_stopping || connections.streams.len() >= self.options.connection_count {
            return None;
        }
        let number = connections.next_number;
        connections.next_number += 1;
        connections.streams.insert(number, Arc::clone(stream));
        Some(number)
    }
}

/// Takes connections in until the bell rings.
fn listen(shared: &Arc<Shared>, listener: &UnixListener) {
    loop {
        let mut waits = [
            PollFd::new(&shared.bell, PollFlags::IN),
            PollFd::new(listener, PollFlags::IN),
        ];
        match poll(&mut waits, None).map_err(io::Error::from) {
            Ok(_) => {}
            Err(error) if refusal(&error) == Refusal::Interrupted => continue,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn Error,
                    "cannot wait for virtual machines"
                );
                return;
            }
        }
        let [bell, _] = &waits;
        if !bell.revents().is_empty() {
            return;
        }
        match listener.accept() {
            Ok((stream, _)) => take_in(shared, stream),
            Err(error) => {
                tracing::debug!(error = &error as &dyn Error, "no connection after all");
                // There may be no descriptor left for it.
                let mut waits = [PollFd::new(&shared.bell, PollFlags::IN)];
                let _ = poll(&mut waits, Some(&PAUSE));
            }
        }
    }
}

fn take_in(shared: &Arc<Shared>, stream: UnixStream) {
    let stream = Arc::new(stream);
    let Some(number) = shared.enter(&stream) else {
        tracing::debug!("no room for a further virtual machine");
        return;
    };
    let in_thread = Arc::clone(shared);
    let started = shared.crew.spawn(format!("vhost-{number}"), move || {
        let connection = Connection::new(&stream, Arc::clone(&in_thread.disk));
        if let Err(error) = connection.run() {
            tracing::debug!(
                error = &error as &dyn Error,
                "a virtual machine is turned away"
            );
        }
        locked(&in_thread.connections).streams.remove(&number);
    });
    if let Err(error) = started {
        tracing::warn!(
            error = &error as &dyn Error,
            "cannot start a vhost-user thread"
        );
        locked(&shared.connections).streams.remove(&number);
    }
}

/// Takes messages apart, one after the other; for fuzz targets.
pub(crate) fn take_apart(mut bytes: &[u8]) {
    while let Some((head, rest)) = bytes.split_first_chunk() {
        let Some(header) = protocol::Header::parse(head) else {
            return;
        };
        let Some((payload, rest)) = rest.split_at_checked(header.len) else {
            return;
        };
        if protocol::Request::parse(header.kind, payload).is_none() {
            return;
        }
        bytes = rest;
    }
}

/// Serves a ring of 16 places in a guest's memory until it is empty or given up; for fuzz targets.
pub(crate) fn serve_ring(guest: &impl GuestBytes) {
    let places = (0, 0x100, 0x140);
    let Ok(mut ring) = ring::Ring::new(guest, places, 16, 0, None) else {
        return;
    };
    // A guest whose ring lies over its data may go on for ever, to nobody's harm but its own.
    for _ in 0..256 {
        let Ok(Some(chain)) = ring.take(guest) else {
            return;
        };
        let _wish = block::wish(guest, &chain);
        block::copy_in(guest, &chain.writable, 3, b"some bytes");
        if ring.give_back(guest, chain.head, 1).is_err() {
            return;
        }
    }
}
