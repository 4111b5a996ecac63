//! Starting a keeper that belongs to nobody.
//!
//! Its socket is made by whoever starts it and handed over as standard input, as inetd did: from that moment on clients can
//! connect, however long the program takes to come up. It must not die with its parent nor become its zombie, so the program
//! first starts itself anew and leaves: the second one is a child of init.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};

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

/// Starts `program`, which must call [`detach_self`] and then [`super::keep`], as a keeper that listens at `path`, with the arguments
/// `--patience SECONDS PATH`. Clients can connect as soon as this returns.
pub fn launch(program: &Path, patience: Duration, path: &Path) -> io::Result<()> {
    let listener = listen(path)?;
    let status = command(program)
        .arg("--patience")
        .arg(patience.as_secs().to_string())
        .arg(path)
        .stdin(Stdio::from(listener))
        .status()?;
    if status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("it ends with {status}")))
}

/// Starts this program again with `args`, on the same standard input, in a process group and a directory that tie it to nobody.
pub fn detach_self(args: &[&str]) -> io::Result<()> {
    let program = std::env::current_exe()?;
    // It is not waited for: this process ends now, and init is a better parent.
    command(&program)
        .args(args)
        .process_group(0)
        .spawn()
        .map(drop)
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    // Whoever reads the output of the process that starts this one waits for its end, and must not wait for this one's.
    command
        .current_dir("/")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}
