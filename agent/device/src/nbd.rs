//! An NBD server on a unix socket: devices for qemu, libnbd's tools and tests, without privileges.
//!
//! Our own, because the reply to a read must be able to wait for the network without holding up others, and to tell an error
//! half way; the protocol is small. Privileges, TLS and networks are left out: who may open the socket may read.

mod accept;
mod buffers;
mod handshake;
pub mod kernel;
mod protocol;
mod transmission;

use std::error::Error;
use std::fmt::{self, Write as _};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::block_read::BlockRead;
use crate::socket::DeviceSocket;

use accept::Shared;

/// A device under the name by which clients ask for it.
#[derive(Clone)]
pub struct Export {
    /// Name; at most 4096 bytes. The first export also answers to the empty name.
    pub name: String,
    /// What the device is, for people; at most 4096 bytes.
    pub description: String,
    /// The bytes.
    pub content: Arc<dyn BlockRead>,
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export")
            .field("name", &self.name)
            .field("len", &self.content.len())
            .finish_non_exhaustive()
    }
}

/// Bounds of a server.
#[derive(Debug, Clone, Copy)]
pub struct NbdOptions {
    /// Most connections at one time; further ones are closed at once.
    pub connection_count: usize,
    /// Most requests of one connection in progress at one time.
    pub requests_per_connection: usize,
    /// Most bytes of replies held in memory at one time, over all connections. At least 32 MiB, the largest single read.
    pub buffer_len: u64,
    /// How long stopping waits for reads in progress.
    pub stop_grace: Duration,
}

impl Default for NbdOptions {
    fn default() -> Self {
        Self {
            connection_count: 64,
            requests_per_connection: 16,
            buffer_len: 64 << 20,
            stop_grace: Duration::from_secs(5),
        }
    }
}

/// Why a server could not be started or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NbdError {
    /// The socket could not be made.
    #[error("cannot listen on {path}")]
    Listen {
        /// The socket's path.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// There is nothing to export, a name is too long, or two exports have one name.
    #[error("cannot export {name:?}: {why}")]
    Export {
        /// The export's name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Threads still wait in [`BlockRead::read_at`], past the grace; they end when it returns.
    #[error("{count} connections are still reading")]
    StillReading {
        /// How many.
        count: usize,
    },
}

/// A listening NBD server.
///
/// Dropping it does what [`NbdServer::stop`] does and logs what went wrong.
#[derive(Debug)]
pub struct NbdServer {
    socket: Arc<DeviceSocket>,
    has_stopped: bool,
    shared: Arc<Shared>,
}

impl NbdServer {
    /// Listens on a unix socket at `path`, which only this process's user may connect to. The socket of a server that is
    /// gone is replaced.
    pub fn bind(path: &Path, exports: Vec<Export>, options: NbdOptions) -> Result<Self, NbdError> {
        // Before a socket is made for them.
        if let Some((name, why)) = handshake::fault(&exports) {
            return Err(NbdError::Export { name, why });
        }
        let socket = DeviceSocket::bind(path).map_err(|source| NbdError::Listen {
            path: path.to_owned(),
            source,
        })?;
        Self::serve(socket, exports, options)
    }

    /// The same on a socket that is listened on already.
    pub fn serve(
        socket: DeviceSocket,
        exports: Vec<Export>,
        options: NbdOptions,
    ) -> Result<Self, NbdError> {
        if let Some((name, why)) = handshake::fault(&exports) {
            return Err(NbdError::Export { name, why });
        }
        let socket = Arc::new(socket);
        let listen_error = |source| NbdError::Listen {
            path: socket.path().to_owned(),
            source,
        };
        let server = Self {
            socket: Arc::clone(&socket),
            has_stopped: false,
            shared: Arc::new(Shared::new(exports, options).map_err(listen_error)?),
        };
        let (shared, listened) = (Arc::clone(&server.shared), Arc::clone(&socket));
        server
            .shared
            .crew
            .spawn("nbd-listen".to_owned(), move || {
                accept::run(&shared, listened.listener());
            })
            .map_err(listen_error)?;
        Ok(server)
    }

    /// Closes all connections and ends all threads, and leaves the socket to whoever [holds](Self::socket) it: clients that come wait.
    pub fn leave(mut self) -> Result<(), NbdError> {
        self.has_stopped = true;
        self.dismiss()
    }

    /// What clients connect to.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        self.socket.path()
    }

    /// The URI of an export, as libnbd and qemu understand it.
    pub fn uri(&self, export: &str) -> String {
        let mut uri = "nbd+unix:///".to_owned();
        percent_encode(&mut uri, export.as_bytes(), b"");
        uri.push_str("?socket=");
        percent_encode(&mut uri, self.path().as_os_str().as_bytes(), b"/");
        uri
    }

    /// Closes all connections, ends all threads and removes the socket.
    pub fn stop(mut self) -> Result<(), NbdError> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<(), NbdError> {
        if std::mem::replace(&mut self.has_stopped, true) {
            return Ok(());
        }
        self.socket.remove();
        self.dismiss()
    }

    fn dismiss(&self) -> Result<(), NbdError> {
        match self.shared.stop() {
            0 => Ok(()),
            count => Err(NbdError::StillReading { count }),
        }
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        if let Err(error) = self.take_down() {
            tracing::warn!(error = &error as &dyn Error, "an NBD server stops late");
        }
    }
}

/// What a client that speaks over `stream` agrees on, if it does; for fuzz targets.
pub(crate) fn negotiated<'a>(
    stream: &mut (impl Read + Write),
    exports: &'a [Export],
) -> Option<handshake::Agreed<'a>> {
    handshake::negotiate(stream, exports).ok().flatten()
}

/// Answers what comes over `stream` after that.
pub(crate) fn transmit(agreed: handshake::Agreed<'_>, stream: &UnixStream) {
    let buffers = buffers::Buffers::new(0, protocol::PAYLOAD_LEN_MAX as usize);
    transmission::Transmission::new(agreed, stream, &buffers, 2).run();
}

/// Appends `bytes` to a URI. What is neither plain nor in `also_plain` is written as a number.
fn percent_encode(uri: &mut String, bytes: &[u8], also_plain: &[u8]) {
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) || also_plain.contains(byte) {
            uri.push(char::from(*byte));
        } else {
            let _ = write!(uri, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::memory::Memory;

    fn export(name: &str) -> Export {
        Export {
            name: name.to_owned(),
            description: String::new(),
            content: Arc::new(Memory::default()),
        }
    }

    #[test]
    fn uris_quote_what_would_end_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a b&c.sock");
        let server = NbdServer::bind(&path, vec![export("x")], NbdOptions::default()).unwrap();
        let uri = server.uri("im age/1?");
        assert!(uri.starts_with("nbd+unix:///im%20age%2F1%3F?socket=/"));
        assert!(uri.ends_with("/a%20b%26c.sock"));
    }

    #[test]
    fn a_socket_in_use_is_left_alone_and_a_dead_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let bind = || NbdServer::bind(&path, vec![export("x")], NbdOptions::default());
        let first = bind().unwrap();
        assert!(matches!(bind(), Err(NbdError::Listen { .. })));
        first.stop().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn exports_that_cannot_be_told_apart_are_refused() {
        let path = Path::new("/nowhere");
        for exports in [
            vec![],
            vec![export("x"), export("x")],
            vec![export(&"n".repeat(4097))],
        ] {
            let refused = NbdServer::bind(path, exports, NbdOptions::default());
            assert!(matches!(refused, Err(NbdError::Export { .. })));
        }
    }
}
