//! The threads that answer a connection's requests. Apart from the mount, so that another process can go on with it.
//!
//! There are as many as there were requests in progress at one time, up to a bound, and one to wait for the next: reads that
//! wait for the network must not hold up those whose bytes are here, and most devices are idle most of the time.

use std::error::Error;
use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::block_read::BlockRead;
use crate::crew::Crew;
use crate::errno::{Errno, Refusal, refusal};

use super::answer::{Answer, OneFile};
use super::channel::{Channel, Next};
use super::requests::{self, PLACE_COUNT, Place, Requests};
use super::{FuseConnection, FuseError, FuseOptions};

/// Threads that wait for a request at one time; what a burst leaves above that ends. Each request wakes one that waits, and
/// when requests are answered from memory, most of many would wake to find that another was faster.
const WAITING_COUNT_MAX: usize = 4;

/// The threads that answer a FUSE connection's requests.
///
/// Dropping it calls them away and waits [`FuseOptions::stop_grace`] for reads in progress. The connection itself lives on
/// for as long as a duplicate of its descriptor is open.
pub struct Session {
    shared: Arc<Shared>,
    grace: Duration,
    /// Whether [`Session::stop`] was called, so that dropping does not wait a second time.
    stopped: AtomicBool,
}

struct Shared {
    channel: Channel,
    requests: Arc<Requests>,
    file: OneFile,
    crew: Crew,
    worker_count_max: usize,
    /// Threads that wait or answer.
    worker_count: AtomicUsize,
    /// Threads that wait for a request.
    waiting_count: AtomicUsize,
    /// Whether what fails is left to a successor.
    is_retired: AtomicBool,
    idle_after: Duration,
}

impl Session {
    /// Begins to answer the requests of `connection`, for a file called `name`.
    pub fn new(
        connection: FuseConnection,
        name: &str,
        content: Arc<dyn BlockRead>,
        options: FuseOptions,
    ) -> Result<Self, FuseError> {
        let session = Self::idle(connection, name, content, options)?;
        start_worker(&session.shared).map_err(|source| FuseError::Start { source })?;
        Ok(session)
    }

    /// Continues a connection that another session served, which crashed or left, and answers the requests that were in flight: those
    /// that the kernel resends (Linux 6.9), or else those that the other one noted. Name and content must be the same.
    pub fn take_over(
        connection: FuseConnection,
        name: &str,
        content: Arc<dyn BlockRead>,
        options: FuseOptions,
    ) -> Result<Self, FuseError> {
        let has_notes = connection.requests.is_some();
        let session = Self::idle(connection, name, content, options)?;
        let shared = &session.shared;
        match shared.channel.resend() {
            // Now the kernel has them, so that nothing is lost between the two.
            Ok(()) => shared.requests.forget(),
            Err(error) if has_notes && refusal(&error) == Refusal::Invalid => {
                let left = shared.requests.left();
                tracing::info!(count = left.len(), "requests of a predecessor are answered");
                for place in left {
                    start_worker_at(shared, place, true)
                        .map_err(|source| FuseError::Start { source })?;
                }
            }
            Err(source) => return Err(FuseError::Resend { source }),
        }
        start_worker(shared).map_err(|source| FuseError::Start { source })?;
        Ok(session)
    }

    fn idle(
        connection: FuseConnection,
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
        let start_error = |source| FuseError::Start { source };
        let channel = Channel::new(connection.fd).map_err(start_error)?;
        let notes = connection.requests.map_or_else(requests::file, Ok);
        let requests = notes.and_then(Requests::open).map_err(start_error)?;
        let file = OneFile {
            name: name.as_bytes().to_vec(),
            content,
            read_ahead_len: options.read_ahead_len,
            for_all: options.allow_other,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                channel,
                requests,
                file,
                crew: Crew::default(),
                worker_count_max: options.worker_count.clamp(1, PLACE_COUNT),
                worker_count: AtomicUsize::new(0),
                waiting_count: AtomicUsize::new(0),
                is_retired: AtomicBool::new(false),
                idle_after: options.idle_after,
            }),
            grace: options.stop_grace,
            stopped: AtomicBool::new(false),
        })
    }

    /// The connection's descriptor, for a keeper that survives this process: while a duplicate is open, the kernel waits
    /// for a successor instead of failing the requests.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.shared.channel.fd()
    }

    /// The memory in which requests are noted, for the same keeper: a successor on a kernel before Linux 6.9 needs it.
    pub fn requests(&self) -> BorrowedFd<'_> {
        self.shared.requests.fd()
    }

    /// Duplicates of both, for whoever [takes over](Self::take_over).
    pub fn connection(&self) -> io::Result<FuseConnection> {
        Ok(FuseConnection {
            fd: self.fd().try_clone_to_owned()?,
            requests: Some(self.requests().try_clone_to_owned()?),
        })
    }

    /// How long to wait for what is in progress.
    pub(super) fn grace(&self) -> Duration {
        self.grace
    }

    /// Whether requests are still answered. Not so once the mount is gone.
    pub fn is_serving(&self) -> bool {
        self.shared.crew.count() > 0
    }

    /// Waits until the kernel has ended the connection and the threads have noticed; whether that was so in time.
    pub fn wait_for_end(&self, patience: Duration) -> bool {
        self.shared.crew.wait(patience)
    }

    /// From now on a read that fails is not answered: whoever [takes over](Self::take_over) has it sent again, and may do better. The
    /// others are answered as before.
    pub fn retire(&self) {
        self.shared.is_retired.store(true, Ordering::Release);
    }

    /// Calls the threads away and waits for reads in progress, for the grace of [`FuseOptions::stop_grace`] at most.
    ///
    /// With [`FuseError::StillReading`], some threads go on until their read returns. They still answer what they can; a read that
    /// fails from now on is not answered.
    pub fn stop(&self) -> Result<(), FuseError> {
        self.stopped.store(true, Ordering::Release);
        if let Err(error) = self.shared.channel.ring() {
            tracing::warn!(
                error = &error as &dyn Error,
                "cannot call FUSE threads away"
            );
        }
        match self.shared.crew.dismiss(self.grace) {
            0 => Ok(()),
            count => Err(FuseError::StillReading { count }),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.stopped.load(Ordering::Acquire) {
            return;
        }
        if let Err(error) = self.stop() {
            tracing::warn!(error = &error as &dyn Error, "a FUSE session stops late");
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("len", &self.shared.file.content.len())
            .field("worker_count", &self.shared.crew.count())
            .finish_non_exhaustive()
    }
}

/// Starts a thread that answers requests.
fn start_worker(shared: &Arc<Shared>) -> io::Result<()> {
    start_worker_at(shared, shared.requests.place()?, false)
}

/// The same for one that reads its requests to `place`, where one is already if it `is_begun`.
fn start_worker_at(shared: &Arc<Shared>, place: Place, is_begun: bool) -> io::Result<()> {
    let waiter = shared.channel.waiter()?;
    let number = shared.worker_count.fetch_add(1, Ordering::SeqCst);
    let in_thread = Arc::clone(shared);
    shared
        .crew
        .spawn(format!("fuse-{number}"), move || {
            work(&in_thread, &waiter, &place, is_begun);
        })
        .inspect_err(|_| {
            shared.worker_count.fetch_sub(1, Ordering::SeqCst);
        })
}

fn work(shared: &Arc<Shared>, waiter: &OwnedFd, place: &Place, is_begun: bool) {
    let (mut request, mut data) = (Vec::new(), Vec::new());
    // How long to wait until what was needed for reads can go.
    let mut patience = None;
    if is_begun {
        shared.handle(&place.message(), place, &mut data);
    }
    loop {
        if shared.waiting_count.fetch_add(1, Ordering::SeqCst) >= WAITING_COUNT_MAX {
            shared.waiting_count.fetch_sub(1, Ordering::SeqCst);
            shared.worker_count.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        let next = shared.channel.next(waiter, place, patience);
        shared.waiting_count.fetch_sub(1, Ordering::SeqCst);
        match next {
            Ok(Next::Request(len)) => {
                see_to_successor(shared);
                place.copy(len, &mut request);
                shared.handle(&request, place, &mut data);
                patience = Some(shared.idle_after);
            }
            Ok(Next::Idle) => {
                (request, data, patience) = (Vec::new(), Vec::new(), None);
                shared.file.content.rest();
            }
            Ok(Next::Ended | Next::CalledAway) => return,
            Err(error) => {
                let error = &error as &dyn Error;
                tracing::error!(error, "cannot read FUSE requests");
                return;
            }
        }
    }
}

/// Sees to it that somebody waits for the next request while this thread answers one.
fn see_to_successor(shared: &Arc<Shared>) {
    let is_one_needed = shared.waiting_count.load(Ordering::SeqCst) == 0
        && shared.worker_count.load(Ordering::SeqCst) < shared.worker_count_max;
    if is_one_needed && let Err(error) = start_worker(shared) {
        // Those that are there serve on.
        tracing::warn!(error = &error as &dyn Error, "cannot start a FUSE thread");
    }
}

impl Shared {
    fn handle(&self, request: &[u8], place: &Place, data: &mut Vec<u8>) {
        let Some((unique, answer)) = self.file.answer(request, data) else {
            tracing::debug!(len = request.len(), "not a FUSE request");
            return;
        };
        let body = match &answer {
            Answer::Silence => return place.answered(unique),
            Answer::Body(body) => Ok(body.as_slice()),
            Answer::Data(len) => Ok(data.get(..*len).unwrap_or_default()),
            // What fails because this process leaves is its successor's to answer.
            Answer::Failure(_)
                if self.channel.is_rung() || self.is_retired.load(Ordering::Acquire) =>
            {
                return;
            }
            Answer::Failure(errno) => Err(*errno),
        };
        if let Err(error) = self.channel.reply(unique, body) {
            let error = &error as &dyn Error;
            tracing::error!(error, unique, "cannot answer a FUSE request");
            // Any answer is better than a reader that hangs for ever.
            let _ = self.channel.reply(unique, Err(Errno::Io));
        }
        place.answered(unique);
    }
}
