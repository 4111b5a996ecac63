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
use crate::speaks::Speaks;

use super::message::{self, BASE, Request, SPEAKS, Status};
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
    /// There is no version that both speak. Whatever a hand-over takes is understood nevertheless, so it can be replaced.
    #[error(
        "the keeper speaks {theirs} of its protocol and this process {ours}: install all programs of one release and restart the agent, which replaces the keeper"
    )]
    OtherVersion {
        /// This process's.
        ours: Speaks,
        /// The keeper's.
        theirs: Speaks,
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
    speaks: Speaks,
    /// Behind a lock, so that an answer goes to whoever asked.
    connection: Mutex<Option<Connection>>,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    /// The version in which requests are said: the newest, until the keeper says that it does not speak it.
    version: u8,
}

/// A reply: its version, the status, the name, and the descriptor.
type Reply = (u8, Status, String, Option<OwnedFd>);

impl KeeperClient {
    /// Connects to the keeper that listens at `path`.
    pub fn connect(path: &Path) -> Result<Self, KeeperError> {
        Self::connect_speaking(path, SPEAKS)
    }

    /// The same as a process that speaks those versions, as one of another release does.
    pub fn connect_speaking(path: &Path, speaks: Speaks) -> Result<Self, KeeperError> {
        let connection = Connection::open(path, speaks)?;
        Ok(Self {
            path: path.to_owned(),
            speaks,
            connection: Mutex::new(Some(connection)),
        })
    }

    /// The newest version that both speak; [`KeeperError::OtherVersion`] when there is none.
    pub fn version(&self) -> Result<u8, KeeperError> {
        let (version, ..) = self.ask_without_base(Request::Version, None)?;
        Ok(version)
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
            match self.let_go(&name) {
                // It knows how to end.
                Err(KeeperError::OtherVersion { .. }) => break,
                outcome => outcome?,
            };
        }
        self.ask(Request::End, None).map(drop)
    }

    fn ask(
        &self,
        request: Request<'_>,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(Status, String, Option<OwnedFd>), KeeperError> {
        let reply = match self.ask_without_base(request, fd) {
            Err(KeeperError::OtherVersion { .. }) if request.is_of_base() => {
                self.ask_in(Some(BASE), request, fd)
            }
            reply => reply,
        };
        reply.map(|(_, status, name, fd)| (status, name, fd))
    }

    /// Asks in the newest version that both speak.
    fn ask_without_base(
        &self,
        request: Request<'_>,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Reply, KeeperError> {
        match self.ask_in(None, request, fd) {
            Err(KeeperError::OtherVersion { ours, theirs }) => {
                let Some(common) = ours.common(theirs) else {
                    return Err(KeeperError::OtherVersion { ours, theirs });
                };
                let reply = self.ask_in(Some(common), request, fd)?;
                if let Some(connection) = locked(&self.connection).as_mut() {
                    connection.version = common;
                }
                Ok(reply)
            }
            reply => reply,
        }
    }

    /// Asks in `version`, or in that of the connection.
    fn ask_in(
        &self,
        version: Option<u8>,
        request: Request<'_>,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Reply, KeeperError> {
        let mut held = locked(&self.connection);
        let connection = match held.take() {
            Some(connection) => connection,
            // It may lead to another keeper, which speaks other versions.
            None => Connection::open(&self.path, self.speaks)?,
        };
        let version = version.unwrap_or(connection.version);
        let (found, status, name, fd) = connection.exchange(version, request, fd)?;
        if status != Status::OtherVersion && found != version {
            return Err(KeeperError::NotUnderstood);
        }
        *held = Some(connection);
        if status == Status::OtherVersion {
            return Err(KeeperError::OtherVersion {
                ours: self.speaks,
                theirs: message::told_versions(found, &name),
            });
        }
        Ok((found, status, name, fd))
    }
}

impl Connection {
    fn open(path: &Path, speaks: Speaks) -> Result<Self, KeeperError> {
        Ok(Self {
            socket: connected(path)?,
            version: speaks.newest,
        })
    }

    fn exchange(
        &self,
        version: u8,
        request: Request<'_>,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Reply, KeeperError> {
        let talk_error = |source| KeeperError::Talk { source };
        let bytes = message::request(version, request);
        packet::send(self.socket.as_fd(), &bytes, fd).map_err(talk_error)?;
        let (bytes, fd) = packet::receive(self.socket.as_fd())
            .map_err(talk_error)?
            .ok_or_else(|| talk_error(io::ErrorKind::UnexpectedEof.into()))?;
        let reply = message::parse_reply(&bytes);
        let (found, status, name) = reply.ok_or(KeeperError::NotUnderstood)?;
        Ok((found, status, name.to_owned(), fd))
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
