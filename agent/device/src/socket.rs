//! Unix sockets on which a device is served: for this process's user alone, taken over from a server that is gone, and removed by nobody but
//! who made them.
//!
//! Somebody else may hold a duplicate of one. Then it outlives its server: clients that come meanwhile wait until the next takes them in,
//! where without it they would be turned away.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::errno::{Refusal, refusal};

/// A socket that is listened on.
#[derive(Debug)]
pub struct DeviceSocket {
    path: PathBuf,
    listener: UnixListener,
    /// Device and inode number at `path`, so that whoever stops removes no successor's.
    identity: Option<(u64, u64)>,
}

impl DeviceSocket {
    /// Listens at `path`, where only this process's user may connect. The socket of a server that is gone is replaced.
    ///
    /// # Errors
    /// What the kernel said: somebody listens there, or the directory is not there.
    pub fn bind(path: &Path) -> io::Result<Self> {
        Ok(Self {
            listener: listen(path)?,
            path: path.to_owned(),
            identity: identity(path),
        })
    }

    /// Goes on listening on one that was bound to `path` and that somebody held.
    ///
    /// # Errors
    /// Clients would not find it: it is bound elsewhere, is no listening socket, or was removed.
    pub fn take_over(path: &Path, held: OwnedFd) -> io::Result<Self> {
        let listens = rustix::net::sockopt::socket_acceptconn(&held)?;
        let listener = UnixListener::from(held);
        let is_there = fs::symlink_metadata(path)?.file_type().is_socket();
        if !listens || !is_there || listener.local_addr()?.as_pathname() != Some(path) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            identity: identity(path),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Removes it, so that nobody finds it any more; once.
    pub(crate) fn remove(&self) {
        if let Some(socket) = self.identity {
            remove(&self.path, socket);
        }
    }
}

impl AsFd for DeviceSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// Listens at `path`, without waiting for connections; a socket there that nobody listens on any longer is replaced.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let listener = match UnixListener::bind(path) {
        Err(error) if refusal(&error) == Refusal::InUse => replace(path, error)?,
        bound => bound?,
    };
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn replace(path: &Path, error: io::Error) -> io::Result<UnixListener> {
    match UnixStream::connect(path) {
        Err(answer) if refusal(&answer) == Refusal::NobodyListens => {
            fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        _ => Err(error),
    }
}

/// What tells the socket at `path` from its successor.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let status = fs::symlink_metadata(path).ok()?;
    Some((status.dev(), status.ino()))
}

/// Removes the socket at `path` if it is the one of that identity.
fn remove(path: &Path, socket: (u64, u64)) {
    if identity(path) == Some(socket)
        && let Err(error) = fs::remove_file(path)
    {
        tracing::debug!(path = %path.display(), %error, "a socket stays");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_socket_is_gone_on_with_only_where_clients_find_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let first = DeviceSocket::bind(&path).unwrap();
        let held = || first.as_fd().try_clone_to_owned().unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let second = DeviceSocket::take_over(&path, held()).unwrap();
        assert!(
            second.listener().accept().is_ok(),
            "who came before is there"
        );
        let elsewhere = DeviceSocket::take_over(&dir.path().join("other"), held());
        assert!(elsewhere.is_err());
        assert!(DeviceSocket::take_over(&path, client.into()).is_err());
        second.remove();
        assert!(DeviceSocket::take_over(&path, held()).is_err());
    }
}
