//! Unix sockets on which a device is served: for this process's user alone, taken over from a server that is gone, and removed by nobody but
//! who made them.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use crate::errno::{Refusal, refusal};

/// Listens at `path`, without waiting for connections; a socket there that nobody listens on any longer is replaced.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
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
pub(crate) fn identity(path: &Path) -> Option<(u64, u64)> {
    let status = fs::symlink_metadata(path).ok()?;
    Some((status.dev(), status.ino()))
}

/// Removes the socket at `path` if it is the one of that identity.
pub(crate) fn remove(path: &Path, socket: (u64, u64)) {
    if identity(path) == Some(socket)
        && let Err(error) = fs::remove_file(path)
    {
        tracing::debug!(path = %path.display(), %error, "a socket stays");
    }
}
