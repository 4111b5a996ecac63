//! Starting a keeper that belongs to nobody.
//!
//! Its socket is made by whoever starts it and handed over as standard input, as inetd did: from that moment on clients can
//! connect, however long the program takes to come up. It must not die with its parent nor become its zombie, so the program
//! first starts itself anew and leaves: the second one is a child of init.

use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, flock};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};

use crate::apart::Place;

use super::{KeeperClient, KeeperError};

/// Clients that may wait to be seen.
const BACKLOG: i32 = 64;

/// Listens for clients of a keeper at `path`, for this user alone. A socket there to which nobody answers is replaced.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    // Nobody can connect before there is somebody who listens, so nobody slips in before this.
    rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Connects to the keeper at `path`, or to one that is started for it where nobody answers: `program` with the arguments `--patience SECONDS
/// PATH`, which must call [`detach_self`](crate::apart::detach_self) and then [`super::keep`]. Of several who come at one time, one starts it.
pub fn connect_or_launch(
    program: &Path,
    patience: Duration,
    path: &Path,
) -> Result<KeeperClient, KeeperError> {
    let start_error = |source| KeeperError::Start {
        program: program.to_owned(),
        source,
    };
    KeeperClient::connect(path).or_else(|_| {
        let mut open = File::options();
        let turn = open.write(true).create(true).truncate(false);
        let turn = turn
            .open(path.with_extension("turn"))
            .map_err(start_error)?;
        flock(&turn, FlockOperation::LockExclusive)
            .map_err(|error| start_error(io::Error::from(error)))?;
        KeeperClient::connect(path).or_else(|_| {
            launch(program, patience, path).map_err(start_error)?;
            KeeperClient::connect(path)
        })
    })
}

/// Starts another keeper at the socket of `old`, gives it all that one holds, and has that one end. It goes on where this fails.
pub fn replace(
    old: KeeperClient,
    program: &Path,
    patience: Duration,
    path: &Path,
) -> Result<KeeperClient, KeeperError> {
    let mut held: Vec<(String, OwnedFd)> = Vec::new();
    for name in old.names()? {
        let fd = old.give(&name)?;
        held.extend(fd.map(|fd| (name, fd)));
    }
    launch(program, patience, path).map_err(|source| KeeperError::Start {
        program: program.to_owned(),
        source,
    })?;
    let new = KeeperClient::connect(path)?;
    for (name, fd) in &held {
        new.keep(name, fd.as_fd())?;
    }
    if let Err(error) = old.end() {
        // It holds duplicates of what the new one holds, and ends when it is alone for long.
        tracing::warn!(error = &error as &dyn Error, "the old keeper stays");
    }
    Ok(new)
}

/// What tells the file of a program from that of another, or of the same after an upgrade.
pub fn identity(program: &Path) -> io::Result<String> {
    let found = fs::metadata(program)?;
    Ok(format!("{}:{}", found.dev(), found.ino()))
}

fn launch(program: &Path, patience: Duration, path: &Path) -> io::Result<()> {
    let listener = listen(path)?;
    let mut place = Place::here();
    loop {
        let status = place
            .command(program)
            .arg("--patience")
            .arg(patience.as_secs().to_string())
            .arg(path)
            .stdin(Stdio::from(listener.try_clone()?))
            .stderr(Stdio::null())
            .status();
        match status {
            Ok(status) if status.success() => return Ok(()),
            _ if place == Place::Scope => place = Place::Group,
            Ok(status) => return Err(io::Error::other(format!("it ends with {status}"))),
            Err(error) => return Err(error),
        }
    }
}
