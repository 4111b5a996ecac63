//! The threads that answer a connection's requests. Apart from the mount, so that another process can go on with it.

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::block_read::BlockRead;
use crate::crew::Crew;

use super::abi::REQUEST_LEN_MAX;
use super::answer::{Answer, OneFile};
use super::channel::{Channel, Next};
use super::{FuseError, FuseOptions};

/// The threads that answer a FUSE connection's requests.
///
/// Dropping it calls them away and waits [`FuseOptions::stop_grace`] for reads in progress. The connection itself lives on
/// for as long as a duplicate of its descriptor is open.
pub struct Session {
    shared: Arc<Shared>,
    crew: Crew,
    grace: Duration,
}

struct Shared {
    channel: Channel,
    file: OneFile,
}

impl Session {
    /// Begins to answer the requests of the connection `fd`, for a file called `name`.
    pub fn new(
        fd: OwnedFd,
        name: &str,
        content: Arc<dyn BlockRead>,
        options: FuseOptions,
    ) -> Result<Self, FuseError> {
        let session = Self::idle(fd, name, content, options)?;
        session.start(options)?;
        Ok(session)
    }

    /// Continues a connection that another session served, which crashed or left: has the kernel resend the requests that
    /// were in flight and answers them. Needs Linux 6.9. Name and content must be the same.
    pub fn take_over(
        fd: OwnedFd,
        name: &str,
        content: Arc<dyn BlockRead>,
        options: FuseOptions,
    ) -> Result<Self, FuseError> {
        let session = Self::idle(fd, name, content, options)?;
        session
            .shared
            .channel
            .resend()
            .map_err(|source| FuseError::Resend { source })?;
        session.start(options)?;
        Ok(session)
    }

    fn idle(
        fd: OwnedFd,
        name: &str,
        content: Arc<dyn BlockRead>,
        options: FuseOptions,
    ) -> Result<Self, FuseError> {
        let is_name = (1..=255).contains(&name.len()) && !name.contains(['/', '\0']);
        if !is_name || name == "." || name == ".." {
            return Err(FuseError::FileName {
                name: name.to_owned(),
            });
        }
        let channel = Channel::new(fd).map_err(|source| FuseError::Start { source })?;
        let file = OneFile {
            name: name.as_bytes().to_vec(),
            content,
            read_ahead_len: options.read_ahead_len,
            for_all: options.allow_other,
        };
        Ok(Self {
            shared: Arc::new(Shared { channel, file }),
            crew: Crew::default(),
            grace: options.stop_grace,
        })
    }

    fn start(&self, options: FuseOptions) -> Result<(), FuseError> {
        for number in 0..options.worker_count.max(1) {
            let start = || {
                let waiter = self.shared.channel.waiter()?;
                let shared = Arc::clone(&self.shared);
                self.crew
                    .spawn(format!("fuse-{number}"), move || shared.work(&waiter))
            };
            start().map_err(|source: io::Error| FuseError::Start { source })?;
        }
        Ok(())
    }

    /// The connection's descriptor, for a keeper that survives this process: while a duplicate is open, the kernel waits
    /// for a successor instead of failing the requests.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.shared.channel.fd()
    }

    /// How long to wait for what is in progress.
    pub(super) fn grace(&self) -> Duration {
        self.grace
    }

    /// Whether requests are still answered. Not so once the mount is gone.
    pub fn is_serving(&self) -> bool {
        self.crew.count() > 0
    }

    /// Waits until the kernel has ended the connection and the threads have noticed; whether that was so in time.
    pub fn wait_for_end(&self, patience: Duration) -> bool {
        self.crew.wait(patience)
    }

    /// Calls the threads away and waits for reads in progress, for the grace of [`FuseOptions::stop_grace`] at most.
    ///
    /// With [`FuseError::StillReading`], some threads go on until their read returns; what they answer then is ignored.
    pub fn stop(&self) -> Result<(), FuseError> {
        if let Err(error) = self.shared.channel.ring() {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot call FUSE threads away"
            );
        }
        match self.crew.dismiss(self.grace) {
            0 => Ok(()),
            count => Err(FuseError::StillReading { count }),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a FUSE session stops late"
            );
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("len", &self.shared.file.content.len())
            .field("worker_count", &self.crew.count())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn work(&self, waiter: &OwnedFd) {
        let mut request = vec![0; REQUEST_LEN_MAX];
        let mut data = Vec::new();
        loop {
            match self.channel.next(waiter, &mut request) {
                Ok(Next::Request(len)) => {
                    self.handle(request.get(..len).unwrap_or_default(), &mut data);
                }
                Ok(Next::Ended | Next::CalledAway) => return,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(
                        error,
                        thread = thread::current().name(),
                        "cannot read FUSE requests"
                    );
                    return;
                }
            }
        }
    }

    fn handle(&self, request: &[u8], data: &mut Vec<u8>) {
        let Some((unique, answer)) = self.file.answer(request, data) else {
            tracing::debug!(len = request.len(), "not a FUSE request");
            return;
        };
        let body = match &answer {
            Answer::Silence => return,
            Answer::Body(body) => Ok(body.as_slice()),
            Answer::Data(len) => Ok(data.get(..*len).unwrap_or_default()),
            Answer::Failure(errno) => Err(*errno),
        };
        if let Err(error) = self.channel.reply(unique, body) {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                unique,
                "cannot answer a FUSE request"
            );
        }
    }
}
