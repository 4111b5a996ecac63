//! The socket on which containerd calls: from systemd, which bound it before containerd was started, or made here.
//!
//! containerd asks once, at its start, and a node whose snapshotter is not there then runs no pod until containerd is restarted. So
//! the socket is bound before anything else is done, and calls wait in it until they are answered.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// Takes the socket that whoever started this process has bound, if there is one; else binds `path`, for its owner alone.
/// Refused while another process answers there. Must be called before any other thread looks at the environment's sockets.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    let mut given = listenfd::ListenFd::from_env();
    if let Some(listener) = given.take_unix_listener(0)? {
        listener.set_nonblocking(true)?;
        return UnixListener::from_std(listener);
    }
    bind(path)
}

/// Binds `path`, for its owner alone. Refused while another process answers there.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process answers on this socket",
        ));
    }
    // Under another name first, so that there is no moment at which others could connect, and the socket of a process that died is
    // replaced in one step.
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    fs::rename(&new, path)?;
    Ok(listener)
}
