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
use crate::errno::Errno;

use super::abi::REQUEST_LEN_MAX;
use super::answer::{Answer, OneFile};
use super::channel::{Channel, Next};
use super::{FuseError, FuseOptions};

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
    file: OneFile,
    crew: Crew,
    worker_count_max: usize,
    /// Threads that wait or answer.
    worker_count: AtomicUsize,
    /// Threads that wait for a request.
    waiting_count: AtomicUsize,
    /// Whether what fails is left to a successor.
    is_retired: AtomicBool,
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
        start_worker(&session.shared).map_err(|source| FuseError::Start { source })?;
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
        start_worker(&session.shared).map_err(|source| FuseError::Start { source })?;
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
            shared: Arc::new(Shared {
                channel,
                file,
                crew: Crew::default(),
                worker_count_max: options.worker_count.max(1),
                worker_count: AtomicUsize::new(0),
                waiting_count: AtomicUsize::new(0),
                is_retired: AtomicBool::new(false),
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
    let waiter = shared.channel.waiter()?;
    let number = shared.worker_count.fetch_add(1, Ordering::SeqCst);
    let in_thread = Arc::clone(shared);
    shared
        .crew
        .spawn(format!("fuse-{number}"), move || work(&in_thread, &waiter))
        .inspect_err(|_| {
            shared.worker_count.fetch_sub(1, Ordering::SeqCst);
        })
}

fn work(shared: &Arc<Shared>, waiter: &OwnedFd) {
    let mut request = vec![0; REQUEST_LEN_MAX];
    let mut data = Vec::new();
    loop {
        if shared.waiting_count.fetch_add(1, Ordering::SeqCst) >= WAITING_COUNT_MAX {
            shared.waiting_count.fetch_sub(1, Ordering::SeqCst);
            shared.worker_count.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        let next = shared.channel.next(waiter, &mut request);
        shared.waiting_count.fetch_sub(1, Ordering::SeqCst);
        match next {
            Ok(Next::Request(len)) => {
                see_to_successor(shared);
                shared.handle(request.get(..len).unwrap_or_default(), &mut data);
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
    fn handle(&self, request: &[u8], data: &mut Vec<u8>) {
        let Some((unique, answer)) = self.file.answer(request, data) else {
            tracing::debug!(len = request.len(), "not a FUSE request");
            return;
        };
        let body = match &answer {
            Answer::Silence => return,
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
    }
}
