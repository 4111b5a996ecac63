//! Talking to the keeper.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::crew::locked;
use crate::errno::{Refusal, refusal};

use super::message::{self, Request, Status, VERSION};
use super::packet;

/// How long the keeper may take to answer. It answers from memory; one that is late is stopped or gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the keeper did not do as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeeperError {
    /// It could not be started.
    #[error("cannot start the keeper {}", .program.display())]
    Start {
        /// Its program.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Nobody listens at its socket.
    #[error("no keeper at {}", .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is gone, or does not answer.
    #[error("the keeper does not answer")]
    Talk {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It speaks another version.
    #[error("the keeper speaks version {found} of its protocol, and this process {VERSION}")]
    OtherVersion {
        /// The keeper's.
        found: u8,
    },
    /// It holds as many descriptors as it takes.
    #[error("the keeper takes no more descriptors")]
    Full,
    /// It said something that is no answer.
    #[error("the keeper does not understand the request, or its answer is not one")]
    NotUnderstood,
}

/// A connection to a keeper. One that fails is made anew for the next request: an answer that comes late must not be taken for that
/// to another question.
#[derive(Debug)]
pub struct KeeperClient {
    path: PathBuf,
    /// Behind a lock, so that an answer goes to whoever asked.
    socket: Mutex<Option<OwnedFd>>,
}

impl KeeperClient {
    /// Connects to the keeper that listens at `path`.
    pub fn connect(path: &Path) -> Result<Self, KeeperError> {
        let socket = connected(path)?;
        Ok(Self {
            path: path.to_owned(),
            socket: Mutex::new(Some(socket)),
        })
    }

    /// Has a duplicate of `fd` held under `name`, in the place of what was held under it. A name is `DEVICE/PART` and has at most
    /// 200 bytes.
    pub fn keep(&self, name: &str, fd: BorrowedFd<'_>) -> Result<(), KeeperError> {
        match self.ask(Request::Keep(name), Some(fd))? {
            (Status::Done, _, _) => Ok(()),
            (Status::Full, _, _) => Err(KeeperError::Full),
            _ => Err(KeeperError::NotUnderstood),
        }
    }

    /// A duplicate of what is held under `name`.
    pub fn give(&self, name: &str) -> Result<Option<OwnedFd>, KeeperError> {
        match self.ask(Request::Give(name), None)? {
            (Status::Done, _, fd @ Some(_)) => Ok(fd),
            (Status::NotHeld, _, _) => Ok(None),
            _ => Err(KeeperError::NotUnderstood),
        }
    }

    /// Has what is held under `name` closed; whether there was something.
    pub fn let_go(&self, name: &str) -> Result<bool, KeeperError> {
        match self.ask(Request::LetGo(name), None)? {
            (Status::Done, _, _) => Ok(true),
            (Status::NotHeld, _, _) => Ok(false),
            _ => Err(KeeperError::NotUnderstood),
        }
    }

    /// The names under which something is held, in order.
    pub fn names(&self) -> Result<Vec<String>, KeeperError> {
        let mut names: Vec<String> = Vec::new();
        loop {
            let last = names.last().map_or("", String::as_str);
            match self.ask(Request::NameAfter(last), None)? {
                // Only upwards, whatever the other side says, so that this ends.
                (Status::Done, name, _) if name.as_str() > last => names.push(name),
                (Status::NotHeld, _, _) => return Ok(names),
                _ => return Err(KeeperError::NotUnderstood),
            }
        }
    }

    /// Which file its program is, as [`super::identity`] puts it; `None` of a keeper that does not say.
    pub fn program(&self) -> Result<Option<String>, KeeperError> {
        match self.ask(Request::Program, None)? {
            (Status::Done, name, _) => Ok(Some(name)),
            (Status::NotUnderstood, _, _) => Ok(None),
            _ => Err(KeeperError::NotUnderstood),
        }
    }

    /// Has it let go of everything and end. One that does not know how ends when it has neither anything to hold nor a client.
    pub fn end(self) -> Result<(), KeeperError> {
        for name in self.names()? {
            self.let_go(&name)?;
        }
        self.ask(Request::End, None).map(drop)
    }

    fn ask(
        &self,
        request: Request<'_>,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(Status, String, Option<OwnedFd>), KeeperError> {
        let talk_error = |source| KeeperError::Talk { source };
        let mut connection = locked(&self.socket);
        let socket = match connection.take() {
            Some(socket) => socket,
            None => connected(&self.path)?,
        };
        packet::send(socket.as_fd(), &message::request(request), fd).map_err(talk_error)?;
        let (bytes, fd) = packet::receive(socket.as_fd())
            .map_err(talk_error)?
            .ok_or_else(|| talk_error(io::ErrorKind::UnexpectedEof.into()))?;
        let reply = message::parse_reply(&bytes);
        let (found, status, name) = reply.ok_or(KeeperError::NotUnderstood)?;
        if status == Status::OtherVersion || found != VERSION {
            return Err(KeeperError::OtherVersion { found });
        }
        *connection = Some(socket);
        Ok((status, name.to_owned(), fd))
    }
}

/// Waits until the keeper at `path` is gone, however long it lives.
pub fn wait_for_end(path: &Path) -> Result<(), KeeperError> {
    let socket = connected(path)?;
    loop {
        let mut waits = [PollFd::new(&socket, PollFlags::IN)];
        match poll(&mut waits, None).map_err(io::Error::from) {
            Err(error) if refusal(&error) == Refusal::Interrupted => {}
            Ok(_) => return Ok(()),
            Err(source) => return Err(KeeperError::Talk { source }),
        }
    }
}

fn connected(path: &Path) -> Result<OwnedFd, KeeperError> {
    let connecting = || {
        let address = SocketAddrUnix::new(path)?;
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        connect(&socket, &address)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(socket)
    };
    connecting().map_err(|source| KeeperError::Connect {
        path: path.to_owned(),
        source,
    })
}
