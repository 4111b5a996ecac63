//! An NBD server on a unix socket: devices for qemu, libnbd's tools and tests, without privileges.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::block_read::BlockRead;

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
#[derive(Debug, Clone)]
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
            buffer_len: 128 << 20,
            stop_grace: Duration::from_secs(5),
        }
    }
}

/// Why a server could not be started or stopped.
#[derive(Debug, Error)]
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
    #[error("{count} connections are still in use")]
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
    path: PathBuf,
}

impl NbdServer {
    /// Listens on a unix socket at `path`, which only this process's user may connect to. The socket of a server that is
    /// gone is replaced.
    pub fn bind(path: &Path, exports: Vec<Export>, options: NbdOptions) -> Result<Self, NbdError> {
        let _ = (exports, options);
        Err(NbdError::Listen {
            path: path.to_owned(),
            source: io::ErrorKind::Unsupported.into(),
        })
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The URI of an export, as libnbd and qemu understand it.
    pub fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.path.display())
    }

    /// Closes all connections, ends all threads and removes the socket.
    pub fn stop(self) -> Result<(), NbdError> {
        Ok(())
    }
}
